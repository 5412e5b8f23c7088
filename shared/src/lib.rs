//! What every Stepward step stands on.
//!
//! A step is a type that implements [`Step`] and a `main` that calls [`serve`]. Everything else here serves that one
//! call: [`envelope`] reads what the state machine sent, [`store`] knows the customer, [`session`] turns customer and
//! account into credentials cut to the step's [`permissions`], and [`error`] names whatever goes wrong.

pub mod artifact;
pub mod context;
pub mod customer;
pub mod envelope;
pub mod error;
pub mod input;
pub mod keys;
pub mod logging;
pub mod manifest;
pub mod mask;
pub mod node;
pub mod permissions;
pub mod resend;
pub mod runtime;
pub mod scratch;
pub mod session;
pub mod settings;
pub mod shell;
pub mod step;
pub mod store;
pub mod testing;
pub mod trust;

pub use context::Context;
pub use envelope::Resume;
pub use error::{ErrorName, StepError};
pub use permissions::Permissions;
pub use runtime::serve;
pub use step::{Function, Peer, Progress, Step};
