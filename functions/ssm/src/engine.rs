//! Runs a command on any number of nodes, batch by batch, over any number of calls.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_ssm::Client;
use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::Serialize;
use stepward::node::Outcome;
use stepward::{Context, ErrorName, Progress, Resume, StepError};
use tokio::time::Instant;

use crate::payload::Payload;
use crate::plan::{BATCH, Plan};
use crate::send::{self, Sent};
use crate::state::{Batch, Run, now};
use crate::{look, outcome, results};

/// How many requests are made of SSM at once. Its limits are the account's and shared with everything else there.
pub(crate) const AT_ONCE: usize = 4;
/// How long one call sends: after it the position is answered, so that no repeat has much to look for.
const SENDING: Duration = Duration::from_secs(20);
/// How many looks in a row may fail to send before the step gives up.
const PATIENCE: u8 = 5;

/// How a command ended on all nodes.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Ran {
    /// SSM's IDs of the commands, one for each batch of up to 50 nodes.
    pub command_ids: Vec<String>,
    /// On how many nodes it succeeded.
    pub succeeded: usize,
    /// On how many it did not: it failed, was not over in time, or did not run.
    pub failed: usize,
    /// How it ended on each node, by the node's ID.
    pub nodes: BTreeMap<String, Outcome>,
}

/// One call of a step: looks how far the commands are, sends those whose turn it is, and answers.
///
/// # Errors
/// `StepFailed` when it is over and not well on all nodes, where the plan says so; else why AWS failed.
pub async fn run(
    plan: &Plan,
    payload: &impl Payload,
    ctx: &Context,
    resume: Option<&Resume>,
) -> Result<Progress<Ran>, StepError> {
    match go_on(plan, payload, ctx, resume).await {
        Ok(Progress::Done(ran)) => match payload.clean(ctx).await {
            // It would stay in a bucket of the customer's for good.
            Err(error) if error.name == ErrorName::AccessDenied => Err(StepError {
                message: format!(
                    "it ran on all nodes, but the file that they fetched is still there: {}",
                    error.message
                ),
                ..error
            }),
            Err(error) => {
                left_behind(ctx, &error);
                Ok(Progress::Done(ran))
            }
            Ok(()) => Ok(Progress::Done(ran)),
        },
        // The state machine tries again, and then needs it.
        Err(error) if error.name == ErrorName::Throttled => Err(error),
        Err(error) => {
            clean(payload, ctx).await;
            Err(error)
        }
        pending => pending,
    }
}

async fn go_on(
    plan: &Plan,
    payload: &impl Payload,
    ctx: &Context,
    resume: Option<&Resume>,
) -> Result<Progress<Ran>, StepError> {
    let ssm = ctx.client(Client::new);
    let mut run = Run::of(resume)?;
    look::refresh(plan, ctx, &ssm, &mut run).await?;
    let ready = ready(plan, &run);
    if ready.is_empty() && run.in_flight().is_empty() {
        return results::of(plan, ctx, &ssm, &run).await.map(Progress::Done);
    }
    // Whether the call before was lost is not known to this one: it looks in any case.
    let lost = if ready.is_empty() { 0 } else { look::take_over(plan, ctx, &ssm, &mut run).await? };
    if lost > 0 {
        ctx.log(format_args!("{lost} commands of a call whose answer was lost are under way"));
        return pending(plan, run, Duration::ZERO);
    }
    if ready.is_empty() {
        let wait = patience(&run);
        return pending(plan, run, wait);
    }
    let text = payload.text(ctx, &mut run.digest).await?;
    let wait = send_all(plan, ctx, &ssm, &mut run, &ready, &text).await?;
    pending(plan, run, wait)
}

/// The numbers of the batches whose turn it is.
fn ready(plan: &Plan, run: &Run) -> Vec<(usize, usize)> {
    if run.stopped {
        return Vec::new();
    }
    let running = run.batches.iter().zip(plan.batches()).map(|(batch, ids)| batch.running(ids.len()));
    let mut room = plan.concurrency.saturating_sub(running.sum());
    let mut ready = Vec::new();
    // Where a window ends, the next waits until all before it is over.
    let (mut begun, mut before_over) = (0, true);
    for (number, ids) in plan.batches().enumerate() {
        if plan.in_order && begun % plan.concurrency == 0 && !before_over {
            break;
        }
        begun += ids.len();
        before_over &= run.batches.get(number).is_some_and(|batch| batch.over);
        if run.has_begun(number) {
            continue;
        }
        // A batch goes at least half as fast as it could: not every node that is over begins a command of its own.
        let whole = ids.len().min(plan.concurrency);
        let least = if plan.in_order || plan.short_lived { whole } else { whole.div_ceil(2) };
        if room < least {
            break;
        }
        let concurrency = whole.min(room);
        room -= concurrency;
        ready.push((number, concurrency));
    }
    ready
}

