//! What every Stepward step is built on.
//!
//! A step is a type that implements [`Step`]; its binary's `main` calls [`serve`]. The modules are
//! layers, and each imports only those above it in this list:
//!
//! - [`model`]: what processes exchange and store: envelopes, customers, permissions, errors;
//! - [`node`]: nodes, how they are mapped, filtered and ordered, and how a dispatch runs steps on
//!   them;
//! - [`settings`]: the environment variables of a function;
//! - [`access`]: from a customer's record to credentials cut to the step, and the secrets that must
//!   stay hidden;
//! - [`runtime`]: from Lambda's event to the step and back.

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
