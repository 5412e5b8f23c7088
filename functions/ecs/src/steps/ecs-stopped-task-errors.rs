//! The step `ecs-stopped-task-errors`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::ecs_error;
use crate::{
    Meaning, StoppedContainer, check_cluster, check_failures, check_place, containers, is_name,
    meaning_of, name_of, service_of, task_arns,
};
use aws_sdk_ecs::Client;
use aws_sdk_ecs::primitives::{DateTime, DateTimeFormat};
use aws_sdk_ecs::types::{Container, DesiredStatus, Task, TaskStopCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::require;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Tasks that one `DescribeTasks` takes.
/// <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_DescribeTasks.html> (`tasks`)
const BATCH: usize = 100;

/// The exit code of a container that ended because it was asked to.
const SIGTERM: i32 = 143;

/// Show why tasks of an ECS cluster failed.
///
/// Each stopped task that failed comes back with its stop code and reason, its containers' exit
/// codes and reasons, and what AWS documents those to mean. ECS keeps stopped tasks for about an
/// hour: run the step within that time, or have EventBridge send ECS's task state changes to a log
/// group. The step changes nothing, and does not fail because it found failed tasks.
///
/// A task has failed when it never started (`TaskFailedToStart`); when the infrastructure under it
/// went away (`SpotInterruption`, `TerminationNotice`, `InfrastructureHealth`); when the service's
/// scheduler replaced it because of health checks; or when an essential container ended with an
/// exit code other than 0, or ended without one and ECS says why. A task that somebody stopped
/// (`UserInitiated`), that scaling or a deployment ended, or whose essential containers all ended
/// with 0 has not. When one essential container ends, ECS stops the others: where one has ended
/// with 0, another that ends with 143, because it was asked to stop, is no failure; with 137 it had
/// to be killed, and with any other code it failed.
///
/// Proven on the local cloud, where only tasks that somebody stopped exist, because it runs no
/// containers. Which tasks count as failed, and what their reasons mean, rests on unit tests made
/// from AWS's documentation.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoppedTaskErrors {
    /// The cluster's name or ARN.
    cluster: String,
    /// Only tasks of the service with this name. All tasks of the cluster when absent.
    service: Option<String>,
    /// Only tasks that stopped at this time or later, as in `2026-01-31T03:00:00Z` (RFC 3339). All
    /// that ECS still keeps, which is about an hour, when absent.
    since: Option<String>,
}

/// The failed tasks.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Failures {
    /// How many stopped tasks were looked at.
    stopped_tasks: usize,
    /// Those that failed, the latest first.
    failed_tasks: Vec<FailedTask>,
    /// The cluster's tasks in the AWS console.
    console_url: String,
}

/// A task that failed.
#[derive(Debug, JsonSchema, Serialize)]
struct FailedTask {
    /// The task's ARN.
    task_arn: String,
    /// Its task definition, as in `web:7`.
    task_definition: String,
    /// The service that it belonged to.
    service: Option<String>,
    /// When it stopped (RFC 3339); absent while it is still stopping.
    stopped_at: Option<String>,
    /// ECS's stop code.
    stop_code: Option<String>,
    /// ECS's reason.
    stopped_reason: Option<String>,
    /// What reason and stop code mean.
    meaning: Option<Meaning>,
    /// Its containers.
    containers: Vec<StoppedContainer>,
}

impl StoppedTaskErrors {
    fn since(&self) -> Result<Option<DateTime>, StepError> {
        let parse = |text: &String| DateTime::from_str(text, DateTimeFormat::DateTimeWithOffset);
        self.since.as_ref().map(parse).transpose().map_err(|error| {
            ErrorName::InvalidInput.with_message(format!(
                "since is not a time, as in 2026-01-31T03:00:00Z: {error}"
            ))
        })
    }

