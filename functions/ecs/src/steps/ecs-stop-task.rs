//! The step `ecs-stop-task`.

use std::time::Duration;

use crate::error::ecs_error;
use crate::{
    StoppedContainer, check_cluster, check_failures, check_place, check_task, containers, name_of,
    service_of, task_arns,
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

/// Between two looks at the task, at first. Most stop within the 30 seconds that containers have by
/// default.
const POLL: Duration = Duration::from_secs(5);
/// What AWS took in `reason` when it still documented a limit; the API's model has none now.
const REASON_LIMIT: usize = 255;

/// Stop an ECS task and finish once it is stopped.
///
/// Containers get the stop signal of their image (SIGTERM by default), and are killed when they
/// have not ended after their stop timeout: 30 seconds by default, up to 2 minutes on Fargate.
/// Behind a load balancer the task first leaves its target group, which can take as long as the
/// group's deregistration delay (5 minutes by default, up to an hour). The step looks every 5
/// seconds at first, later up to some 4 minutes apart.
///
/// A task of a service is replaced: the service's scheduler starts another as soon as this one
/// goes. To have fewer tasks, lower the service's desired count instead.
///
/// A task that is stopped already is success, and one that is stopping is waited for. ECS forgets a
/// task about an hour after it stopped; from then on it is `NotFound`. Stopping cannot be taken
/// back: when the job is stopped, the task stops all the same.
///
/// Proven on the local cloud, where tasks stop at once; waiting rests on unit tests of what is
/// sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopTask {
    /// The name or ARN of the cluster that the task runs in.
    cluster: String,
    /// The task's ID or ARN.
    task: String,
    /// Why, 1 to 255 characters; shown with the task as its stopped reason.
    reason: String,
}

/// A stopped task.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Outcome {
    /// The task's ARN.
    task_arn: String,
    /// Whether it was stopped, or stopping, before this step.
    was_stopping: bool,
    /// Its task definition, as in `web:7`.
    task_definition: String,
    /// The service that it belonged to, whose scheduler starts another task in its place.
    service: Option<String>,
    /// ECS's stop code: `UserInitiated` when this step, or another call of `StopTask`, stopped it.
    stop_code: Option<String>,
    /// The reason that ECS keeps: the given one, unless it was stopping before.
    stopped_reason: Option<String>,
    /// Its containers.
    containers: Vec<StoppedContainer>,
    /// The task in the AWS console, for about an hour.
    console_url: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct Asked {
    was_stopping: bool,
}

impl StopTask {
    async fn look(&self, ecs: &Client) -> Result<Task, StepError> {
        let answer = ecs
            .describe_tasks()
            .cluster(&self.cluster)
            .tasks(&self.task)
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
                    name_of(&self.cluster),
                    name_of(&self.task)
                ))
            })
    }

    fn stopped(&self, ctx: &Context, task: &Task, was_stopping: bool) -> Outcome {
        let page = format!(
            "ecs/v2/clusters/{}/tasks/{}",
            name_of(&self.cluster),
            name_of(&self.task)
        );
        Outcome {
            task_arn: task.task_arn.clone().unwrap_or_default(),
            was_stopping,
            task_definition: name_of(task.task_definition_arn().unwrap_or_default()).into(),
            service: service_of(task).map(Into::into),
            stop_code: task.stop_code().map(|code| code.as_str().to_owned()),
            stopped_reason: task.stopped_reason.clone(),
            containers: containers(task),
            console_url: ctx.console(&page, ""),
        }
    }
}

