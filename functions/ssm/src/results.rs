//! How it ended on all nodes, read again when everything is over: no output goes from call to call.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use aws_sdk_ssm::Client;
use futures_util::{StreamExt, TryStreamExt, stream};
use stepward::node::{CommandResults, Outcome, Status};
use stepward::{Context, ErrorName, StepError};
use tokio::time::Instant;

use crate::look::invocations;
use crate::plan::Plan;
use crate::state::{Batch, Run};
use crate::{AT_ONCE, outcome, output};

/// Characters of output that all nodes of a run have together; each has the same share.
pub const OUTPUT_BUDGET: usize = 4 * 1024 * 1024;
/// What one node has at most, and at least.
const SHARE: (usize, usize) = (200, 256 * 1024);
/// Characters that SSM's list gives of a node's output.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_CommandPlugin.html>
/// (Output)
const LISTED: usize = 2500;
/// Nodes that the message of a failure names, and whose last output is shown.
const NAMED: usize = 5;
/// Characters of a failed node's output that are shown.
const SHOWN: usize = 500;

/// How often the results are read again where a node's is not there yet: SSM's lists may be older
/// than its counts.
const REREADS: u8 = 2;
/// How long to wait before that.
pub(crate) const REREAD: Duration = Duration::from_secs(5);

/// What a node's result is known from.
struct Found {
    id: String,
    outcome: Outcome,
    /// Whether SSM may yet say how it ended.
    open: bool,
    /// Where the rest is, for an output that SSM has cut.
    rest: Option<output::Source>,
}

/// The results of a run that is over; `None` where they are to be read again.
///
/// # Errors
/// `StepFailed` when a node did not succeed and the plan says that this is a failure; else why AWS
/// failed.
pub(crate) async fn of(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &Run,
) -> Result<Option<CommandResults>, StepError> {
    let share = (OUTPUT_BUDGET / plan.ids.len().max(1)).clamp(SHARE.0, SHARE.1);
    let batches = plan
        .batches()
        .enumerate()
        .map(|(number, ids)| (run.batches.get(number).cloned(), ids.to_vec()));
    let found: Vec<Vec<Found>> = stream::iter(batches.collect::<Vec<_>>())
        .map(|(batch, ids)| Box::pin(of_batch(plan, ctx, ssm, run, batch, ids, share)))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    if run.reread < REREADS && found.iter().flatten().any(|found| found.open) {
        return Ok(None);
    }
    // Reading the rest of many outputs ends in time for the answer; who comes too late has the
    // reference.
    let until = Instant::now() + ctx.deadline().saturating_duration_since(Instant::now()) / 2;
    let nodes: BTreeMap<String, Outcome> = stream::iter(found.into_iter().flatten())
        .map(|found| Box::pin(whole(plan, ctx, ssm, found, share, until)))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let succeeded = nodes
        .values()
        .filter(|outcome| outcome.status.is_success())
        .count();
    let failed = nodes.len() - succeeded;
    ctx.log(format_args!(
        "{succeeded} of {} nodes succeeded",
        nodes.len()
    ));
    if failed > 0 && plan.fail_on_error {
        return Err(failure(plan, ctx, run, &nodes, failed));
    }
    let commands = run.batches.iter().filter(|batch| !batch.command.is_empty());
    let command_ids = commands.map(|batch| batch.command.clone()).collect();
    Ok(Some(CommandResults {
        command_ids,
        succeeded,
        failed,
        nodes,
    }))
}

