//! Finds the commands of a lost call: one that sent commands and whose response never arrived.

use std::collections::HashMap;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::Command;
use stepward::{Context, ErrorName, StepError};

use crate::commands::{CLOCK_TOLERANCE, list_commands_since};
use crate::eligibility;
use crate::error::ssm_error;
use crate::outcome::log_skipped_nodes;
use crate::plan::Plan;
use crate::send::batch_comment;
use crate::state::{Batch, RunState, now_seconds};

/// The maximum number of pages, of 50 commands each, to search.
const MAX_PAGES: usize = 200;
/// How far back to search if no call of this step has returned yet, in seconds. This covers the
/// first call and its retries.
const FIRST_CALL_AGE: i64 = 3600;

/// Finds commands that a lost call sent and adds them to the run. Returns how many it found.
pub(crate) async fn adopt_lost_commands(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    run: &mut RunState,
) -> Result<usize, StepError> {
    let batches: Vec<&[String]> = plan.batches().collect();
    let mut wanted_comments: HashMap<String, usize> = (0..batches.len())
        .filter(|number| !run.is_batch_started(*number))
        .map(|number| (batch_comment(ctx, number), number))
        .collect();

    let since = if run.saved_at == 0 {
        now_seconds() - FIRST_CALL_AGE
    } else {
        run.saved_at - CLOCK_TOLERANCE
    };
    let mut pages = list_commands_since(ssm, since)?.into_paginator().send();
    let mut adopted = 0;
    for _ in 0..MAX_PAGES {
        let Some(page) = pages.next().await else {
            return Ok(adopted);
        };
        for command in page.map_err(ssm_error)?.commands.unwrap_or_default() {
            let Some(number) = command
                .comment
                .as_ref()
                .and_then(|comment| wanted_comments.remove(comment))
            else {
                continue;
            };
            let Some(instance_ids) = batches.get(number) else {
                continue;
            };
            if let Some(batch) = restore_batch(plan, ctx, ssm, instance_ids, command).await? {
                *run.batch_mut(number) = batch;
                adopted += 1;
            }
        }
        if wanted_comments.is_empty() {
            return Ok(adopted);
        }
    }

    Err(ErrorName::Conflict.with_message(format!(
        "the account has more than {} commands in the last {} s, too many to search for commands \
         that this step has already sent; run the step again when the account has fewer commands",
        MAX_PAGES * 50,
        now_seconds() - since
    )))
}

/// The batch of a command that a lost call sent to some of these nodes.
async fn restore_batch(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    instance_ids: &[String],
    command: Command,
) -> Result<Option<Batch>, StepError> {
    let Some(command_id) = command.command_id else {
        return Ok(None);
    };
    let sent_to = command.instance_ids.unwrap_or_default();
    let skip_marks = if instance_ids.iter().all(|id| sent_to.contains(id)) {
        String::new()
    } else {
        // The lost call knew why it skipped nodes. Most likely the same reasons apply now.
        let current_marks = eligibility::find_skipped(ctx, ssm, instance_ids, plan.shell).await?;
        let current_mark = |index| {
            current_marks
                .chars()
                .nth(index)
                .filter(|mark| *mark != '.')
                .unwrap_or('o')
        };
        instance_ids
            .iter()
            .enumerate()
            .map(|(index, id)| {
                if sent_to.contains(id) {
                    '.'
                } else {
                    current_mark(index)
                }
            })
            .collect()
    };
    log_skipped_nodes(ctx, instance_ids, &skip_marks);

    let concurrency = command
        .max_concurrency
        .and_then(|text| text.parse().ok())
        .unwrap_or(instance_ids.len());
    let sent_at = command
        .requested_date_time
        .map_or_else(now_seconds, |time| time.secs());
    Ok(Some(Batch {
        command_id,
        concurrency,
        sent_at,
        skip_marks,
        ..Batch::default()
    }))
}