impl Step for StopTask {
    const NAME: &'static str = "ecs-stop-task";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "TODO",
        parameters: r#"{
        "cluster": "production",
        "task": "0123456789abcdef0123456789abcdef",
        "reason": "stuck since the deployment of 31 January"
    }"#,
        output: "null",
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "There is no such cluster, or no such task in it; ECS forgets stopped ones.",
        ),
        (
            ErrorName::StepFailed,
            "ECS could not describe the task; the message has its reason.",
        ),
        (
            ErrorName::TimedOut,
            "The task is still stopping; run the step again to go on waiting.",
        ),
    ];
    // A target group may take an hour to let go of the task.
    // https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html
    const TIMEOUT: Duration = Duration::from_mins(75);
    type Output = Outcome;

    fn validate(&self) -> Result<(), StepError> {
        check_cluster(&self.cluster)?;
        check_task(&self.cluster, &self.task)?;
        let length = self.reason.chars().count();
        require(
            !self.reason.trim().is_empty() && length <= REASON_LIMIT,
            || format!("reason must have 1 to {REASON_LIMIT} characters, not {length}"),
        )
    }

    fn permissions(&self) -> Permissions {
        let task = literal(name_of(&self.task));
        Permissions::default().allow(
            "TODO",
            &["ecs:DescribeTasks", "ecs:StopTask"],
            task_arns(&self.cluster, &task),
        )
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Outcome>, StepError> {
        check_place(&ctx.place, "cluster", &self.cluster)?;
        check_place(&ctx.place, "task", &self.task)?;
        let (ecs, wait) = (
            ctx.client(Client::new),
            Resume::poll_interval(resume.as_ref(), POLL),
        );
        let mut task = self.look(&ecs).await?;
        let id = name_of(&self.task);
        let asked = if let Some(resume) = resume {
            resume.state::<Asked>()?
        } else {
            let was_stopping = task.desired_status() == Some("STOPPED");
            if was_stopping {
                ctx.log(format_args!(
                    "ECS task {id} was stopped already, or is stopping"
                ));
            } else {
                let stop = ecs
                    .stop_task()
                    .cluster(&self.cluster)
                    .task(&self.task)
                    .reason(&self.reason);
                if let Some(stopping) = stop.send().await.map_err(ecs_error)?.task {
                    task = stopping;
                }
                ctx.log(format_args!("Stopping ECS task {id}: {}", self.reason));
                if let Some(service) = service_of(&task) {
                    ctx.log(format_args!(
                        "It belongs to service {service}, which starts another task in its place"
                    ));
                }
            }
            Asked { was_stopping }
        };
        let status = task.last_status().unwrap_or("STOPPING");
        if status == "STOPPED" {
            ctx.log(format_args!("ECS task {id} is stopped"));
            return Ok(Progress::Done(self.stopped(ctx, &task, asked.was_stopping)));
        }
        Progress::pending(
            &asked,
            wait,
            format!("task {id} is {}", status.to_lowercase()),
        )
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::operation::describe_tasks::{DescribeTasksError, DescribeTasksOutput};
    use aws_sdk_ecs::operation::stop_task::{StopTaskError, StopTaskOutput};
    use aws_sdk_ecs::types::{Container, ContainerDefinition, Failure, TaskStopCode};
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::model::permissions::ArnScope;
    use stepward::testing;
    use stepward_testkit::proof::prove;

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

    fn task(desired: &str, last: &str) -> Task {
        Task::builder()
            .task_arn(format!("{ARN}:task/production/{ID}"))
            .task_definition_arn(format!("{ARN}:task-definition/web:7"))
            .group("service:web")
            .desired_status(desired)
            .last_status(last)
            .build()
    }

    fn stopped() -> Task {
        let mut task = task("STOPPED", "STOPPED");
        task.stop_code = Some(TaskStopCode::UserInitiated);
        task.stopped_reason = Some("stuck".into());
        task.containers = Some(vec![
            Container::builder().name("app").exit_code(143).build(),
        ]);
        task
    }

    fn seen(task: Task) -> DescribeTasksOutput {
        DescribeTasksOutput::builder().tasks(task).build()
    }

    fn stops() -> Rule {
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

    /// What the state machine does with a pending answer: wait, then call again with it.
    fn resumed(answer: Progress<Outcome>, said: &str) -> Resume {
        let Progress::Pending {
            state, progress, ..
        } = answer
        else {
            panic!("not pending: {answer:?}")
        };
        assert_eq!(progress, said);
        stepward::testing::resume(&state)
    }

    #[tokio::test]
    async fn done_stops_the_task_with_the_reason() {
        let look = mock!(Client::describe_tasks)
            .match_requests(|request| {
                request.cluster() == Some("production") && request.tasks() == [ID]
            })
            .then_output(|| seen(task("RUNNING", "RUNNING")));
        // On the local cloud the task is stopped when the call returns.
        let stop = mock!(Client::stop_task)
            .then_output(|| StopTaskOutput::builder().task(stopped()).build());
        let ctx = context(&[&look, &stop]);
        let Progress::Done(output) = step().run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };
        assert!(!output.was_stopping);
        assert_eq!(
            (output.stopped_reason.as_deref(), output.service.as_deref()),
            (Some("stuck"), Some("web"))
        );
        assert_eq!(output.containers[0].exit_code, Some(143));
        let log = testing::log(&ctx);
        assert!(
            log[1].contains("service web, which starts another task in its place"),
            "{log:?}"
        );
    }

    #[tokio::test]
    async fn already_stopped_or_stopping_tasks_are_not_stopped_again() {
        let look = mock!(Client::describe_tasks).then_output(|| seen(stopped()));
        let Progress::Done(output) = step().run(&context(&[&look]), None).await.unwrap() else {
            panic!("not done")
        };
        assert!(output.was_stopping);

        let look =
            mock!(Client::describe_tasks).then_output(|| seen(task("STOPPED", "DEACTIVATING")));
        let answer = step().run(&context(&[&look]), None).await.unwrap();
        resumed(answer, &format!("task {ID} is deactivating"));
    }

    #[tokio::test]
    async fn not_found_is_a_task_that_ecs_has_forgotten_and_a_cluster_that_does_not_exist() {
        let gone = mock!(Client::describe_tasks).then_output(|| {
            let failure = Failure::builder()
                .arn(format!("{ARN}:task/production/{ID}"))
                .reason("MISSING")
                .build();
            DescribeTasksOutput::builder().failures(failure).build()
        });
        let error = step().run(&context(&[&gone]), None).await.unwrap_err();
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
        for wrong in [
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
                wrong.validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{wrong:?}"
            );
        }
        let task = format!("arn:aws:ecs:us-east-1:222222222222:task/production/{ID}");
        let elsewhere = StopTask { task, ..step() }
            .run(&context(&[]), None)
            .await
            .unwrap_err();
        assert_eq!(elsewhere.name, ErrorName::InvalidInput);
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_made_again() {
        let look = mock!(Client::describe_tasks).then_output(|| seen(task("RUNNING", "RUNNING")));
        let stop = mock!(Client::stop_task)
            .sequence()
            .error(|| {
                StopTaskError::generic(ErrorMetadata::builder().code("ThrottlingException").build())
            })
            .output(|| StopTaskOutput::builder().task(stopped()).build())
            .build();
        let answer = step().run(&context(&[&look, &stop]), None).await.unwrap();
        assert!(matches!(answer, Progress::Done(_)));
        assert_eq!(stop.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_until_stopped_and_stopped_once_only() {
        let look = mock!(Client::describe_tasks)
            .sequence()
            .output(|| seen(task("RUNNING", "RUNNING")))
            .output(|| seen(task("STOPPED", "DEPROVISIONING")))
            .output(|| seen(stopped()))
            .build();
        let stop = stops();
        let ctx = context(&[&look, &stop]);
        let resume = resumed(
            step().run(&ctx, None).await.unwrap(),
            &format!("task {ID} is running"),
        );
        let resume = resumed(
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
    async fn pending_looks_are_rarer_the_longer_it_takes() {
        let look = mock!(Client::describe_tasks).then_output(|| seen(task("STOPPED", "RUNNING")));
        let (ctx, mut resume) = (context(&[&look]), None);
        for expected in [POLL, Duration::from_mins(5)] {
            let (mut next, retry_after, _) = testing::pending(step().run(&ctx, resume).await);
            assert_eq!(retry_after, expected);
            next.since = 0;
            resume = Some(next);
        }
    }

    #[tokio::test]
    async fn pending_again_when_called_after_a_lost_answer() {
        let look = mock!(Client::describe_tasks).then_output(|| seen(task("STOPPED", "RUNNING")));
        let stop = stops();
        resumed(
            step().run(&context(&[&look, &stop]), None).await.unwrap(),
            &format!("task {ID} is running"),
        );
        assert_eq!(stop.num_calls(), 0);
    }

    #[tokio::test]
    async fn failed_descriptions_give_ecss_reason() {
        let look = mock!(Client::describe_tasks).then_output(|| {
            let failure = Failure::builder()
                .reason("Internal failure")
                .detail("try later")
                .build();
            DescribeTasksOutput::builder().failures(failure).build()
        });
        let error = step().run(&context(&[&look]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.contains("Internal failure: try later"),
            "{error}"
        );
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<StopTask>(&[], async |scene| {
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
    fn the_session_can_stop_this_task_only() {
        let place = ArnScope {
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
            let policy = step.permissions().session_policy(&place).unwrap();
            assert!(
                policy.contains(&format!(
                    r#""Resource":["{task}","{ARN}:cluster/production"]"#
                )),
                "{policy}"
            );
        }
    }
}
