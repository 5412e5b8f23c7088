//! The final results of all nodes. They are read again at the end, because the resume state holds
//! no outputs.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::CommandInvocation;
use futures_util::{StreamExt, TryStreamExt, stream};
use stepward::model::text::counted;
use stepward::node::{CommandResults, Outcome, Status};
use stepward::{Context, ErrorName, StepError};
use tokio::time::Instant;

use crate::commands::list_invocations;
use crate::full_output::{self, FullOutput};
use crate::plan::Plan;
use crate::state::{Batch, RunState};
use crate::{MAX_CONCURRENT_REQUESTS, outcome};

/// The maximum output of all nodes of a run together, in bytes. Each node gets the same share.
pub const OUTPUT_BUDGET: usize = 4 * 1024 * 1024;
/// The smallest share of one node, in bytes.
const MIN_SHARE: usize = 200;
/// The largest share of one node, in bytes.
const MAX_SHARE: usize = 256 * 1024;
/// The maximum length of a node's output in SSM's list of invocations, in characters.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_CommandPlugin.html>
/// (Output)
const LISTED_CHARACTERS: usize = 2500;
/// The maximum number of failed nodes that the error message names, and whose last output is
/// logged.
const NAMED_NODES: usize = 5;
/// The maximum length of a failed node's output in the log, in bytes.
const LOGGED_OUTPUT: usize = 500;

/// How many times incomplete results are read again. SSM's list of nodes may be older than its
/// counts.
const MAX_INCOMPLETE_READS: u8 = 2;
/// How long to wait before results are read again.
pub(crate) const REREAD_DELAY: Duration = Duration::from_secs(5);

/// The result of one node, with what is needed to complete it.
struct NodeEntry {
    id: String,
    outcome: Outcome,
    /// Whether SSM may still report how the command ended.
    is_open: bool,
    /// The complete output, if SSM truncated it.
    full_output: Option<FullOutput>,
}

/// Reads the results of a run that has ended; `None` if they are incomplete and must be read again.
///
/// # Errors
/// `StepFailed` if a node did not succeed and the plan's `fail_on_error` is set; otherwise the
/// reason why a request to AWS failed.
pub(crate) async fn collect_results(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &RunState,
) -> Result<Option<CommandResults>, StepError> {
    let share = (OUTPUT_BUDGET / plan.instance_ids.len().max(1)).clamp(MIN_SHARE, MAX_SHARE);
    let batches: Vec<_> = plan
        .batches()
        .enumerate()
        .map(|(number, ids)| (run.batches.get(number).cloned(), ids.to_vec()))
        .collect();
    let entries: Vec<Vec<NodeEntry>> = stream::iter(batches)
        .map(|(batch, ids)| Box::pin(batch_entries(plan, ctx, ssm, run, batch, ids, share)))
        .buffered(MAX_CONCURRENT_REQUESTS)
        .try_collect()
        .await?;
    let has_open_entries = entries.iter().flatten().any(|entry| entry.is_open);
    if run.incomplete_reads < MAX_INCOMPLETE_READS && has_open_entries {
        return Ok(None);
    }

    // Stop reading complete outputs at half of the remaining time, to return in time. Later nodes
    // keep the truncated output and the link.
    let read_until = Instant::now() + ctx.deadline().saturating_duration_since(Instant::now()) / 2;
    let nodes: BTreeMap<String, Outcome> = stream::iter(entries.into_iter().flatten())
        .map(|entry| Box::pin(complete_output(plan, ctx, ssm, entry, share, read_until)))
        .buffer_unordered(MAX_CONCURRENT_REQUESTS)
        .collect()
        .await;

    let succeeded = nodes
        .values()
        .filter(|outcome| outcome.status.is_success())
        .count();
    let failed = nodes.len() - succeeded;
    ctx.log(format_args!(
        "{succeeded} of {} succeeded",
        counted(nodes.len(), "node")
    ));
    if failed > 0 && plan.fail_on_error {
        return Err(step_failure(plan, ctx, run, &nodes, failed));
    }
    let command_ids = run
        .batches
        .iter()
        .map(|batch| batch.command_id.clone())
        .filter(|command_id| !command_id.is_empty())
        .collect();
    Ok(Some(CommandResults {
        command_ids,
        succeeded,
        failed,
        nodes,
    }))
}

