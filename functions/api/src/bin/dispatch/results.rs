//! How the items of a round have ended, as the distributed Map wrote it.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use stepward::model::error::StepError;
use stepward::node::{Node, Outcome, Status};

use super::items::{By, Planned};
use super::options::Stored;
use super::store::Store;

/// Results that are read at once: those of 1,000 instances may be some 30 MB.
const AT_ONCE: usize = 4;
/// Characters of a node's output that the list of all nodes keeps; the rest stays where `result` says.
const KEPT: usize = 1000;
/// Errors after which nothing was begun on the nodes, where no earlier call had begun anything.
const REFUSED: [&str; 5] = ["AccessDenied", "Conflict", "InvalidInput", "NotFound", "TrustBroken"];

/// Where a distributed Map has written the results of its items.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html>
#[derive(Debug, Deserialize)]
pub(crate) struct Written {
    #[serde(rename = "ResultWriterDetails")]
    details: Manifest,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(rename = "Key")]
    key: String,
}

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

/// What a child execution answers for its item.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Ended {
    item: String,
    /// Whether it was let begin.
    began: bool,
    /// The output of each call that was made to its end.
    #[serde(default)]
    calls: Vec<Stored>,
    /// Why the call behind those failed.
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    message: Option<String>,
    /// Whether the step was called before that, so that it may have begun something.
    #[serde(default)]
    called_before: bool,
}

/// How one step ended on one node; the node by its place in the list.
pub(crate) type Result = (usize, String, Outcome, Option<String>);

/// How all items of a round ended.
pub(crate) async fn read(
    store: &Store<'_>,
    round: &[Planned],
    nodes: &[&Node],
    written: &Written,
) -> std::result::Result<Vec<Result>, StepError> {
    let listing: Listing = store.get(&written.details.key).await?;
    let mut items: BTreeMap<usize, Ended> = BTreeMap::new();
    for file in listing.result_files.into_values().flatten() {
        let children: Vec<Child> = store.get(&file.key).await?;
        let ended = children.into_iter().filter_map(ended);
        items.extend(ended.filter_map(|ended| Some((ended.item.split_once('-')?.1.parse().ok()?, ended))));
    }
    // Of an item without a record nobody knows whether it ran.
    let nothing = Ended {
        began: true,
        error: Some("Internal".into()),
        message: Some("Step Functions has no result of this item; look at the execution's Map run".into()),
        ..Ended::default()
    };
    let results = round.iter().enumerate().map(|(place, planned)| {
        let ended = items.get(&place).unwrap_or(&nothing);
        of_item(store, planned, nodes, ended)
    });
    let results: Vec<Vec<Result>> = stream::iter(results).buffered(AT_ONCE).try_collect().await?;
    Ok(results.into_iter().flatten().collect())
}

/// What a child says of its item; of one that did not come to its end, what Step Functions says of it.
fn ended(child: Child) -> Option<Ended> {
    if let Some(output) = child.output.as_deref().filter(|_| child.status == "SUCCEEDED") {
        return serde_json::from_str(output).ok();
    }
    // A failed item puts what it has done into its cause.
    if let Some(ended) = child.cause.as_deref().and_then(|cause| serde_json::from_str(cause).ok()) {
        return Some(ended);
    }
    let input: Value = serde_json::from_str(&child.input).ok()?;
    let item = input["item"]["id"].as_str()?.to_owned();
    let error = child.error.unwrap_or_else(|| child.status.clone());
    Some(Ended { item, began: true, error: Some(error), message: child.cause, called_before: true, ..Ended::default() })
}

async fn of_item(
    store: &Store<'_>,
    planned: &Planned,
    nodes: &[&Node],
    ended: &Ended,
) -> std::result::Result<Vec<Result>, StepError> {
    let mut results = Vec::new();
    let mut alive: Vec<usize> = planned.nodes.clone();
    for (number, (step, by)) in planned.calls.iter().enumerate() {
        let mut after = Vec::new();
        let stored = ended.calls.get(number);
        let output: Option<Value> = match stored {
            Some(stored) => Some(store.get(&stored.artifact.key).await?),
            None => None,
        };
        for place in alive {
            let outcome = match &output {
                Some(output) => outcome(*by, output, nodes.get(place)),
                None => without_answer(ended),
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

/// How a step ended on a node, from the answer for its item.
fn outcome(by: By, output: &Value, node: Option<&&Node>) -> Outcome {
    let read = |value: &Value| Outcome::deserialize(value).ok();
    let found = match by {
        By::Ssm => node.and_then(|node| node.attributes.get("instanceId")).and_then(|id| read(&output["nodes"][id])),
        By::Ecs => read(output),
        By::Step => Some(plain(Status::Succeeded, None)),
    };
    found.unwrap_or_else(|| plain(Status::Unknown, Some("the step's answer does not name this node".into())))
}

/// What became of a node whose item has no answer.
fn without_answer(ended: &Ended) -> Outcome {
    let Some(error) = ended.error.as_deref() else {
        let why = if ended.began { "the step before it failed" } else { "the dispatch was stopped before its turn" };
        return plain(Status::NotStarted, Some(why.into()));
    };
    let status = match error {
        "TimedOut" => Status::TimedOut,
        "StepFailed" => Status::Failed,
        "ABORTED" => Status::Cancelled,
        error if REFUSED.contains(&error) && !ended.called_before => Status::NotStarted,
        _ => Status::Unknown,
    };
    let message = ended.message.as_deref().unwrap_or("no reason was given");
    plain(status, Some(format!("{error}: {message}")))
}

/// An outcome without an output.
pub(crate) fn plain(status: Status, message: Option<String>) -> Outcome {
    Outcome { status, exit_code: None, output: String::new(), error_output: String::new(), output_url: None, message }
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
