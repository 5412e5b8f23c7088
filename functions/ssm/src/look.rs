//! Looks how far the commands are: by pages of commands, and of the nodes of those that came
//! further.

use std::collections::HashMap;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::{
    Command, CommandFilter, CommandFilterKey, CommandInvocation, CommandStatus,
};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use futures_util::{StreamExt, TryStreamExt, stream};
use stepward::node::Status;
use stepward::{Context, ErrorName, StepError};

use crate::error::ssm_error;
use crate::outcome::tell_left_out;
use crate::plan::Plan;
use crate::send::comment;
use crate::state::{Batch, Run, now};
use crate::{AT_ONCE, nodes, outcome};

/// Up to so many commands are asked for by ID; more by pages of all that SSM has had since they
/// were sent.
const BY_ID: usize = 3;
/// Pages of 50 commands that are read to see how far this run's are; those that did not come up are
/// asked for by ID.
const PAGES: usize = 40;
/// Pages of 50 commands that are read to find those of a lost call.
const PAGES_FOR_LOST: usize = 200;
/// How long before the last answer a lost call's commands are looked for, in seconds: clocks
/// differ.
const MARGIN: i64 = 300;
/// How long before now, where there was no answer yet: the first call and all its repeats.
const FIRST: i64 = 3600;
/// For how long after it was sent a command's nodes may be missing in their list, in seconds.
const BEHIND: i64 = 60;
/// For how long after SSM's own limit a command is waited for, in seconds.
const GRACE: i64 = 600;

/// Brings what is known of the commands under way up to date, and tells of the nodes that are over.
pub(crate) async fn refresh(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &mut Run,
) -> Result<(), StepError> {
    let in_flight = run.in_flight();
    if in_flight.is_empty() {
        return Ok(());
    }
    let mut seen = commands(ssm, run, &in_flight).await?;
    // The list may come behind what was sent; of what it has not for longer nothing more will be
    // heard.
    for number in &in_flight {
        let batch = run.batch(*number);
        if !seen.contains_key(&batch.command) && now() > batch.sent + BEHIND {
            ctx.log(format_args!(
                "SSM knows nothing of command {} any more",
                batch.command
            ));
            (batch.over, batch.given_up) = (true, true);
        }
    }
    let moved: Vec<_> = in_flight
        .iter()
        .filter_map(|number| Some((*number, seen.remove(&run.batches.get(*number)?.command)?)))
        .filter(|(number, seen)| {
            let completed = run.batches.get(*number).map(|batch| batch.completed);
            seen.ended || seen.given_up() || completed < Some(seen.completed)
        })
        .collect();
    let batches: Vec<&[String]> = plan.batches().collect();
    let mut pages = stream::iter(moved)
        .map(|(number, seen): (usize, Seen)| async move {
            invocations(ssm, &seen.id)
                .await
                .map(|nodes| (number, seen, nodes))
        })
        .buffered(AT_ONCE);
    while let Some(found) = pages.next().await {
        let (number, seen, nodes) = found?;
        let ids = batches.get(number).copied().unwrap_or_default();
        let stopped = run.stopped;
        let batch = run.batch(number);
        let (mut going_on, mut over, mut failed) = (0, 0, 0);
        for node in &nodes {
            let Some(ended) = outcome::ended(plan, node, stopped) else {
                going_on += 1;
                continue;
            };
            over += 1;
            failed += usize::from(matches!(ended.status, Status::Failed | Status::TimedOut));
            let place = node
                .instance_id()
                .and_then(|id| ids.iter().position(|own| own == id));
            if let (Some(place), Some(id)) = (place, node.instance_id())
                && batch.tell(place)
            {
                ctx.log(outcome::line(id, &ended));
            }
        }
        // Each list may be older than the other.
        (batch.completed, batch.failed) = (seen.completed.max(over), seen.failed.max(failed));
        // The list of nodes may come behind that of commands; a command that SSM refused as a whole
        // has none.
        let all_told = batch.told.count_ones() as usize >= batch.sent_to(ids.len());
        let none_comes = seen.ended && going_on == 0 && now() > batch.sent + BEHIND;
        batch.given_up = seen.given_up();
        batch.over = all_told || none_comes || batch.given_up;
        run.moved = now();
    }
    drop(pages);
    stop_when_too_many_failed(plan, ctx, ssm, run).await
}

