//! The step `ecs-exec`.

use std::time::Duration;

use crate::exec::outcome::outcome;
use crate::exec::ready::{self, Ready};
use crate::exec::session;
use crate::exec::wrapper;
use crate::{check_cluster, check_place, check_task, name_of, task_arns};
use aws_sdk_ecs::Client;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::node::{self, Status};
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};
use tokio::time::Instant;

/// The longest that a command may run, in seconds: Lambda's 15 minutes, less what comes before and
/// after.
const LONGEST: u64 = 840;
/// Kept free at the end of the call: to end the session, and to answer.
const MARGIN: Duration = Duration::from_secs(8);
/// Characters of the output that an error's message has.
const TAIL: usize = 1000;

/// Run a command in a container of an ECS task and report its output and exit code.
///
/// The command is a line for `/bin/sh`, run as root in the container's working directory, with the
/// container's environment. It gets no input. What it writes to standard output and standard error
/// comes back as one output, in order; of more than 1 MiB the end. What is not UTF-8 is replaced:
/// have binary output written as base64. The container needs `/bin/sh` and a `/tmp` that can be
/// written to; without `stty` in the image, `\r\n` comes back as `\n`.
///
/// The task must have been started with ECS Exec enabled. An agent that is still starting is waited
/// for, for up to a minute; why it cannot work is said before anything is tried. A container has
/// two sessions at a time by default; others wait, and one that does not begin within 30 seconds is
/// given up.
///
/// ECS Exec reports no exit code, so the command is run by a script that writes it behind the
/// output. Where that does not arrive (the container stopped, the connection broke), the exit code
/// is unknown: `unknown` is never success.
///
/// ECS Exec has no client token either. To never run a command twice for one step of one execution,
/// the script first makes a file, `/tmp/.stepward-…`, and a call that finds it runs nothing: an
/// earlier one began the command, its answer was lost, and the step ends as `unknown`. So a `Retry`
/// in the state machine, too, runs nothing that had begun; a new execution does. The script removes
/// such files after a day.
///
/// An answer with `unknown` names the sessions of this execution that still run in the container.
/// Once ECS has been asked for a session, the command may have begun, whatever goes wrong after:
/// that is `unknown` too, and so is a session that ends before it is seen that the command began,
/// unless the agent says that it could not be started.
///
/// The session is held by one call and ended by it, whatever happens; where it cannot be ended, the
/// outcome is `unknown` and names it. Ending it kills the command's shell; what the command left in
/// the background gets SIGHUP, and may go on if it ignores that. When the job is stopped, the
/// session is looked for by its owner and ended. The customer's CloudTrail, and ECS Exec's own log
/// where the cluster has one, show the command: put no secret into it. Sessions that the cluster
/// encrypts with a KMS key are supported.
///
/// Proven against a counterpart of the agent that runs commands in a terminal and loses, doubles
/// and reorders messages, with frames of AWS's own client and agent as vectors; who may ask ECS for
/// it, on the local cloud. Not seen against AWS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The name or ARN of the cluster that the task runs in.
    cluster: String,
    /// The task's ID or ARN.
    task: String,
    /// The container's name; it may be left out where the task has one only.
    #[serde(default)]
    container: Option<String>,
    /// The command line, for `/bin/sh`. With the script around it, at most 4,096 bytes.
    command: String,
    /// Seconds that the command may run, 1 to 840; then its session is ended.
    #[serde(default = "ten_minutes")]
    timeout: u64,
    /// Whether the step fails when the command does, or when nobody knows whether it did.
    #[serde(default = "yes")]
    fail_on_error: bool,
}

/// How the command ended.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Answer {
    #[serde(flatten)]
    outcome: node::Outcome,
    /// The cluster's name.
    cluster: String,
    /// The task's ID.
    task: String,
    /// The container's name.
    container: String,
}

fn ten_minutes() -> u64 {
    600
}

fn yes() -> bool {
    true
}

