//! The step `ecs-stopped-task-errors`.

use std::time::Duration;

use crate::error::ecs_error;
use crate::task_failure::{DefinitionCache, has_failed};
use crate::{
    Meaning, StoppedContainer, UndescribedTask, check_arn_scope, check_cluster, explain_reason,
    is_valid_name, resource_name, service_name, stopped_containers, task_arns, undescribed_tasks,
};
use aws_sdk_ecs::Client;
use aws_sdk_ecs::primitives::{DateTime, DateTimeFormat};
use aws_sdk_ecs::types::{DesiredStatus, Task};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::require;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The maximum number of tasks that one call of `DescribeTasks` accepts.
/// <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_DescribeTasks.html> (`tasks`)
const DESCRIBE_TASKS_LIMIT: usize = 100;

/// Show why tasks of an ECS cluster failed.
///
/// Use this step after a failed deployment, or when a service replaces its tasks again and again.
/// For each failed task it returns the stop code, the stopped reason, and the exit codes and
/// reasons of the containers. It adds a short explanation and a link to AWS's documentation.
///
/// ECS keeps stopped tasks for about an hour. Run the step within that time, or create an
/// EventBridge rule that sends ECS's task state changes to a log group.
///
/// # Behavior
///
/// The step changes nothing. Finding failed tasks does not make the step fail.
///
/// A task counts as failed in these cases:
///
/// - It never started (`TaskFailedToStart`).
/// - Its Spot capacity or instance ended or became unhealthy (`SpotInterruption`,
///   `TerminationNotice`, `InfrastructureHealth`).
/// - The service scheduler replaced it because of a failed health check.
/// - An essential container exited with a code other than 0, or ECS gives a reason but no exit code
///   for it.
/// - ECS gives no exit code for an essential container although the task has stopped, for example
///   because its instance was terminated. After another essential container exited with 0, a
///   container without exit code does not count: ECS stopped it before it started.
/// - ECS gives no stop code, and the stopped reason says that the instance was stopped or
///   terminated (`Host EC2 (…) terminated.`).
///
/// A task does not count as failed if a user stopped it (`UserInitiated`), if scaling or a
/// deployment stopped it, or if all its essential containers exited with 0.
///
/// When an essential container exits, ECS stops the other containers. After one essential container
/// exited with 0, the step therefore ignores the exit code 143 of the others: these containers
/// ended on the stop signal. Any other code except 0 is a failure. For example, 137 means that ECS
/// had to kill the container.
///
/// If ECS cannot describe some of the tasks, `undescribed_tasks` and the log name these with ECS's
/// reason, and the report contains the others.
///
/// # Cost
///
/// This step itself has no charge; AWS does not charge for calls of the ECS API.
///
/// # Limits
///
/// - ECS returns tasks that stopped within about the last hour.
///
/// # Proof
///
/// Proven on the local cloud, which runs no containers: its tasks stop only if a user stops them.
/// Only unit tests, which follow AWS's documentation, cover which tasks count as failed and how the
/// step explains reasons.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoppedTaskErrors {
    /// The name or ARN of the cluster.
    cluster: String,
    /// The name of a service, to include only its tasks. Default: all tasks of the cluster.
    service: Option<String>,
    /// Includes only tasks that stopped at this time or later, for example `2026-01-31T03:00:00Z`
    /// (RFC 3339). Default: all stopped tasks that ECS still keeps, from about the last hour.
    since: Option<String>,
}

/// The failed tasks.
#[derive(Debug, JsonSchema, Serialize)]
pub struct StoppedTaskReport {
    /// How many stopped tasks the step checked.
    stopped_tasks: usize,
    /// The failed tasks, the latest first.
    failed_tasks: Vec<FailedTask>,
    /// The stopped tasks that ECS could not describe. They may have failed.
    undescribed_tasks: Vec<UndescribedTask>,
    /// The tasks of the cluster in the AWS console.
    console_url: String,
}