/// Ends what has not begun when more nodes failed than may. SSM does that for each command; here it
/// is over all of them.
async fn stop_when_too_many_failed(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &mut Run,
) -> Result<(), StepError> {
    let Some(most) = plan.max_errors else {
        return Ok(());
    };
    if run.stopped || run.failed() <= most as usize {
        return Ok(());
    }
    ctx.log(format_args!(
        "{} nodes failed, which is more than max_errors ({most}): no more are begun",
        run.failed()
    ));
    stop_waiting(ssm, run).await?;
    run.stopped = true;
    Ok(())
}

/// Cancels what is under way on the nodes that wait for their turn.
pub(crate) async fn stop_waiting(ssm: &Client, run: &mut Run) -> Result<(), StepError> {
    for number in run.in_flight() {
        let command = run.batch(number).command.clone();
        let nodes = invocations(ssm, &command).await?;
        let waiting: Vec<_> = nodes
            .iter()
            .filter(|node| outcome::is_waiting(node))
            .filter_map(|node| node.instance_id.clone())
            .collect();
        if !waiting.is_empty() {
            let cancel = ssm
                .cancel_command()
                .command_id(&command)
                .set_instance_ids(Some(waiting));
            cancel.send().await.map_err(ssm_error)?;
        }
    }
    Ok(())
}

/// What a list says of a command.
struct Seen {
    id: String,
    completed: usize,
    failed: usize,
    ended: bool,
    expires: Option<i64>,
}

impl Seen {
    fn of(command: &Command) -> Option<Self> {
        let count = |number: i32| usize::try_from(number).unwrap_or_default();
        Some(Self {
            id: command.command_id.clone()?,
            completed: count(command.completed_count),
            failed: count(command.error_count),
            ended: matches!(
                command.status,
                Some(
                    CommandStatus::Success
                        | CommandStatus::Failed
                        | CommandStatus::Cancelled
                        | CommandStatus::TimedOut
                )
            ),
            expires: command.expires_after.map(|time| time.secs()),
        })
    }

    /// Whether SSM itself should have ended it long ago.
    fn given_up(&self) -> bool {
        self.expires.is_some_and(|expires| now() > expires + GRACE)
    }
}

/// What SSM says of the commands under way, by ID: of those that it knows.
async fn commands(
    ssm: &Client,
    run: &Run,
    in_flight: &[usize],
) -> Result<HashMap<String, Seen>, StepError> {
    let mut missing: Vec<&Batch> = in_flight
        .iter()
        .filter_map(|number| run.batches.get(*number))
        .collect();
    let mut found = HashMap::new();
    if missing.len() > BY_ID {
        let oldest = missing
            .iter()
            .map(|batch| batch.sent)
            .min()
            .unwrap_or_default();
        let mut pages = since(ssm, oldest - MARGIN)?.into_paginator().send();
        for _ in 0..PAGES {
            let Some(page) = pages.next().await else {
                break;
            };
            for seen in page
                .map_err(ssm_error)?
                .commands()
                .iter()
                .filter_map(Seen::of)
            {
                missing.retain(|batch| batch.command != seen.id);
                found.insert(seen.id.clone(), seen);
            }
            if missing.is_empty() {
                return Ok(found);
            }
        }
    }
    let missing: Vec<_> = missing
        .into_iter()
        .map(|batch| batch.command.clone())
        .collect();
    let one_by_one = stream::iter(missing)
        .map(|id| async move {
            let answer = ssm
                .list_commands()
                .command_id(&id)
                .send()
                .await
                .map_err(ssm_error);
            Ok::<_, StepError>(
                known(answer)?.and_then(|answer| answer.commands().iter().find_map(Seen::of)),
            )
        })
        .buffer_unordered(AT_ONCE);
    let one_by_one: Vec<Option<Seen>> = one_by_one.try_collect().await?;
    found.extend(
        one_by_one
            .into_iter()
            .flatten()
            .map(|seen| (seen.id.clone(), seen)),
    );
    Ok(found)
}

