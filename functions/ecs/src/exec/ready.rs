//! Whether a container can be spoken to, before a session is asked for: ECS's own answer would not
//! tell why not.

use std::time::Duration;

use aws_sdk_ecs::Client;
use aws_sdk_ecs::types::{Container, ManagedAgentName, Task};
use stepward::{ErrorName, StepError};
use tokio::time::Instant;

use crate::error::ecs_error;
use crate::{check_failures, name_of};

/// How long an agent is waited for that is still starting: it starts after its container.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks.
const POLL: Duration = Duration::from_secs(3);

/// A container that can be spoken to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ready {
    /// The cluster's name.
    pub cluster: String,
    /// The task's ID.
    pub task: String,
    /// The container's name.
    pub container: String,
    /// The ID that the container's runtime gave it.
    pub runtime_id: String,
}

impl Ready {
    /// The session's target, as Systems Manager has it.
    #[must_use]
    pub fn target(&self) -> String {
        let Self {
            cluster,
            task,
            runtime_id,
            ..
        } = self;
        format!("ecs:{cluster}_{task}_{runtime_id}")
    }
}

/// What a look at a task finds.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Found {
    Ready(Ready),
    NotYet(String),
}

/// The task as it is now.
///
/// # Errors
/// `NotFound`, or why ECS failed.
pub async fn look(ecs: &Client, cluster: &str, task: &str) -> Result<Task, StepError> {
    let answer = ecs
        .describe_tasks()
        .cluster(cluster)
        .tasks(task)
        .send()
        .await
        .map_err(ecs_error)?;
    check_failures(answer.failures())?;
    answer
        .tasks
        .unwrap_or_default()
        .into_iter()
        .next()
        .ok_or_else(|| {
            ErrorName::NotFound.with_message(format!(
                "cluster {} has no task {}; ECS forgets a task about an hour after it stopped",
                name_of(cluster),
                name_of(task)
            ))
        })
}

/// The container, once it and its agent run; they are waited for if they are starting.
///
/// # Errors
/// `NotFound`, `InvalidInput` where the container must be named, `Conflict` where ECS Exec cannot
/// work in this task, `TimedOut` where it is still starting after a minute.
pub async fn wait(
    ecs: &Client,
    cluster: &str,
    task: &str,
    container: Option<&str>,
    deadline: Instant,
) -> Result<Ready, StepError> {
    let limit = deadline.min(Instant::now() + PATIENCE);
    loop {
        match judge(&look(ecs, cluster, task).await?, container)? {
            Found::Ready(ready) => return Ok(ready),
            Found::NotYet(why) if Instant::now() + POLL > limit => {
                return Err(ErrorName::TimedOut
                    .with_message(format!("{why}, still; run it again when it is up")));
            }
            Found::NotYet(_) => tokio::time::sleep(POLL + jitter(POLL / 2)).await,
        }
    }
}

/// Why nothing can run in the task or container any more; `None` while it can.
#[must_use]
pub fn gone(task: &Task, container: &str) -> Option<String> {
    let id = name_of(task.task_arn().unwrap_or_default());
    let reason = |reason: Option<&str>| {
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
            reason(task.stopped_reason())
        ));
    }
    let of = task
        .containers()
        .iter()
        .find(|one| one.name() == Some(container))?;
    (of.last_status() == Some("STOPPED")).then(|| {
        format!(
            "container {container} of task {id} is stopped{}",
            reason(of.reason())
        )
    })
}

fn judge(task: &Task, wanted: Option<&str>) -> Result<Found, StepError> {
    let id = name_of(task.task_arn().unwrap_or_default());
    if !task.enable_execute_command() {
        return Err(ErrorName::Conflict.with_message(format!(
            "ECS Exec is not enabled for task {id}, and cannot be while it runs: enable it for the service \
             (enableExecuteCommand) and deploy anew, or run another task with it"
        )));
    }
    let container = choose(task.containers(), id, wanted)?;
    let name = container.name().unwrap_or_default();
    if let Some(why) = gone(task, name) {
        return Err(ErrorName::Conflict.with_message(format!("{why}: nothing can run in it")));
    }
    let agents = container.managed_agents().iter();
    let agent = agents
        .rev()
        .find(|agent| agent.name() == Some(&ManagedAgentName::ExecuteCommandAgent));
    let (status, agent_status) = (
        container.last_status(),
        agent.and_then(|agent| agent.last_status()),
    );
    if agent_status == Some("STOPPED") {
        let reason = agent
            .and_then(|agent| agent.reason())
            .unwrap_or("ECS gives no reason");
        return Err(ErrorName::Conflict.with_message(format!(
            "the agent of ECS Exec is stopped in container {name} of task {id} ({reason}): its task role needs \
             ssmmessages:CreateControlChannel, CreateDataChannel, OpenControlChannel and OpenDataChannel, its subnet a \
             way to ssmmessages, and the container a root file system that can be written to; then run another task"
        )));
    }
    if task.last_status() != Some("RUNNING") || status != Some("RUNNING") {
        let status = status
            .or(task.last_status())
            .unwrap_or("of no known status")
            .to_lowercase();
        return Ok(Found::NotYet(format!(
            "container {name} of task {id} is {status}"
        )));
    }
    // Where ECS says nothing about an agent, it can only be tried.
    if agent_status.is_some_and(|status| status != "RUNNING") {
        return Ok(Found::NotYet(format!(
            "the agent of ECS Exec is starting in container {name} of task {id}"
        )));
    }
    Ok(Found::Ready(named(task, container)))
}