async fn of_batch(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &Run,
    batch: Option<Batch>,
    ids: Vec<String>,
    share: usize,
) -> Result<Vec<Found>, StepError> {
    let without = |outcome: Outcome, id: &String| Found {
        id: id.clone(),
        outcome,
        open: false,
        rest: None,
    };
    let Some(batch) = batch.filter(Batch::begun) else {
        return Ok(ids
            .iter()
            .map(|id| without(outcome::not_started(plan, run.refused.as_deref()), id))
            .collect());
    };
    let nodes = if batch.command.is_empty() {
        Vec::new()
    } else {
        invocations(ssm, &batch.command).await?
    };
    let nodes: HashMap<_, _> = nodes
        .iter()
        .filter_map(|node| Some((node.instance_id()?, node)))
        .collect();
    let lost = |why: &str, id| Found {
        open: !batch.given_up,
        ..without(outcome::lost(why), id)
    };
    let found = ids.iter().enumerate().map(|(place, id)| {
        if let Some(why) = batch.left_out(place) {
            return without(outcome::left_out(why), id);
        }
        let Some(node) = nodes.get(id.as_str()) else {
            return lost(
                &format!("command {} has no result of it", batch.command),
                id,
            );
        };
        let Some(mut outcome) = outcome::ended(plan, node, run.stopped) else {
            let said = format!(
                "SSM calls it {} long after it must have been over",
                outcome::details(node)
            );
            return lost(&said, id);
        };
        let plugin = node.command_plugins().first();
        let said = plugin
            .and_then(|plugin| plugin.output())
            .unwrap_or_default();
        let mut rest = None;
        // Both kinds come in one, and either may be cut.
        if outcome::is_cut(&outcome.output)
            || outcome::is_cut(&outcome.error_output)
            || said.len() > share
        {
            let source = output::Source::of(plan, ctx, &batch.command, id, plugin);
            outcome.output_url = Some(source.url.clone());
            rest = (share > LISTED).then_some(source);
        }
        outcome.output = tail(&outcome.output, share);
        outcome.error_output = tail(&outcome.error_output, share);
        Found {
            id: id.clone(),
            outcome,
            open: false,
            rest,
        }
    });
    Ok(found.collect())
}

/// A node's result with as much of its output as it may have.
async fn whole(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    found: Found,
    share: usize,
    until: Instant,
) -> (String, Outcome) {
    let Found {
        id,
        mut outcome,
        rest,
        ..
    } = found;
    let Some(source) = rest.filter(|_| Instant::now() < until) else {
        return (id, outcome);
    };
    let Some((mut text, mut errors)) = output::of_node(ctx, ssm, &source).await else {
        return (id, outcome);
    };
    if outcome::is_cut(&text) {
        text = output::whole(plan, ctx, &source, "stdout", share)
            .await
            .unwrap_or(text);
    }
    if outcome::is_cut(&errors) {
        errors = output::whole(plan, ctx, &source, "stderr", share)
            .await
            .unwrap_or(errors);
    }
    let all_is_here = |text: &str| !outcome::is_cut(text) && text.len() <= share;
    if all_is_here(&text)
        && all_is_here(&errors)
        && plan.log_group.is_none()
        && plan.output_bucket.is_none()
    {
        outcome.output_url = None;
    }
    (outcome.output, outcome.error_output) = (tail(&text, share), tail(&errors, share));
    (id, outcome)
}

/// The end of a text, in as many bytes.
fn tail(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let from = (text.len() - most..=text.len())
        .find(|from| text.is_char_boundary(*from))
        .unwrap_or(text.len());
    format!("…{}", &text[from..])
}