impl Exec {
    /// The outcome as the step's answer.
    fn answer(
        &self,
        ctx: &Context,
        ready: &Ready,
        outcome: node::Outcome,
    ) -> Result<Progress<Answer>, StepError> {
        let Ready {
            cluster,
            task,
            container,
            ..
        } = ready;
        let place = format!("container {container} of task {task}");
        match (outcome.exit_code, &outcome.message) {
            (Some(code), _) => ctx.log(format_args!(
                "The command ended with exit code {code} in {place}"
            )),
            (None, message) => ctx.log(format_args!(
                "In {place}: {}",
                message.as_deref().unwrap_or_default()
            )),
        }
        if self.fail_on_error && !outcome.status.is_success() {
            let name = if outcome.status == Status::TimedOut {
                ErrorName::TimedOut
            } else {
                ErrorName::StepFailed
            };
            let message = outcome.message.as_deref().unwrap_or_default();
            let output = [outcome.output.trim_end(), outcome.error_output.trim_end()].join("\n");
            let skip = output.trim().chars().count().saturating_sub(TAIL);
            let tail: String = output.trim().chars().skip(skip).collect();
            let tail = if tail.is_empty() {
                tail
            } else {
                format!(". Its output ends: {tail}")
            };
            return Err(name.with_message(format!("{message} ({place}){tail}")));
        }
        let (cluster, task, container) = (cluster.clone(), task.clone(), container.clone());
        Ok(Progress::Done(Answer {
            outcome,
            cluster,
            task,
            container,
        }))
    }
}

