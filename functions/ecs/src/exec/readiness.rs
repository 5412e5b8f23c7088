//! Checks whether ECS Exec can work in a container, before a session is requested. The error of
//! `ExecuteCommand` itself does not say why ECS Exec cannot work.

use std::time::Duration;

use aws_sdk_ecs::Client;
use aws_sdk_ecs::types::{Container, ManagedAgentName, Task};
use stepward::{ErrorName, StepError};
use tokio::time::Instant;

use crate::error::ecs_error;
use crate::{check_failures, resource_name};

/// How long to wait for a container or agent that is starting. The agent starts after its
/// container.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// The time between two polls.
const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// A container in which ECS Exec runs commands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExecContainer {
    /// The cluster's name.
    pub cluster: String,
    /// The task's ID.
    pub task: String,
    /// The container's name.
    pub container: String,
    /// The ID that the container runtime assigned.
    pub runtime_id: String,
}

impl ExecContainer {
    /// Returns the target ID of sessions in this container, in Systems Manager's form.
    #[must_use]
    pub fn ssm_target_id(&self) -> String {
        let Self {
            cluster,
            task,
            runtime_id,
            ..
        } = self;
        format!("ecs:{cluster}_{task}_{runtime_id}")
    }
}

/// Whether ECS Exec works in a container.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Readiness {
    Ready(ExecContainer),
    /// The container or its agent is starting, with a text that says which.
    Starting(String),
}

/// Describes the task.
///
/// # Errors
/// `NotFound`, or the error that ECS returned.
pub async fn describe_task(ecs: &Client, cluster: &str, task: &str) -> Result<Task, StepError> {
    let response = ecs
        .describe_tasks()
        .cluster(cluster)
        .tasks(task)
        .send()
        .await
        .map_err(ecs_error)?;
    check_failures(response.failures())?;

    response
        .tasks
        .unwrap_or_default()
        .into_iter()
        .next()
        .ok_or_else(|| {
            ErrorName::NotFound.with_message(format!(
                "task \"{}\" does not exist in cluster \"{}\"; ECS deletes a task about an hour \
                 after it stopped, so choose a running task",
                resource_name(task),
                resource_name(cluster)
            ))
        })
}

/// Waits until the container and its agent run, and returns the container.
///
/// # Errors
/// `NotFound`; `InvalidInput` if the container must be named; `Conflict` if ECS Exec cannot work in
/// this task; `TimedOut` if the container or agent is still starting after a minute.
pub async fn wait_until_ready(
    ecs: &Client,
    cluster: &str,
    task: &str,
    container: Option<&str>,
    deadline: Instant,
) -> Result<ExecContainer, StepError> {
    let limit = deadline.min(Instant::now() + MAX_WAIT);
    loop {
        match check_readiness(&describe_task(ecs, cluster, task).await?, container)? {
            Readiness::Ready(container) => return Ok(container),
            Readiness::Starting(what) if Instant::now() + POLL_INTERVAL > limit => {
                return Err(ErrorName::TimedOut.with_message(format!(
                    "{what} and was not ready in time; wait until it is running, then run the step \
                     again"
                )));
            }
            Readiness::Starting(_) => {
                tokio::time::sleep(POLL_INTERVAL + random_delay(POLL_INTERVAL / 2)).await;
            }
        }
    }
}

/// Returns why no command can run in the task or container any more; `None` while one can.
#[must_use]
pub fn stopped_reason(task: &Task, container_name: &str) -> Option<String> {
    let id = resource_name(task.task_arn().unwrap_or_default());
    let in_parentheses = |reason: Option<&str>| {
        reason
            .map(|reason| format!(" ({reason})"))
            .unwrap_or_default()
    };

    let status = task.last_status().unwrap_or_default();
    if matches!(
        status,
        "DEACTIVATING" | "STOPPING" | "DEPROVISIONING" | "STOPPED" | "DELETED"
    ) {
        return Some(format!(
            "task {id} is {}{}",
            status.to_lowercase(),
            in_parentheses(task.stopped_reason())
        ));
    }

    let container = task
        .containers()
        .iter()
        .find(|container| container.name() == Some(container_name))?;
    (container.last_status() == Some("STOPPED")).then(|| {
        format!(
            "container {container_name} of task {id} is stopped{}",
            in_parentheses(container.reason())
        )
    })
}

