//! Runs a command on any number of nodes, batch by batch, over any number of calls.

use std::time::Duration;

use aws_sdk_ssm::Client;
use futures_util::{StreamExt, stream};
use stepward::model::text::counted;
use stepward::node::CommandResults;
use stepward::{Context, ErrorName, Progress, Resume, StepError};
use tokio::time::Instant;

use crate::MAX_CONCURRENT_REQUESTS;
use crate::commands::check_list_permission;
use crate::error::ssm_error;
use crate::outcome::log_skipped_nodes;
use crate::payload::Payload;
use crate::plan::{BATCH_SIZE, Plan};
use crate::poll::{cancel_waiting_nodes, poll_commands};
use crate::recovery::adopt_lost_commands;
use crate::results;
use crate::schedule::{DueBatch, find_due_batches};
use crate::send::{self, SentBatch};
use crate::state::{Batch, RunState, now_seconds};

/// How long one call sends commands. Then it returns its state, and a retry after a lost call has
/// few commands to search for.
const SEND_BUDGET: Duration = Duration::from_secs(20);
/// How long to wait after a call that could not send any command.
const SEND_RETRY_DELAY: Duration = Duration::from_secs(5);
/// How many calls in a row may fail to send before the step gives up.
const MAX_SEND_FAILURES: u8 = 5;
/// The maximum length of the error that stopped sending, in the resume state, in characters.
const MAX_ERROR_CHARACTERS: usize = 500;

/// One call of a step: polls the running commands, sends the batches that are due, and returns.
///
/// # Errors
/// `StepFailed` if the run has ended, a node did not succeed and the plan's `fail_on_error` is set;
/// otherwise the reason why a request to AWS failed.
pub async fn run(
    plan: &Plan,
    payload: &impl Payload,
    ctx: &Context,
    resume: Option<&Resume>,
) -> Result<Progress<CommandResults>, StepError> {
    let mut run = RunState::from_resume(resume)?;
    let result = advance(plan, payload, ctx, &mut run)
        .await
        .map_err(|error| adjust_error_name(&run, error));

    // After a retryable error the state machine calls the step again, and running nodes may still
    // have to download the file.
    let has_ended = match &result {
        Ok(Progress::Pending { .. }) => false,
        Ok(Progress::Done(_)) => true,
        Err(error) => !is_retryable(error),
    };
    if has_ended {
        clean_up_payload(payload, ctx).await;
    }
    result
}

/// Whether a retry may succeed.
fn is_retryable(error: &StepError) -> bool {
    matches!(
        error.name,
        ErrorName::Throttled | ErrorName::TimedOut | ErrorName::Internal
    )
}

/// Replaces an error's name by `Internal` if commands were sent. Other names would mean that
/// nothing has started, or that everything has ended.
fn adjust_error_name(run: &RunState, error: StepError) -> StepError {
    // `StepFailed` without an AWS error is the result on the nodes.
    let is_result = error.name == ErrorName::StepFailed && error.aws.is_none();
    if !run.has_sent_commands() || is_result || is_retryable(&error) {
        return error;
    }
    let message = format!(
        "commands were sent, but their results cannot be read: {}; open the commands in the \
         Systems Manager console",
        error.message
    );
    StepError {
        name: ErrorName::Internal,
        message,
        ..error
    }
}

