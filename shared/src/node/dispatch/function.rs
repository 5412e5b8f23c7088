//! What the state machine asks of the function `dispatch`, and what it answers.

use serde::{Deserialize, Serialize};

use super::objects::{Object, Stored};
use super::options::Options;
use super::state::SourceFailure;
use crate::node::Status;

/// What the state machine asks.
#[derive(Debug, Deserialize)]
pub struct Request {
    /// The customer.
    pub customer: String,
    /// The execution that asks.
    pub execution: Caller,
    /// What is asked.
    #[serde(flatten)]
    pub action: Action,
}

/// The part of an [`Execution`](crate::model::envelope::Execution) that the function needs.
#[derive(Debug, Deserialize)]
pub struct Caller {
    /// Name of the Step Functions execution.
    pub id: String,
}

/// What the function can do.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Choose nodes among those found, and plan the first round: answers [`NextRound`] or [`End`].
    Plan {
        /// Which nodes, what to run, and how.
        options: Box<Options>,
        /// What the node sources found.
        #[serde(default)]
        found: Vec<Found>,
    },
    /// Take in how a round has ended, and plan the next one: answers [`NextRound`] or [`End`].
    Collect {
        /// The round's number.
        round: usize,
        /// What the distributed Map answered.
        results: MapResults,
    },
    /// Tell whether an item may begin, where a failure stops those behind it: answers [`MayBegin`].
    MayBegin {},
    /// Let no further item begin.
    Stop {},
}

/// What a node source answered for one account, or how it failed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Found {
    /// The account.
    pub account: String,
    /// The source, as in `ec2`.
    pub source: String,
    /// Where the source's output is.
    #[serde(default)]
    pub output: Option<Stored>,
    /// The error's name.
    #[serde(default)]
    pub error: Option<String>,
    /// What the error says.
    #[serde(default)]
    pub message: Option<String>,
}

/// What a distributed Map answers.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html>
#[derive(Debug, Deserialize)]
pub struct MapResults {
    /// Where the results of its items are.
    #[serde(rename = "ResultWriterDetails")]
    pub details: ResultWriter,
}

/// Where a distributed Map has written the results of its items.
#[derive(Debug, Deserialize)]
pub struct ResultWriter {
    /// The manifest's key.
    #[serde(rename = "Key")]
    pub key: String,
}

/// A round to run.
#[derive(Debug, Deserialize, Serialize)]
pub struct NextRound {
    /// The round's number, from 0.
    pub round: usize,
    /// How many items there are; never 0.
    pub items: usize,
    /// How many nodes the dispatch has in all.
    pub nodes: usize,
    /// How many items to run at once.
    pub concurrency: usize,
    /// The artifacts bucket.
    pub bucket: String,
    /// The key of the items: a list of [`Item`](super::Item).
    pub key: String,
    /// The prefix for the results of the items.
    pub results: String,
    /// The key of the [`State`](super::State).
    #[serde(default)]
    pub state: String,
    /// Whether the other items go on when one fails.
    pub keepgoing: bool,
}

/// The end of a dispatch.
#[derive(Debug, Deserialize, Serialize)]
pub struct End {
    /// How many items there are to run: 0.
    pub items: usize,
    /// What the dispatch came to.
    pub summary: Summary,
}

/// Whether an item may begin.
#[derive(Debug, Deserialize, Serialize)]
pub struct MayBegin {
    /// Whether it may.
    pub may_begin: bool,
}

/// What a dispatch came to: the output of the job. Every node is in the object that `all` names.
#[derive(Debug, Deserialize, Serialize)]
pub struct Summary {
    /// What it came to as a whole.
    pub outcome: JobOutcome,
    /// How many nodes there are.
    pub nodes: usize,
    /// How many it succeeded on.
    pub succeeded: usize,
    /// How many it did not succeed on.
    pub failed: usize,
    /// The first of the nodes that it did not succeed on.
    pub failed_nodes: Vec<FailedNode>,
    /// The first of the places where no nodes could be looked for.
    pub failed_sources: Vec<SourceFailure>,
    /// The [`State`](super::State) at the end.
    pub all: Object,
}

/// What a job came to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    /// All of it succeeded.
    Succeeded,
    /// Some of it failed.
    Partial,
    /// All of it failed.
    Failed,
}

/// A node that a dispatch did not succeed on.
#[derive(Debug, Deserialize, Serialize)]
pub struct FailedNode {
    /// The node's name.
    pub node: String,
    /// Its account.
    pub account: Option<String>,
    /// Its Region.
    pub region: Option<String>,
    /// The step that failed.
    pub step: Option<String>,
    /// How that step ended.
    pub status: Option<Status>,
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// The beginning of what it said.
    pub message: Option<String>,
}