/// A failed task.
#[derive(Debug, JsonSchema, Serialize)]
struct FailedTask {
    /// The task's ARN.
    task_arn: String,
    /// The task definition, for example `web:7`.
    task_definition: String,
    /// The service that the task belonged to.
    service: Option<String>,
    /// When the task stopped (RFC 3339). Null while it is still stopping.
    stopped_at: Option<String>,
    /// ECS's stop code.
    stop_code: Option<String>,
    /// ECS's stopped reason.
    stopped_reason: Option<String>,
    /// The explanation of the stopped reason or stop code.
    meaning: Option<Meaning>,
    /// The containers of the task.
    containers: Vec<StoppedContainer>,
}

impl StoppedTaskErrors {
    fn parse_since(&self) -> Result<Option<DateTime>, StepError> {
        let Some(since) = &self.since else {
            return Ok(None);
        };
        DateTime::from_str(since, DateTimeFormat::DateTimeWithOffset)
            .map(Some)
            .map_err(|error| {
                ErrorName::InvalidInput.with_message(format!(
                    "parameter \"since\": expected a time such as 2026-01-31T03:00:00Z, got \
                     {since:?} ({error})"
                ))
            })
    }

    /// Returns the stopped tasks of the cluster, in ECS's order, and those that ECS could not
    /// describe. Leaves out tasks that ECS deletes between the two calls.
    ///
    /// # Errors
    /// The error of ECS, or `StepFailed` if ECS could describe no task.
    async fn list_stopped_tasks(
        &self,
        ecs: &Client,
    ) -> Result<(Vec<Task>, Vec<UndescribedTask>), StepError> {
        let mut pages = ecs
            .list_tasks()
            .cluster(&self.cluster)
            .set_service_name(self.service.clone())
            .desired_status(DesiredStatus::Stopped)
            .into_paginator()
            .send();
        let mut task_arns = Vec::new();
        while let Some(page) = pages.next().await {
            task_arns.extend(page.map_err(ecs_error)?.task_arns.unwrap_or_default());
        }

        let (mut tasks, mut undescribed) = (Vec::new(), Vec::new());
        for batch in task_arns.chunks(DESCRIBE_TASKS_LIMIT) {
            let response = ecs
                .describe_tasks()
                .cluster(&self.cluster)
                .set_tasks(Some(batch.to_vec()))
                .send()
                .await
                .map_err(ecs_error)?;
            undescribed.extend(undescribed_tasks(response.failures()));
            tasks.extend(response.tasks.unwrap_or_default());
        }
        if tasks.is_empty() && !undescribed.is_empty() {
            return Err(undescribed.swap_remove(0).into());
        }
        Ok((tasks, undescribed))
    }
}

fn stop_time(task: &Task) -> Option<DateTime> {
    task.stopped_at.or(task.stopping_at)
}

fn failed_task(task: &Task) -> FailedTask {
    let stop_code = task.stop_code().map(|code| code.as_str().to_owned());
    let reason_and_code = format!(
        "{} {}",
        task.stopped_reason().unwrap_or_default(),
        stop_code.as_deref().unwrap_or_default()
    );
    FailedTask {
        task_arn: task.task_arn.clone().unwrap_or_default(),
        task_definition: resource_name(task.task_definition_arn().unwrap_or_default()).into(),
        service: service_name(task).map(Into::into),
        stopped_at: task
            .stopped_at
            .and_then(|time| time.fmt(DateTimeFormat::DateTime).ok()),
        stop_code,
        stopped_reason: task.stopped_reason.clone(),
        meaning: explain_reason(&reason_and_code),
        containers: stopped_containers(task),
    }
}