    /// The cluster's stopped tasks, in ECS's order. Those that ECS forgets in between are left out.
    async fn stopped(&self, ecs: &Client) -> Result<Vec<Task>, StepError> {
        let list = ecs
            .list_tasks()
            .cluster(&self.cluster)
            .set_service_name(self.service.clone());
        let mut pages = list
            .desired_status(DesiredStatus::Stopped)
            .into_paginator()
            .send();
        let mut arns = Vec::new();
        while let Some(page) = pages.next().await {
            arns.extend(page.map_err(ecs_error)?.task_arns.unwrap_or_default());
        }
        let mut tasks = Vec::new();
        for batch in arns.chunks(BATCH) {
            let answer = ecs
                .describe_tasks()
                .cluster(&self.cluster)
                .set_tasks(Some(batch.to_vec()))
                .send()
                .await
                .map_err(ecs_error)?;
            check_failures(answer.failures())?;
            tasks.extend(answer.tasks.unwrap_or_default());
        }
        Ok(tasks)
    }
}

/// Which containers of task definitions are essential, asked for once each.
#[derive(Default)]
struct Definitions(BTreeMap<String, Vec<String>>);

impl Definitions {
    /// Names of the containers that are not essential.
    async fn expendable(&mut self, ecs: &Client, definition: &str) -> Result<&[String], StepError> {
        if !self.0.contains_key(definition) {
            let answer = ecs
                .describe_task_definition()
                .task_definition(definition)
                .send()
                .await;
            let known = match answer.map_err(ecs_error) {
                Ok(answer) => answer.task_definition,
                // ECS's answer for a definition that was deleted: then every container counts.
                Err(error) if error.has_code("ClientException") => None,
                Err(error) => return Err(error),
            };
            let all = known
                .and_then(|definition| definition.container_definitions)
                .unwrap_or_default();
            let names = all
                .into_iter()
                .filter(|container| container.essential == Some(false));
            self.0.insert(
                definition.to_owned(),
                names.filter_map(|container| container.name).collect(),
            );
        }
        Ok(self.0.get(definition).map_or(&[], Vec::as_slice))
    }
}

async fn failed(
    ecs: &Client,
    task: &Task,
    definitions: &mut Definitions,
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
        // It stops tasks also when it scales in and deploys.
        Some(TaskStopCode::ServiceSchedulerInitiated) => {
            Ok(reason.contains("health check") || reason.contains("unhealthy"))
        }
        _ => {
            let bad: Vec<_> = task
                .containers()
                .iter()
                .filter(|container| ended_badly(container))
                .collect();
            if bad.is_empty() || bad.len() == task.containers().len() {
                return Ok(!bad.is_empty());
            }
            let definition = task.task_definition_arn().unwrap_or_default();
            let expendable = definitions.expendable(ecs, definition).await?;
            let is_essential = |container: &Container| {
                !expendable.iter().any(|name| container.name() == Some(name))
            };
            let mut essential = task
                .containers()
                .iter()
                .filter(|container| is_essential(container));
            // When one has done its work, ECS asks the others to stop.
            let is_over = essential.any(|container| container.exit_code() == Some(0));
            let asked_to_stop =
                |container: &Container| is_over && container.exit_code() == Some(SIGTERM);
            Ok(bad
                .iter()
                .any(|container| is_essential(container) && !asked_to_stop(container)))
        }
    }
}

fn ended_badly(container: &Container) -> bool {
    container
        .exit_code()
        .map_or(container.reason().is_some(), |code| code != 0)
}

fn stopped_at(task: &Task) -> Option<DateTime> {
    task.stopped_at.or(task.stopping_at)
}

fn described(task: &Task) -> FailedTask {
    let stop_code = task.stop_code().map(|code| code.as_str().to_owned());
    let words = format!(
        "{} {}",
        task.stopped_reason().unwrap_or_default(),
        stop_code.as_deref().unwrap_or_default()
    );
    FailedTask {
        task_arn: task.task_arn.clone().unwrap_or_default(),
        task_definition: name_of(task.task_definition_arn().unwrap_or_default()).into(),
        service: service_of(task).map(Into::into),
        stopped_at: task
            .stopped_at
            .and_then(|time| time.fmt(DateTimeFormat::DateTime).ok()),
        stop_code,
        stopped_reason: task.stopped_reason.clone(),
        meaning: meaning_of(&words),
        containers: containers(task),
    }
}

