//! Reads the results of a round, which the distributed Map has written to the artifacts bucket.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use stepward::model::error::StepError;
use stepward::node::dispatch::{ExecutorKind, ItemEnd, ItemInput, MapResults, PlannedItem};
use stepward::node::{Node, Outcome, Status};

use super::store::ArtifactStore;

/// The maximum number of results that are read at the same time. The results of 1,000 instances can
/// have 30 MB.
const MAX_CONCURRENT_READS: usize = 4;
/// The maximum length of a node's output in the list of all nodes, in characters. The object that
/// `result` names has the whole output.
const MAX_OUTPUT_CHARACTERS: usize = 1000;
/// Errors after which nothing has started on the nodes, unless an earlier call of the step started
/// something.
const REJECTION_ERRORS: [&str; 5] = [
    "AccessDenied",
    "Conflict",
    "InvalidInput",
    "NotFound",
    "TrustBroken",
];

/// The manifest that a distributed Map writes.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html>
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ResultManifest {
    result_files: BTreeMap<String, Vec<ResultFile>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ResultFile {
    key: String,
}

/// One child execution in a result file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChildExecution {
    #[serde(default)]
    input: String,
    #[serde(default)]
    output: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    cause: Option<String>,
    #[serde(default)]
    status: String,
}

/// The outcome of one step on one node.
pub(crate) struct NodeOutcome {
    /// The node's index in the list of nodes.
    pub(crate) node_index: usize,
    /// The step's ID within the job.
    pub(crate) step: String,
    pub(crate) outcome: Outcome,
    /// How many characters of the outcome's output are left out.
    pub(crate) omitted_characters: usize,
    /// The key of the step's whole output, if it has one.
    pub(crate) output_key: Option<String>,
}

/// Reads the outcomes of all items of a round.
pub(crate) async fn read_results(
    store: &ArtifactStore<'_>,
    round: &[PlannedItem],
    nodes: &[&Node],
    map_results: &MapResults,
) -> Result<Vec<NodeOutcome>, StepError> {
    let manifest: ResultManifest = store.get(&map_results.details.key).await?;
    let mut item_ends: BTreeMap<usize, ItemEnd> = BTreeMap::new();
    for file in manifest.result_files.into_values().flatten() {
        let children: Vec<Value> = store.get(&file.key).await?;
        item_ends.extend(
            children
                .into_iter()
                // The nodes of an item without a readable result are unknown.
                .filter_map(|child| serde_json::from_value(child).ok())
                .filter_map(parse_item_end)
                .map(|end| (end.item.place, end)),
        );
    }

    let reads = round
        .iter()
        .enumerate()
        .map(|(index, planned)| read_item(store, planned, nodes, item_ends.get(&index)));
    let outcomes: Vec<Vec<NodeOutcome>> = stream::iter(reads)
        .buffered(MAX_CONCURRENT_READS)
        .try_collect()
        .await?;
    Ok(outcomes.into_iter().flatten().collect())
}

/// The end of an item: from the child execution's own report, or from Step Functions if the child
/// did not write one.
fn parse_item_end(child: ChildExecution) -> Option<ItemEnd> {
    let has_succeeded = child.status == "SUCCEEDED";
    if let Some(output) = child.output.as_deref().filter(|_| has_succeeded) {
        return serde_json::from_str(output).ok();
    }
    // A failed item writes its report into the cause.
    let report = child
        .cause
        .as_deref()
        .and_then(|cause| serde_json::from_str(cause).ok());
    if report.is_some() {
        return report;
    }

    let input: ItemInput = serde_json::from_str(&child.input).ok()?;
    let error = Some(child.error.unwrap_or(child.status));
    Some(ItemEnd {
        item: input.item.id,
        began: true,
        calls: Vec::new(),
        error,
        message: child.cause,
        called_before: true,
    })
}

async fn read_item(
    store: &ArtifactStore<'_>,
    planned: &PlannedItem,
    nodes: &[&Node],
    end: Option<&ItemEnd>,
) -> Result<Vec<NodeOutcome>, StepError> {
    let mut outcomes = Vec::new();
    // The nodes on which all steps so far succeeded.
    let mut remaining: Vec<usize> = planned.nodes.clone();
    for (number, (step, executor_kind)) in planned.calls.iter().enumerate() {
        let stored = end.and_then(|end| end.calls.get(number));
        let output = match stored {
            Some(stored) => {
                let output = store.get(&stored.artifact.key).await?;
                Some(StepOutput::parse(*executor_kind, output))
            }
            None => None,
        };

        let mut succeeded = Vec::new();
        for node_index in remaining {
            let mut outcome = match &output {
                Some(output) => output.outcome_on(nodes.get(node_index).copied()),
                None => outcome_without_result(end),
            };
            if outcome.status.is_success() {
                succeeded.push(node_index);
            }
            outcomes.push(NodeOutcome {
                node_index,
                step: step.clone(),
                omitted_characters: truncate_output(&mut outcome),
                outcome,
                output_key: stored.map(|stored| stored.artifact.key.clone()),
            });
        }
        remaining = succeeded;
    }
    Ok(outcomes)
}