fn check_readiness(task: &Task, container_name: Option<&str>) -> Result<Readiness, StepError> {
    let id = resource_name(task.task_arn().unwrap_or_default());
    if !task.enable_execute_command() {
        return Err(ErrorName::Conflict.with_message(format!(
            "ECS Exec is not enabled for task {id}, and cannot be enabled while the task runs; \
             set enableExecuteCommand on the service and deploy it again, or run another task \
             with it"
        )));
    }

    let container = select_container(task.containers(), id, container_name)?;
    let name = container.name().unwrap_or_default();
    if let Some(reason) = stopped_reason(task, name) {
        return Err(ErrorName::Conflict
            .with_message(format!("{reason}; choose a running task and container")));
    }

    let agent = container
        .managed_agents()
        .iter()
        .rev()
        .find(|agent| agent.name() == Some(&ManagedAgentName::ExecuteCommandAgent));
    let agent_status = agent.and_then(|agent| agent.last_status());
    if agent_status == Some("STOPPED") {
        let reason = agent
            .and_then(|agent| agent.reason())
            .unwrap_or("ECS gave no reason");
        return Err(ErrorName::Conflict.with_message(format!(
            "the ECS Exec agent is stopped in container {name} of task {id} ({reason}); check \
             that the task role allows ssmmessages:CreateControlChannel, CreateDataChannel, \
             OpenControlChannel and OpenDataChannel, that the subnet can reach ssmmessages, and \
             that the container's root file system is writable; then run another task"
        )));
    }

    let container_status = container.last_status();
    if task.last_status() != Some("RUNNING") || container_status != Some("RUNNING") {
        let status = container_status
            .or(task.last_status())
            .unwrap_or("in an unknown status")
            .to_lowercase();
        return Ok(Readiness::Starting(format!(
            "container {name} of task {id} is {status}"
        )));
    }
    // If ECS returns no agent, only a session shows whether one works.
    if agent_status.is_some_and(|status| status != "RUNNING") {
        return Ok(Readiness::Starting(format!(
            "the ECS Exec agent in container {name} of task {id} is starting"
        )));
    }

    Ok(Readiness::Ready(exec_container(task, container)))
}

/// Returns the container of a task, whether it is ready or not.
///
/// # Errors
/// The same errors as [`wait_until_ready`] if the container does not exist or must be named.
pub fn find_container(
    task: &Task,
    container_name: Option<&str>,
) -> Result<ExecContainer, StepError> {
    let id = resource_name(task.task_arn().unwrap_or_default());
    select_container(task.containers(), id, container_name)
        .map(|container| exec_container(task, container))
}

fn exec_container(task: &Task, container: &Container) -> ExecContainer {
    ExecContainer {
        cluster: resource_name(task.cluster_arn().unwrap_or_default()).into(),
        task: resource_name(task.task_arn().unwrap_or_default()).into(),
        container: container.name().unwrap_or_default().into(),
        runtime_id: container.runtime_id().unwrap_or_default().into(),
    }
}

fn select_container<'a>(
    containers: &'a [Container],
    task: &str,
    container_name: Option<&str>,
) -> Result<&'a Container, StepError> {
    let names = || {
        containers
            .iter()
            .filter_map(|container| container.name())
            .collect::<Vec<_>>()
            .join(", ")
    };

    match (container_name, containers) {
        (None, [only]) => Ok(only),
        (None, []) => Err(ErrorName::Conflict.with_message(format!(
            "task {task} has no containers yet; run the step again"
        ))),
        (None, _) => Err(ErrorName::InvalidInput.with_message(format!(
            "parameter \"container\": task {task} has several containers; set it to one of {}",
            names()
        ))),
        (Some(wanted), _) => containers
            .iter()
            .find(|container| container.name() == Some(wanted))
            .ok_or_else(|| {
                ErrorName::NotFound.with_message(format!(
                    "container {wanted:?} does not exist in task {task}; choose one of {}",
                    names()
                ))
            }),
    }
}