/// One line about a task: what, why, its containers, and what that means.
fn line(task: &FailedTask) -> String {
    let code = task.stop_code.as_deref().unwrap_or("no stop code");
    let reason = task
        .stopped_reason
        .as_deref()
        .unwrap_or("ECS gave no reason");
    let mut parts = vec![format!(
        "{} ({}): {code}: {reason}",
        name_of(&task.task_arn),
        task.task_definition
    )];
    parts.extend(task.containers.iter().map(
        |StoppedContainer {
             name,
             exit_code,
             reason,
             ..
         }| {
            let exit = exit_code.map_or("no exit code".into(), |code| format!("exit code {code}"));
            let reason = reason
                .as_ref()
                .map(|reason| format!(", {reason}"))
                .unwrap_or_default();
            format!("{name}: {exit}{reason}")
        },
    ));
    // What a container's end means says more than that one of them ended.
    let of_containers = task
        .containers
        .iter()
        .find_map(|container| container.meaning.as_ref());
    parts.extend(
        of_containers
            .or(task.meaning.as_ref())
            .map(|meaning| meaning.meaning.clone()),
    );
    parts.join("; ")
}

impl Step for StoppedTaskErrors {
    const NAME: &'static str = "ecs-stopped-task-errors";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-ecs-stopped-tasks",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "cluster": "production" }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "cluster": "production", "service": "web", "since": "2026-01-31T03:00:00Z" }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The account and Region have no such cluster, or the cluster no such service.",
        ),
        (
            ErrorName::StepFailed,
            "ECS could not describe a task; the message has its reason.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(5);
    type Output = Failures;

    fn validate(&self) -> Result<(), StepError> {
        check_cluster(&self.cluster)?;
        if let Some(service) = &self.service {
            require(is_name(service), || {
                format!("service: {service:?} is not a service's name")
            })?;
        }
        self.since().map(drop)
    }

    fn permissions(&self) -> Permissions {
        // For the list: https://github.com/awsdocs/amazon-ecs-developer-guide/issues/211. The
        // condition key ecs:cluster would have to hold a parameter, which the customer's role
        // cannot know.
        Permissions::default()
            .allow_on_all("TODO", &["ecs:ListTasks"],
                "AWS narrows this action to container instances, and checks a list of a whole cluster against `*`.",
            )
            .allow("TODO", &["ecs:DescribeTasks"], task_arns(&self.cluster, "*"))
            .allow("TODO", &["ecs:DescribeTaskDefinition"], ["*"])
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Failures>, StepError> {
        check_place(&ctx.place, "cluster", &self.cluster)?;
        let (ecs, since) = (ctx.client(Client::new), self.since()?);
        let mut tasks = self.stopped(&ecs).await?;
        // A task without a time is about to stop, which is later than any.
        tasks.retain(|task| {
            since.is_none_or(|since| stopped_at(task).is_none_or(|time| time >= since))
        });
        tasks.sort_by_key(|task| std::cmp::Reverse(stopped_at(task)));
        let (mut definitions, mut failed_tasks) = (Definitions::default(), Vec::new());
        for task in &tasks {
            if failed(&ecs, task, &mut definitions).await? {
                failed_tasks.push(described(task));
            }
        }
        // Imported jobs look for this line.
        ctx.log(format_args!(
            "Found {} failed ECS tasks",
            failed_tasks.len()
        ));
        for task in &failed_tasks {
            ctx.log(line(task));
        }
        let page = format!("ecs/v2/clusters/{}/tasks", name_of(&self.cluster));
        let console_url = ctx.console(&page, "");
        Ok(Progress::Done(Failures {
            stopped_tasks: tasks.len(),
            failed_tasks,
            console_url,
        }))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::operation::describe_task_definition::DescribeTaskDefinitionError;
    use aws_sdk_ecs::operation::describe_task_definition::DescribeTaskDefinitionOutput;
    use aws_sdk_ecs::operation::describe_tasks::DescribeTasksOutput;
    use aws_sdk_ecs::operation::list_tasks::{ListTasksError, ListTasksOutput};
    use aws_sdk_ecs::types::{ContainerDefinition, Failure, TaskDefinition};
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::model::permissions::ArnScope;
    use stepward::testing;
    use stepward_testkit::proof::prove;

    use super::*;

    const ARN: &str = "arn:aws:ecs:eu-west-1:222222222222";

    fn step(params: serde_json::Value) -> StoppedTaskErrors {
        serde_json::from_value(params).unwrap()
    }

    fn container(name: &str, exit_code: Option<i32>, reason: Option<&str>) -> Container {
        Container::builder()
            .name(name)
            .set_exit_code(exit_code)
            .set_reason(reason.map(Into::into))
            .build()
    }

    fn task(
        id: &str,
        code: TaskStopCode,
        reason: &str,
        containers: impl IntoIterator<Item = Container>,
    ) -> Task {
        Task::builder()
            .task_arn(format!("{ARN}:task/production/{id}"))
            .task_definition_arn(format!("{ARN}:task-definition/web:7"))
            .group("service:web")
            .stop_code(code)
            .stopped_reason(reason)
            .stopped_at(DateTime::from_secs(1_769_828_400))
            .set_containers(Some(containers.into_iter().collect()))
            .build()
    }

    fn listed(ids: &[&str], next_token: Option<&str>) -> ListTasksOutput {
        let arns = ids
            .iter()
            .map(|id| format!("{ARN}:task/production/{id}"))
            .collect();
        ListTasksOutput::builder()
            .set_task_arns(Some(arns))
            .set_next_token(next_token.map(Into::into))
            .build()
    }

    fn lists(ids: &'static [&'static str]) -> Rule {
        mock!(Client::list_tasks).then_output(move || listed(ids, None))
    }

    fn describes(tasks: Vec<Task>) -> Rule {
        mock!(Client::describe_tasks).then_output(move || {
            DescribeTasksOutput::builder()
                .set_tasks(Some(tasks.clone()))
                .build()
        })
    }

    /// A definition whose containers `app` and `sidecar` are essential, as those that say nothing
    /// are; `log` is not.
    fn defines() -> Rule {
        mock!(Client::describe_task_definition)
            .match_requests(|request| {
                request.task_definition() == Some(&format!("{ARN}:task-definition/web:7"))
            })
            .then_output(|| {
                let app = ContainerDefinition::builder().name("app").build();
                let sidecar = ContainerDefinition::builder()
                    .name("sidecar")
                    .essential(true)
                    .build();
                let log = ContainerDefinition::builder()
                    .name("log")
                    .essential(false)
                    .build();
                let containers = Some(vec![app, sidecar, log]);
                let definition = TaskDefinition::builder()
                    .set_container_definitions(containers)
                    .build();
                DescribeTaskDefinitionOutput::builder()
                    .task_definition(definition)
                    .build()
            })
    }

    fn context(rules: &[&Rule]) -> Context {
        testing::context(mock_client!(aws_sdk_ecs, RuleMode::MatchAny, rules))
    }

    async fn run(ctx: &Context, step: &StoppedTaskErrors) -> Failures {
        let Progress::Done(failures) = step.run(ctx, None).await.unwrap() else {
            panic!("not done")
        };
        failures
    }

    fn refused(code: &'static str) -> ListTasksError {
        ListTasksError::generic(ErrorMetadata::builder().code(code).message("no").build())
    }

    #[tokio::test]
    async fn done_shows_each_failed_task_with_its_reasons_and_what_they_mean() {
        let pages = |token: Option<&'static str>| {
            mock!(Client::list_tasks).match_requests(move |request| {
                request.cluster() == Some("production")
                    && request.service_name() == Some("web")
                    && request.desired_status() == Some(&DesiredStatus::Stopped)
                    && request.next_token() == token
            })
        };
        let first = pages(None).then_output(|| listed(&["t1", "t2"], Some("more")));
        let second = pages(Some("more")).then_output(|| listed(&["t3"], None));
        let describe = mock!(Client::describe_tasks)
            .match_requests(|request| {
                request.cluster() == Some("production") && request.tasks().len() == 3
            })
            .then_output(|| {
                let killed = container(
                    "app",
                    Some(137),
                    Some("OutOfMemoryError: Container killed due to memory usage"),
                );
                let exited = TaskStopCode::EssentialContainerExited;
                let pull = "CannotPullContainerError: pull access denied";
                DescribeTasksOutput::builder()
                    .tasks(task(
                        "t1",
                        exited,
                        "Essential container in task exited",
                        [killed],
                    ))
                    .tasks(task(
                        "t2",
                        TaskStopCode::TaskFailedToStart,
                        pull,
                        [container("app", None, None)],
                    ))
                    .tasks(task(
                        "t3",
                        TaskStopCode::UserInitiated,
                        "by hand",
                        [container("app", Some(143), None)],
                    ))
                    .build()
            });
        let ctx = context(&[&first, &second, &describe]);

        let failures = run(
            &ctx,
            &step(json!({ "cluster": "production", "service": "web" })),
        )
        .await;

        assert_eq!(failures.stopped_tasks, 3);
        let [killed, never_started] = &failures.failed_tasks[..] else {
            panic!("{failures:?}")
        };
        assert_eq!(
            killed.containers[0].meaning.as_ref().unwrap().sign,
            "OutOfMemory"
        );
        assert_eq!(
            (killed.service.as_deref(), killed.stopped_at.as_deref()),
            (Some("web"), Some("2026-01-31T03:00:00Z"))
        );
        let meaning = never_started.meaning.as_ref().unwrap();
        assert!(
            meaning.url.ends_with("task_cannot_pull_image.html"),
            "{meaning:?}"
        );
        let log = testing::log(&ctx);
        assert_eq!(
            (log.len(), log[0].as_str()),
            (3, "Found 2 failed ECS tasks")
        );
        let expected = "t1 (web:7): EssentialContainerExited: Essential container in task exited; app: exit code 137, \
                        OutOfMemoryError: Container killed due to memory usage; A container used more memory";
        assert!(log[1].starts_with(expected), "{}", log[1]);
        assert!(
            log[2].starts_with("t2 (web:7): TaskFailedToStart: CannotPullContainerError"),
            "{}",
            log[2]
        );
    }

    #[tokio::test]
    async fn done_with_nothing_stopped_says_so() {
        let ctx = context(&[&lists(&[])]);
        assert!(
            run(&ctx, &step(json!({ "cluster": "production" })))
                .await
                .failed_tasks
                .is_empty()
        );
        assert_eq!(testing::log(&ctx), ["Found 0 failed ECS tasks"]);
    }

    #[tokio::test]
    async fn done_describes_a_hundred_tasks_at_a_time() {
        let ids: &'static [&'static str] = &["t"; 101];
        let many = |count| {
            mock!(Client::describe_tasks)
                .match_requests(move |request| request.tasks().len() == count)
        };
        let describe = |count| many(count).then_output(|| DescribeTasksOutput::builder().build());
        let (hundred, one) = (describe(100), describe(1));
        run(
            &context(&[&lists(ids), &hundred, &one]),
            &step(json!({ "cluster": "production" })),
        )
        .await;
        assert_eq!((hundred.num_calls(), one.num_calls()), (1, 1));
    }

    #[tokio::test]
    async fn done_tells_failures_from_wishes() {
        let app = |code| container("app", code, None);
        let log = |code| container("log", Some(code), None);
        let sidecar = |code| container("sidecar", Some(code), None);
        for (code, reason, containers, expected) in [
            (
                TaskStopCode::EssentialContainerExited,
                "",
                vec![app(Some(1))],
                true,
            ),
            (
                TaskStopCode::EssentialContainerExited,
                "",
                vec![app(Some(0))],
                false,
            ),
            (
                TaskStopCode::EssentialContainerExited,
                "",
                vec![app(Some(1)), log(0)],
                true,
            ),
            (
                TaskStopCode::EssentialContainerExited,
                "",
                vec![app(Some(0)), log(137)],
                false,
            ),
            (
                TaskStopCode::EssentialContainerExited,
                "",
                vec![app(Some(0)), sidecar(143)],
                false,
            ),
            (
                TaskStopCode::EssentialContainerExited,
                "",
                vec![app(Some(0)), sidecar(137)],
                true,
            ),
            (
                TaskStopCode::EssentialContainerExited,
                "",
                vec![app(Some(0)), sidecar(143), sidecar(1)],
                true,
            ),
            (
                TaskStopCode::EssentialContainerExited,
                "",
                vec![app(Some(1)), sidecar(143), log(0)],
                true,
            ),
            // Nothing essential has done its work.
            (
                TaskStopCode::EssentialContainerExited,
                "",
                vec![sidecar(143), log(0)],
                true,
            ),
            (
                TaskStopCode::EssentialContainerExited,
                "",
                vec![container("app", None, Some("DockerTimeoutError"))],
                true,
            ),
            (TaskStopCode::UserInitiated, "", vec![app(Some(137))], false),
            (
                TaskStopCode::ServiceSchedulerInitiated,
                "Scaling activity initiated by (deployment x)",
                vec![app(Some(143))],
                false,
            ),
            (
                TaskStopCode::ServiceSchedulerInitiated,
                "Task failed ELB health checks in (target-group x)",
                vec![app(Some(0))],
                true,
            ),
            (
                TaskStopCode::ServiceSchedulerInitiated,
                "Task failed container health checks",
                vec![app(Some(0))],
                true,
            ),
            (TaskStopCode::TaskFailedToStart, "", vec![app(None)], true),
            (
                TaskStopCode::SpotInterruption,
                "Your Spot Task was interrupted.",
                vec![app(Some(0))],
                true,
            ),
            (
                TaskStopCode::TerminationNotice,
                "Host EC2 (instance i-0abc) terminated.",
                vec![app(None)],
                true,
            ),
            (
                TaskStopCode::InfrastructureHealth,
                "",
                vec![app(None)],
                true,
            ),
            (
                TaskStopCode::from("SomethingNew"),
                "",
                vec![app(Some(2))],
                true,
            ),
            (
                TaskStopCode::from("SomethingNew"),
                "",
                vec![app(Some(0))],
                false,
            ),
        ] {
            let said = format!("{code:?} {reason} {containers:?}");
            let ctx = context(&[
                &lists(&["t"]),
                &describes(vec![task("t", code, reason, containers)]),
                &defines(),
            ]);
            let failures = run(&ctx, &step(json!({ "cluster": "production" }))).await;
            assert_eq!(failures.failed_tasks.len() == 1, expected, "{said}");
        }
    }

    #[tokio::test]
    async fn done_asks_for_a_definition_once_and_counts_every_container_of_a_deleted_one() {
        let exited = || {
            let containers = [
                container("app", Some(0), None),
                container("log", Some(137), None),
            ];
            task("t", TaskStopCode::EssentialContainerExited, "", containers)
        };
        let known = defines();
        let ctx = context(&[
            &lists(&["t", "u"]),
            &describes(vec![exited(), exited()]),
            &known,
        ]);
        assert!(
            run(&ctx, &step(json!({ "cluster": "production" })))
                .await
                .failed_tasks
                .is_empty()
        );
        assert_eq!(known.num_calls(), 1);

        let deleted = mock!(Client::describe_task_definition).then_error(|| {
            let meta = ErrorMetadata::builder()
                .code("ClientException")
                .message("Unable to describe task definition.");
            DescribeTaskDefinitionError::generic(meta.build())
        });
        let ctx = context(&[&lists(&["t"]), &describes(vec![exited()]), &deleted]);
        assert_eq!(
            run(&ctx, &step(json!({ "cluster": "production" })))
                .await
                .failed_tasks
                .len(),
            1
        );
    }

    #[tokio::test]
    async fn done_leaves_out_what_stopped_before_since() {
        let spot = || vec![task("t", TaskStopCode::SpotInterruption, "", [])];
        for (since, found) in [
            ("2026-01-31T04:00:00+01:00", 1),
            ("2026-01-31T03:00:01Z", 0),
        ] {
            let ctx = context(&[&lists(&["t"]), &describes(spot())]);
            let failures = run(
                &ctx,
                &step(json!({ "cluster": "production", "since": since })),
            )
            .await;
            assert_eq!(
                (failures.stopped_tasks, failures.failed_tasks.len()),
                (found, found),
                "{since}"
            );
        }
    }

    // no proof of already: the step only reads.

    #[tokio::test]
    async fn not_found_is_a_cluster_or_service_that_does_not_exist() {
        for code in ["ClusterNotFoundException", "ServiceNotFoundException"] {
            let list = mock!(Client::list_tasks).then_error(move || refused(code));
            let error = step(json!({ "cluster": "production" }))
                .run(&context(&[&list]), None)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::NotFound, "{code}");
        }
    }

    #[tokio::test]
    async fn invalid_parameters_are_refused_before_any_call() {
        for params in [
            json!({ "cluster": "" }),
            json!({ "cluster": "*" }),
            json!({ "cluster": "production", "service": "web/api" }),
            json!({ "cluster": "production", "since": "yesterday" }),
            json!({ "cluster": "production", "since": "15" }),
        ] {
            assert_eq!(
                step(params.clone()).validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{params}"
            );
        }
        let elsewhere =
            step(json!({ "cluster": "arn:aws:ecs:us-east-1:222222222222:cluster/production" }));
        assert_eq!(
            elsewhere.run(&context(&[]), None).await.unwrap_err().name,
            ErrorName::InvalidInput
        );
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_lists_are_asked_for_again() {
        let list = mock!(Client::list_tasks)
            .sequence()
            .error(|| refused("ThrottlingException"))
            .output(|| listed(&[], None))
            .build();
        run(
            &context(&[&list]),
            &step(json!({ "cluster": "production" })),
        )
        .await;
        assert_eq!(list.num_calls(), 2);
    }

    // no proof of pending: one call reads everything.

    #[tokio::test]
    async fn failed_descriptions_give_ecss_reason_and_forgotten_tasks_are_left_out() {
        for (reason, fails) in [("MISSING", false), ("Internal failure", true)] {
            let describe = mock!(Client::describe_tasks).then_output(move || {
                let failure = Failure::builder()
                    .arn(format!("{ARN}:task/production/t"))
                    .reason(reason)
                    .build();
                DescribeTasksOutput::builder().failures(failure).build()
            });
            let ctx = context(&[&lists(&["t"]), &describe]);
            match step(json!({ "cluster": "production" }))
                .run(&ctx, None)
                .await
            {
                Ok(_) => assert!(!fails),
                Err(error) => {
                    assert_eq!((error.name, fails), (ErrorName::StepFailed, true));
                    assert!(
                        error.message.contains("task t: Internal failure"),
                        "{error}"
                    );
                }
            }
        }
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let idle = [(
            "ecs:DescribeTaskDefinition",
            "No container ends with an error there, because none runs.",
        )];
        prove::<StoppedTaskErrors>(&idle, async |scene| {
            let ecs = scene.client(Client::new);
            let (cluster, family) = (scene.name("cluster"), scene.name("web"));
            ecs.create_cluster()
                .cluster_name(&cluster)
                .send()
                .await
                .unwrap();
            let app = ContainerDefinition::builder()
                .name("app")
                .image("app")
                .memory(64)
                .build();
            ecs.register_task_definition()
                .family(&family)
                .container_definitions(app)
                .send()
                .await
                .unwrap();
            let started = ecs
                .run_task()
                .cluster(&cluster)
                .task_definition(&family)
                .send()
                .await
                .unwrap();
            let task = started.tasks()[0].task_arn().unwrap();
            ecs.stop_task()
                .cluster(&cluster)
                .task(task)
                .send()
                .await
                .unwrap();
            json!({ "cluster": cluster })
        });
    }

    #[test]
    fn the_session_can_describe_tasks_of_this_cluster_only() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        for cluster in ["production".to_owned(), format!("{ARN}:cluster/production")] {
            let policy = step(json!({ "cluster": cluster }))
                .permissions()
                .session_policy(&place)
                .unwrap();
            let expected =
                format!(r#""Action":["ecs:DescribeTasks"],"Resource":["{ARN}:task/production/*""#);
            assert!(policy.contains(&expected), "{policy}");
        }
    }
}
