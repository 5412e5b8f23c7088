//! The library that every Stepward step is built on.
//!
//! A step is a type that implements [`Step`]. The `main` function of its binary calls [`serve`].
//! [`Context`] gives the running step its clients, log and identifiers. [`ErrorName`] lists all
//! errors that a step can return.
//!
//! The modules are layers. Each module imports only modules above it in this list:
//!
//! - [`model`]: the data that processes exchange and store, such as envelopes, customers,
//!   permissions and errors.
//! - [`node`]: nodes, the languages that map, filter and order them, and the data of a dispatch,
//!   which runs steps on nodes.
//! - [`settings`]: the environment variables of a function.
//! - [`access`]: turns a customer's record into credentials that are limited to one step, and masks
//!   secrets.
//! - [`runtime`]: receives Lambda's event, runs the step and returns its response.
//! - [`testing`]: contexts and helper functions for the unit tests of steps.

pub mod access;
pub mod model;
pub mod node;
pub mod runtime;
pub mod settings;
pub mod testing;

pub use model::aws_error::{AwsError, Service};
pub use model::envelope::Resume;
pub use model::error::{ErrorName, StepError};
pub use model::permissions::Permissions;
pub use runtime::context::Context;
pub use runtime::serve::serve;
pub use runtime::step::{Example, FunctionConfig, Peer, Progress, RundeckPlugin, Step};