async fn batch_entries(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &RunState,
    batch: Option<Batch>,
    instance_ids: Vec<String>,
    share: usize,
) -> Result<Vec<NodeEntry>, StepError> {
    let Some(batch) = batch.filter(Batch::is_started) else {
        let outcome = outcome::not_started_outcome(plan, run.send_error.as_deref());
        let entries = instance_ids
            .iter()
            .map(|id| entry_without_output(id, outcome.clone()));
        return Ok(entries.collect());
    };

    let invocations = if batch.command_id.is_empty() {
        Vec::new()
    } else {
        list_invocations(ssm, &batch.command_id).await?
    };
    let invocations: HashMap<_, _> = invocations
        .iter()
        .filter_map(|invocation| Some((invocation.instance_id()?, invocation)))
        .collect();

    let entries = instance_ids.iter().enumerate().map(|(index, id)| {
        if let Some(mark) = batch.skip_mark(index) {
            return entry_without_output(id, outcome::skipped_outcome(mark));
        }
        let unknown_entry = |reason: &str| NodeEntry {
            is_open: !batch.abandoned,
            ..entry_without_output(id, outcome::unknown_outcome(reason))
        };
        let Some(invocation) = invocations.get(id.as_str()) else {
            return unknown_entry(&format!(
                "SSM has no result of command {} for the node",
                batch.command_id
            ));
        };
        match outcome::final_outcome(plan, invocation, run.error_limit_exceeded) {
            Some(outcome) => entry_with_output(plan, ctx, &batch, id, invocation, outcome, share),
            None => unknown_entry(&format!(
                "SSM reports the status {:?} although the command must have ended",
                outcome::status_details(invocation)
            )),
        }
    });
    Ok(entries.collect())
}

fn entry_without_output(id: &str, outcome: Outcome) -> NodeEntry {
    NodeEntry {
        id: id.to_owned(),
        outcome,
        is_open: false,
        full_output: None,
    }
}

/// The result of a node on which the command has ended, with its share of the listed output.
fn entry_with_output(
    plan: &Plan,
    ctx: &Context,
    batch: &Batch,
    id: &str,
    invocation: &CommandInvocation,
    mut outcome: Outcome,
    share: usize,
) -> NodeEntry {
    let plugin = invocation.command_plugins().first();
    let listed_output = plugin
        .and_then(|plugin| plugin.output())
        .unwrap_or_default();
    // The list has both streams in one text, and SSM may have truncated either of them.
    let is_incomplete = outcome::is_truncated(&outcome.output)
        || outcome::is_truncated(&outcome.error_output)
        || listed_output.len() > share;

    let mut full_output = None;
    if is_incomplete {
        let located = FullOutput::locate(plan, ctx, &batch.command_id, id, plugin);
        outcome.output_url = Some(located.url.clone());
        full_output = (share > LISTED_CHARACTERS).then_some(located);
    }
    outcome.output = text_end(&outcome.output, share);
    outcome.error_output = text_end(&outcome.error_output, share);
    NodeEntry {
        id: id.to_owned(),
        outcome,
        is_open: false,
        full_output,
    }
}

/// A node's result with as much of its output as its share allows.
async fn complete_output(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    entry: NodeEntry,
    share: usize,
    read_until: Instant,
) -> (String, Outcome) {
    let NodeEntry {
        id,
        mut outcome,
        full_output,
        ..
    } = entry;
    let Some(full_output) = full_output.filter(|_| Instant::now() < read_until) else {
        return (id, outcome);
    };
    let Some((mut stdout, mut stderr)) = full_output::read_from_ssm(ctx, ssm, &full_output).await
    else {
        return (id, outcome);
    };

    for (text, stream_kind) in [(&mut stdout, "stdout"), (&mut stderr, "stderr")] {
        if outcome::is_truncated(text)
            && let Some(complete) =
                full_output::read_complete_output(plan, ctx, &full_output, stream_kind, share).await
        {
            *text = complete;
        }
    }

    let is_complete = |text: &str| !outcome::is_truncated(text) && text.len() <= share;
    let is_stored_elsewhere = plan.log_group.is_some() || plan.output_bucket.is_some();
    if is_complete(&stdout) && is_complete(&stderr) && !is_stored_elsewhere {
        outcome.output_url = None;
    }
    outcome.output = text_end(&stdout, share);
    outcome.error_output = text_end(&stderr, share);
    (id, outcome)
}

/// The last `max_bytes` bytes of a text, at a character boundary and after `…` if it is longer.
fn text_end(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let start = (text.len() - max_bytes..=text.len())
        .find(|index| text.is_char_boundary(*index))
        .unwrap_or(text.len());
    format!("…{}", &text[start..])
}

