//! The step `ecs-exec`.

use std::time::Duration;

use crate::exec::outcome::{command_error, command_outcome};
use crate::exec::readiness::{self, ExecContainer};
use crate::exec::session;
use crate::exec::wrapper;
use crate::{check_arn_scope, check_cluster, check_task, resource_name, task_arns};
use aws_sdk_ecs::Client;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::node::{self, shell};
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};
use tokio::time::Instant;

/// The longest time that a command may run, in seconds: Lambda's limit of 15 minutes, minus the
/// time before and after the command.
const MAX_TIMEOUT_SECONDS: u64 = 840;
/// The time kept free at the end of the call, to terminate the session and to return the result.
const END_MARGIN: Duration = Duration::from_secs(8);

/// Run a command in a container of an ECS task and report its output and exit code.
///
/// Use this step to inspect or repair a running container: check a disk, clear a cache, run a
/// maintenance script of the image. The command is one line for `/bin/sh`. It runs as root, in the
/// working directory and with the environment variables of the container, and receives no standard
/// input.
///
/// Do not put secrets into the command: CloudTrail in the customer's account records it, and so
/// does the log of ECS Exec if the cluster has one.
///
/// # Prerequisites
///
/// - The task was started with ECS Exec enabled (`enableExecuteCommand`). You cannot enable it for
///   a running task.
/// - The task role allows `ssmmessages:CreateControlChannel`, `ssmmessages:CreateDataChannel`,
///   `ssmmessages:OpenControlChannel` and `ssmmessages:OpenDataChannel`. If the cluster encrypts
///   sessions with a KMS key, the task role also allows `kms:Decrypt` with this key.
/// - The task's subnet can reach the `ssmmessages` endpoint, and the container's root file system
///   is writable: the agent of ECS Exec does not start otherwise.
/// - The image contains `/bin/sh`, and `/tmp` in the container is writable.
/// - On Fargate, the platform version is 1.4.0 or later. On EC2, the ECS agent is 1.50.2 or later.
///
/// AWS describes the setup:
/// <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-exec.html>.
///
/// # Behavior
///
/// 1. The step checks the task and the container, and waits up to a minute for an agent that is
///    still starting. If ECS Exec cannot work in the task, the step names the cause and runs
///    nothing.
/// 2. It starts a session and opens its data channel. If the cluster encrypts sessions with a KMS
///    key, the step encrypts and decrypts the session's data with a data key from this KMS key.
/// 3. The command runs. Standard output and standard error come back as one output, in the order
///    in which they were written. Bytes that are not UTF-8 are replaced, so let the command encode
///    binary output as base64. If the image has no `stty`, the terminal adds `\r` to each line,
///    so the step changes every `\r\n` in the output to `\n`.
/// 4. The step terminates the session in every case. This kills the command's shell. Background
///    processes of the command receive SIGHUP, and continue if they ignore it.
///
/// **Exit code.** ECS Exec reports no exit code. The step therefore runs the command in a script
/// that prints the exit code after the output. If the exit code does not arrive, for example
/// because the container stops or the connection breaks, the status is `unknown`, which is never a
/// success.
///
/// **Retries.** A command never runs twice for the same step of the same execution, even if Step
/// Functions retries the step. The script first creates a claim file, `/tmp/.stepward-…`. If the
/// file already exists, an earlier call started the command and its result was lost: the script
/// runs nothing, and the status is `unknown`. A new execution runs the command again. The script
/// deletes claim files that are older than a day.
///
/// **Stopping the job** terminates the step's sessions in the container.
///
/// # Failures
///
/// - If anything fails after ECS received the request for a session, the command may have started,
///   and the status is `unknown`, unless the agent reports that it could not start the
///   command. Check what the command should change before you run it again in a new execution.
/// - If a session cannot be terminated, the status is `unknown`, and the message contains the
///   session ID and the AWS CLI command to terminate it. The command may still be running.
/// - If an earlier call started the command, the message names the sessions of this execution that
///   are still running in the container.
///
/// # Cost
///
/// This step itself has no charge; AWS charges for the KMS requests if the cluster encrypts
/// sessions, and for the logs if the cluster logs sessions to CloudWatch Logs or S3.
///
/// # Limits
///
/// - The command may run for up to 840 seconds (14 minutes).
/// - The command has at most 4,096 bytes, including the script around it.
/// - The step keeps the last 1 MiB of the output.
/// - A container allows two sessions at once by default. Further sessions wait; the step gives up
///   if the command does not start within 30 seconds.
///
/// # Proof
///
/// Proven against a fake agent that runs commands in a terminal, and loses, duplicates and reorders
/// messages. Recorded messages of AWS's own client and agent serve as test vectors. The permissions
/// to start a session are proven on the local cloud. This step was not tested against AWS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The name or ARN of the cluster that runs the task.
    cluster: String,
    /// The ID or ARN of the task.
    task: String,
    /// The name of the container. Optional if the task has only one.
    #[serde(default)]
    container: Option<String>,
    /// The command line for `/bin/sh`. Together with the script that reports the exit code, it has
    /// at most 4,096 bytes. The line endings of Windows (CRLF) become those of Linux.
    command: String,
    /// How many seconds the command may run, 1 to 840. After that the step terminates the session.
    #[serde(default = "default_timeout")]
    timeout: u64,
    /// Whether the step fails if the command fails, or if its exit code is unknown.
    #[serde(default = "default_fail_on_error")]
    fail_on_error: bool,
}

