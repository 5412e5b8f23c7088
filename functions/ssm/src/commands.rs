//! Reads SSM's lists of commands and of their invocations, one invocation for each node.

use std::collections::HashMap;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::operation::list_commands::builders::ListCommandsFluentBuilder;
use aws_sdk_ssm::types::{
    Command, CommandFilter, CommandFilterKey, CommandInvocation, CommandStatus,
};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use futures_util::{StreamExt, TryStreamExt, stream};
use stepward::{ErrorName, StepError};

use crate::MAX_CONCURRENT_REQUESTS;
use crate::error::ssm_error;
use crate::state::{Batch, RunState, now_seconds};

/// The maximum difference between the clocks of SSM and of the function, in seconds.
pub(crate) const CLOCK_TOLERANCE: i64 = 300;
/// The maximum number of commands to request by ID. For more commands, the list of all commands
/// since the oldest one needs fewer requests.
const MAX_REQUESTS_BY_ID: usize = 3;
/// The maximum number of pages, of 50 commands each, to read from the list. Commands that are not
/// in these pages are requested by ID.
const MAX_STATUS_PAGES: usize = 40;
/// How long a command is polled after SSM should have ended it, in seconds.
const EXPIRY_GRACE: i64 = 600;

/// A command's status in SSM's list.
pub(crate) struct CommandSnapshot {
    pub(crate) command_id: String,
    pub(crate) completed: usize,
    pub(crate) failed: usize,
    pub(crate) has_ended: bool,
    expires_at: Option<i64>,
}

impl CommandSnapshot {
    fn from_command(command: &Command) -> Option<Self> {
        let count = |number: i32| usize::try_from(number).unwrap_or_default();
        Some(Self {
            command_id: command.command_id.clone()?,
            completed: count(command.completed_count),
            failed: count(command.error_count),
            has_ended: matches!(
                command.status,
                Some(
                    CommandStatus::Success
                        | CommandStatus::Failed
                        | CommandStatus::Cancelled
                        | CommandStatus::TimedOut
                )
            ),
            expires_at: command.expires_after.map(|time| time.secs()),
        })
    }

    /// Whether SSM should have ended the command long ago. Waiting longer is then useless.
    pub(crate) fn is_overdue(&self) -> bool {
        self.expires_at
            .is_some_and(|expires_at| now_seconds() > expires_at + EXPIRY_GRACE)
    }
}

/// The status of the running batches' commands, by command ID. Commands that SSM does not know are
/// missing.
pub(crate) async fn find_snapshots(
    ssm: &Client,
    run: &RunState,
    running: &[usize],
) -> Result<HashMap<String, CommandSnapshot>, StepError> {
    let mut missing: Vec<&Batch> = running
        .iter()
        .filter_map(|number| run.batches.get(*number))
        .collect();
    let mut snapshots = HashMap::new();

    if missing.len() > MAX_REQUESTS_BY_ID {
        let oldest = missing
            .iter()
            .map(|batch| batch.sent_at)
            .min()
            .unwrap_or_default();
        let mut pages = list_commands_since(ssm, oldest - CLOCK_TOLERANCE)?
            .into_paginator()
            .send();
        for _ in 0..MAX_STATUS_PAGES {
            let Some(page) = pages.next().await else {
                break;
            };
            let page = page.map_err(ssm_error)?;
            for snapshot in page
                .commands()
                .iter()
                .filter_map(CommandSnapshot::from_command)
            {
                missing.retain(|batch| batch.command_id != snapshot.command_id);
                snapshots.insert(snapshot.command_id.clone(), snapshot);
            }
            if missing.is_empty() {
                return Ok(snapshots);
            }
        }
    }

    let missing_ids: Vec<_> = missing
        .into_iter()
        .map(|batch| batch.command_id.clone())
        .collect();
    let requested: Vec<Option<CommandSnapshot>> = stream::iter(missing_ids)
        .map(|command_id| async move { find_snapshot_by_id(ssm, &command_id).await })
        .buffer_unordered(MAX_CONCURRENT_REQUESTS)
        .try_collect()
        .await?;
    snapshots.extend(
        requested
            .into_iter()
            .flatten()
            .map(|snapshot| (snapshot.command_id.clone(), snapshot)),
    );
    Ok(snapshots)
}

async fn find_snapshot_by_id(
    ssm: &Client,
    command_id: &str,
) -> Result<Option<CommandSnapshot>, StepError> {
    let response = ssm
        .list_commands()
        .command_id(command_id)
        .send()
        .await
        .map_err(ssm_error);
    let response = none_if_unknown(response)?;
    Ok(response.and_then(|response| {
        response
            .commands()
            .iter()
            .find_map(CommandSnapshot::from_command)
    }))
}

/// `None` if SSM does not know the command, or not yet.
fn none_if_unknown<T>(response: Result<T, StepError>) -> Result<Option<T>, StepError> {
    match response {
        Err(error) if error.has_code("InvalidCommandId") => Ok(None),
        response => response.map(Some),
    }
}

/// A request for all commands since a time, the newest first.
pub(crate) fn list_commands_since(
    ssm: &Client,
    time: i64,
) -> Result<ListCommandsFluentBuilder, StepError> {
    let internal_error =
        |error: &dyn std::fmt::Display| ErrorName::Internal.with_message(error.to_string());
    let time = DateTime::from_secs(time)
        .fmt(Format::DateTime)
        .map_err(|error| internal_error(&error))?;
    let filter = CommandFilter::builder()
        .key(CommandFilterKey::InvokedAfter)
        .value(time)
        .build()
        .map_err(|error| internal_error(&error))?;
    Ok(ssm.list_commands().max_results(50).filters(filter))
}

/// Checks that the session may list invocations. Without this permission the step could not see how
/// commands end, so it must not send any.
pub(crate) async fn check_list_permission(ssm: &Client) -> Result<(), StepError> {
    ssm.list_command_invocations()
        .max_results(1)
        .send()
        .await
        .map_err(ssm_error)?;
    Ok(())
}

/// A command's status on each of its nodes. Empty if SSM does not know the command, or not yet.
pub(crate) async fn list_invocations(
    ssm: &Client,
    command_id: &str,
) -> Result<Vec<CommandInvocation>, StepError> {
    let request = ssm
        .list_command_invocations()
        .command_id(command_id)
        .details(true)
        .max_results(50);
    let mut items = request.into_paginator().items().send();

    let mut invocations = Vec::new();
    while let Some(invocation) = items.next().await {
        invocations.extend(none_if_unknown(invocation.map_err(ssm_error))?);
    }
    Ok(invocations)
}