fn failure(
    plan: &Plan,
    ctx: &Context,
    run: &Run,
    nodes: &BTreeMap<String, Outcome>,
    failed: usize,
) -> StepError {
    let mut kinds: BTreeMap<Status, usize> = BTreeMap::new();
    let unwell: Vec<_> = nodes
        .iter()
        .filter(|(_, outcome)| !outcome.status.is_success())
        .collect();
    for (_, outcome) in &unwell {
        *kinds.entry(outcome.status).or_default() += 1;
    }
    for (id, outcome) in unwell.iter().take(NAMED) {
        let said = if outcome.error_output.trim().is_empty() {
            &outcome.output
        } else {
            &outcome.error_output
        };
        if !said.trim().is_empty() {
            ctx.log(format_args!(
                "{id} wrote last: {}",
                tail(said.trim_end(), SHOWN)
            ));
        }
    }
    let not_begun = kinds.get(&Status::NotStarted).copied().unwrap_or_default();
    if not_begun > 0 {
        ctx.log(format_args!("{not_begun} nodes were not begun"));
    }
    let kinds: Vec<_> = kinds
        .iter()
        .map(|(status, count)| format!("{count} {}", name(*status)))
        .collect();
    let mut message = format!(
        "{failed} of {} nodes did not succeed ({})",
        plan.ids.len(),
        kinds.join(", ")
    );
    for (place, (id, outcome)) in unwell.iter().take(NAMED).enumerate() {
        let before = if place == 0 { ": " } else { "; " };
        let _ = write!(message, "{before}{}", outcome::line(id, outcome));
    }
    if failed > NAMED {
        message.push_str("; the log has the others");
    }
    // Those who were not begun for it may not be among the first.
    if let Some(why) = run.refused.as_ref().filter(|why| !message.contains(*why)) {
        let _ = write!(message, "; no more could be sent: {why}");
    }
    ErrorName::StepFailed.with_message(message)
}

/// A status as its JSON has it, with spaces.
fn name(status: Status) -> String {
    let name = serde_json::to_value(status)
        .ok()
        .and_then(|name| Some(name.as_str()?.replace('_', " ")));
    name.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;
    use crate::tests::{all, id, plan};

    #[test]
    fn the_end_of_a_text_is_kept_whole_in_characters() {
        assert_eq!(tail("abc", 3), "abc");
        assert_eq!(tail("abcd", 3), "…bcd");
        assert_eq!(tail("aéb", 2), "…b");
    }

    #[tokio::test]
    async fn an_output_that_the_list_has_whole_is_not_asked_for_again() {
        let fake = Fake::default();
        fake.lock().output = "x".repeat(2000);
        let (ran, _) = all(&plan(2, 2), &fake.context(&[])).await.unwrap();
        assert_eq!(
            (
                ran.nodes[&id(0)].output.len(),
                fake.calls("GetCommandInvocation")
            ),
            (2000, 0)
        );
        assert_eq!(ran.nodes[&id(0)].output_url, None);
    }

    #[tokio::test]
    async fn an_output_that_the_list_has_cut_is_asked_for_once_for_its_node() {
        let fake = Fake::default();
        fake.lock().output = "x".repeat(20_000);
        let (ran, _) = all(&plan(2, 2), &fake.context(&[])).await.unwrap();
        assert_eq!(
            (
                ran.nodes[&id(0)].output.len(),
                fake.calls("GetCommandInvocation")
            ),
            (20_000, 2)
        );
        assert_eq!(ran.nodes[&id(0)].output_url, None);
    }

    #[tokio::test]
    async fn an_output_that_is_cut_before_its_errors_begin_is_asked_for() {
        let fake = Fake::default();
        fake.lock().output = "x".repeat(20_000);
        fake.lock().errors = "oh".into();
        let (ran, _) = all(&plan(1, 1), &fake.context(&[])).await.unwrap();
        let outcome = &ran.nodes[&id(0)];
        assert_eq!(
            (outcome.output.len(), outcome.error_output.as_str()),
            (20_000, "oh")
        );
    }

    #[tokio::test]
    async fn outputs_of_many_nodes_share_what_there_is() {
        let fake = Fake::default();
        fake.lock().output = "x".repeat(20_000);
        let (ran, _) = all(&plan(5000, 1000), &fake.context(&[])).await.unwrap();
        let bytes: usize = ran.nodes.values().map(|outcome| outcome.output.len()).sum();
        assert!(bytes <= OUTPUT_BUDGET + 5000 * 4, "{bytes}");
        assert_eq!(fake.calls("GetCommandInvocation"), 0);
        let url = ran.nodes[&id(4999)].output_url.as_deref().unwrap();
        assert!(
            url.contains("systems-manager/run-command/00000099-"),
            "{url}"
        );
    }
}
