//! The state of a dispatch, which the function `dispatch` stores after each round and at the end.

use serde::{Deserialize, Serialize};

use super::item::ExecutorKind;
use super::options::Options;
use crate::node::NodeResult;

/// The state of a dispatch.
#[derive(Debug, Deserialize, Serialize)]
pub struct State {
    /// The options of the job.
    pub options: Options,
    /// The nodes in the order in which they start, with the results of their steps so far.
    pub nodes: Vec<NodeResult>,
    /// The accounts and Regions in which a node source failed.
    pub failures: Vec<SourceFailure>,
    /// The items of the current round, in order. Empty at the end.
    pub round: Vec<PlannedItem>,
}

/// An item whose results are not available yet.
#[derive(Debug, Deserialize, Serialize)]
pub struct PlannedItem {
    /// The indexes of the item's nodes in the list of nodes.
    pub nodes: Vec<usize>,
    /// The steps that the item runs, and what runs them.
    pub calls: Vec<(String, ExecutorKind)>,
}

/// An account or a Region in which a node source failed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SourceFailure {
    /// The account.
    pub account: String,
    /// The node source, such as `ec2`.
    pub source: String,
    /// The Region. Absent if the source failed for the whole account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The error's name.
    pub error: String,
    /// The error's message.
    pub message: String,
}