/// Returns a log line about a task: its stop code and reason, its containers, and an explanation.
fn log_line(task: &FailedTask) -> String {
    let code = task.stop_code.as_deref().unwrap_or("no stop code");
    let reason = task
        .stopped_reason
        .as_deref()
        .unwrap_or("ECS gave no reason");
    let mut parts = vec![format!(
        "{} ({}): {code}: {reason}",
        resource_name(&task.task_arn),
        task.task_definition
    )];

    for container in &task.containers {
        let exit = container
            .exit_code
            .map_or("no exit code".into(), |code| format!("exit code {code}"));
        let reason = container
            .reason
            .as_ref()
            .map(|reason| format!(", {reason}"))
            .unwrap_or_default();
        parts.push(format!("{}: {exit}{reason}", container.name));
    }

    // The explanation of a container says more than that of the task.
    let container_meaning = task
        .containers
        .iter()
        .find_map(|container| container.meaning.as_ref());
    let meaning = container_meaning.or(task.meaning.as_ref());
    parts.extend(meaning.map(|meaning| meaning.meaning.clone()));
    parts.join("; ")
}

impl Step for StoppedTaskErrors {
    const NAME: &'static str = "ecs-stopped-task-errors";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-ecs-stopped-tasks",
        fields: &[("clusterName", "cluster"), ("region", "region")],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Show the failed tasks of a cluster",
            parameters: r#"{ "cluster": "production" }"#,
            output: r#"{
        "stopped_tasks": 3,
        "failed_tasks": [
            {
                "task_arn":
              "arn:aws:ecs:eu-west-1:222222222222:task/production/0123456789abcdef0123456789abcdef",
                "task_definition": "web:7",
                "service": "web",
                "stopped_at": "2026-01-31T03:12:45Z",
                "stop_code": "EssentialContainerExited",
                "stopped_reason": "Essential container in task exited",
                "meaning": {
                    "sign": "EssentialContainerExited",
                    "meaning":
                        "A container that the task definition marks as essential exited, which stops the task. Check its exit code and log.",
                    "url":
              "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-errors.html"
                },
                "containers": [
                    {
                        "name": "app",
                        "exit_code": 137,
                        "reason": "OutOfMemoryError: Container killed due to memory usage",
                        "meaning": {
                            "sign": "OutOfMemory",
                            "meaning":
                                "A container used more memory than the task definition allows, and was killed. Raise the limit, or find the memory leak.",
                            "url":
                    "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/out-of-memory.html"
                        }
                    }
                ]
            }
        ],
        "undescribed_tasks": [],
        "console_url":
       "https://eu-west-1.console.aws.amazon.com/ecs/v2/clusters/production/tasks?region=eu-west-1#"
    }"#,
        },
        Example {
            title: "Check the tasks of one service since a deployment",
            parameters: r#"{
        "cluster": "production",
        "service": "web",
        "since": "2026-01-31T03:00:00Z"
    }"#,
            output: r#"{
        "stopped_tasks": 2,
        "failed_tasks": [],
        "undescribed_tasks": [],
        "console_url":
       "https://eu-west-1.console.aws.amazon.com/ecs/v2/clusters/production/tasks?region=eu-west-1#"
    }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The cluster does not exist in the account and Region, or the service does not exist \
             in the cluster. Correct the name.",
        ),
        (
            ErrorName::StepFailed,
            "ECS could describe none of the tasks. The message contains ECS's reason; run the step \
             again.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(5);
    type Output = StoppedTaskReport;

    fn validate(&self) -> Result<(), StepError> {
        check_cluster(&self.cluster)?;
        if let Some(service) = &self.service {
            require(is_valid_name(service), || {
                format!("parameter \"service\": expected a service name, got {service:?}")
            })?;
        }
        self.parse_since().map(drop)
    }

    fn permissions(&self) -> Permissions {
        // ListTasks: https://github.com/awsdocs/amazon-ecs-developer-guide/issues/211
        // The condition key ecs:cluster would need the value of a parameter, which the customer's
        // role does not know.
        Permissions::default()
            .allow_on_all(
                "list the stopped tasks",
                &["ecs:ListTasks"],
                "AWS requires `*` to list all tasks of a cluster.",
            )
            .allow(
                "get the stop codes, reasons and exit codes",
                &["ecs:DescribeTasks"],
                task_arns(&self.cluster, "*"),
            )
            .allow(
                "check which containers are essential",
                &["ecs:DescribeTaskDefinition"],
                ["*"],
            )
    }

    async fn run(
        &self,
        ctx: &Context,
        _: Option<Resume>,
    ) -> Result<Progress<StoppedTaskReport>, StepError> {
        check_arn_scope(&ctx.scope, "cluster", &self.cluster)?;
        let (ecs, since) = (ctx.client(Client::new), self.parse_since()?);
        let (mut tasks, undescribed_tasks) = self.list_stopped_tasks(&ecs).await?;
        // A task without a time is still stopping, which is later than any time.
        tasks.retain(|task| {
            since.is_none_or(|since| stop_time(task).is_none_or(|time| time >= since))
        });
        tasks.sort_by_key(|task| std::cmp::Reverse(stop_time(task)));

        let mut definitions = DefinitionCache::default();
        let mut failed_tasks = Vec::new();
        for task in &tasks {
            if has_failed(&ecs, task, &mut definitions).await? {
                failed_tasks.push(failed_task(task));
            }
        }

        // Jobs that were imported from Rundeck search the log for this line.
        ctx.log(format_args!(
            "Found {} failed ECS tasks",
            failed_tasks.len()
        ));
        for task in &failed_tasks {
            ctx.log(log_line(task));
        }
        for task in &undescribed_tasks {
            ctx.log(task);
        }

        let page = format!("ecs/v2/clusters/{}/tasks", resource_name(&self.cluster));
        Ok(Progress::Done(StoppedTaskReport {
            stopped_tasks: tasks.len(),
            failed_tasks,
            undescribed_tasks,
            console_url: ctx.console(&page, ""),
        }))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::operation::describe_task_definition::DescribeTaskDefinitionError;
    use aws_sdk_ecs::operation::describe_task_definition::DescribeTaskDefinitionOutput;
    use aws_sdk_ecs::operation::describe_tasks::DescribeTasksOutput;
    use aws_sdk_ecs::operation::list_tasks::{ListTasksError, ListTasksOutput};
    use aws_sdk_ecs::types::{
        Container, ContainerDefinition, Failure, TaskDefinition, TaskStopCode,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::model::permissions::ArnScope;
    use stepward::testing;
    use stepward_testkit::proof::prove_permissions;

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

    fn list_output(ids: &[&str], next_token: Option<&str>) -> ListTasksOutput {
        let arns = ids
            .iter()
            .map(|id| format!("{ARN}:task/production/{id}"))
            .collect();
        ListTasksOutput::builder()
            .set_task_arns(Some(arns))
            .set_next_token(next_token.map(Into::into))
            .build()
    }

    fn list_rule(ids: &'static [&'static str]) -> Rule {
        mock!(Client::list_tasks).then_output(move || list_output(ids, None))
    }

    fn describe_rule(tasks: Vec<Task>) -> Rule {
        mock!(Client::describe_tasks).then_output(move || {
            DescribeTasksOutput::builder()
                .set_tasks(Some(tasks.clone()))
                .build()
        })
    }

    /// A task definition with the essential containers `app` (by default) and `sidecar`, and the
    /// non-essential container `log`.
    fn definition_rule() -> Rule {
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

    async fn run_step(ctx: &Context, step: &StoppedTaskErrors) -> StoppedTaskReport {
        let Progress::Done(output) = step.run(ctx, None).await.unwrap() else {
            panic!("not done")
        };
        output
    }

    fn list_error(code: &'static str) -> ListTasksError {
        ListTasksError::generic(ErrorMetadata::builder().code(code).message("no").build())
    }

    #[tokio::test]
    async fn done_explains_each_failed_task() {
        let page_rule = |token: Option<&'static str>| {
            mock!(Client::list_tasks).match_requests(move |request| {
                request.cluster() == Some("production")
                    && request.service_name() == Some("web")
                    && request.desired_status() == Some(&DesiredStatus::Stopped)
                    && request.next_token() == token
            })
        };
        let first = page_rule(None).then_output(|| list_output(&["t1", "t2"], Some("more")));
        let second = page_rule(Some("more")).then_output(|| list_output(&["t3"], None));
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

        let output = run_step(
            &ctx,
            &step(json!({ "cluster": "production", "service": "web" })),
        )
        .await;

        assert_eq!(output.stopped_tasks, 3);
        let [killed, never_started] = &output.failed_tasks[..] else {
            panic!("{output:?}")
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
        let log = testing::log_lines(&ctx);
        assert_eq!(
            (log.len(), log[0].as_str()),
            (3, "Found 2 failed ECS tasks")
        );
        let expected = "t1 (web:7): EssentialContainerExited: Essential container in task exited; \
                        app: exit code 137, \
                        OutOfMemoryError: Container killed due to memory usage; \
                        A container used more memory";
        assert!(log[1].starts_with(expected), "{}", log[1]);
        assert!(
            log[2].starts_with("t2 (web:7): TaskFailedToStart: CannotPullContainerError"),
            "{}",
            log[2]
        );
    }

    #[tokio::test]
    async fn done_reports_zero_failed_tasks() {
        let ctx = context(&[&list_rule(&[])]);
        assert!(
            run_step(&ctx, &step(json!({ "cluster": "production" })))
                .await
                .failed_tasks
                .is_empty()
        );
        assert_eq!(testing::log_lines(&ctx), ["Found 0 failed ECS tasks"]);
    }

    #[tokio::test]
    async fn done_describes_a_hundred_tasks_at_a_time() {
        let ids: &'static [&'static str] = &["t"; 101];
        let describe_count = |count| {
            mock!(Client::describe_tasks)
                .match_requests(move |request| request.tasks().len() == count)
        };
        let describe =
            |count| describe_count(count).then_output(|| DescribeTasksOutput::builder().build());
        let (hundred, one) = (describe(100), describe(1));
        run_step(
            &context(&[&list_rule(ids), &hundred, &one]),
            &step(json!({ "cluster": "production" })),
        )
        .await;
        assert_eq!((hundred.num_calls(), one.num_calls()), (1, 1));
    }

    /// Returns whether the step reports a task with these values as failed.
    async fn is_reported(code: TaskStopCode, reason: &str, containers: Vec<Container>) -> bool {
        let ctx = context(&[
            &list_rule(&["t"]),
            &describe_rule(vec![task("t", code, reason, containers)]),
            &definition_rule(),
        ]);
        let output = run_step(&ctx, &step(json!({ "cluster": "production" }))).await;
        output.failed_tasks.len() == 1
    }

    #[tokio::test]
    async fn done_evaluates_the_exit_codes_of_essential_containers() {
        let app = |code| container("app", code, None);
        let log = |code| container("log", Some(code), None);
        let sidecar = |code| container("sidecar", Some(code), None);
        let timed_out = container("app", None, Some("DockerTimeoutError"));
        for (containers, expected) in [
            (vec![app(Some(1))], true),
            (vec![app(Some(0))], false),
            (vec![app(Some(1)), log(0)], true),
            (vec![app(Some(0)), log(137)], false),
            (vec![app(Some(0)), sidecar(143)], false),
            (vec![app(Some(0)), sidecar(137)], true),
            (vec![app(Some(0)), sidecar(143), sidecar(1)], true),
            (vec![app(Some(1)), sidecar(143), log(0)], true),
            // No essential container exited with 0.
            (vec![sidecar(143), log(0)], true),
            (vec![timed_out], true),
        ] {
            let description = format!("{containers:?}");
            let code = TaskStopCode::EssentialContainerExited;
            assert_eq!(
                is_reported(code, "", containers).await,
                expected,
                "{description}"
            );
        }
    }

    #[tokio::test]
    async fn done_distinguishes_failed_from_stopped_tasks() {
        let new_code = || TaskStopCode::from("SomethingNew");
        let scheduler = || TaskStopCode::ServiceSchedulerInitiated;
        let scaling = "Scaling activity initiated by (deployment x)";
        let elb = "Task failed ELB health checks in (target-group x)";
        let container_health = "Task failed container health checks";
        let spot = "Your Spot Task was interrupted.";
        let host = "Host EC2 (instance i-0abc) terminated.";
        for (code, reason, exit_code, expected) in [
            (TaskStopCode::UserInitiated, "", Some(137), false),
            (scheduler(), scaling, Some(143), false),
            (scheduler(), elb, Some(0), true),
            (scheduler(), container_health, Some(0), true),
            (TaskStopCode::TaskFailedToStart, "", None, true),
            (TaskStopCode::SpotInterruption, spot, Some(0), true),
            (TaskStopCode::TerminationNotice, host, None, true),
            (TaskStopCode::InfrastructureHealth, "", None, true),
            (new_code(), "", Some(2), true),
            (new_code(), "", Some(0), false),
        ] {
            let description = format!("{code:?} {reason} {exit_code:?}");
            let containers = vec![container("app", exit_code, None)];
            assert_eq!(
                is_reported(code, reason, containers).await,
                expected,
                "{description}"
            );
        }
    }

    #[tokio::test]
    async fn done_reports_tasks_that_ecs_could_not_describe() {
        let describe = mock!(Client::describe_tasks).then_output(|| {
            let failure = Failure::builder()
                .arn(format!("{ARN}:task/production/u"))
                .reason("Internal failure")
                .detail("try later");
            DescribeTasksOutput::builder()
                .tasks(task("t", TaskStopCode::SpotInterruption, "", []))
                .failures(failure.build())
                .build()
        });
        let ctx = context(&[&list_rule(&["t", "u"]), &describe]);
        let output = run_step(&ctx, &step(json!({ "cluster": "production" }))).await;
        assert_eq!((output.stopped_tasks, output.failed_tasks.len()), (1, 1));
        let [undescribed] = &output.undescribed_tasks[..] else {
            panic!("{output:?}")
        };
        assert_eq!(undescribed.task, "u");
        assert_eq!(undescribed.reason, "Internal failure: try later");
        let log = testing::log_lines(&ctx);
        let expected = "ECS could not describe task u: Internal failure: try later";
        assert_eq!(log.last().map(String::as_str), Some(expected));
    }

    #[tokio::test]
    async fn done_counts_tasks_without_any_code_as_failed() {
        let host = "Host EC2 (instance i-0abc) terminated.";
        let app = || container("app", None, None);
        let app_succeeded = || container("app", Some(0), None);
        let sidecar = || container("sidecar", None, None);
        let exited = "Essential container in task exited";
        for (reason, is_stopped, containers, expected) in [
            (host, true, vec![app()], true),
            (host, true, vec![], true),
            (host, true, vec![app(), sidecar()], true),
            ("", true, vec![app()], true),
            // ECS stopped the sidecar before it started.
            (exited, true, vec![app_succeeded(), sidecar()], false),
            // The task is still stopping, so the container can still exit with 0.
            (exited, false, vec![app()], false),
        ] {
            let description = format!("{reason} {is_stopped} {containers:?}");
            let stopped = task("t", TaskStopCode::UserInitiated, reason, containers);
            let without_code = Task::builder()
                .task_arn(stopped.task_arn().unwrap())
                .task_definition_arn(stopped.task_definition_arn().unwrap())
                .stopped_reason(reason)
                .set_stopped_at(stopped.stopped_at.filter(|_| is_stopped))
                .set_containers(stopped.containers)
                .build();
            let ctx = context(&[
                &list_rule(&["t"]),
                &describe_rule(vec![without_code]),
                &definition_rule(),
            ]);
            let output = run_step(&ctx, &step(json!({ "cluster": "production" }))).await;
            assert_eq!(output.failed_tasks.len() == 1, expected, "{description}");
        }
    }

    #[tokio::test]
    async fn done_describes_each_task_definition_once() {
        let exited = || {
            let containers = [
                container("app", Some(0), None),
                container("log", Some(137), None),
            ];
            task("t", TaskStopCode::EssentialContainerExited, "", containers)
        };
        let definition = definition_rule();
        let ctx = context(&[
            &list_rule(&["t", "u"]),
            &describe_rule(vec![exited(), exited()]),
            &definition,
        ]);
        assert!(
            run_step(&ctx, &step(json!({ "cluster": "production" })))
                .await
                .failed_tasks
                .is_empty()
        );
        assert_eq!(definition.num_calls(), 1);

        let deleted = mock!(Client::describe_task_definition).then_error(|| {
            let meta = ErrorMetadata::builder()
                .code("ClientException")
                .message("Unable to describe task definition.");
            DescribeTaskDefinitionError::generic(meta.build())
        });
        let ctx = context(&[&list_rule(&["t"]), &describe_rule(vec![exited()]), &deleted]);
        assert_eq!(
            run_step(&ctx, &step(json!({ "cluster": "production" })))
                .await
                .failed_tasks
                .len(),
            1
        );
    }

    #[tokio::test]
    async fn done_leaves_out_tasks_stopped_before_since() {
        let spot_tasks = || vec![task("t", TaskStopCode::SpotInterruption, "", [])];
        for (since, expected) in [
            ("2026-01-31T04:00:00+01:00", 1),
            ("2026-01-31T03:00:01Z", 0),
        ] {
            let ctx = context(&[&list_rule(&["t"]), &describe_rule(spot_tasks())]);
            let output = run_step(
                &ctx,
                &step(json!({ "cluster": "production", "since": since })),
            )
            .await;
            assert_eq!(
                (output.stopped_tasks, output.failed_tasks.len()),
                (expected, expected),
                "{since}"
            );
        }
    }

    // no proof of already: the step only reads.

    #[tokio::test]
    async fn not_found_for_a_missing_cluster_or_service() {
        for code in ["ClusterNotFoundException", "ServiceNotFoundException"] {
            let list = mock!(Client::list_tasks).then_error(move || list_error(code));
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
        let other_region =
            step(json!({ "cluster": "arn:aws:ecs:us-east-1:222222222222:cluster/production" }));
        assert_eq!(
            other_region
                .run(&context(&[]), None)
                .await
                .unwrap_err()
                .name,
            ErrorName::InvalidInput
        );
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_retried() {
        let list = mock!(Client::list_tasks)
            .sequence()
            .error(|| list_error("ThrottlingException"))
            .output(|| list_output(&[], None))
            .build();
        run_step(
            &context(&[&list]),
            &step(json!({ "cluster": "production" })),
        )
        .await;
        assert_eq!(list.num_calls(), 2);
    }

    // no proof of pending: the step finishes in one call.

    #[tokio::test]
    async fn failed_descriptions_are_reported_and_deleted_tasks_skipped() {
        for (reason, fails) in [("MISSING", false), ("Internal failure", true)] {
            let describe = mock!(Client::describe_tasks).then_output(move || {
                let failure = Failure::builder()
                    .arn(format!("{ARN}:task/production/t"))
                    .reason(reason)
                    .build();
                DescribeTasksOutput::builder().failures(failure).build()
            });
            let ctx = context(&[&list_rule(&["t"]), &describe]);
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
    fn permissions_match_those_that_the_local_cloud_checks() {
        let unchecked = [(
            "ecs:DescribeTaskDefinition",
            "The local cloud runs no containers, so none exits with an error.",
        )];
        prove_permissions::<StoppedTaskErrors>(&unchecked, async |scene| {
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
    fn the_role_session_is_limited_to_this_cluster() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        for cluster in ["production".to_owned(), format!("{ARN}:cluster/production")] {
            let policy = step(json!({ "cluster": cluster }))
                .permissions()
                .session_policy(&scope)
                .unwrap();
            let expected =
                format!(r#""Action":["ecs:DescribeTasks"],"Resource":["{ARN}:task/production/*""#);
            assert!(policy.contains(&expected), "{policy}");
        }
    }
}
