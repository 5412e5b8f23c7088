//! Nodes: what node sources find, filters choose from, and commands run on.
//!
//! [`mapping`] makes nodes of what AWS describes, [`filter`] chooses among them, and [`order`] says
//! which comes first. [`mod@reference`] puts a node's values into texts. These languages are
//! Rundeck's, so that what is written for it can stay. [`dispatch`] is the contract between the
//! parties that run steps on nodes.

pub mod dispatch;
pub mod fault;
pub mod filter;
pub mod mapping;
pub mod order;
mod pattern;
pub mod reference;
pub mod shell;
#[cfg(test)]
mod speed;
mod types;

pub use types::{CommandResults, Node, NodeResult, Outcome, Status, StepResult};