impl Step for Exec {
    const NAME: &'static str = "ecs-exec";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-ecs-run-command",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{
        "cluster": "production",
        "task": "0123456789abcdef0123456789abcdef",
        "command": "df -h /"
    }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "cluster": "production",
        "task": "0123456789abcdef0123456789abcdef",
        "container": "app",
        "command": "bin/rake cache:clear && echo cleared",
        "timeout": 120,
        "fail_on_error": false
    }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "There is no such cluster, task or container; ECS forgets stopped tasks.",
        ),
        (
            ErrorName::Conflict,
            "The task or container is stopped, ECS Exec is not enabled for it, or its agent does not run or reach AWS. \
             Nothing was run.",
        ),
        (
            ErrorName::StepFailed,
            "The command ended with another exit code than 0, or nobody knows how it ended; the message has the end of \
             its output.",
        ),
        (
            ErrorName::TimedOut,
            "The command was not over in time and was ended, the container did not start in time, or ECS did not \
             answer; the message tells which.",
        ),
    ];
    const FUNCTION: FunctionConfig = FunctionConfig {
        timeout_seconds: 900,
        memory_mib: 512,
        local_files: false,
    };
    type Output = Answer;

    fn validate(&self) -> Result<(), StepError> {
        check_cluster(&self.cluster)?;
        check_task(&self.cluster, &self.task)?;
        require(self.container.as_deref().is_none_or(crate::is_name), || {
            format!(
                "container: {:?} is not a container's name",
                self.container.as_deref().unwrap_or_default()
            )
        })?;
        require((1..=LONGEST).contains(&self.timeout), || {
            format!(
                "timeout must be 1 to {LONGEST} seconds, not {}",
                self.timeout
            )
        })?;
        require(!self.command.trim().is_empty(), || {
            "command is empty".into()
        })?;
        require(!self.command.contains('\0'), || {
            "command holds a NUL character, which no command can".into()
        })?;
        let bytes = wrapper::wrapped(
            &self.command,
            &wrapper::nonce([0; 16]),
            &wrapper::claim(&"0".repeat(64)),
        )
        .len();
        require(bytes <= wrapper::LIMIT, || {
            format!(
                "command is too long: with the script around it it has {bytes} bytes, and at most {} are sent, \
                 because AWS documents no limit. Put a script into the image, or have the command fetch it",
                wrapper::LIMIT
            )
        })
    }

    fn permissions(&self) -> Permissions {
        let task = literal(name_of(&self.task));
        // The key is the cluster's. Of all of the account's it can make data keys for sessions of
        // ECS Exec only.
        let for_sessions =
            json!({ "StringLike": { "kms:EncryptionContext:aws:ssm:TargetId": "ecs:*" } });
        Permissions::default()
            .allow(
                "TODO",
                &["ecs:DescribeTasks", "ecs:ExecuteCommand"],
                task_arns(&self.cluster, &task),
            )
            .allow(
                "TODO",
                &["ssm:TerminateSession", "ssmmessages:OpenDataChannel"],
                [arn("ssm", "session/ecs-execute-command-*")],
            )
            .allow_if(
                for_sessions,
                "TODO",
                &["kms:GenerateDataKey"],
                [arn("kms", "key/*")],
            )
            .allow("TODO", &["ssm:DescribeSessions"], ["*"])
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Answer>, StepError> {
        check_place(&ctx.place, "cluster", &self.cluster)?;
        check_place(&ctx.place, "task", &self.task)?;
        let end = ctx
            .deadline()
            .checked_sub(MARGIN)
            .unwrap_or_else(Instant::now);
        let ecs = ctx.client(Client::new);
        let ready = ready::wait(
            &ecs,
            &self.cluster,
            &self.task,
            self.container.as_deref(),
            end,
        )
        .await?;
        let deadline = end.min(Instant::now() + Duration::from_secs(self.timeout));
        let token = ctx.client_token(&format!("ecs-exec {}", self.command));
        let ran = session::run(ctx, &ready, &self.command, &token, deadline).await?;
        self.answer(ctx, &ready, outcome(ran)?)
    }

    /// The call that holds the session may run still, and cannot be reached: the session is found
    /// by its owner.
    async fn cancel(&self, ctx: &Context, _: Option<Resume>) -> Result<(), StepError> {
        let found = ready::look(&ctx.client(Client::new), &self.cluster, &self.task).await;
        let ready = match found.and_then(|task| ready::find(&task, self.container.as_deref())) {
            Ok(ready) => ready,
            // With the container its sessions are gone.
            Err(error) if matches!(error.name, ErrorName::NotFound | ErrorName::InvalidInput) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for id in session::own(ctx, &ready).await? {
            session::end(ctx, &id).await?;
            ctx.log(format_args!(
                "Session {id} was ended, and with it the command"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use aws_config::{BehaviorVersion, Region, SdkConfig};
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;
    use aws_sdk_ecs::operation::describe_tasks::{DescribeTasksError, DescribeTasksOutput};
    use aws_sdk_ecs::operation::execute_command::ExecuteCommandError;
    use aws_sdk_ecs::types::{
        Container, ContainerDefinition, Failure, ManagedAgent, ManagedAgentName, Tag, Task,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
    use aws_smithy_types::body::SdkBody;
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::model::permissions::ArnScope;
    use stepward::testing;
    use stepward_testkit::ecs_agent::{CLUSTER, CONTAINER, EcsAgent, Mishap, OWNER, TASK, Weather};
    use stepward_testkit::proof::prove;

    use super::*;

    #[test]
    fn it_takes_what_a_dispatch_asks_and_answers_what_a_dispatch_reads() {
        let asked = node::dispatch::InContainer {
            cluster: CLUSTER.into(),
            task: TASK.into(),
            container: CONTAINER.into(),
            command: "uptime".into(),
            fail_on_error: false,
        };
        let step: Exec = serde_json::from_value(json!(asked)).unwrap();
        step.validate().unwrap();
        let mut strange = json!(asked);
        strange["strange"] = json!(1);
        assert!(
            serde_json::from_value::<Exec>(strange).is_err(),
            "an unknown parameter passes"
        );
        let outcome = node::Outcome {
            status: Status::Failed,
            exit_code: Some(3),
            output: "said".into(),
            error_output: String::new(),
            output_url: None,
            message: Some("why".into()),
        };
        let [cluster, task, container] = [CLUSTER, TASK, CONTAINER].map(str::to_owned);
        let answer = json!(Answer {
            outcome: outcome.clone(),
            cluster,
            task,
            container
        });
        assert_eq!(
            serde_json::from_value::<node::Outcome>(answer).unwrap(),
            outcome
        );
    }

    fn step(command: &str) -> Exec {
        Exec {
            cluster: CLUSTER.into(),
            task: TASK.into(),
            container: None,
            command: command.into(),
            timeout: 40,
            fail_on_error: false,
        }
    }

    /// A context whose AWS is the agent's, for an execution that there was never before.
    fn context_at(agent: &EcsAgent) -> Context {
        let keys = Credentials::new(
            "ASIATEST",
            "secret",
            Some("session-token".into()),
            None,
            "test",
        );
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .endpoint_url(agent.endpoint())
            .credentials_provider(SharedCredentialsProvider::new(keys))
            .build();
        let mut ctx = testing::context_of(config, OWNER);
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        ctx.execution.id = format!("{}-{}", std::process::id(), since.as_nanos());
        ctx
    }

    async fn answer(agent: &EcsAgent, ctx: &Context, step: &Exec) -> Result<Answer, StepError> {
        step.validate().unwrap();
        let answer = step.run(ctx, None).await;
        assert_eq!(agent.wrongs(), [""; 0], "what the client must not do");
        assert_eq!(agent.left_open(), [""; 0], "sessions that were not ended");
        answer.map(|answer| match answer {
            Progress::Done(output) => output,
            Progress::Pending { .. } => panic!("not done: {answer:?}"),
        })
    }

    async fn ran(agent: &EcsAgent, command: &str) -> node::Outcome {
        answer(agent, &context_at(agent), &step(command))
            .await
            .unwrap()
            .outcome
    }

    /// What `seq 1 LAST` writes.
    fn counted(last: u32) -> String {
        let lines: Vec<_> = (1..=last).map(|n| n.to_string()).collect();
        lines.join("\n") + "\n"
    }

    fn exited(outcome: &node::Outcome) -> (Status, Option<i32>, &str) {
        (outcome.status, outcome.exit_code, outcome.output.as_str())
    }

    #[tokio::test]
    async fn done_tells_output_and_exit_code() {
        let agent = EcsAgent::default();
        let ctx = context_at(&agent);
        let output = answer(&agent, &ctx, &step("echo hello from $CONTAINER"))
            .await
            .unwrap();
        assert_eq!(
            exited(&output.outcome),
            (Status::Succeeded, Some(0), "hello from app\n")
        );
        assert_eq!(
            testing::log(&ctx),
            [format!(
                "The command ended with exit code 0 in container app of task {TASK}"
            )]
        );
        let output = serde_json::to_value(&output).unwrap();
        assert_eq!(
            (&output["cluster"], &output["task"]),
            (&json!(CLUSTER), &json!(TASK))
        );
        assert_eq!(
            (&output["container"], &output["status"]),
            (&json!(CONTAINER), &json!("succeeded"))
        );
        let call = &agent.calls("ExecuteCommand")[0];
        assert_eq!(
            (&call["interactive"], &call["container"]),
            (&json!(true), &json!(CONTAINER))
        );
        assert_eq!(agent.calls("TerminateSession").len(), 1);

        for (command, code, output) in [
            ("echo out; echo err >&2; exit 3", 3, "out\nerr\n"),
            ("exit 255", 255, ""),
            (
                "printf '%s|' \"it's\" '$HOME `id` \\ {{x}} $$' \"a  b\"",
                0,
                "it's|$HOME `id` \\ {{x}} $$|a  b|",
            ),
            ("printf 'no newline'", 0, "no newline"),
            ("printf 'a\\r\\nb\\n\\n'", 0, "a\r\nb\n\n"),
            ("cat; sleep 1.2; echo done", 0, "done\n"),
            ("printf 'a\\001\\377\\200z'", 0, "a\u{1}\u{fffd}\u{fffd}z"),
            (
                "stty size 2>&1 </dev/tty; tty </dev/tty | cut -c1-5",
                0,
                "0 0\n/dev/\n",
            ),
        ] {
            let outcome = ran(&agent, command).await;
            let status = if code == 0 {
                Status::Succeeded
            } else {
                Status::Failed
            };
            assert_eq!(exited(&outcome), (status, Some(code), output), "{command}");
        }
        // Some shells write what killed a command.
        let outcome = ran(&agent, "echo begun; kill -9 $$").await;
        assert_eq!(
            (outcome.exit_code, outcome.output.starts_with("begun\n")),
            (Some(137), true)
        );
        let outcome = ran(&agent, "no-such-program").await;
        assert_eq!(
            (outcome.exit_code, outcome.output.contains("not found")),
            (Some(127), true)
        );
    }

    #[tokio::test]
    async fn done_with_a_megabyte_of_output_and_with_the_end_of_more() {
        let agent = EcsAgent::default();
        let outcome = ran(&agent, "seq 1 150000").await;
        let wanted = counted(150_000);
        assert!(
            wanted.len() > 938_000 && outcome.output == wanted,
            "{} bytes",
            outcome.output.len()
        );
        let outcome = ran(&agent, "seq 1 200000; exit 4").await;
        assert!(outcome.output.ends_with("\n199999\n200000\n") && outcome.output.len() > 1_000_000);
        assert!(
            outcome
                .message
                .unwrap()
                .contains("bytes of output were not kept")
        );
    }

    #[tokio::test]
    async fn done_in_an_encrypted_session() {
        let agent = EcsAgent::new(Mishap::None, Weather::default(), true);
        let outcome = ran(&agent, "echo secret; exit 5").await;
        assert_eq!(exited(&outcome), (Status::Failed, Some(5), "secret\n"));
        assert_eq!(agent.calls("GenerateDataKey").len(), 1);
    }

    #[tokio::test]
    async fn done_whatever_the_network_loses_doubles_and_reorders() {
        let wanted = counted(8000);
        for seed in 1..=8 {
            let weather = Weather {
                seed,
                lost: 10,
                doubled: 10,
                late: 10,
            };
            let agent = EcsAgent::new(Mishap::None, weather, seed % 2 == 0);
            let outcome = ran(&agent, "seq 1 8000; exit 7").await;
            assert_eq!(
                exited(&outcome),
                (Status::Failed, Some(7), wanted.as_str()),
                "seed {seed}: {:?}",
                outcome.message
            );
        }
        let agent = EcsAgent::new(Mishap::Rubbish, Weather::default(), false);
        assert_eq!(
            exited(&ran(&agent, "seq 1 8000").await),
            (Status::Succeeded, Some(0), wanted.as_str())
        );
    }

    #[tokio::test]
    async fn already_begun_commands_are_not_run_again_and_are_no_success() {
        let agent = EcsAgent::default();
        let ctx = context_at(&agent);
        let file = std::env::temp_dir().join(format!("ecs-exec-{}", ctx.execution.id));
        let step = Exec {
            fail_on_error: true,
            ..step(&format!("echo run >> {}", file.display()))
        };
        answer(&agent, &ctx, &step).await.unwrap();
        let error = answer(&agent, &ctx, &step).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .contains("an earlier call of this step had begun the command"),
            "{error}"
        );
        let unsure = Exec {
            fail_on_error: false,
            ..step
        };
        let outcome = answer(&agent, &ctx, &unsure).await.unwrap().outcome;
        assert_eq!(exited(&outcome), (Status::Unknown, None, ""));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "run\n");
        // Another execution is another matter.
        answer(&agent, &context_at(&agent), &unsure).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "run\nrun\n");
        std::fs::remove_file(file).unwrap();
    }

    #[tokio::test]
    async fn failed_commands_fail_the_step_with_the_end_of_their_output() {
        let agent = EcsAgent::default();
        let command = "seq 1 2000; echo 'no space left' >&2; exit 3";
        let step = Exec {
            fail_on_error: true,
            ..step(command)
        };
        let error = answer(&agent, &context_at(&agent), &step)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let tells = format!(
            "the command ended with exit code 3 (container app of task {TASK}). Its output ends: "
        );
        assert!(
            error.message.starts_with(&tells) && error.message.ends_with("2000\nno space left"),
            "{error}"
        );
        assert!(error.message.len() < tells.len() + TAIL + 1, "{error}");
    }

    #[tokio::test]
    async fn failed_sessions_are_never_success() {
        let second = Duration::from_secs(1);
        for (mishap, status, tells) in [
            (
                Mishap::Unstartable,
                Status::Failed,
                "could not be started: ----------ERROR-------",
            ),
            (
                Mishap::ContainerStops(second),
                Status::Unknown,
                "it was seen that task",
            ),
            (
                Mishap::Cut(second),
                Status::Unknown,
                "the session broke off",
            ),
            (
                Mishap::Closed(second, "Your session timed out"),
                Status::Unknown,
                "over: Your session timed out",
            ),
            (
                Mishap::Closed(second, ""),
                Status::Unknown,
                "ended before the command was over",
            ),
        ] {
            let agent = EcsAgent::new(mishap, Weather::default(), false);
            let outcome = ran(&agent, "echo begun; sleep 20").await;
            let output = if status == Status::Failed {
                ""
            } else {
                "begun\n"
            };
            assert_eq!(
                exited(&outcome),
                (status, None, output),
                "{mishap:?}: {:?}",
                outcome.message
            );
            let message = outcome.message.unwrap();
            assert!(message.contains(tells), "{mishap:?}: {message}");
            assert_eq!(agent.calls("TerminateSession").len(), 1, "{mishap:?}");
        }
    }

    #[tokio::test]
    async fn failed_is_a_container_that_stops_without_a_word() {
        let agent = EcsAgent::new(
            Mishap::ContainerVanishes(Duration::from_secs(1)),
            Weather::default(),
            false,
        );
        let outcome = ran(&agent, "echo begun; sleep 60").await;
        assert_eq!(exited(&outcome), (Status::Unknown, None, "begun\n"));
        assert!(
            outcome
                .message
                .unwrap()
                .contains("is stopped; the exit code is unknown")
        );
    }

    #[tokio::test]
    async fn failed_is_a_command_that_does_not_begin() {
        let agent = EcsAgent::new(Mishap::Silent, Weather::default(), false);
        let outcome = ran(&agent, "echo hi").await;
        assert_eq!(exited(&outcome), (Status::Unknown, None, ""));
        assert!(
            outcome
                .message
                .unwrap()
                .contains("did not begin within 30 seconds")
        );
    }

    #[tokio::test]
    async fn failed_for_time_ends_the_session_and_keeps_what_there_was() {
        let agent = EcsAgent::default();
        let slow = Exec {
            timeout: 2,
            ..step("echo begun; sleep 60")
        };
        let outcome = answer(&agent, &context_at(&agent), &slow)
            .await
            .unwrap()
            .outcome;
        assert_eq!(exited(&outcome), (Status::TimedOut, None, "begun\n"));
        let strict = Exec {
            fail_on_error: true,
            ..slow
        };
        let error = answer(&agent, &context_at(&agent), &strict)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::TimedOut);
        assert!(
            error.message.contains("was not over in time") && error.message.ends_with("begun"),
            "{error}"
        );
    }

    /// The agent needs nobody to begin the command, so that no refusal may read as if nothing was
    /// run.
    #[tokio::test]
    async fn failed_where_the_channel_is_refused_is_a_command_that_may_have_begun() {
        for (status, tells) in [
            (403, "ssmmessages:OpenDataChannel"),
            (400, "refused to open"),
            (503, "could not be reached"),
        ] {
            let agent = EcsAgent::new(Mishap::Refused(status), Weather::default(), false);
            let strict = Exec {
                fail_on_error: true,
                ..step("echo hi")
            };
            let error = answer(&agent, &context_at(&agent), &strict)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed, "{error}");
            let is_told = error.message.contains(tells)
                && error.message.contains("whether the command had begun is");
            assert!(is_told, "{error}");
            assert_eq!(agent.calls("TerminateSession").len(), 1);
            let outcome = ran(&agent, "echo hi").await;
            assert_eq!(exited(&outcome), (Status::Unknown, None, ""));
        }
    }

    #[tokio::test]
    async fn failed_is_not_said_of_commands_that_ran_without_a_word() {
        for words in ["", "Your session timed out"] {
            let agent = EcsAgent::new(Mishap::Mute(words), Weather::default(), false);
            let ctx = context_at(&agent);
            let file = std::env::temp_dir().join(format!("ecs-exec-mute-{}", ctx.execution.id));
            let step = step(&format!("echo run >> {}; sleep 20", file.display()));
            let outcome = answer(&agent, &ctx, &step).await.unwrap().outcome;
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "run\n");
            std::fs::remove_file(file).unwrap();
            assert_eq!(exited(&outcome), (Status::Unknown, None, ""));
            let message = outcome.message.unwrap();
            assert!(
                message.contains("ended before the command was over") && message.contains(words),
                "{message}"
            );
        }
    }

    #[tokio::test]
    async fn failed_to_end_the_session_is_said_and_not_that_it_was_ended() {
        let agent = EcsAgent::new(Mishap::Unendable, Weather::default(), false);
        let slow = Exec {
            timeout: 1,
            ..step("echo begun; sleep 60")
        };
        let Progress::Done(answer) = slow.run(&context_at(&agent), None).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(exited(&answer.outcome), (Status::Unknown, None, "begun\n"));
        let message = answer.outcome.message.unwrap();
        let tells = format!(
            "its session {} could not be ended: AWS denied",
            agent.left_open()[0]
        );
        assert!(
            message.contains(&tells) && message.contains("the command may run still"),
            "{message}"
        );
        assert!(!message.contains("was ended"), "{message}");
    }

    #[tokio::test]
    async fn already_begun_commands_that_still_run_are_named_by_their_session() {
        let agent = EcsAgent::default();
        let ctx = context_at(&agent);
        let step = Exec {
            timeout: 4,
            ..step("echo begun; sleep 60")
        };
        let second = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let first = agent.left_open();
            (first, step.run(&ctx, None).await.unwrap())
        };
        let (_, (first, second)) = tokio::join!(step.run(&ctx, None), second);
        let Progress::Done(second) = second else {
            panic!("not done: {second:?}")
        };
        assert_eq!(exited(&second.outcome), (Status::Unknown, None, ""));
        let message = second.outcome.message.unwrap();
        assert!(
            message.contains(&format!(
                "still running in the container: session {};",
                first[0]
            )),
            "{message}"
        );
        assert_eq!(
            agent.calls("TerminateSession").len(),
            2,
            "each call ended its own session, and no other"
        );
        assert!(!message.contains("somebodys"), "{message}");
    }

    #[tokio::test]
    async fn cancelling_ends_the_session_and_nobody_elses() {
        let agent = EcsAgent::default();
        let ctx = context_at(&agent);
        let step = step("echo begun; sleep 60");
        let began = Instant::now();
        let cancel = async {
            while agent.left_open().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            step.cancel(&ctx, None).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(answer(&agent, &ctx, &step), cancel);
        assert_eq!(
            exited(&outcome.unwrap().outcome),
            (Status::Unknown, None, "begun\n")
        );
        assert!(began.elapsed() < Duration::from_secs(20));
        let ended = agent.calls("TerminateSession");
        assert!(
            ended
                .iter()
                .all(|call| call["SessionId"] != "ecs-execute-command-somebodys"),
            "{ended:?}"
        );
    }

    fn ready(containers: &[&str]) -> DescribeTasksOutput {
        let agent = ManagedAgent::builder()
            .name(ManagedAgentName::ExecuteCommandAgent)
            .last_status("RUNNING")
            .build();
        let container = |name: &&str| {
            let container = Container::builder()
                .name(*name)
                .last_status("RUNNING")
                .runtime_id("r-1");
            container.managed_agents(agent.clone()).build()
        };
        let task = Task::builder()
            .task_arn(format!(
                "arn:aws:ecs:eu-west-1:222222222222:task/{CLUSTER}/{TASK}"
            ))
            .cluster_arn(format!(
                "arn:aws:ecs:eu-west-1:222222222222:cluster/{CLUSTER}"
            ))
            .last_status("RUNNING")
            .enable_execute_command(true)
            .set_containers(Some(containers.iter().map(container).collect()));
        DescribeTasksOutput::builder().tasks(task.build()).build()
    }

    async fn refused(rules: &[&Rule], step: Exec) -> StepError {
        let ctx = testing::context(mock_client!(aws_sdk_ecs, RuleMode::MatchAny, rules));
        step.run(&ctx, None).await.unwrap_err()
    }

    #[tokio::test]
    async fn not_found_are_tasks_clusters_and_containers_that_do_not_exist() {
        let gone = mock!(Client::describe_tasks).then_output(|| {
            DescribeTasksOutput::builder()
                .failures(Failure::builder().reason("MISSING").build())
                .build()
        });
        assert_eq!(
            refused(&[&gone], step("true")).await.name,
            ErrorName::NotFound
        );
        let no_cluster = mock!(Client::describe_tasks).then_error(|| {
            DescribeTasksError::generic(
                ErrorMetadata::builder()
                    .code("ClusterNotFoundException")
                    .build(),
            )
        });
        assert_eq!(
            refused(&[&no_cluster], step("true")).await.name,
            ErrorName::NotFound
        );
        let look = mock!(Client::describe_tasks).then_output(|| ready(&["app", "log"]));
        let error = refused(
            &[&look],
            Exec {
                container: Some("web".into()),
                ..step("true")
            },
        )
        .await;
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(error.message.contains("it has app, log"), "{error}");
    }

    #[tokio::test]
    async fn invalid_parameters_are_refused_before_any_session() {
        let look = mock!(Client::describe_tasks).then_output(|| ready(&["app", "log"]));
        assert_eq!(
            refused(&[&look], step("true")).await.name,
            ErrorName::InvalidInput,
            "several containers, none named"
        );
        step("true").validate().unwrap();
        Exec {
            timeout: LONGEST,
            container: Some("app".into()),
            ..step(&"x".repeat(3000))
        }
        .validate()
        .unwrap();
        for wrong in [
            step(" "),
            step("echo \0"),
            step(&"x".repeat(4000)),
            step(&"'".repeat(1000)),
            Exec {
                cluster: "a b".into(),
                ..step("true")
            },
            Exec {
                task: "*".into(),
                ..step("true")
            },
            Exec {
                container: Some("a/b".into()),
                ..step("true")
            },
            Exec {
                timeout: 0,
                ..step("true")
            },
            Exec {
                timeout: LONGEST + 1,
                ..step("true")
            },
        ] {
            assert_eq!(
                wrong.validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{wrong:?}"
            );
        }
        let task = format!("arn:aws:ecs:us-east-1:222222222222:task/{CLUSTER}/{TASK}");
        let elsewhere = refused(
            &[],
            Exec {
                task,
                ..step("true")
            },
        )
        .await;
        assert_eq!(elsewhere.name, ErrorName::InvalidInput);
    }

    fn execute(code: &'static str, message: &'static str) -> Rule {
        mock!(Client::execute_command).then_error(move || {
            ExecuteCommandError::generic(
                ErrorMetadata::builder().code(code).message(message).build(),
            )
        })
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_made_again_and_then_named() {
        let look = mock!(Client::describe_tasks).then_output(|| ready(&["app"]));
        let throttled = execute("ThrottlingException", "Rate exceeded");
        let error = refused(&[&look, &throttled], step("true")).await;
        assert_eq!(
            (error.name, throttled.num_calls()),
            (ErrorName::Throttled, 4)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_no_more_than_a_few_times_is_an_agent_that_is_not_connected() {
        let look = mock!(Client::describe_tasks).then_output(|| ready(&["app"]));
        let unconnected = execute("TargetNotConnectedException", "internal error");
        let error = refused(&[&look, &unconnected], step("true")).await;
        assert_eq!(
            (error.name, unconnected.num_calls()),
            (ErrorName::Conflict, 4)
        );
        assert!(error.message.contains("its task role needs"), "{error}");
    }

    /// A second session would leave the first one, and its command, to itself.
    #[tokio::test(start_paused = true)]
    async fn failed_answers_of_ecs_are_not_followed_by_another_session() {
        let look = mock!(Client::describe_tasks).then_output(|| ready(&["app"]));
        let lost = mock!(Client::execute_command)
            .then_http_response(|| HttpResponse::new(500.try_into().unwrap(), SdkBody::from("{}")));
        let error = refused(&[&look, &lost], step("true")).await;
        assert_eq!((error.name, lost.num_calls()), (ErrorName::Internal, 1));
        assert!(
            error.message.contains("The command may have begun"),
            "{error}"
        );
    }

    // no proof of pending: it answers in one call.

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let agent = EcsAgent::default();
        let idle = [
            (
                "kms:GenerateDataKey",
                "The sessions here are not encrypted.",
            ),
            (
                "ssm:DescribeSessions",
                "Only who stops a job asks for it, or finds the command begun; the local cloud has no sessions.",
            ),
            (
                "ssm:TerminateSession",
                "The local cloud has no sessions; a session that cannot be ended is a line of the log.",
            ),
            (
                "ssmmessages:OpenDataChannel",
                "What stands in for the channel asks for no permission.",
            ),
        ];
        prove::<Exec>(&idle, async |scene| {
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
            let stream = Tag::builder()
                .key("stepward:stream")
                .value(agent.stream())
                .build();
            let task = ecs
                .run_task()
                .cluster(&cluster)
                .task_definition(&family)
                .enable_execute_command(true)
                .tags(stream);
            let started = task.send().await.unwrap();
            json!({ "cluster": cluster, "task": started.tasks()[0].task_arn(), "command": "echo hi" })
        });
    }

    #[test]
    fn the_session_can_speak_to_this_task_only() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let policy = step("true").permissions().session_policy(&place).unwrap();
        let here = "arn:aws:ecs:eu-west-1:222222222222";
        for part in [
            format!(r#""Resource":["{here}:task/{CLUSTER}/{TASK}","{here}:cluster/{CLUSTER}"]"#),
            r#""Resource":["arn:aws:ssm:eu-west-1:222222222222:session/ecs-execute-command-*"]"#
                .into(),
            r#""Condition":{"StringLike":{"kms:EncryptionContext:aws:ssm:TargetId":"ecs:*"}}"#
                .into(),
        ] {
            assert!(policy.contains(&part), "{policy}");
        }
    }
}
