//! Runs a command on any number of nodes, batch by batch, over any number of calls.

use std::time::Duration;

use aws_sdk_ssm::Client;
use futures_util::{StreamExt, stream};
use stepward::node::CommandResults;
use stepward::{Context, ErrorName, Progress, Resume, StepError};
use tokio::time::Instant;

use crate::error::ssm_error;
use crate::outcome::tell_left_out;
use crate::payload::Payload;
use crate::plan::{BATCH, Plan};
use crate::results;
use crate::send::{self, Sent};
use crate::state::{Batch, Run, now};
use crate::{AT_ONCE, look};

/// How long one call sends: after it the position is answered, so that no repeat has much to look
/// for.
const SENDING: Duration = Duration::from_secs(20);
/// How many looks in a row may fail to send before the step gives up.
const PATIENCE: u8 = 5;
/// Characters of the reason for which no more are begun that go from call to call.
const REASON: usize = 500;

/// One call of a step: looks how far the commands are, sends those whose turn it is, and answers.
///
/// # Errors
/// `StepFailed` when it is over and not well on all nodes, where the plan says so; else why AWS
/// failed.
pub async fn run(
    plan: &Plan,
    payload: &impl Payload,
    ctx: &Context,
    resume: Option<&Resume>,
) -> Result<Progress<CommandResults>, StepError> {
    let mut run = Run::of(resume)?;
    let answer = go_on(plan, payload, ctx, &mut run)
        .await
        .map_err(|error| once_sent(&run, error));
    // What passes the state machine tries again, and nodes that have begun may not have fetched the
    // file yet.
    let over = match &answer {
        Ok(Progress::Pending { .. }) => false,
        Ok(Progress::Done(_)) => true,
        Err(error) => !passes(error),
    };
    if over {
        clean(payload, ctx).await;
    }
    answer
}

/// Whether an error may be gone with the next try.
fn passes(error: &StepError) -> bool {
    matches!(
        error.name,
        ErrorName::Throttled | ErrorName::TimedOut | ErrorName::Internal
    )
}

/// An error as it is once something was sent: most names say that nothing was begun, or that all is
/// over.
fn once_sent(run: &Run, error: StepError) -> StepError {
    // AWS's own words apart, this is how it ended on the nodes.
    let ended = error.name == ErrorName::StepFailed && error.aws.is_none();
    if !run.has_sent() || ended || passes(&error) {
        return error;
    }
    let message = format!(
        "commands were sent, and how they end is not known here: {}; see their pages in the console",
        error.message
    );
    StepError {
        name: ErrorName::Internal,
        message,
        ..error
    }
}

async fn go_on(
    plan: &Plan,
    payload: &impl Payload,
    ctx: &Context,
    run: &mut Run,
) -> Result<Progress<CommandResults>, StepError> {
    let ssm = ctx.client(Client::new);
    look::refresh(plan, ctx, &ssm, run).await?;
    let ready = ready(plan, run);
    let unbegun = (0..plan.batches().count()).any(|number| !run.has_begun(number));
    // Whether the call before was lost is not known to this one: it looks in any case.
    let looks = unbegun && (!ready.is_empty() || run.begins_no_more());
    let lost = if looks {
        look::take_over(plan, ctx, &ssm, run).await?
    } else {
        0
    };
    if lost > 0 {
        ctx.log(format_args!(
            "{lost} commands of a call whose answer was lost are under way"
        ));
        if run.stopped {
            look::stop_waiting(&ssm, run).await?;
        }
        return pending(plan, run, Duration::ZERO);
    }
    if !ready.is_empty() {
        if !run.has_sent() {
            look::may_look(&ssm).await?;
        }
        let (sent, failed) = match payload.text(ctx, &mut run.digest).await {
            Ok(text) => send_all(plan, ctx, &ssm, run, &ready, &text).await,
            Err(error) => (0, Some(error)),
        };
        run.moved = now();
        let wait = after_sending(ctx, run, sent, failed)?;
        return pending(plan, run, wait);
    }
    if !run.in_flight().is_empty() {
        return pending(plan, run, poll_interval(run));
    }
    if let Some(ran) = results::of(plan, ctx, &ssm, run).await? {
        return Ok(Progress::Done(ran));
    }
    run.reread += 1;
    pending(plan, run, results::REREAD)
}

/// The numbers of the batches whose turn it is.
fn ready(plan: &Plan, run: &Run) -> Vec<(usize, usize)> {
    if run.begins_no_more() {
        return Vec::new();
    }
    let running = run
        .batches
        .iter()
        .zip(plan.batches())
        .map(|(batch, ids)| batch.running(ids.len()));
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
        // A batch goes at least half as fast as it could: not every node that is over begins a
        // command of its own.
        let whole = ids.len().min(plan.concurrency);
        let least = if plan.in_order || plan.short_lived {
            whole
        } else {
            whole.div_ceil(2)
        };
        if room < least {
            break;
        }
        let concurrency = whole.min(room);
        room -= concurrency;
        ready.push((number, concurrency));
    }
    ready
}

