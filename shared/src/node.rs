//! Nodes: what node sources find, filters choose from, and commands run on.
//!
//! [`mapping`] makes nodes of what AWS describes, [`filter`] chooses among them, and [`order`] says which comes first.
//! The two languages are Rundeck's, so that what is written for it can stay.

pub mod fault;
pub mod filter;
pub mod mapping;
pub mod order;
mod pattern;
pub mod shell;
#[cfg(test)]
mod speed;
mod types;

pub use types::{Node, NodeResult, Outcome, Status, StepResult};
