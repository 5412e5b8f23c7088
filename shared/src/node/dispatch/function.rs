//! The requests of the state machine to the function `dispatch`, and the function's responses.

use serde::{Deserialize, Serialize};

use super::objects::{Object, Stored};
use super::options::Options;
use super::state::SourceFailure;
use crate::node::Status;

/// A request of the state machine.
#[derive(Debug, Deserialize)]
pub struct Request {
    /// The customer.
    pub customer: String,
    /// The execution that sends the request.
    pub execution: Caller,
    /// The action to carry out.
    #[serde(flatten)]
    pub action: Action,
}

/// The part of an [`Execution`](crate::model::envelope::Execution) that the function needs.
#[derive(Debug, Deserialize)]
pub struct Caller {
    /// The name of the Step Functions execution.
    pub id: String,
}

/// An action of the function.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Select nodes and plan the first round. Returns [`NextRound`] or [`End`].
    Plan {
        /// The nodes to select, and the steps to run.
        options: Box<Options>,
        /// The results of the node sources.
        #[serde(default)]
        found: Vec<Found>,
    },
    /// Read the results of a round and plan the next one. Returns [`NextRound`] or [`End`].
    Collect {
        /// The round's number.
        round: usize,
        /// The output of the distributed Map.
        results: MapResults,
    },
    /// Return whether an item may start, if a failure stops the items after it. Returns
    /// [`MayBegin`].
    MayBegin {},
    /// Prevent further items from starting.
    Stop {},
}

/// The output of a node source for one account, or its error.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Found {
    /// The account.
    pub account: String,
    /// The source, such as `ec2`.
    pub source: String,
    /// The object with the source's output.
    #[serde(default)]
    pub output: Option<Stored>,
    /// The error's name.
    #[serde(default)]
    pub error: Option<String>,
    /// The error's message.
    #[serde(default)]
    pub message: Option<String>,
}

/// The output of a distributed Map.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html>
#[derive(Debug, Deserialize)]
pub struct MapResults {
    /// The location of the results of its items.
    #[serde(rename = "ResultWriterDetails")]
    pub details: ResultWriter,
}

/// The location to which a distributed Map wrote the results of its items.
#[derive(Debug, Deserialize)]
pub struct ResultWriter {
    /// The key of the manifest, which lists the result files.
    #[serde(rename = "Key")]
    pub key: String,
}

/// The next round of a dispatch.
#[derive(Debug, Deserialize, Serialize)]
pub struct NextRound {
    /// The round's number, from 0.
    pub round: usize,
    /// The number of items. It is never 0.
    pub items: usize,
    /// The number of all nodes of the dispatch.
    pub nodes: usize,
    /// The number of items to run at once.
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
    /// Whether the other items continue if an item fails.
    pub keepgoing: bool,
}

/// The end of a dispatch.
#[derive(Debug, Deserialize, Serialize)]
pub struct End {
    /// The number of items: always 0, so the state machine runs no further round.
    pub items: usize,
    /// The result of the dispatch.
    pub summary: Summary,
}

/// The response to [`Action::MayBegin`].
#[derive(Debug, Deserialize, Serialize)]
pub struct MayBegin {
    /// Whether the item may start.
    pub may_begin: bool,
}

/// The result of a dispatch, which is the output of the job. The object `all` contains all nodes.
#[derive(Debug, Deserialize, Serialize)]
pub struct Summary {
    /// The overall result.
    pub outcome: JobOutcome,
    /// The number of nodes.
    pub nodes: usize,
    /// The number of nodes on which all steps succeeded.
    pub succeeded: usize,
    /// The number of nodes on which a step did not succeed.
    pub failed: usize,
    /// The first of these failed nodes.
    pub failed_nodes: Vec<FailedNode>,
    /// The first of the accounts and Regions in which a node source failed.
    pub failed_sources: Vec<SourceFailure>,
    /// The object with the [`State`](super::State) at the end.
    pub all: Object,
}

/// The overall result of a job.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    /// All nodes succeeded.
    Succeeded,
    /// Some nodes failed.
    Partial,
    /// All nodes failed.
    Failed,
}

/// A node on which a dispatch did not succeed.
#[derive(Debug, Deserialize, Serialize)]
pub struct FailedNode {
    /// The node's name.
    pub node: String,
    /// The node's ID at AWS, because several nodes can have the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The node's account.
    pub account: Option<String>,
    /// The node's Region.
    pub region: Option<String>,
    /// The step that failed.
    pub step: Option<String>,
    /// How that step ended.
    pub status: Option<Status>,
    /// The exit code of that step.
    pub exit_code: Option<i32>,
    /// The beginning of the step's message or output.
    pub message: Option<String>,
}