/// The error of the step, with the counts and the first nodes that did not succeed.
fn step_failure(
    plan: &Plan,
    ctx: &Context,
    run: &RunState,
    nodes: &BTreeMap<String, Outcome>,
    failed: usize,
) -> StepError {
    let failures: Vec<_> = nodes
        .iter()
        .filter(|(_, outcome)| !outcome.status.is_success())
        .collect();
    let mut counts: BTreeMap<Status, usize> = BTreeMap::new();
    for (_, outcome) in &failures {
        *counts.entry(outcome.status).or_default() += 1;
    }

    for (id, outcome) in failures.iter().take(NAMED_NODES) {
        let output = if outcome.error_output.trim().is_empty() {
            &outcome.output
        } else {
            &outcome.error_output
        };
        if !output.trim().is_empty() {
            ctx.log(format_args!(
                "Last output of {id}: {}",
                text_end(output.trim_end(), LOGGED_OUTPUT)
            ));
        }
    }
    let not_started = counts.get(&Status::NotStarted).copied().unwrap_or_default();
    if not_started > 0 {
        ctx.log(format_args!(
            "The command did not start on {}",
            counted(not_started, "node")
        ));
    }

    let counts: Vec<_> = counts
        .iter()
        .map(|(status, count)| format!("{count} {}", status_name(*status)))
        .collect();
    let mut message = format!(
        "{failed} of {} did not succeed ({})",
        counted(plan.instance_ids.len(), "node"),
        counts.join(", ")
    );
    for (index, (id, outcome)) in failures.iter().take(NAMED_NODES).enumerate() {
        let separator = if index == 0 { ": " } else { "; " };
        let _ = write!(message, "{separator}{}", outcome::log_line(id, outcome));
    }
    if failed > NAMED_NODES {
        message.push_str("; the log has the other nodes");
    }
    // The nodes that were not sent the command may not be among the named ones.
    if let Some(send_error) = &run.send_error
        && !message.contains(send_error)
    {
        let _ = write!(
            message,
            "; {}",
            outcome::sending_stopped_message(send_error)
        );
    }
    ErrorName::StepFailed.with_message(message)
}

/// Returns a status as JSON writes it, but with spaces instead of underscores.
fn status_name(status: Status) -> String {
    let name = serde_json::to_value(status)
        .ok()
        .and_then(|name| Some(name.as_str()?.replace('_', " ")));
    name.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeSsm;
    use crate::tests::{node_id, plan, run_to_end};

    #[test]
    fn the_end_of_a_text_starts_at_a_character() {
        assert_eq!(text_end("abc", 3), "abc");
        assert_eq!(text_end("abcd", 3), "…bcd");
        assert_eq!(text_end("aéb", 2), "…b");
    }

    #[tokio::test]
    async fn a_complete_listed_output_is_not_requested_again() {
        let fake = FakeSsm::default();
        fake.lock().output = "x".repeat(2000);
        let (results, _) = run_to_end(&plan(2, 2), &fake.context(&[])).await.unwrap();
        assert_eq!(
            (
                results.nodes[&node_id(0)].output.len(),
                fake.call_count("GetCommandInvocation")
            ),
            (2000, 0)
        );
        assert_eq!(results.nodes[&node_id(0)].output_url, None);
    }

    #[tokio::test]
    async fn a_truncated_output_is_requested_once_for_its_node() {
        let fake = FakeSsm::default();
        fake.lock().output = "x".repeat(20_000);
        let (results, _) = run_to_end(&plan(2, 2), &fake.context(&[])).await.unwrap();
        assert_eq!(
            (
                results.nodes[&node_id(0)].output.len(),
                fake.call_count("GetCommandInvocation")
            ),
            (20_000, 2)
        );
        assert_eq!(results.nodes[&node_id(0)].output_url, None);
    }

    #[tokio::test]
    async fn an_output_truncated_before_its_errors_is_requested() {
        let fake = FakeSsm::default();
        fake.lock().output = "x".repeat(20_000);
        fake.lock().error_output = "oh".into();
        let (results, _) = run_to_end(&plan(1, 1), &fake.context(&[])).await.unwrap();
        let outcome = &results.nodes[&node_id(0)];
        assert_eq!(
            (outcome.output.len(), outcome.error_output.as_str()),
            (20_000, "oh")
        );
    }

    #[tokio::test]
    async fn outputs_of_many_nodes_share_the_budget() {
        let fake = FakeSsm::default();
        fake.lock().output = "x".repeat(20_000);
        let (results, _) = run_to_end(&plan(5000, 1000), &fake.context(&[]))
            .await
            .unwrap();
        let bytes: usize = results
            .nodes
            .values()
            .map(|outcome| outcome.output.len())
            .sum();
        assert!(bytes <= OUTPUT_BUDGET + 5000 * 4, "{bytes}");
        assert_eq!(fake.call_count("GetCommandInvocation"), 0);
        let url = results.nodes[&node_id(4999)].output_url.as_deref().unwrap();
        assert!(
            url.contains("systems-manager/run-command/00000099-"),
            "{url}"
        );
    }
}