/// Sends batches, and answers how long to wait until the next look.
async fn send_all(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &mut Run,
    ready: &[(usize, usize)],
    text: &str,
) -> Result<Duration, StepError> {
    let until =
        (Instant::now() + SENDING).min(Instant::now() + ctx.deadline().saturating_duration_since(Instant::now()) / 2);
    let batches: Vec<&[String]> = plan.batches().collect();
    // Those in flight share what is left: the next look stops them all when it is used up together.
    let errors_left = plan.max_errors.map(|most| (most as usize).saturating_sub(run.failed()));
    let due =
        ready.iter().filter_map(|&(number, concurrency)| Some((number, concurrency, batches.get(number)?.to_vec())));
    let mut sends = stream::iter(due.collect::<Vec<_>>())
        .take_while(|_| std::future::ready(Instant::now() < until))
        .map(|(number, concurrency, ids)| async move {
            let sent = Box::pin(send::batch(plan, ctx, ssm, number, &ids, concurrency, errors_left, text)).await;
            (number, concurrency, ids, sent)
        })
        .buffer_unordered(AT_ONCE);
    let (mut sent, mut failed) = (0_usize, None);
    while let Some((number, concurrency, ids, answer)) = sends.next().await {
        match answer {
            Ok(Sent { command, left_out }) => {
                sent += 1;
                tell_left_out(ctx, &ids, &left_out);
                let over = command.is_none();
                let command = command.unwrap_or_default();
                let batch = Batch { command, concurrency, sent: now(), over, left_out, ..Batch::default() };
                if batch.in_flight() {
                    let nodes = batch.sent_to(ids.len());
                    ctx.log(format_args!("Command {} sent to {nodes} nodes", batch.command));
                }
                *run.batch(number) = batch;
            }
            Err(error) => failed = Some(error),
        }
    }
    run.moved = now();
    let Some(error) = failed else {
        run.trouble = 0;
        return Ok(Duration::ZERO);
    };
    // What was sent must be answered; and what had no answer may have been sent: the next call looks first.
    let passing = matches!(error.name, ErrorName::Throttled | ErrorName::TimedOut | ErrorName::Internal);
    run.trouble = if sent > 0 { 0 } else { run.trouble + 1 };
    if !passing || run.trouble >= PATIENCE {
        for number in run.in_flight() {
            ctx.log(format_args!("Command {} goes on at SSM, where its page has its end", run.batch(number).command));
        }
        return Err(error);
    }
    ctx.log(format_args!("A command could not be sent, it is tried again: {error}"));
    Ok(if sent > 0 { Duration::ZERO } else { Duration::from_secs(5) })
}

/// Tells of the nodes that a batch was not sent to.
pub(crate) fn tell_left_out(ctx: &Context, ids: &[String], left_out: &str) {
    for (id, why) in ids.iter().zip(left_out.chars()).filter(|(_, why)| *why != '.') {
        ctx.log(outcome::line(id, &outcome::left_out(why)));
    }
}

fn pending(plan: &Plan, mut run: Run, wait: Duration) -> Result<Progress<Ran>, StepError> {
    run.at = now();
    let begun = run.batches.iter().rposition(Batch::begun).map_or(0, |last| last + 1);
    run.batches.truncate(begun);
    let sizes = plan.batches().enumerate();
    let over = sizes.map(|(number, ids)| match run.batches.get(number) {
        Some(batch) if batch.over => ids.len(),
        Some(batch) if batch.begun() => batch.completed + ids.len() - batch.sent_to(ids.len()),
        _ => 0,
    });
    let progress = format!("{} of {} nodes are over, {} failed", over.sum::<usize>(), plan.ids.len(), run.failed());
    Progress::pending(&run, wait, progress)
}

/// How long to wait: at first 2 seconds, later a twentieth of the time since anything came further, 5 minutes at most.
/// A run in many batches is looked at as often as its batches need.
fn patience(run: &Run) -> Duration {
    Duration::from_secs(now().saturating_sub(run.moved).unsigned_abs() / 20)
        .clamp(Duration::from_secs(2), Duration::from_mins(5))
}

/// Stops what is under way, and what a call whose answer was lost has begun.
///
/// # Errors
/// Why SSM failed.
pub async fn cancel(
    plan: &Plan,
    payload: &impl Payload,
    ctx: &Context,
    resume: Option<&Resume>,
) -> Result<(), StepError> {
    let ssm = &ctx.client(Client::new);
    let mut run = Run::of(resume)?;
    clean(payload, ctx).await;
    let found = look::take_over(plan, ctx, ssm, &mut run).await;
    let commands = run.batches.iter().filter(|batch| batch.in_flight()).map(|batch| batch.command.clone());
    let commands: Vec<_> = commands.collect();
    let stopped = stream::iter(commands)
        .map(|command: String| async move {
            let answer = ssm.cancel_command().command_id(&command).send().await;
            (command, answer)
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let mut failed = found.err();
    for (command, answer) in stopped {
        match answer {
            Ok(_) => ctx.log(format_args!("Command {command} is being cancelled")),
            Err(error) => failed = Some(error.into()),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn clean(payload: &impl Payload, ctx: &Context) {
    if let Err(error) = payload.clean(ctx).await {
        left_behind(ctx, &error);
    }
}

fn left_behind(ctx: &Context, error: &StepError) {
    ctx.log(format_args!("What the nodes fetched could not be removed; remove it by hand: {error}"));
}

const _: () = assert!(BATCH <= 64, "one bit for each node of a batch");