/// Returns a random delay up to `limit`, so that many waiting clients do not call AWS at once.
pub(super) fn random_delay(limit: Duration) -> Duration {
    let mut random = [0; 2];
    let fraction = getrandom::fill(&mut random)
        .map_or(1.0, |()| f64::from(u16::from_be_bytes(random)) / 65_536.0);
    limit.mul_f64(fraction)
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::types::ManagedAgent;

    use super::*;

    fn container(name: &str, status: &str, agent: Option<&str>) -> Container {
        let agent = agent.map(|status| {
            let agent = ManagedAgent::builder()
                .name(ManagedAgentName::ExecuteCommandAgent)
                .last_status(status);
            vec![agent.reason("no permission").build()]
        });
        let container = Container::builder()
            .name(name)
            .last_status(status)
            .runtime_id("r-1");
        container.set_managed_agents(agent).build()
    }

    fn task(status: &str, is_enabled: bool, containers: Vec<Container>) -> Task {
        Task::builder()
            .task_arn("arn:aws:ecs:eu-west-1:222222222222:task/production/t-1")
            .cluster_arn("arn:aws:ecs:eu-west-1:222222222222:cluster/production")
            .last_status(status)
            .enable_execute_command(is_enabled)
            .set_containers(Some(containers))
            .build()
    }

    #[test]
    fn a_running_container_with_a_running_agent_is_ready() {
        let app = container("app", "RUNNING", Some("RUNNING"));
        let readiness = check_readiness(&task("RUNNING", true, vec![app.clone()]), None).unwrap();
        let Readiness::Ready(ready) = readiness else {
            panic!("{readiness:?}")
        };
        assert_eq!(
            (ready.container.as_str(), ready.ssm_target_id().as_str()),
            ("app", "ecs:production_t-1_r-1")
        );
        let two = task(
            "RUNNING",
            true,
            vec![container("log", "STOPPED", None), app],
        );
        assert!(matches!(
            check_readiness(&two, Some("app")),
            Ok(Readiness::Ready(_))
        ));
        let without_agent = task("RUNNING", true, vec![container("app", "RUNNING", None)]);
        assert!(
            matches!(
                check_readiness(&without_agent, None),
                Ok(Readiness::Ready(_))
            ),
            "a session shows whether an agent works"
        );
    }

    #[test]
    fn a_starting_container_or_agent_is_not_ready_yet() {
        for (task_status, status, agent, expected) in [
            (
                "PENDING",
                "PENDING",
                None,
                "container app of task t-1 is pending",
            ),
            (
                "RUNNING",
                "PENDING",
                Some("PENDING"),
                "container app of task t-1 is pending",
            ),
            (
                "RUNNING",
                "RUNNING",
                Some("PENDING"),
                "the ECS Exec agent in container app",
            ),
        ] {
            let readiness = check_readiness(
                &task(task_status, true, vec![container("app", status, agent)]),
                None,
            )
            .unwrap();
            let Readiness::Starting(what) = readiness else {
                panic!("{readiness:?}")
            };
            assert!(what.contains(expected), "{what}");
        }
    }

    #[test]
    fn an_error_names_what_prevents_ecs_exec() {
        let app = || vec![container("app", "RUNNING", Some("RUNNING"))];
        let both = || {
            vec![
                container("app", "RUNNING", None),
                container("log", "RUNNING", None),
            ]
        };
        for (task, container_name, name, expected) in [
            (
                task("RUNNING", false, app()),
                None,
                ErrorName::Conflict,
                "not enabled for task t-1",
            ),
            (
                task("STOPPED", true, app()),
                None,
                ErrorName::Conflict,
                "task t-1 is stopped",
            ),
            (
                task("DEPROVISIONING", true, app()),
                None,
                ErrorName::Conflict,
                "task t-1 is deprovisioning",
            ),
            (
                task("RUNNING", true, both()),
                None,
                ErrorName::InvalidInput,
                "set it to one of app, log",
            ),
            (
                task("RUNNING", true, both()),
                Some("web"),
                ErrorName::NotFound,
                "\"web\" does not exist in task t-1; choose one of app, log",
            ),
            (
                task(
                    "RUNNING",
                    true,
                    vec![container("app", "RUNNING", Some("STOPPED"))],
                ),
                None,
                ErrorName::Conflict,
                "(no permission); check that the task role",
            ),
            (
                task(
                    "RUNNING",
                    true,
                    vec![container("app", "STOPPED", Some("RUNNING"))],
                ),
                None,
                ErrorName::Conflict,
                "container app of task t-1 is stopped",
            ),
        ] {
            let error = check_readiness(&task, container_name).unwrap_err();
            assert_eq!(error.name, name, "{error}");
            assert!(error.message.contains(expected), "{error}");
        }
    }
}
