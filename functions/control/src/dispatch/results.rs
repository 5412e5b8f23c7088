//! How the items of a round have ended, as the distributed Map wrote it.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use stepward::model::error::StepError;
use stepward::node::dispatch::{ExecutorKind, ItemEnd, ItemInput, MapResults, PlannedItem};
use stepward::node::{CommandResults, Node, Outcome, Status};

use super::store::Store;

/// Results that are read at once: those of 1,000 instances may be some 30 MB.
const AT_ONCE: usize = 4;
/// Characters of a node's output that the list of all nodes keeps; the rest stays where `result`
/// says.
const KEPT: usize = 1000;
/// Errors after which nothing was begun on the nodes, where no earlier call had begun anything.
const REFUSED: [&str; 5] = [
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
struct Listing {
    result_files: BTreeMap<String, Vec<File>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    key: String,
}

/// One child execution, as the Map wrote it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Child {
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

/// How one step ended on one node; the node by its place in the list.
pub(crate) type Result = (usize, String, Outcome, Option<String>);

/// How all items of a round ended.
pub(crate) async fn read(
    store: &Store<'_>,
    round: &[PlannedItem],
    nodes: &[&Node],
    written: &MapResults,
) -> std::result::Result<Vec<Result>, StepError> {
    let listing: Listing = store.get(&written.details.key).await?;
    let mut items: BTreeMap<usize, ItemEnd> = BTreeMap::new();
    for file in listing.result_files.into_values().flatten() {
        let children: Vec<Child> = store.get(&file.key).await?;
        items.extend(
            children
                .into_iter()
                .filter_map(end_of)
                .map(|end| (end.item.place, end)),
        );
    }
    let results = round
        .iter()
        .enumerate()
        .map(|(place, planned)| of_item(store, planned, nodes, items.get(&place)));
    let results: Vec<Vec<Result>> = stream::iter(results)
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(results.into_iter().flatten().collect())
}

/// What a child says of its item; of one that did not come to its end, what Step Functions says of
/// it.
fn end_of(child: Child) -> Option<ItemEnd> {
    if let Some(output) = child
        .output
        .as_deref()
        .filter(|_| child.status == "SUCCEEDED")
    {
        return serde_json::from_str(output).ok();
    }
    // A failed item puts what it has done into its cause.
    if let Some(end) = child
        .cause
        .as_deref()
        .and_then(|cause| serde_json::from_str(cause).ok())
    {
        return Some(end);
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

async fn of_item(
    store: &Store<'_>,
    planned: &PlannedItem,
    nodes: &[&Node],
    end: Option<&ItemEnd>,
) -> std::result::Result<Vec<Result>, StepError> {
    let mut results = Vec::new();
    let mut alive: Vec<usize> = planned.nodes.clone();
    for (number, (step, by)) in planned.calls.iter().enumerate() {
        let mut after = Vec::new();
        let stored = end.and_then(|end| end.calls.get(number));
        let output = match stored {
            Some(stored) => Some(StepOutput::read(
                *by,
                store.get(&stored.artifact.key).await?,
            )),
            None => None,
        };
        for place in alive {
            let outcome = match &output {
                Some(output) => output.outcome_on(nodes.get(place).copied()),
                None => without_answer(end),
            };
            if outcome.status.is_success() {
                after.push(place);
            }
            let whole = stored.map(|stored| stored.artifact.key.clone());
            results.push((place, step.clone(), cut(outcome), whole));
        }
        alive = after;
    }
    Ok(results)
}

/// What a called step put out for its item.
enum StepOutput {
    /// How a command ended on instances, by ID.
    Instances(BTreeMap<String, Outcome>),
    /// How a command ended in the item's one container.
    Container(Outcome),
    /// A step of the catalog came to its end, whatever it put out.
    Done,
    /// Not what the step's contract says.
    Unreadable,
}

impl StepOutput {
    fn read(by: ExecutorKind, output: Value) -> Self {
        let read = match by {
            ExecutorKind::Ssm => {
                serde_json::from_value(output).map(|all: CommandResults| Self::Instances(all.nodes))
            }
            ExecutorKind::Ecs => serde_json::from_value(output).map(Self::Container),
            ExecutorKind::Step => Ok(Self::Done),
        };
        read.unwrap_or(Self::Unreadable)
    }

    fn outcome_on(&self, node: Option<&Node>) -> Outcome {
        let found = match self {
            Self::Instances(nodes) => node
                .and_then(|node| nodes.get(node.get("instanceId")?))
                .cloned(),
            Self::Container(outcome) => Some(outcome.clone()),
            Self::Done => Some(plain(Status::Succeeded, None)),
            Self::Unreadable => None,
        };
        found.unwrap_or_else(|| {
            plain(
                Status::Unknown,
                Some("the step's answer does not name this node".into()),
            )
        })
    }
}

/// What became of a node whose item has no answer.
fn without_answer(end: Option<&ItemEnd>) -> Outcome {
    let Some(end) = end else {
        // Nobody knows whether the item ran.
        let why =
            "Internal: Step Functions has no result of this item; look at the execution's Map run";
        return plain(Status::Unknown, Some(why.into()));
    };
    let Some(error) = end.error.as_deref() else {
        let why = if end.began {
            "the step before it failed"
        } else {
            "the dispatch was stopped before its turn"
        };
        return plain(Status::NotStarted, Some(why.into()));
    };
    let status = match error {
        "TimedOut" => Status::TimedOut,
        "StepFailed" => Status::Failed,
        "ABORTED" => Status::Cancelled,
        error if REFUSED.contains(&error) && !end.called_before => Status::NotStarted,
        _ => Status::Unknown,
    };
    let message = end.message.as_deref().unwrap_or("no reason was given");
    plain(status, Some(format!("{error}: {message}")))
}

/// An outcome without an output.
pub(crate) fn plain(status: Status, message: Option<String>) -> Outcome {
    Outcome {
        status,
        exit_code: None,
        output: String::new(),
        error_output: String::new(),
        output_url: None,
        message,
    }
}

/// An outcome with the end of what was said.
fn cut(mut outcome: Outcome) -> Outcome {
    for text in [&mut outcome.output, &mut outcome.error_output] {
        let length = text.chars().count();
        if length > KEPT {
            *text = text.chars().skip(length - KEPT).collect();
        }
    }
    outcome
}
