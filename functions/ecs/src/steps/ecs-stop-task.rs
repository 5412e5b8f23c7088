//! The step `ecs-stop-task`.

use std::time::Duration;

use crate::error::ecs_error;
use crate::{
    StoppedContainer, check_arn_scope, check_cluster, check_failures, check_task, resource_name,
    service_name, stopped_containers, task_arns,
};
use aws_sdk_ecs::Client;
use aws_sdk_ecs::types::Task;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::require;
use stepward::model::permissions::literal;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The first interval between two polls. Most tasks stop within 30 seconds, the default stop
/// timeout of containers.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The limit that AWS once documented for `reason`. The current API model has no limit.
const MAX_REASON_CHARACTERS: usize = 255;

/// Stop an ECS task and wait until it has stopped.
///
/// Use this step to end a task that hangs, or a batch task that is no longer needed. If the task
/// belongs to a service, the service scheduler starts another task in its place. To run fewer
/// tasks, lower the desired count of the service instead.
///
/// # Behavior
///
/// 1. The step stops the task with your reason. A task that has already stopped is a success. If
///    the task is already stopping, the step only waits.
/// 2. Behind a load balancer, the task first leaves its target group. This takes up to the
///    deregistration delay of the target group: 5 minutes by default, at most an hour.
/// 3. Each container receives the stop signal of its image, SIGTERM by default. ECS kills a
///    container that has not exited after its stop timeout: 30 seconds by default, at most 2
///    minutes on Fargate.
/// 4. The step polls the task until it has stopped, first every 5 seconds, later at intervals of up
///    to about 4 minutes.
///
/// A retry does not stop the task a second time. You cannot undo it: if the job is stopped, the
/// task still stops.
///
/// # Failures
///
/// ECS deletes a task about an hour after it stopped. After that, the step fails with `NotFound`.
///
/// # Cost
///
/// This step itself has no charge; AWS stops charging for the task once it has stopped.
///
/// # Limits
///
/// - The step waits up to 75 minutes.
/// - The reason has 1 to 255 characters.
///
/// # Proof
///
/// Proven on the local cloud, where a task stops immediately. Only unit tests with fake responses
/// show the waiting.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopTask {
    /// The name or ARN of the cluster that runs the task.
    cluster: String,
    /// The ID or ARN of the task.
    task: String,
    /// Why the task is stopped, 1 to 255 characters. ECS shows it as the task's stopped reason.
    reason: String,
}

/// The stopped task.
#[derive(Debug, JsonSchema, Serialize)]
pub struct StoppedTask {
    /// The task's ARN.
    task_arn: String,
    /// Whether the task had stopped, or was stopping, before this step.
    was_stopping: bool,
    /// The task definition, for example `web:7`.
    task_definition: String,
    /// The service that the task belonged to. Its scheduler starts another task.
    service: Option<String>,
    /// ECS's stop code: `UserInitiated` if this step or another call of `StopTask` stopped the
    /// task.
    stop_code: Option<String>,
    /// The reason that ECS recorded: the parameter `reason`, unless the task was already stopping.
    stopped_reason: Option<String>,
    /// The containers of the task.
    containers: Vec<StoppedContainer>,
    /// The task in the AWS console. ECS deletes it after about an hour.
    console_url: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct StopState {
    was_stopping: bool,
}

impl StopTask {
    async fn describe_task(&self, ecs: &Client) -> Result<Task, StepError> {
        let response = ecs
            .describe_tasks()
            .cluster(&self.cluster)
            .tasks(&self.task)
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
                    "task \"{}\" does not exist in cluster \"{}\"; ECS deletes a task about an \
                     hour after it stopped, so check whether it has already stopped",
                    resource_name(&self.task),
                    resource_name(&self.cluster)
                ))
            })
    }

    fn output(&self, ctx: &Context, task: &Task, was_stopping: bool) -> StoppedTask {
        let page = format!(
            "ecs/v2/clusters/{}/tasks/{}",
            resource_name(&self.cluster),
            resource_name(&self.task)
        );
        StoppedTask {
            task_arn: task.task_arn.clone().unwrap_or_default(),
            was_stopping,
            task_definition: resource_name(task.task_definition_arn().unwrap_or_default()).into(),
            service: service_name(task).map(Into::into),
            stop_code: task.stop_code().map(|code| code.as_str().to_owned()),
            stopped_reason: task.stopped_reason.clone(),
            containers: stopped_containers(task),
            console_url: ctx.console(&page, ""),
        }
    }
}