/// How the command ended.
#[derive(Debug, JsonSchema, Serialize)]
pub struct ExecOutput {
    #[serde(flatten)]
    outcome: node::Outcome,
    /// The cluster's name.
    cluster: String,
    /// The task's ID.
    task: String,
    /// The container's name.
    container: String,
}

fn default_timeout() -> u64 {
    600
}

fn default_fail_on_error() -> bool {
    true
}

impl Exec {
    /// The command line with the line endings of Linux, which the container's shell reads.
    fn command_line(&self) -> String {
        shell::with_unix_line_endings(&self.command)
    }

    /// Logs the outcome, and returns it as the step's output or error.
    fn finish(
        &self,
        ctx: &Context,
        container: &ExecContainer,
        outcome: node::Outcome,
    ) -> Result<Progress<ExecOutput>, StepError> {
        let ExecContainer {
            cluster,
            task,
            container,
            ..
        } = container;
        let location = format!("container {container} of task {task}");
        match (outcome.exit_code, &outcome.message) {
            (Some(code), _) => ctx.log(format_args!(
                "The command exited with code {code} in {location}"
            )),
            (None, message) => ctx.log(format_args!(
                "In {location}: {}",
                message.as_deref().unwrap_or_default()
            )),
        }

        if self.fail_on_error && !outcome.status.is_success() {
            return Err(command_error(&outcome, &location));
        }
        Ok(Progress::Done(ExecOutput {
            outcome,
            cluster: cluster.clone(),
            task: task.clone(),
            container: container.clone(),
        }))
    }
}

