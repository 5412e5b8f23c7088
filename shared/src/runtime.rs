//! Receives Lambda's event, runs the step and returns its answer.

pub mod artifact;
pub mod context;
pub mod logging;
pub mod manifest;
pub mod node_source;
pub mod resend;
pub mod scratch;
pub mod serve;
pub mod step;

pub use serve::{Event, run};