impl Step for StopTask {
    const NAME: &'static str = "ecs-stop-task";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "Stop a task of a service that hangs",
        parameters: r#"{
        "cluster": "production",
        "task": "0123456789abcdef0123456789abcdef",
        "reason": "stuck since the deployment of 31 January"
    }"#,
        output: r#"{
        "task_arn":
            "arn:aws:ecs:eu-west-1:222222222222:task/production/0123456789abcdef0123456789abcdef",
        "was_stopping": false,
        "task_definition": "web:7",
        "service": "web",
        "stop_code": "UserInitiated",
        "stopped_reason": "stuck since the deployment of 31 January",
        "containers": [
            {
                "name": "app",
                "exit_code": 143,
                "reason": null,
                "meaning": {
                    "sign": "exit code 143",
                    "meaning": "The container received the stop signal (SIGTERM) and stopped.",
                    "url": "https://repost.aws/knowledge-center/ecs-task-stopped"
                }
            }
        ],
        "console_url":
            "https://eu-west-1.console.aws.amazon.com/ecs/v2/clusters/production/tasks/0123456789abcdef0123456789abcdef?region=eu-west-1#"
    }"#,
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The cluster does not exist, or does not contain the task. ECS deletes a task about an \
             hour after it stopped.",
        ),
        (
            ErrorName::StepFailed,
            "ECS could not describe the task. The message contains ECS's reason; run the step \
             again.",
        ),
        (
            ErrorName::TimedOut,
            "The task is still stopping. Run the step again to continue waiting.",
        ),
    ];
    // A target group may take up to an hour to deregister the task.
    // https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html
    const TIMEOUT: Duration = Duration::from_mins(75);
    type Output = StoppedTask;

    fn validate(&self) -> Result<(), StepError> {
        check_cluster(&self.cluster)?;
        check_task(&self.cluster, &self.task)?;

        let length = self.reason.chars().count();
        require(
            !self.reason.trim().is_empty() && length <= MAX_REASON_CHARACTERS,
            || {
                format!(
                    "parameter \"reason\": expected 1 to {MAX_REASON_CHARACTERS} characters that \
                     are not all spaces, got {length}"
                )
            },
        )
    }

    fn permissions(&self) -> Permissions {
        let task = literal(resource_name(&self.task));
        Permissions::default()
            .allow(
                "find the task and poll its state",
                &["ecs:DescribeTasks"],
                task_arns(&self.cluster, &task),
            )
            .allow(
                "stop the task",
                &["ecs:StopTask"],
                task_arns(&self.cluster, &task),
            )
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<StoppedTask>, StepError> {
        check_arn_scope(&ctx.scope, "cluster", &self.cluster)?;
        check_arn_scope(&ctx.scope, "task", &self.task)?;
        let ecs = ctx.client(Client::new);
        let poll_interval = Resume::poll_interval(resume.as_ref(), POLL_INTERVAL);
        let mut task = self.describe_task(&ecs).await?;
        let id = resource_name(&self.task);

        let state = if let Some(resume) = resume {
            resume.state::<StopState>()?
        } else {
            let was_stopping = task.desired_status() == Some("STOPPED");
            if was_stopping {
                ctx.log(format_args!(
                    "ECS task {id} has already stopped or is stopping"
                ));
            } else {
                let request = ecs
                    .stop_task()
                    .cluster(&self.cluster)
                    .task(&self.task)
                    .reason(&self.reason);
                if let Some(stopping_task) = request.send().await.map_err(ecs_error)?.task {
                    task = stopping_task;
                }
                ctx.log(format_args!("Stopping ECS task {id}: {}", self.reason));
                if let Some(service) = service_name(&task) {
                    ctx.log(format_args!(
                        "The task belongs to service {service}, which starts another task in its \
                         place"
                    ));
                }
            }
            StopState { was_stopping }
        };

        let status = task.last_status().unwrap_or("STOPPING");
        if status == "STOPPED" {
            ctx.log(format_args!("ECS task {id} has stopped"));
            return Ok(Progress::Done(self.output(ctx, &task, state.was_stopping)));
        }
        Progress::pending(
            &state,
            poll_interval,
            format!("task {id} is {}", status.to_lowercase()),
        )
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::operation::describe_tasks::{DescribeTasksError, DescribeTasksOutput};
    use aws_sdk_ecs::operation::stop_task::{StopTaskError, StopTaskOutput};
    use aws_sdk_ecs::types::{Container, ContainerDefinition, Failure, TaskStopCode};
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::model::permissions::ArnScope;
    use stepward::testing;
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";
    const ARN: &str = "arn:aws:ecs:eu-west-1:222222222222";

    fn step() -> StopTask {
        StopTask {
            cluster: "production".into(),
            task: ID.into(),
            reason: "stuck".into(),
        }
    }

    fn task(desired_status: &str, last_status: &str) -> Task {
        Task::builder()
            .task_arn(format!("{ARN}:task/production/{ID}"))
            .task_definition_arn(format!("{ARN}:task-definition/web:7"))
            .group("service:web")
            .desired_status(desired_status)
            .last_status(last_status)
            .build()
    }

    fn stopped_task() -> Task {
        let mut task = task("STOPPED", "STOPPED");
        task.stop_code = Some(TaskStopCode::UserInitiated);
        task.stopped_reason = Some("stuck".into());
        task.containers = Some(vec![
            Container::builder().name("app").exit_code(143).build(),
        ]);
        task
    }

    fn describe_output(task: Task) -> DescribeTasksOutput {
        DescribeTasksOutput::builder().tasks(task).build()
    }

    fn stop_rule() -> Rule {
        mock!(Client::stop_task)
            .match_requests(|request| {
                (request.cluster(), request.task(), request.reason())
                    == (Some("production"), Some(ID), Some("stuck"))
            })
            .then_output(|| {
                StopTaskOutput::builder()
                    .task(task("STOPPED", "RUNNING"))
                    .build()
            })
    }

    fn context(rules: &[&Rule]) -> Context {
        testing::context(mock_client!(aws_sdk_ecs, RuleMode::MatchAny, rules))
    }

    /// Checks a pending result, and returns what the state machine passes to the next call.
    fn expect_pending(result: Progress<StoppedTask>, expected: &str) -> Resume {
        let Progress::Pending {
            state, progress, ..
        } = result
        else {
            panic!("not pending: {result:?}")
        };
        assert_eq!(progress, expected);
        stepward::testing::resume_from(&state)
    }

    #[tokio::test]
    async fn done_stops_the_task_with_the_reason() {
        let describe = mock!(Client::describe_tasks)
            .match_requests(|request| {
                request.cluster() == Some("production") && request.tasks() == [ID]
            })
            .then_output(|| describe_output(task("RUNNING", "RUNNING")));
        // On the local cloud, the task has stopped when the call returns.
        let stop = mock!(Client::stop_task)
            .then_output(|| StopTaskOutput::builder().task(stopped_task()).build());
        let ctx = context(&[&describe, &stop]);
        let Progress::Done(output) = step().run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };
        assert!(!output.was_stopping);
        assert_eq!(
            (output.stopped_reason.as_deref(), output.service.as_deref()),
            (Some("stuck"), Some("web"))
        );
        assert_eq!(output.containers[0].exit_code, Some(143));
        let log = testing::log_lines(&ctx);
        assert!(
            log[1].contains("service web, which starts another task in its place"),
            "{log:?}"
        );
    }

    #[tokio::test]
    async fn already_stopped_or_stopping_tasks_get_no_second_stop() {
        let describe =
            mock!(Client::describe_tasks).then_output(|| describe_output(stopped_task()));
        let Progress::Done(output) = step().run(&context(&[&describe]), None).await.unwrap() else {
            panic!("not done")
        };
        assert!(output.was_stopping);

        let describe = mock!(Client::describe_tasks)
            .then_output(|| describe_output(task("STOPPED", "DEACTIVATING")));
        let result = step().run(&context(&[&describe]), None).await.unwrap();
        expect_pending(result, &format!("task {ID} is deactivating"));
    }

    #[tokio::test]
    async fn not_found_for_a_deleted_task_or_missing_cluster() {
        let no_task = mock!(Client::describe_tasks).then_output(|| {
            let failure = Failure::builder()
                .arn(format!("{ARN}:task/production/{ID}"))
                .reason("MISSING")
                .build();
            DescribeTasksOutput::builder().failures(failure).build()
        });
        let error = step().run(&context(&[&no_task]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(
            error.message.contains("about an hour after it stopped"),
            "{error}"
        );

        let no_cluster = mock!(Client::describe_tasks).then_error(|| {
            DescribeTasksError::generic(
                ErrorMetadata::builder()
                    .code("ClusterNotFoundException")
                    .build(),
            )
        });
        assert_eq!(
            step()
                .run(&context(&[&no_cluster]), None)
                .await
                .unwrap_err()
                .name,
            ErrorName::NotFound
        );
    }

    #[tokio::test]
    async fn invalid_parameters_are_refused_before_any_call() {
        step().validate().unwrap();
        StopTask {
            task: format!("{ARN}:task/production/{ID}"),
            ..step()
        }
        .validate()
        .unwrap();
        StopTask {
            cluster: format!("{ARN}:cluster/production"),
            ..step()
        }
        .validate()
        .unwrap();
        for invalid in [
            StopTask {
                cluster: "a/b".into(),
                ..step()
            },
            StopTask {
                task: "*".into(),
                ..step()
            },
            StopTask {
                task: format!("task/{ID}"),
                ..step()
            },
            StopTask {
                task: format!("{ARN}:task/test/{ID}"),
                ..step()
            },
            StopTask {
                task: format!("{ARN}:task/{ID}"),
                ..step()
            },
            StopTask {
                reason: " ".into(),
                ..step()
            },
            StopTask {
                reason: "x".repeat(256),
                ..step()
            },
        ] {
            assert_eq!(
                invalid.validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{invalid:?}"
            );
        }
        let task = format!("arn:aws:ecs:us-east-1:222222222222:task/production/{ID}");
        let error = StopTask { task, ..step() }
            .run(&context(&[]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_retried() {
        let describe = mock!(Client::describe_tasks)
            .then_output(|| describe_output(task("RUNNING", "RUNNING")));
        let stop = mock!(Client::stop_task)
            .sequence()
            .error(|| {
                StopTaskError::generic(ErrorMetadata::builder().code("ThrottlingException").build())
            })
            .output(|| StopTaskOutput::builder().task(stopped_task()).build())
            .build();
        let result = step()
            .run(&context(&[&describe, &stop]), None)
            .await
            .unwrap();
        assert!(matches!(result, Progress::Done(_)));
        assert_eq!(stop.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_until_stopped_with_one_stop_call() {
        let describe = mock!(Client::describe_tasks)
            .sequence()
            .output(|| describe_output(task("RUNNING", "RUNNING")))
            .output(|| describe_output(task("STOPPED", "DEPROVISIONING")))
            .output(|| describe_output(stopped_task()))
            .build();
        let stop = stop_rule();
        let ctx = context(&[&describe, &stop]);
        let resume = expect_pending(
            step().run(&ctx, None).await.unwrap(),
            &format!("task {ID} is running"),
        );
        let resume = expect_pending(
            step().run(&ctx, Some(resume)).await.unwrap(),
            &format!("task {ID} is deprovisioning"),
        );
        let Progress::Done(output) = step().run(&ctx, Some(resume)).await.unwrap() else {
            panic!("not done")
        };
        assert!(!output.was_stopping);
        assert_eq!(stop.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_polls_become_less_frequent() {
        let describe = mock!(Client::describe_tasks)
            .then_output(|| describe_output(task("STOPPED", "RUNNING")));
        let (ctx, mut resume) = (context(&[&describe]), None);
        for expected in [POLL_INTERVAL, Duration::from_mins(5)] {
            let (mut next, retry_after, _) =
                testing::expect_pending(step().run(&ctx, resume).await);
            assert_eq!(retry_after, expected);
            next.since = 0;
            resume = Some(next);
        }
    }

    #[tokio::test]
    async fn pending_again_after_a_lost_result() {
        let describe = mock!(Client::describe_tasks)
            .then_output(|| describe_output(task("STOPPED", "RUNNING")));
        let stop = stop_rule();
        expect_pending(
            step()
                .run(&context(&[&describe, &stop]), None)
                .await
                .unwrap(),
            &format!("task {ID} is running"),
        );
        assert_eq!(stop.num_calls(), 0);
    }

    #[tokio::test]
    async fn failed_descriptions_contain_the_reason_of_ecs() {
        let describe = mock!(Client::describe_tasks).then_output(|| {
            let failure = Failure::builder()
                .reason("Internal failure")
                .detail("try later")
                .build();
            DescribeTasksOutput::builder().failures(failure).build()
        });
        let error = step().run(&context(&[&describe]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.contains("Internal failure: try later"),
            "{error}"
        );
    }

    #[test]
    fn permissions_match_those_that_the_local_cloud_checks() {
        prove_permissions::<StopTask>(&[], async |scene| {
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
            json!({ "cluster": cluster, "task": started.tasks()[0].task_arn(), "reason": "stuck" })
        });
    }

    #[test]
    fn the_role_session_is_limited_to_this_task() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let task = format!("{ARN}:task/production/{ID}");
        for step in [
            step(),
            StopTask {
                task: task.clone(),
                ..step()
            },
        ] {
            let policy = step.permissions().session_policy(&scope).unwrap();
            assert!(
                policy.contains(&format!(
                    r#""Resource":["{task}","{ARN}:cluster/production"]"#
                )),
                "{policy}"
            );
        }
    }
}