/// Does the next part of the run: polls, then sends, waits or collects the results.
async fn advance(
    plan: &Plan,
    payload: &impl Payload,
    ctx: &Context,
    run: &mut RunState,
) -> Result<Progress<CommandResults>, StepError> {
    let ssm = ctx.client(Client::new);
    poll_commands(plan, ctx, &ssm, run).await?;

    // A call cannot know whether the call before it was lost, so it always searches before sending.
    let due = find_due_batches(plan, run);
    let has_unsent = (0..plan.batches().count()).any(|number| !run.is_batch_started(number));
    if has_unsent && (!due.is_empty() || run.is_sending_stopped()) {
        let adopted = adopt_lost_commands(plan, ctx, &ssm, run).await?;
        if adopted > 0 {
            ctx.log(format_args!(
                "Found {} that an earlier call sent before its response was lost",
                counted(adopted, "command")
            ));
            if run.error_limit_exceeded {
                cancel_waiting_nodes(&ssm, run).await?;
            }
            return pending_progress(plan, run, Duration::ZERO);
        }
    }

    if !due.is_empty() {
        if !run.has_sent_commands() {
            check_list_permission(&ssm).await?;
        }
        let (sent, error) = match payload.prepare(ctx, &mut run.digest).await {
            Ok(text) => send_batches(plan, ctx, &ssm, run, &due, &text).await,
            Err(error) => (0, Some(error)),
        };
        run.progressed_at = now_seconds();
        let delay = delay_after_sending(ctx, run, sent, error)?;
        return pending_progress(plan, run, delay);
    }
    if !run.running_batches().is_empty() {
        return pending_progress(plan, run, poll_interval(run));
    }
    if let Some(results) = results::collect_results(plan, ctx, &ssm, run).await? {
        return Ok(Progress::Done(results));
    }
    run.incomplete_reads += 1;
    pending_progress(plan, run, results::REREAD_DELAY)
}

/// Sends batches. Returns how many it sent, and the error of one that it could not send.
async fn send_batches(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &mut RunState,
    due: &[DueBatch],
    text: &str,
) -> (usize, Option<StepError>) {
    let now = Instant::now();
    let remaining_time = ctx.deadline().saturating_duration_since(now);
    let send_until = (now + SEND_BUDGET).min(now + remaining_time / 2);
    let batches: Vec<&[String]> = plan.batches().collect();
    // Each running batch may use all remaining errors. When together they exceed the limit, the
    // next poll stops them.
    let remaining_errors = plan
        .max_errors
        .map(|max_errors| (max_errors as usize).saturating_sub(run.count_failed()));

    let due: Vec<_> = due
        .iter()
        .filter_map(|due_batch| Some((*due_batch, batches.get(due_batch.number)?.to_vec())))
        .collect();
    let mut sends = stream::iter(due)
        .take_while(|_| std::future::ready(Instant::now() < send_until))
        .map(|(due_batch, ids)| async move {
            let sent = Box::pin(send::send_batch(
                plan,
                ctx,
                ssm,
                due_batch.number,
                &ids,
                due_batch.concurrency,
                remaining_errors,
                text,
            ))
            .await;
            (due_batch, ids, sent)
        })
        .buffer_unordered(MAX_CONCURRENT_REQUESTS);

    let (mut sent_count, mut send_error) = (0_usize, None);
    while let Some((due_batch, ids, sent)) = sends.next().await {
        match sent {
            Ok(sent_batch) => {
                sent_count += 1;
                *run.batch_mut(due_batch.number) =
                    record_sent_batch(ctx, due_batch, &ids, sent_batch);
            }
            // Keep a retryable error: its command may have been sent, and another error must not
            // hide that.
            Err(_) if send_error.as_ref().is_some_and(is_retryable) => {}
            Err(error) => send_error = Some(error),
        }
    }
    (sent_count, send_error)
}

/// Logs a batch that was sent and returns its state.
fn record_sent_batch(
    ctx: &Context,
    due_batch: DueBatch,
    instance_ids: &[String],
    sent: SentBatch,
) -> Batch {
    log_skipped_nodes(ctx, instance_ids, &sent.skip_marks);
    let batch = Batch {
        finished: sent.command_id.is_none(),
        command_id: sent.command_id.unwrap_or_default(),
        concurrency: due_batch.concurrency,
        sent_at: now_seconds(),
        skip_marks: sent.skip_marks,
        ..Batch::default()
    };
    if batch.is_running() {
        ctx.log(format_args!(
            "Sent command {} to {}",
            batch.command_id,
            counted(batch.count_sent(instance_ids.len()), "node")
        ));
    }
    batch
}