impl Step for Exec {
    const NAME: &'static str = "ecs-exec";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-ecs-run-command",
        fields: &[
            ("cluster", "cluster"),
            ("task", "task"),
            ("container", "container"),
            ("command", "command"),
            ("region", "region"),
        ],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Check the free disk space of a task's only container",
            parameters: r#"{
        "cluster": "production",
        "task": "0123456789abcdef0123456789abcdef",
        "command": "df -h /"
    }"#,
            output: r#"{
        "status": "succeeded",
        "exit_code": 0,
        "output":
            "Filesystem  Size  Used Avail Use% Mounted on\noverlay      30G   11G   18G  38% /\n",
        "cluster": "production",
        "task": "0123456789abcdef0123456789abcdef",
        "container": "app"
    }"#,
        },
        Example {
            title: "Clear a cache, and let the job continue if the command fails",
            parameters: r#"{
        "cluster": "production",
        "task": "0123456789abcdef0123456789abcdef",
        "container": "app",
        "command": "bin/rake cache:clear && echo cleared",
        "timeout": 120,
        "fail_on_error": false
    }"#,
            output: r#"{
        "status": "failed",
        "exit_code": 1,
        "output": "rake aborted!\nErrno::ECONNREFUSED: connection refused\n",
        "message": "the command exited with code 1",
        "cluster": "production",
        "task": "0123456789abcdef0123456789abcdef",
        "container": "app"
    }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The cluster, task or container does not exist. ECS deletes a task about an hour after \
             it stopped; choose a running task.",
        ),
        (
            ErrorName::Conflict,
            "The task or container is stopped, ECS Exec is not enabled for it, or its agent does \
             not run or cannot reach AWS. The command did not run. Check the prerequisites.",
        ),
        (
            ErrorName::StepFailed,
            "The command exited with a code other than 0, or it is unknown how it ended. The \
             message contains the end of the output.",
        ),
        (
            ErrorName::TimedOut,
            "The step ended the command because it did not finish in time, the container did not \
             start in time, or ECS did not respond. The message says which; increase `timeout` or \
             run the step again.",
        ),
    ];
    const FUNCTION: FunctionConfig = FunctionConfig {
        timeout_seconds: 900,
        memory_mib: 512,
        local_files: false,
    };
    type Output = ExecOutput;

    fn validate(&self) -> Result<(), StepError> {
        check_cluster(&self.cluster)?;
        check_task(&self.cluster, &self.task)?;
        if let Some(container) = &self.container {
            require(crate::is_valid_name(container), || {
                format!("parameter \"container\": expected a container name, got {container:?}")
            })?;
        }

        require((1..=MAX_TIMEOUT_SECONDS).contains(&self.timeout), || {
            format!(
                "parameter \"timeout\": expected 1 to {MAX_TIMEOUT_SECONDS} seconds, got \"{}\"",
                self.timeout
            )
        })?;

        require(!self.command.trim().is_empty(), || {
            "parameter \"command\": expected a command line, got an empty string".into()
        })?;
        require(!self.command.contains('\0'), || {
            "parameter \"command\": contains a NUL character, which no command line can contain"
                .into()
        })?;
        // The nonce and the claim file always have the same length.
        let wrapped = wrapper::wrap_command(
            &self.command_line(),
            &wrapper::format_nonce([0; 16]),
            &wrapper::claim_file_path(&"0".repeat(64)),
        );
        let (bytes, limit) = (wrapped.len(), wrapper::MAX_WRAPPED_BYTES);
        require(bytes <= limit, || {
            format!(
                "parameter \"command\": expected at most {limit} bytes, including the script that \
                 Stepward adds, got {bytes}; add a script to the image, or let the command \
                 download one"
            )
        })
    }

    fn permissions(&self) -> Permissions {
        let task = literal(resource_name(&self.task));
        // The KMS key is a setting of the cluster, which is not known here. The condition allows
        // data keys for sessions of ECS Exec only.
        let for_ecs_sessions =
            json!({ "StringLike": { "kms:EncryptionContext:aws:ssm:TargetId": "ecs:*" } });
        let sessions = || [arn("ssm", "session/ecs-execute-command-*")];

        Permissions::default()
            .allow(
                "check that the task and its container are ready",
                &["ecs:DescribeTasks"],
                task_arns(&self.cluster, &task),
            )
            .allow(
                "start a session that runs the command",
                &["ecs:ExecuteCommand"],
                task_arns(&self.cluster, &task),
            )
            .allow(
                "open the session's data channel",
                &["ssmmessages:OpenDataChannel"],
                sessions(),
            )
            .allow(
                "terminate the session",
                &["ssm:TerminateSession"],
                sessions(),
            )
            .allow_if(
                for_ecs_sessions,
                "encrypt the session, if the cluster has a KMS key for ECS Exec",
                &["kms:GenerateDataKey"],
                [arn("kms", "key/*")],
            )
            .allow(
                "find the step's sessions when the job is stopped or an earlier response was lost",
                &["ssm:DescribeSessions"],
                ["*"],
            )
    }

    async fn run(
        &self,
        ctx: &Context,
        _: Option<Resume>,
    ) -> Result<Progress<ExecOutput>, StepError> {
        check_arn_scope(&ctx.scope, "cluster", &self.cluster)?;
        check_arn_scope(&ctx.scope, "task", &self.task)?;
        let call_end = ctx
            .deadline()
            .checked_sub(END_MARGIN)
            .unwrap_or_else(Instant::now);

        let container = readiness::wait_until_ready(
            &ctx.client(Client::new),
            &self.cluster,
            &self.task,
            self.container.as_deref(),
            call_end,
        )
        .await?;

        let deadline = call_end.min(Instant::now() + Duration::from_secs(self.timeout));
        let client_token = ctx.client_token(&format!("ecs-exec {}", self.command));
        let command = self.command_line();
        let command_run =
            session::run_command(ctx, &container, &command, &client_token, deadline).await?;
        self.finish(ctx, &container, command_outcome(command_run)?)
    }

    /// The call that holds the session may still run and cannot be reached, so this finds the
    /// session by its owner.
    async fn cancel(&self, ctx: &Context, _: Option<Resume>) -> Result<(), StepError> {
        let ecs = ctx.client(Client::new);
        let container = readiness::describe_task(&ecs, &self.cluster, &self.task)
            .await
            .and_then(|task| readiness::find_container(&task, self.container.as_deref()));
        let container = match container {
            Ok(container) => container,
            // Without the container, its sessions have ended.
            Err(error) if matches!(error.name, ErrorName::NotFound | ErrorName::InvalidInput) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };

        for id in session::own_session_ids(ctx, &container).await? {
            session::terminate_session(ctx, &id).await?;
            ctx.log(format_args!(
                "Terminated session {id}, which ends the command"
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
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
    use aws_smithy_types::body::SdkBody;
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::mock_client;
    use stepward::model::permissions::ArnScope;
    use stepward::node::Status;
    use stepward::testing::{self, RequestRecorder};
    use stepward_testkit::fake_ecs_agent::{
        AgentFault, CLUSTER, CONTAINER, FakeEcsAgent, NetworkFaults, OWNER, TASK,
    };
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::exec::outcome::MESSAGE_OUTPUT_CHARACTERS;

    #[test]
    fn parameters_and_output_match_those_of_a_dispatch() {
        let request = node::dispatch::InContainer {
            cluster: CLUSTER.into(),
            task: TASK.into(),
            container: CONTAINER.into(),
            command: "uptime".into(),
            fail_on_error: false,
        };
        let step: Exec = serde_json::from_value(json!(request)).unwrap();
        step.validate().unwrap();
        let mut unknown = json!(request);
        unknown["unknown"] = json!(1);
        assert!(
            serde_json::from_value::<Exec>(unknown).is_err(),
            "an unknown parameter is accepted"
        );
        let outcome = node::Outcome {
            status: Status::Failed,
            exit_code: Some(3),
            output: "output".into(),
            error_output: String::new(),
            output_url: None,
            message: Some("reason".into()),
        };
        let [cluster, task, container] = [CLUSTER, TASK, CONTAINER].map(str::to_owned);
        let output = json!(ExecOutput {
            outcome: outcome.clone(),
            cluster,
            task,
            container
        });
        assert_eq!(
            serde_json::from_value::<node::Outcome>(output).unwrap(),
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

    /// A context for a new execution, with the fake agent as AWS.
    fn new_context(agent: &FakeEcsAgent) -> Context {
        let credentials = Credentials::new(
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
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build();
        let mut ctx = testing::context_with_config(config, OWNER);
        // The step takes these clients from the context.
        ctx.client(|config| {
            let config = aws_sdk_ecs::config::Builder::from(config).interceptor(RequestRecorder);
            Client::from_conf(config.build())
        });
        ctx.client(|config| {
            let config = aws_sdk_kms::config::Builder::from(config).interceptor(RequestRecorder);
            aws_sdk_kms::Client::from_conf(config.build())
        });
        ctx.client(|config| {
            let config = aws_sdk_ssm::config::Builder::from(config).interceptor(RequestRecorder);
            aws_sdk_ssm::Client::from_conf(config.build())
        });
        let since_epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        ctx.execution.id = format!("{}-{}", std::process::id(), since_epoch.as_nanos());
        ctx
    }

    /// Runs the step, and checks that the client followed the protocol and terminated its sessions.
    async fn run_step(
        agent: &FakeEcsAgent,
        ctx: &Context,
        step: &Exec,
    ) -> Result<ExecOutput, StepError> {
        step.validate().unwrap();
        let result = step.run(ctx, None).await;
        assert_eq!(
            agent.violations(),
            [""; 0],
            "protocol violations of the client"
        );
        assert_eq!(agent.open_sessions(), [""; 0], "sessions that still run");
        result.map(|progress| match progress {
            Progress::Done(output) => output,
            Progress::Pending { .. } => panic!("not done: {progress:?}"),
        })
    }

    async fn run_command(agent: &FakeEcsAgent, command: &str) -> node::Outcome {
        run_step(agent, &new_context(agent), &step(command))
            .await
            .unwrap()
            .outcome
    }

    /// The output of `seq 1 LAST`.
    fn seq_output(last: u32) -> String {
        let lines: Vec<_> = (1..=last).map(|n| n.to_string()).collect();
        lines.join("\n") + "\n"
    }

    fn summary(outcome: &node::Outcome) -> (Status, Option<i32>, &str) {
        (outcome.status, outcome.exit_code, outcome.output.as_str())
    }

    #[tokio::test]
    async fn done_returns_output_and_exit_code() {
        let agent = FakeEcsAgent::default();
        let ctx = new_context(&agent);
        let output = run_step(&agent, &ctx, &step("echo hello from $CONTAINER"))
            .await
            .unwrap();
        assert_eq!(
            summary(&output.outcome),
            (Status::Succeeded, Some(0), "hello from app\n")
        );
        assert_eq!(
            testing::log_lines(&ctx),
            [format!(
                "The command exited with code 0 in container app of task {TASK}"
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
            let outcome = run_command(&agent, command).await;
            let status = if code == 0 {
                Status::Succeeded
            } else {
                Status::Failed
            };
            assert_eq!(summary(&outcome), (status, Some(code), output), "{command}");
        }
        // Some shells print which signal killed a command.
        let outcome = run_command(&agent, "echo started; kill -9 $$").await;
        assert_eq!(
            (outcome.exit_code, outcome.output.starts_with("started\n")),
            (Some(137), true)
        );
        let outcome = run_command(&agent, "no-such-program").await;
        assert_eq!(
            (outcome.exit_code, outcome.output.contains("not found")),
            (Some(127), true)
        );
    }

    #[tokio::test]
    async fn done_with_windows_line_endings_in_the_command() {
        let outcome = run_command(&FakeEcsAgent::default(), "cd /tmp\r\npwd\r\n").await;
        assert_eq!(summary(&outcome), (Status::Succeeded, Some(0), "/tmp\n"));
    }

    #[tokio::test]
    async fn done_keeps_the_last_megabyte_of_output() {
        let agent = FakeEcsAgent::default();
        let outcome = run_command(&agent, "seq 1 150000").await;
        let expected = seq_output(150_000);
        assert!(
            expected.len() > 938_000 && outcome.output == expected,
            "{} bytes",
            outcome.output.len()
        );
        let outcome = run_command(&agent, "seq 1 200000; exit 4").await;
        assert!(outcome.output.ends_with("\n199999\n200000\n") && outcome.output.len() > 1_000_000);
        assert!(
            outcome
                .message
                .unwrap()
                .contains("bytes of output were dropped")
        );
    }

    #[tokio::test]
    async fn done_in_an_encrypted_session() {
        let agent = FakeEcsAgent::new(AgentFault::None, NetworkFaults::default(), true);
        let outcome = run_command(&agent, "echo secret; exit 5").await;
        assert_eq!(summary(&outcome), (Status::Failed, Some(5), "secret\n"));
        assert_eq!(agent.calls("GenerateDataKey").len(), 1);
    }

    #[tokio::test]
    async fn done_despite_lost_duplicated_and_reordered_messages() {
        let expected = seq_output(8000);
        for seed in 1..=8 {
            let weather = NetworkFaults {
                seed,
                lost_percent: 10,
                duplicated_percent: 10,
                delayed_percent: 10,
            };
            let agent = FakeEcsAgent::new(AgentFault::None, weather, seed % 2 == 0);
            let outcome = run_command(&agent, "seq 1 8000; exit 7").await;
            assert_eq!(
                summary(&outcome),
                (Status::Failed, Some(7), expected.as_str()),
                "seed {seed}: {:?}",
                outcome.message
            );
        }
        let agent = FakeEcsAgent::new(AgentFault::InvalidFrames, NetworkFaults::default(), false);
        assert_eq!(
            summary(&run_command(&agent, "seq 1 8000").await),
            (Status::Succeeded, Some(0), expected.as_str())
        );
    }

    #[tokio::test]
    async fn already_started_commands_do_not_run_again() {
        let agent = FakeEcsAgent::default();
        let ctx = new_context(&agent);
        let file = std::env::temp_dir().join(format!("ecs-exec-{}", ctx.execution.id));
        let step = Exec {
            fail_on_error: true,
            ..step(&format!("echo run >> {}", file.display()))
        };
        run_step(&agent, &ctx, &step).await.unwrap();
        let error = run_step(&agent, &ctx, &step).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .contains("an earlier call of this step started the command"),
            "{error}"
        );
        let lenient = Exec {
            fail_on_error: false,
            ..step
        };
        let outcome = run_step(&agent, &ctx, &lenient).await.unwrap().outcome;
        assert_eq!(summary(&outcome), (Status::Unknown, None, ""));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "run\n");
        // A new execution runs the command again.
        run_step(&agent, &new_context(&agent), &lenient)
            .await
            .unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "run\nrun\n");
        std::fs::remove_file(file).unwrap();
    }

    #[tokio::test]
    async fn failed_commands_fail_the_step_with_their_last_output() {
        let agent = FakeEcsAgent::default();
        let command = "seq 1 2000; echo 'no space left' >&2; exit 3";
        let step = Exec {
            fail_on_error: true,
            ..step(command)
        };
        let error = run_step(&agent, &new_context(&agent), &step)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let expected = format!(
            "the command exited with code 3 (container app of task {TASK}). Its output ends: "
        );
        assert!(
            error.message.starts_with(&expected) && error.message.ends_with("2000\nno space left"),
            "{error}"
        );
        assert!(
            error.message.len() < expected.len() + MESSAGE_OUTPUT_CHARACTERS + 1,
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_sessions_are_never_success() {
        let second = Duration::from_secs(1);
        for (mishap, status, expected) in [
            (
                AgentFault::CannotStart,
                Status::Failed,
                "could not start the command: ----------ERROR-------",
            ),
            (
                AgentFault::ContainerStops(second),
                Status::Unknown,
                "stopped before the command finished: task",
            ),
            (
                AgentFault::Cut(second),
                Status::Unknown,
                "the session's connection broke",
            ),
            (
                AgentFault::Closed(second, "Your session timed out"),
                Status::Unknown,
                "finished: Your session timed out",
            ),
            (
                AgentFault::Closed(second, ""),
                Status::Unknown,
                "ended before the command finished",
            ),
        ] {
            let agent = FakeEcsAgent::new(mishap, NetworkFaults::default(), false);
            let outcome = run_command(&agent, "echo started; sleep 20").await;
            let output = if status == Status::Failed {
                ""
            } else {
                "started\n"
            };
            assert_eq!(
                summary(&outcome),
                (status, None, output),
                "{mishap:?}: {:?}",
                outcome.message
            );
            let message = outcome.message.unwrap();
            assert!(message.contains(expected), "{mishap:?}: {message}");
            assert_eq!(agent.calls("TerminateSession").len(), 1, "{mishap:?}");
        }
    }

    #[tokio::test]
    async fn failed_if_the_container_stops_silently() {
        let agent = FakeEcsAgent::new(
            AgentFault::ContainerVanishes(Duration::from_secs(1)),
            NetworkFaults::default(),
            false,
        );
        let outcome = run_command(&agent, "echo started; sleep 60").await;
        assert_eq!(summary(&outcome), (Status::Unknown, None, "started\n"));
        assert!(
            outcome
                .message
                .unwrap()
                .contains("is stopped; the exit code is unknown")
        );
    }

    #[tokio::test]
    async fn failed_if_the_command_does_not_start() {
        let agent = FakeEcsAgent::new(AgentFault::Silent, NetworkFaults::default(), false);
        let outcome = run_command(&agent, "echo hi").await;
        assert_eq!(summary(&outcome), (Status::Unknown, None, ""));
        assert!(
            outcome
                .message
                .unwrap()
                .contains("did not start within 30 seconds")
        );
    }

    #[tokio::test]
    async fn failed_by_timeout_terminates_the_session_and_keeps_the_output() {
        let agent = FakeEcsAgent::default();
        let slow = Exec {
            timeout: 2,
            ..step("echo started; sleep 60")
        };
        let outcome = run_step(&agent, &new_context(&agent), &slow)
            .await
            .unwrap()
            .outcome;
        assert_eq!(summary(&outcome), (Status::TimedOut, None, "started\n"));
        let strict = Exec {
            fail_on_error: true,
            ..slow
        };
        let error = run_step(&agent, &new_context(&agent), &strict)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::TimedOut);
        assert!(
            error.message.contains("did not finish in time") && error.message.ends_with("started"),
            "{error}"
        );
    }

    /// The agent starts the command without the client, so a refused connection does not mean that
    /// nothing ran.
    #[tokio::test]
    async fn failed_connections_leave_the_commands_end_unknown() {
        for (status, expected) in [
            (403, "ssmmessages:OpenDataChannel"),
            (400, "refused to open"),
            (503, "could not connect"),
        ] {
            let agent = FakeEcsAgent::new(
                AgentFault::UpgradeRefused(status),
                NetworkFaults::default(),
                false,
            );
            let strict = Exec {
                fail_on_error: true,
                ..step("echo hi")
            };
            let error = run_step(&agent, &new_context(&agent), &strict)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed, "{error}");
            let is_unknown = error
                .message
                .contains("whether the command started is unknown");
            assert!(error.message.contains(expected) && is_unknown, "{error}");
            assert_eq!(agent.calls("TerminateSession").len(), 1);
            let outcome = run_command(&agent, "echo hi").await;
            assert_eq!(summary(&outcome), (Status::Unknown, None, ""));
        }
    }

    #[tokio::test]
    async fn failed_is_not_reported_for_commands_without_output() {
        for close_text in ["", "Your session timed out"] {
            let agent = FakeEcsAgent::new(
                AgentFault::ClosedWithoutOutput(close_text),
                NetworkFaults::default(),
                false,
            );
            let ctx = new_context(&agent);
            let file = std::env::temp_dir().join(format!("ecs-exec-mute-{}", ctx.execution.id));
            let step = step(&format!("echo run >> {}; sleep 20", file.display()));
            let outcome = run_step(&agent, &ctx, &step).await.unwrap().outcome;
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "run\n");
            std::fs::remove_file(file).unwrap();
            assert_eq!(summary(&outcome), (Status::Unknown, None, ""));
            let message = outcome.message.unwrap();
            assert!(
                message.contains("ended before the command finished")
                    && message.contains(close_text),
                "{message}"
            );
        }
    }

    #[tokio::test]
    async fn failed_termination_of_the_session_is_reported() {
        let agent = FakeEcsAgent::new(AgentFault::CannotTerminate, NetworkFaults::default(), false);
        let slow = Exec {
            timeout: 1,
            ..step("echo started; sleep 60")
        };
        let Progress::Done(output) = slow.run(&new_context(&agent), None).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(
            summary(&output.outcome),
            (Status::Unknown, None, "started\n")
        );
        let message = output.outcome.message.unwrap();
        let expected = format!(
            "its session {} could not be terminated: AWS denied",
            agent.open_sessions()[0]
        );
        assert!(
            message.contains(&expected) && message.contains("the command may still be running"),
            "{message}"
        );
        assert!(!message.contains("was terminated"), "{message}");
    }

    #[tokio::test]
    async fn already_started_commands_are_named_by_their_session() {
        let agent = FakeEcsAgent::default();
        let ctx = new_context(&agent);
        let step = Exec {
            timeout: 4,
            ..step("echo started; sleep 60")
        };
        let second = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let first = agent.open_sessions();
            (first, step.run(&ctx, None).await.unwrap())
        };
        let (_, (first, second)) = tokio::join!(step.run(&ctx, None), second);
        let Progress::Done(second) = second else {
            panic!("not done: {second:?}")
        };
        assert_eq!(summary(&second.outcome), (Status::Unknown, None, ""));
        let message = second.outcome.message.unwrap();
        assert!(
            message.contains(&format!(
                "still has a session in the container: session {};",
                first[0]
            )),
            "{message}"
        );
        assert_eq!(
            agent.calls("TerminateSession").len(),
            2,
            "each call terminates only its own session"
        );
        assert!(!message.contains("somebodys"), "{message}");
    }

    #[tokio::test]
    async fn cancelling_terminates_only_own_sessions() {
        let agent = FakeEcsAgent::default();
        let ctx = new_context(&agent);
        let step = step("echo started; sleep 60");
        let start = Instant::now();
        let cancel = async {
            while agent.open_sessions().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            step.cancel(&ctx, None).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(run_step(&agent, &ctx, &step), cancel);
        assert_eq!(
            summary(&outcome.unwrap().outcome),
            (Status::Unknown, None, "started\n")
        );
        assert!(start.elapsed() < Duration::from_secs(20));
        let terminated = agent.calls("TerminateSession");
        assert!(
            terminated
                .iter()
                .all(|call| call["SessionId"] != "ecs-execute-command-somebodys"),
            "{terminated:?}"
        );
    }

    fn ready_task(containers: &[&str]) -> DescribeTasksOutput {
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

    async fn run_error(rules: &[&Rule], step: Exec) -> StepError {
        let ctx = testing::context(mock_client!(aws_sdk_ecs, RuleMode::MatchAny, rules));
        step.run(&ctx, None).await.unwrap_err()
    }

    #[tokio::test]
    async fn not_found_for_missing_tasks_clusters_and_containers() {
        let no_task = mock!(Client::describe_tasks).then_output(|| {
            DescribeTasksOutput::builder()
                .failures(Failure::builder().reason("MISSING").build())
                .build()
        });
        assert_eq!(
            run_error(&[&no_task], step("true")).await.name,
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
            run_error(&[&no_cluster], step("true")).await.name,
            ErrorName::NotFound
        );
        let describe = mock!(Client::describe_tasks).then_output(|| ready_task(&["app", "log"]));
        let error = run_error(
            &[&describe],
            Exec {
                container: Some("web".into()),
                ..step("true")
            },
        )
        .await;
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(error.message.contains("choose one of app, log"), "{error}");
    }

    #[tokio::test]
    async fn invalid_parameters_are_refused_before_any_session() {
        let describe = mock!(Client::describe_tasks).then_output(|| ready_task(&["app", "log"]));
        assert_eq!(
            run_error(&[&describe], step("true")).await.name,
            ErrorName::InvalidInput,
            "a task with several containers needs a container name"
        );
        step("true").validate().unwrap();
        Exec {
            timeout: MAX_TIMEOUT_SECONDS,
            container: Some("app".into()),
            ..step(&"x".repeat(3000))
        }
        .validate()
        .unwrap();
        for invalid in [
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
                timeout: MAX_TIMEOUT_SECONDS + 1,
                ..step("true")
            },
        ] {
            assert_eq!(
                invalid.validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{invalid:?}"
            );
        }
        let task = format!("arn:aws:ecs:us-east-1:222222222222:task/{CLUSTER}/{TASK}");
        let error = run_error(
            &[],
            Exec {
                task,
                ..step("true")
            },
        )
        .await;
        assert_eq!(error.name, ErrorName::InvalidInput);
    }

    fn execute_error(code: &'static str, message: &'static str) -> Rule {
        mock!(Client::execute_command).then_error(move || {
            ExecuteCommandError::generic(
                ErrorMetadata::builder().code(code).message(message).build(),
            )
        })
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_retried_and_then_reported() {
        let describe = mock!(Client::describe_tasks).then_output(|| ready_task(&["app"]));
        let throttled = execute_error("ThrottlingException", "Rate exceeded");
        let error = run_error(&[&describe, &throttled], step("true")).await;
        assert_eq!(
            (error.name, throttled.num_calls()),
            (ErrorName::Throttled, 4)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_retries_end_if_the_agent_is_not_connected() {
        let describe = mock!(Client::describe_tasks).then_output(|| ready_task(&["app"]));
        let not_connected = execute_error("TargetNotConnectedException", "internal error");
        let error = run_error(&[&describe, &not_connected], step("true")).await;
        assert_eq!(
            (error.name, not_connected.num_calls()),
            (ErrorName::Conflict, 4)
        );
        assert!(
            error.message.contains("check that the task role"),
            "{error}"
        );
    }

    /// A second session would leave the first one and its command running.
    #[tokio::test(start_paused = true)]
    async fn failed_responses_do_not_cause_a_second_session() {
        let describe = mock!(Client::describe_tasks).then_output(|| ready_task(&["app"]));
        let lost = mock!(Client::execute_command)
            .then_http_response(|| HttpResponse::new(500.try_into().unwrap(), SdkBody::from("{}")));
        let error = run_error(&[&describe, &lost], step("true")).await;
        assert_eq!((error.name, lost.num_calls()), (ErrorName::Internal, 1));
        assert!(
            error.message.contains("The command may have started"),
            "{error}"
        );
    }

    // no proof of pending: the step finishes in one call.

    #[test]
    fn permissions_match_those_that_the_local_cloud_checks() {
        let agent = FakeEcsAgent::default();
        let unchecked = [
            (
                "kms:GenerateDataKey",
                "The sessions of this test are not encrypted.",
            ),
            (
                "ssm:DescribeSessions",
                "Only a stopped job and a call after a lost one need it; the local cloud has no \
                 sessions.",
            ),
            (
                "ssm:TerminateSession",
                "The local cloud has no sessions, and the step only logs a failed termination.",
            ),
            (
                "ssmmessages:OpenDataChannel",
                "The fake data channel checks no permission.",
            ),
        ];
        prove_permissions::<Exec>(&unchecked, async |scene| {
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
                .value(agent.stream_base_url())
                .build();
            let task = ecs
                .run_task()
                .cluster(&cluster)
                .task_definition(&family)
                .enable_execute_command(true)
                .tags(stream);
            let started = task.send().await.unwrap();
            let task = started.tasks()[0].task_arn();
            json!({ "cluster": cluster, "task": task, "command": "echo hi" })
        });
    }

    #[test]
    fn the_role_session_is_limited_to_this_task() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let policy = step("true").permissions().session_policy(&scope).unwrap();
        let prefix = "arn:aws:ecs:eu-west-1:222222222222";
        for part in [
            format!(
                r#""Resource":["{prefix}:task/{CLUSTER}/{TASK}","{prefix}:cluster/{CLUSTER}"]"#
            ),
            r#""Resource":["arn:aws:ssm:eu-west-1:222222222222:session/ecs-execute-command-*"]"#
                .into(),
            r#""Condition":{"StringLike":{"kms:EncryptionContext:aws:ssm:TargetId":"ecs:*"}}"#
                .into(),
        ] {
            assert!(policy.contains(&part), "{policy}");
        }
    }
}