/// `None` where SSM does not know the command, or not yet.
fn known<T>(answer: Result<T, StepError>) -> Result<Option<T>, StepError> {
    match answer {
        Err(error) if error.has_code("InvalidCommandId") => Ok(None),
        answer => answer.map(Some),
    }
}

/// Finds commands that a call has sent whose answer was lost, and makes them the run's own. Answers
/// how many there were.
pub(crate) async fn take_over(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &mut Run,
) -> Result<usize, StepError> {
    let batches: Vec<&[String]> = plan.batches().collect();
    let mut wanted: HashMap<String, usize> = (0..batches.len())
        .filter(|number| !run.has_begun(*number))
        .map(|number| (comment(ctx, number), number))
        .collect();
    let from = if run.at == 0 {
        now() - FIRST
    } else {
        run.at - MARGIN
    };
    let mut pages = since(ssm, from)?.into_paginator().send();
    let mut found = 0;
    for _ in 0..PAGES_FOR_LOST {
        let Some(page) = pages.next().await else {
            return Ok(found);
        };
        for command in page.map_err(ssm_error)?.commands.unwrap_or_default() {
            let Some(number) = command
                .comment
                .as_ref()
                .and_then(|comment| wanted.remove(comment))
            else {
                continue;
            };
            let (Some(id), Some(ids)) = (command.command_id, batches.get(number)) else {
                continue;
            };
            let sent_to = command.instance_ids.unwrap_or_default();
            let left_out = if ids.iter().all(|own| sent_to.contains(own)) {
                String::new()
            } else {
                // Why they were left out went with the answer; what keeps them away now will be the
                // same.
                let why = nodes::left_out(ctx, ssm, ids, plan.shell).await?;
                let why = |place| {
                    why.chars()
                        .nth(place)
                        .filter(|why| *why != '.')
                        .unwrap_or('o')
                };
                ids.iter()
                    .enumerate()
                    .map(|(place, own)| {
                        if sent_to.contains(own) {
                            '.'
                        } else {
                            why(place)
                        }
                    })
                    .collect()
            };
            tell_left_out(ctx, ids, &left_out);
            let concurrency = command
                .max_concurrency
                .and_then(|most| most.parse().ok())
                .unwrap_or(ids.len());
            *run.batch(number) = Batch {
                command: id,
                concurrency,
                sent: command
                    .requested_date_time
                    .map_or_else(now, |time| time.secs()),
                left_out,
                ..Batch::default()
            };
            found += 1;
        }
        if wanted.is_empty() {
            return Ok(found);
        }
    }
    Err(ErrorName::Conflict.with_message(format!(
        "SSM has had more than {} commands since {} s before now, too many to see whether this run's are among \
         them; run it again when the account is quieter",
        PAGES_FOR_LOST * 50,
        now() - from
    )))
}

/// A list of all commands since a time, the newest first.
fn since(
    ssm: &Client,
    time: i64,
) -> Result<aws_sdk_ssm::operation::list_commands::builders::ListCommandsFluentBuilder, StepError> {
    let internal =
        |error: &dyn std::fmt::Display| ErrorName::Internal.with_message(error.to_string());
    let time = DateTime::from_secs(time)
        .fmt(Format::DateTime)
        .map_err(|error| internal(&error))?;
    let filter = CommandFilter::builder()
        .key(CommandFilterKey::InvokedAfter)
        .value(time)
        .build();
    Ok(ssm
        .list_commands()
        .max_results(50)
        .filters(filter.map_err(|error| internal(&error))?))
}

/// Asks for any one invocation: who may not see how commands end is to send none.
pub(crate) async fn may_look(ssm: &Client) -> Result<(), StepError> {
    ssm.list_command_invocations()
        .max_results(1)
        .send()
        .await
        .map_err(ssm_error)?;
    Ok(())
}

/// How a command goes on each of its nodes; on none where SSM does not know it, or not yet.
pub(crate) async fn invocations(
    ssm: &Client,
    command: &str,
) -> Result<Vec<CommandInvocation>, StepError> {
    let request = ssm
        .list_command_invocations()
        .command_id(command)
        .details(true)
        .max_results(50);
    let mut pages = request.into_paginator().items().send();
    let mut all = Vec::new();
    while let Some(one) = pages.next().await {
        all.extend(known(one.map_err(ssm_error))?);
    }
    Ok(all)
}