/// The container of a task, whether it can be spoken to or not.
///
/// # Errors
/// As [`wait`], where there is no such container.
pub fn find(task: &Task, wanted: Option<&str>) -> Result<Ready, StepError> {
    let id = name_of(task.task_arn().unwrap_or_default());
    choose(task.containers(), id, wanted).map(|container| named(task, container))
}

fn named(task: &Task, container: &Container) -> Ready {
    Ready {
        cluster: name_of(task.cluster_arn().unwrap_or_default()).into(),
        task: name_of(task.task_arn().unwrap_or_default()).into(),
        container: container.name().unwrap_or_default().into(),
        runtime_id: container.runtime_id().unwrap_or_default().into(),
    }
}

fn choose<'a>(
    containers: &'a [Container],
    task: &str,
    wanted: Option<&str>,
) -> Result<&'a Container, StepError> {
    let names = || {
        containers
            .iter()
            .filter_map(|one| one.name())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (wanted, containers) {
        (None, [only]) => Ok(only),
        (None, []) => Err(ErrorName::Conflict
            .with_message(format!("task {task} has no containers yet; try again"))),
        (None, _) => Err(ErrorName::InvalidInput.with_message(format!(
            "container: task {task} has several containers, so name one of {}",
            names()
        ))),
        (Some(wanted), _) => containers
            .iter()
            .find(|one| one.name() == Some(wanted))
            .ok_or_else(|| {
                ErrorName::NotFound.with_message(format!(
                    "task {task} has no container {wanted}; it has {}",
                    names()
                ))
            }),
    }
}

/// A random part of `most`, so that many who wait do not ask at once.
pub(super) fn jitter(most: Duration) -> Duration {
    let mut random = [0; 2];
    let part = getrandom::fill(&mut random)
        .map_or(1.0, |()| f64::from(u16::from_be_bytes(random)) / 65_536.0);
    most.mul_f64(part)
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
        let found = judge(&task("RUNNING", true, vec![app.clone()]), None).unwrap();
        let Found::Ready(ready) = found else {
            panic!("{found:?}")
        };
        assert_eq!(
            (ready.container.as_str(), ready.target().as_str()),
            ("app", "ecs:production_t-1_r-1")
        );
        let two = task(
            "RUNNING",
            true,
            vec![container("log", "STOPPED", None), app],
        );
        assert!(matches!(judge(&two, Some("app")), Ok(Found::Ready(_))));
        let untold = task("RUNNING", true, vec![container("app", "RUNNING", None)]);
        assert!(
            matches!(judge(&untold, None), Ok(Found::Ready(_))),
            "without a word about an agent it is tried"
        );
    }

    #[test]
    fn what_is_starting_is_waited_for() {
        for (task_status, status, agent, tells) in [
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
                "the agent of ECS Exec is starting",
            ),
        ] {
            let found = judge(
                &task(task_status, true, vec![container("app", status, agent)]),
                None,
            )
            .unwrap();
            let Found::NotYet(why) = found else {
                panic!("{found:?}")
            };
            assert!(why.contains(tells), "{why}");
        }
    }

    #[test]
    fn what_will_never_work_is_named() {
        let app = || vec![container("app", "RUNNING", Some("RUNNING"))];
        let both = || {
            vec![
                container("app", "RUNNING", None),
                container("log", "RUNNING", None),
            ]
        };
        for (task, wanted, name, tells) in [
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
                "name one of app, log",
            ),
            (
                task("RUNNING", true, both()),
                Some("web"),
                ErrorName::NotFound,
                "no container web; it has app, log",
            ),
            (
                task(
                    "RUNNING",
                    true,
                    vec![container("app", "RUNNING", Some("STOPPED"))],
                ),
                None,
                ErrorName::Conflict,
                "(no permission): its task role needs",
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
            let error = judge(&task, wanted).unwrap_err();
            assert_eq!(error.name, name, "{error}");
            assert!(error.message.contains(tells), "{error}");
        }
    }
}
