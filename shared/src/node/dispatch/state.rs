//! What the function `dispatch` keeps from round to round, and at the end.

use serde::{Deserialize, Serialize};

use super::item::ExecutorKind;
use super::options::Options;
use crate::node::NodeResult;

/// How far a dispatch has come.
#[derive(Debug, Deserialize, Serialize)]
pub struct State {
    /// What was asked for.
    pub options: Options,
    /// The nodes, in the order in which they begin, and how each step so far ended there.
    pub nodes: Vec<NodeResult>,
    /// The places where no nodes could be looked for.
    pub failures: Vec<SourceFailure>,
    /// The items of the round under way, in order; none at the end.
    pub round: Vec<PlannedItem>,
}

/// What is remembered of an item until its results are there.
#[derive(Debug, Deserialize, Serialize)]
pub struct PlannedItem {
    /// Its nodes, by their place in the list of nodes.
    pub nodes: Vec<usize>,
    /// The steps that it runs, and how.
    pub calls: Vec<(String, ExecutorKind)>,
}

/// A place where no nodes could be looked for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SourceFailure {
    /// The account.
    pub account: String,
    /// The node source, as in `ec2`.
    pub source: String,
    /// The Region; absent when it is all of the account's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The error's name.
    pub error: String,
    /// What the error says.
    pub message: String,
}