/// Sends batches, and answers how many it has sent, and why one could not be.
async fn send_all(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &mut Run,
    ready: &[(usize, usize)],
    text: &str,
) -> (usize, Option<StepError>) {
    let until = (Instant::now() + SENDING)
        .min(Instant::now() + ctx.deadline().saturating_duration_since(Instant::now()) / 2);
    let batches: Vec<&[String]> = plan.batches().collect();
    // Those in flight share what is left: the next look stops them all when it is used up together.
    let errors_left = plan
        .max_errors
        .map(|most| (most as usize).saturating_sub(run.failed()));
    let due = ready.iter().filter_map(|&(number, concurrency)| {
        Some((number, concurrency, batches.get(number)?.to_vec()))
    });
    let mut sends = stream::iter(due.collect::<Vec<_>>())
        .take_while(|_| std::future::ready(Instant::now() < until))
        .map(|(number, concurrency, ids)| async move {
            let sent = Box::pin(send::batch(
                plan,
                ctx,
                ssm,
                number,
                &ids,
                concurrency,
                errors_left,
                text,
            ))
            .await;
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
                let batch = Batch {
                    command,
                    concurrency,
                    sent: now(),
                    over,
                    left_out,
                    ..Batch::default()
                };
                if batch.in_flight() {
                    let nodes = batch.sent_to(ids.len());
                    ctx.log(format_args!(
                        "Command {} sent to {nodes} nodes",
                        batch.command
                    ));
                }
                *run.batch(number) = batch;
            }
            // One without an answer may have been sent: no refusal of another may hide it.
            Err(_) if failed.as_ref().is_some_and(passes) => {}
            Err(error) => failed = Some(error),
        }
    }
    (sent, failed)
}

/// How long to wait until the next look.
///
/// # Errors
/// The one for which a batch could not be sent, where none was before and trying again is no use.
fn after_sending(
    ctx: &Context,
    run: &mut Run,
    sent: usize,
    failed: Option<StepError>,
) -> Result<Duration, StepError> {
    run.trouble = if sent > 0 || failed.is_none() {
        0
    } else {
        run.trouble + 1
    };
    let Some(error) = failed else {
        return Ok(Duration::ZERO);
    };
    // What was sent must be answered; and what had no answer may have been sent: the next call
    // looks first.
    if passes(&error) && run.trouble < PATIENCE {
        ctx.log(format_args!(
            "A command could not be sent, it is tried again: {error}"
        ));
    } else if run.has_sent() {
        ctx.log(format_args!(
            "A command could not be sent, and no more are begun: {error}"
        ));
        run.refused = Some(error.to_string().chars().take(REASON).collect());
    } else {
        return Err(error);
    }
    Ok(if sent > 0 {
        Duration::ZERO
    } else {
        Duration::from_secs(5)
    })
}

fn pending(
    plan: &Plan,
    run: &mut Run,
    wait: Duration,
) -> Result<Progress<CommandResults>, StepError> {
    run.at = now();
    let begun = run
        .batches
        .iter()
        .rposition(Batch::begun)
        .map_or(0, |last| last + 1);
    run.batches.truncate(begun);
    let sizes = plan.batches().enumerate();
    let over = sizes.map(|(number, ids)| match run.batches.get(number) {
        Some(batch) if batch.over => ids.len(),
        Some(batch) if batch.begun() => batch.completed + ids.len() - batch.sent_to(ids.len()),
        _ => 0,
    });
    let progress = format!(
        "{} of {} nodes are over, {} failed",
        over.sum::<usize>(),
        plan.ids.len(),
        run.failed()
    );
    Progress::pending(run, wait, progress)
}

/// How long to wait: at first 2 seconds, later a twentieth of the time since anything came further,
/// 5 minutes at most. A run in many batches is looked at as often as its batches need.
fn poll_interval(run: &Run) -> Duration {
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
    let commands = run
        .batches
        .iter()
        .filter(|batch| batch.in_flight())
        .map(|batch| batch.command.clone());
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
            Err(error) => failed = Some(ssm_error(error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn clean(payload: &impl Payload, ctx: &Context) {
    if let Err(error) = payload.clean(ctx).await {
        ctx.log(format_args!(
            "What the nodes fetched could not be removed; remove it by hand: {error}"
        ));
    }
}

const _: () = assert!(BATCH <= 64, "one bit for each node of a batch");
