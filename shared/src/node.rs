//! Nodes: the machines and containers that node sources find and that commands run on.
//!
//! - [`mapping`] turns resources that AWS describes into nodes.
//! - [`filter`] selects nodes.
//! - [`order`] sorts them.
//! - [`mod@reference`] replaces `${node.NAME}` in a text with a node's values.
//! - [`run_command`] knows what SSM Run Command accepts.
//! - [`dispatch`] defines the data that the job `nodes/dispatch` and its functions exchange.
//!
//! Mappings, filters and references use Rundeck's languages, so you can keep the ones that you
//! wrote for Rundeck.

pub mod dispatch;
pub mod filter;
pub mod mapping;
pub mod order;
mod pattern;
pub mod reference;
pub mod run_command;
pub mod shell;
#[cfg(test)]
mod speed;
pub mod syntax_error;
mod types;

pub use types::{CommandResults, Node, NodeResult, Outcome, Status, StepResult};
