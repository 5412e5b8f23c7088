//! Receives Lambda's event, runs the step and returns its response.

pub mod artifact;
pub mod context;
pub mod head_rejection;
pub mod logging;
pub mod manifest;
pub mod node_source;
pub mod retry_policy;
pub mod serve;
pub mod step;
pub mod temporary_object;

pub use serve::{Event, run};