/// How long to wait until the next call.
///
/// # Errors
/// The error that prevented sending, if a retry is useless and no command was sent before.
fn delay_after_sending(
    ctx: &Context,
    run: &mut RunState,
    sent_count: usize,
    send_error: Option<StepError>,
) -> Result<Duration, StepError> {
    run.send_failures = if sent_count > 0 || send_error.is_none() {
        0
    } else {
        run.send_failures + 1
    };
    let Some(error) = send_error else {
        return Ok(Duration::ZERO);
    };

    // Return the IDs of sent commands. A request without a response may have sent one, so the next
    // call searches before it sends.
    if is_retryable(&error) && run.send_failures < MAX_SEND_FAILURES {
        ctx.log(format_args!(
            "The command could not be sent; the step tries again: {error}"
        ));
    } else if run.has_sent_commands() {
        ctx.log(format_args!(
            "The command could not be sent and will not start on more nodes: {error}"
        ));
        run.send_error = Some(
            error
                .to_string()
                .chars()
                .take(MAX_ERROR_CHARACTERS)
                .collect(),
        );
    } else {
        return Err(error);
    }
    Ok(if sent_count > 0 {
        Duration::ZERO
    } else {
        SEND_RETRY_DELAY
    })
}

/// The pending result of a call: saves the state and counts the finished nodes.
fn pending_progress(
    plan: &Plan,
    run: &mut RunState,
    retry_after: Duration,
) -> Result<Progress<CommandResults>, StepError> {
    run.saved_at = now_seconds();
    let started_end = run
        .batches
        .iter()
        .rposition(Batch::is_started)
        .map_or(0, |last| last + 1);
    run.batches.truncate(started_end);

    let finished_nodes: usize = run
        .batches
        .iter()
        .zip(plan.batches())
        .map(|(batch, ids)| {
            if batch.finished {
                ids.len()
            } else if batch.is_started() {
                let skipped = ids.len() - batch.count_sent(ids.len());
                batch.completed + skipped
            } else {
                0
            }
        })
        .sum();
    let progress = format!(
        "{finished_nodes} of {} finished, {} failed",
        counted(plan.instance_ids.len(), "node"),
        run.count_failed()
    );
    Progress::pending(run, retry_after, progress)
}

/// How long to wait until the next poll: a twentieth of the time since the last progress of any
/// batch, but 2 seconds to 5 minutes.
fn poll_interval(run: &RunState) -> Duration {
    let idle_seconds = now_seconds()
        .saturating_sub(run.progressed_at)
        .unsigned_abs();
    Duration::from_secs(idle_seconds / 20).clamp(Duration::from_secs(2), Duration::from_mins(5))
}

/// Cancels the running commands, including those that a lost call sent.
///
/// # Errors
/// The reason why a request to SSM failed.
pub async fn cancel(
    plan: &Plan,
    payload: &impl Payload,
    ctx: &Context,
    resume: Option<&Resume>,
) -> Result<(), StepError> {
    let ssm = &ctx.client(Client::new);
    let mut run = RunState::from_resume(resume)?;
    clean_up_payload(payload, ctx).await;
    let adopted = adopt_lost_commands(plan, ctx, ssm, &mut run).await;

    let command_ids: Vec<_> = run
        .batches
        .iter()
        .filter(|batch| batch.is_running())
        .map(|batch| batch.command_id.clone())
        .collect();
    let responses = stream::iter(command_ids)
        .map(|command_id: String| async move {
            let response = ssm.cancel_command().command_id(&command_id).send().await;
            (command_id, response)
        })
        .buffer_unordered(MAX_CONCURRENT_REQUESTS)
        .collect::<Vec<_>>()
        .await;

    let mut cancel_error = adopted.err();
    for (command_id, response) in responses {
        match response {
            Ok(_) => ctx.log(format_args!("Cancelling command {command_id}")),
            Err(error) => cancel_error = Some(ssm_error(error)),
        }
    }
    cancel_error.map_or(Ok(()), Err)
}

async fn clean_up_payload(payload: &impl Payload, ctx: &Context) {
    if let Err(error) = payload.clean_up(ctx).await {
        ctx.log(format_args!(
            "The temporary file for the nodes was not removed; delete it: {error}"
        ));
    }
}

const _: () = assert!(
    BATCH_SIZE <= 64,
    "`Batch::logged_nodes` has one bit for each node"
);
