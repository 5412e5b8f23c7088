//! Decides whether a stopped task failed.

use std::collections::BTreeMap;

use aws_sdk_ecs::Client;
use aws_sdk_ecs::types::{Container, Task, TaskStopCode};
use stepward::StepError;

use crate::error::ecs_error;

/// The exit code of a container that ended on SIGTERM, the stop signal.
const SIGTERM_EXIT_CODE: i32 = 143;

/// A cache of the non-essential containers of task definitions.
#[derive(Default)]
pub(crate) struct DefinitionCache(BTreeMap<String, Vec<String>>);

impl DefinitionCache {
    /// Returns the names of the containers that are not essential.
    async fn non_essential_containers(
        &mut self,
        ecs: &Client,
        definition: &str,
    ) -> Result<&[String], StepError> {
        if !self.0.contains_key(definition) {
            let response = ecs
                .describe_task_definition()
                .task_definition(definition)
                .send()
                .await;
            let task_definition = match response.map_err(ecs_error) {
                Ok(response) => response.task_definition,
                // ECS returns this error for a deleted definition. Then every container counts as
                // essential.
                Err(error) if error.has_code("ClientException") => None,
                Err(error) => return Err(error),
            };

            let containers = task_definition
                .and_then(|definition| definition.container_definitions)
                .unwrap_or_default();
            let non_essential = containers
                .into_iter()
                .filter(|container| container.essential == Some(false));
            self.0.insert(
                definition.to_owned(),
                non_essential
                    .filter_map(|container| container.name)
                    .collect(),
            );
        }
        Ok(self.0.get(definition).map_or(&[], Vec::as_slice))
    }
}

/// Returns whether a stopped task failed, as opposed to ending normally or on request.
///
/// # Errors
/// The error that ECS returned.
pub(crate) async fn has_failed(
    ecs: &Client,
    task: &Task,
    definitions: &mut DefinitionCache,
) -> Result<bool, StepError> {
    let reason = task.stopped_reason().unwrap_or_default();
    match task.stop_code() {
        Some(
            TaskStopCode::TaskFailedToStart
            | TaskStopCode::SpotInterruption
            | TaskStopCode::TerminationNotice
            | TaskStopCode::InfrastructureHealth,
        ) => Ok(true),
        Some(TaskStopCode::UserInitiated) => Ok(false),
        // The scheduler also stops tasks when a service is scaled in or deployed.
        Some(TaskStopCode::ServiceSchedulerInitiated) => {
            Ok(reason.contains("health check") || reason.contains("unhealthy"))
        }
        // ECS gives no stop code for some tasks whose instance is gone, and then often lists no
        // exit codes either.
        None if is_stopped(task) && is_lost_with_instance(reason) => Ok(true),
        _ => has_failed_container(ecs, task, definitions).await,
    }
}

/// Returns whether the task has stopped. Containers of a task that is still stopping have no exit
/// codes yet.
fn is_stopped(task: &Task) -> bool {
    task.stopped_at().is_some()
}

/// Returns whether this is the stopped reason of a task whose instance was stopped or terminated,
/// for example `Host EC2 (instance i-0123) terminated.`
/// <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html>
fn is_lost_with_instance(stopped_reason: &str) -> bool {
    stopped_reason.starts_with("Host EC2")
}

/// Returns whether an essential container failed.
async fn has_failed_container(
    ecs: &Client,
    task: &Task,
    definitions: &mut DefinitionCache,
) -> Result<bool, StepError> {
    let containers = task.containers();
    let failed: Vec<_> = containers
        .iter()
        .filter(|container| is_failed_exit(container, is_stopped(task)))
        .collect();
    // If all containers failed, or none did, the result does not depend on which ones are
    // essential.
    if failed.is_empty() || failed.len() == containers.len() {
        return Ok(!failed.is_empty());
    }

    let definition = task.task_definition_arn().unwrap_or_default();
    let non_essential = definitions
        .non_essential_containers(ecs, definition)
        .await?;
    let is_essential = |container: &Container| {
        !non_essential
            .iter()
            .any(|name| container.name() == Some(name))
    };
    // When an essential container exits with 0, ECS stops the other containers, and does not start
    // those that wait for it.
    let essential_succeeded = containers
        .iter()
        .any(|container| is_essential(container) && container.exit_code() == Some(0));
    let was_stopped = |container: &Container| {
        let has_no_result = container.exit_code().is_none() && container.reason().is_none();
        essential_succeeded && (container.exit_code() == Some(SIGTERM_EXIT_CODE) || has_no_result)
    };

    Ok(failed
        .iter()
        .any(|container| is_essential(container) && !was_stopped(container)))
}

/// Returns whether a container failed. Without an exit code, it failed if ECS gives a reason, or if
/// its task has stopped: nothing shows that it ended normally.
fn is_failed_exit(container: &Container, is_task_stopped: bool) -> bool {
    container
        .exit_code()
        .map_or(container.reason().is_some() || is_task_stopped, |code| {
            code != 0
        })
}
