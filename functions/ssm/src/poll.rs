//! Polls the running commands: first the list of commands, then the nodes of those that made
//! progress.

use std::collections::HashMap;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::CommandInvocation;
use futures_util::{StreamExt, stream};
use stepward::model::text::counted;
use stepward::node::Status;
use stepward::{Context, StepError};

use crate::commands::{CommandSnapshot, find_snapshots, list_invocations};
use crate::error::ssm_error;
use crate::plan::Plan;
use crate::state::{Batch, RunState, now_seconds};
use crate::{MAX_CONCURRENT_REQUESTS, outcome};

/// How long after sending SSM's lists can lack a command or its nodes, in seconds.
const LIST_DELAY: i64 = 60;

/// Updates the state of the running commands and logs the nodes that have ended.
pub(crate) async fn poll_commands(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &mut RunState,
) -> Result<(), StepError> {
    let running = run.running_batches();
    if running.is_empty() {
        return Ok(());
    }
    let mut snapshots = find_snapshots(ssm, run, &running).await?;
    abandon_unknown_commands(ctx, run, &running, &snapshots);

    let progressed: Vec<_> = running
        .iter()
        .filter_map(|number| {
            let batch = run.batches.get(*number)?;
            let snapshot = snapshots.remove(&batch.command_id)?;
            let has_progress =
                snapshot.has_ended || snapshot.is_overdue() || batch.completed < snapshot.completed;
            has_progress.then_some((*number, snapshot))
        })
        .collect();

    let batches: Vec<&[String]> = plan.batches().collect();
    let mut responses = stream::iter(progressed)
        .map(|(number, snapshot): (usize, CommandSnapshot)| async move {
            list_invocations(ssm, &snapshot.command_id)
                .await
                .map(|invocations| (number, snapshot, invocations))
        })
        .buffered(MAX_CONCURRENT_REQUESTS);
    while let Some(response) = responses.next().await {
        let (number, snapshot, invocations) = response?;
        let instance_ids = batches.get(number).copied().unwrap_or_default();
        let waiting_cancelled = run.error_limit_exceeded;
        update_batch(
            plan,
            ctx,
            run.batch_mut(number),
            instance_ids,
            &snapshot,
            &invocations,
            waiting_cancelled,
        );
        run.progressed_at = now_seconds();
    }
    drop(responses);

    enforce_error_limit(plan, ctx, ssm, run).await
}

/// Ends the wait for commands that SSM does not list, although they were sent long enough ago.
fn abandon_unknown_commands(
    ctx: &Context,
    run: &mut RunState,
    running: &[usize],
    snapshots: &HashMap<String, CommandSnapshot>,
) {
    for number in running {
        let batch = run.batch_mut(*number);
        let is_listed = snapshots.contains_key(&batch.command_id);
        if !is_listed && now_seconds() > batch.sent_at + LIST_DELAY {
            ctx.log(format_args!(
                "SSM no longer lists command {}; its results are unknown",
                batch.command_id
            ));
            (batch.finished, batch.abandoned) = (true, true);
        }
    }
}

/// Updates a batch from its command's status and from the status on its nodes.
fn update_batch(
    plan: &Plan,
    ctx: &Context,
    batch: &mut Batch,
    instance_ids: &[String],
    snapshot: &CommandSnapshot,
    invocations: &[CommandInvocation],
    waiting_cancelled: bool,
) {
    let (mut running, mut completed, mut failed) = (0, 0, 0);
    for invocation in invocations {
        let Some(outcome) = outcome::final_outcome(plan, invocation, waiting_cancelled) else {
            running += 1;
            continue;
        };
        completed += 1;
        failed += usize::from(matches!(outcome.status, Status::Failed | Status::TimedOut));
        let index = invocation
            .instance_id()
            .and_then(|id| instance_ids.iter().position(|member| member == id));
        if let (Some(index), Some(id)) = (index, invocation.instance_id())
            && batch.mark_logged(index)
        {
            ctx.log(outcome::log_line(id, &outcome));
        }
    }

    // Either list may be older than the other.
    batch.completed = snapshot.completed.max(completed);
    batch.failed = snapshot.failed.max(failed);

    // The list of nodes may be older than the list of commands, and a command that SSM rejected as
    // a whole has no nodes in it.
    let logged_count = batch.logged_nodes.count_ones() as usize;
    let all_logged = logged_count >= batch.count_sent(instance_ids.len());
    let no_more_expected =
        snapshot.has_ended && running == 0 && now_seconds() > batch.sent_at + LIST_DELAY;
    batch.abandoned = snapshot.is_overdue();
    batch.finished = all_logged || no_more_expected || batch.abandoned;
}

/// Stops the run when more nodes failed than `max_errors` allows. SSM counts the errors of each
/// command alone; this counts over all commands of the run.
async fn enforce_error_limit(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &mut RunState,
) -> Result<(), StepError> {
    let Some(max_errors) = plan.max_errors else {
        return Ok(());
    };
    if run.error_limit_exceeded || run.count_failed() <= max_errors as usize {
        return Ok(());
    }
    ctx.log(format_args!(
        "{} failed, more than max_errors ({max_errors}) allows; the command will not start on more \
         nodes",
        counted(run.count_failed(), "node")
    ));
    cancel_waiting_nodes(ssm, run).await?;
    run.error_limit_exceeded = true;
    Ok(())
}

/// Cancels the running commands on the nodes that still wait for their turn.
pub(crate) async fn cancel_waiting_nodes(
    ssm: &Client,
    run: &mut RunState,
) -> Result<(), StepError> {
    for number in run.running_batches() {
        let command_id = run.batch_mut(number).command_id.clone();
        let waiting: Vec<_> = list_invocations(ssm, &command_id)
            .await?
            .into_iter()
            .filter(outcome::is_waiting)
            .filter_map(|invocation| invocation.instance_id)
            .collect();
        if !waiting.is_empty() {
            let request = ssm
                .cancel_command()
                .command_id(&command_id)
                .set_instance_ids(Some(waiting));
            request.send().await.map_err(ssm_error)?;
        }
    }
    Ok(())
}