/// The part of [`CommandResults`](stepward::node::CommandResults) that a dispatch reads.
#[derive(Debug, Deserialize)]
struct InstanceResults {
    nodes: BTreeMap<String, Value>,
}

/// The output of a step that an item called.
enum StepOutput {
    /// Outcomes of a command, by instance ID. Each is read on its own, so that a malformed one does
    /// not hide the others.
    Instances(BTreeMap<String, Value>),
    /// The outcome of a command in the item's container.
    Container(Outcome),
    /// A step of the catalog succeeded. Its output does not matter.
    Done,
    /// The output does not have the expected format.
    Unreadable,
}

impl StepOutput {
    fn parse(executor_kind: ExecutorKind, output: Value) -> Self {
        let parsed = match executor_kind {
            ExecutorKind::Ssm => serde_json::from_value(output)
                .map(|results: InstanceResults| Self::Instances(results.nodes)),
            ExecutorKind::Ecs => serde_json::from_value(output).map(Self::Container),
            ExecutorKind::Step => Ok(Self::Done),
        };
        parsed.unwrap_or(Self::Unreadable)
    }

    fn outcome_on(&self, node: Option<&Node>) -> Outcome {
        let outcome = match self {
            Self::Instances(outcomes) => node
                .and_then(|node| outcomes.get(node.get("instanceId")?))
                .map(|outcome| {
                    Outcome::deserialize(outcome).unwrap_or_else(|error| malformed_outcome(&error))
                }),
            Self::Container(outcome) => Some(outcome.clone()),
            Self::Done => Some(outcome_without_output(Status::Succeeded, None)),
            Self::Unreadable => None,
        };
        outcome.unwrap_or_else(|| {
            let message = "the step's output does not contain this node; check on the node \
                           whether the step ran";
            outcome_without_output(Status::Unknown, Some(message.into()))
        })
    }
}

/// The outcome on a node whose result Stepward cannot read.
fn malformed_outcome(error: &serde_json::Error) -> Outcome {
    let message = format!(
        "check on the node whether the step ran, because its result has an unexpected format: \
         {error}"
    );
    outcome_without_output(Status::Unknown, Some(message))
}

/// The outcome on a node whose item has no result for a step.
fn outcome_without_result(end: Option<&ItemEnd>) -> Outcome {
    let Some(end) = end else {
        let message = "Internal: Step Functions has no result of this item; open the execution's \
                       Map run to see whether it ran";
        return outcome_without_output(Status::Unknown, Some(message.into()));
    };
    let Some(error) = end.error.as_deref() else {
        let message = if end.began {
            "the previous step failed"
        } else {
            NOT_REACHED
        };
        return outcome_without_output(Status::NotStarted, Some(message.into()));
    };

    let status = match error {
        "TimedOut" => Status::TimedOut,
        "StepFailed" => Status::Failed,
        "ABORTED" => Status::Cancelled,
        error if REJECTION_ERRORS.contains(&error) && !end.called_before => Status::NotStarted,
        _ => Status::Unknown,
    };
    let message = end.message.as_deref().unwrap_or(NO_REASON);
    outcome_without_output(status, Some(format!("{error}: {message}")))
}

/// The message for nodes that the dispatch did not reach before it was stopped.
pub(crate) const NOT_REACHED: &str = "the dispatch was stopped before it reached the node";
/// The message for errors without a message.
pub(crate) const NO_REASON: &str = "no reason was given";

pub(crate) fn outcome_without_output(status: Status, message: Option<String>) -> Outcome {
    Outcome {
        status,
        exit_code: None,
        output: String::new(),
        error_output: String::new(),
        output_url: None,
        message,
    }
}

/// Keeps only the end of long outputs, after `…`. Returns how many characters it leaves out.
fn truncate_output(outcome: &mut Outcome) -> usize {
    let mut total_omitted = 0;
    for text in [&mut outcome.output, &mut outcome.error_output] {
        let omitted = text.chars().count().saturating_sub(MAX_OUTPUT_CHARACTERS);
        if omitted > 0 {
            let end: String = text.chars().skip(omitted).collect();
            *text = format!("…{end}");
        }
        total_omitted += omitted;
    }
    total_omitted
}
