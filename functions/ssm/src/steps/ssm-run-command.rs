//! The step `ssm-run-command`.

use std::time::Duration;

use crate::engine;
use crate::params::{CommandOptions, defaults};
use crate::payload::InlineCommand;
use crate::plan::{Plan, Shell};
use crate::{FUNCTION, TIMEOUT, quote};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::require;
use stepward::model::merged::Merged;
use stepward::node::CommandResults;
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};

/// The longest command, in bytes. SSM accepts documents of 64 KB including parameters, and Base64
/// makes a command a third longer.
/// <https://docs.aws.amazon.com/general/latest/gr/ssm.html>
const MAX_COMMAND_BYTES: usize = 44 * 1024;

/// Run a command on any number of nodes with SSM Run Command and wait for all results.
///
/// Use this step for commands of up to 45,056 bytes on EC2 instances and on other machines that SSM
/// manages. For each node you get the status, the exit code and the output. For longer scripts, or
/// to pass arguments safely, use `ssm-run-script`.
///
/// # Prerequisites
///
/// - Each node runs the SSM agent and is online in Systems Manager.
/// - Each EC2 instance has an instance profile whose role has the policy
///   `AmazonSSMManagedInstanceCore` or equal permissions. Other machines are registered with a
///   hybrid activation (`mi-…`).
/// - Each node reaches the endpoints `ssm`, `ssmmessages` and `ec2messages` of its Region on port
///   443: through the internet, a NAT gateway or VPC endpoints.
/// - The step's role is allowed to send AWS's document `AWS-RunShellScript` (Linux and macOS) or
///   `AWS-RunPowerShellScript` (Windows) to these nodes.
/// - With `output_bucket`, the instance profile allows `s3:PutObject` on `stepward/*` in this
///   bucket. With `cloudwatch_log_group`, it allows `logs:CreateLogGroup`, `logs:CreateLogStream`,
///   `logs:DescribeLogGroups`, `logs:DescribeLogStreams` and `logs:PutLogEvents`. If the bucket or
///   the log group uses a KMS key, it also allows the use of this key.
///
/// # Behavior
///
/// - The step sends the command in batches of up to 50 nodes. Over all batches, never more than
///   `concurrency` nodes run the command at the same time.
/// - It does not wait for nodes that cannot run the command. A node that SSM does not manage gets
///   the status `unmanaged`, a stopped or disconnected node the status `offline`. With `bash`, a
///   Windows node counts as `unmanaged`.
/// - It logs a line for each node after the command ended there.
/// - The step succeeds if the command ended with exit code 0 on every node. With `fail_on_error`
///   set to `false`, it also succeeds if nodes failed.
/// - A retry does not send a command again: each command has a comment, by which the step finds the
///   commands that it already sent. A redrive of the execution within an hour finds them too.
/// - When the job is stopped, the step cancels the running commands. It cannot undo what they have
///   already done.
///
/// The output of a node is limited:
///
/// - SSM itself returns up to 24,000 characters of standard output and 8,000 of standard error.
/// - With `output_bucket` or `cloudwatch_log_group`, the step reads longer outputs from there. If
///   that fails, it logs the reason and keeps the part that SSM returned.
/// - All nodes share 4 MiB, in equal parts of at most 256 KiB. If an output is longer, the step
///   keeps its end, and `output_url` points to the complete output.
///
/// # Failures
///
/// - If AWS rejects a batch after the step sent other batches, the step waits for these and does
///   not send the command to more nodes. The remaining nodes get the status `not_started` with
///   AWS's reason.
/// - If SSM does not report how the command ended on a node, the node gets the status `unknown`.
///   Check on the node whether the command ran before you run it again.
///
/// # Cost
///
/// Run Command on EC2 instances has no charge. AWS charges for on-premises nodes of the advanced
/// tier, and for outputs that are stored in CloudWatch Logs or S3.
///
/// # Limits
///
/// - 25,000 nodes and 500 commands (batches) in one step.
/// - 45,056 bytes for the command.
/// - 48 hours for the command on each node.
///
/// # Proof
///
/// Proven on the local cloud, which simulates each node with a directory of one machine. Only unit
/// tests cover what the step sends and reads for Windows, for nodes that disconnect while they run,
/// for SSM's own rate control, and for outputs in CloudWatch Logs and S3.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct RunCommand(Merged<RunCommandParameters, CommandOptions>);

/// The parameters that only `ssm-run-command` has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunCommandParameters {
    /// The command: any text that the shell accepts, 1 to 45,056 bytes. With `bash`, the node's
    /// `sh` runs it, unless the first line names another program, for example `#!/bin/bash`; the
    /// line endings of Windows (CRLF) become those of Linux. Use `ssm-run-script` for longer
    /// commands.
    command: String,
    /// How many seconds SSM tries to deliver the command to a node, 30 to 2,592,000 (30 days). If a
    /// batch has more nodes than `concurrency`, nodes run in groups of this size. A group waits for
    /// the earlier groups, so the step adds `timeout` once for each earlier group.
    #[serde(default = "defaults::delivery_timeout")]
    delivery_timeout: i32,
}

impl RunCommand {
    fn plan(&self) -> Plan {
        let Merged(parameters, Merged(rollout, outputs)) = &self.0;
        Plan {
            has_expiring_link: false,
            delivery_timeout: parameters.delivery_timeout,
            ..outputs.plan(rollout)
        }
    }

    fn payload(&self) -> InlineCommand {
        let Merged(RunCommandParameters { command, .. }, Merged(rollout, _)) = &self.0;
        InlineCommand(match rollout.shell {
            Shell::Bash => quote::sh_command(command),
            Shell::Powershell => quote::powershell_command(command),
        })
    }
}

impl Step for RunCommand {
    const NAME: &'static str = "ssm-run-command";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "awsssmexecutor",
        fields: &[
            ("instanceId", "instance_ids"),
            ("region", "region"),
            ("cloudwatch-log-group", "cloudwatch_log_group"),
            ("ssm-execution-timeout", "timeout"),
        ],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Restart a service on one instance",
            parameters: r#"{
        "instance_ids": "i-0123456789abcdef0",
        "command": "systemctl restart nginx"
    }"#,
            output: r#"{
        "command_ids": ["8f3c2a51-6d0e-4b7c-9a1f-2e5d7c9b0a34"],
        "succeeded": 1,
        "failed": 0,
        "nodes": {
            "i-0123456789abcdef0": { "status": "succeeded", "exit_code": 0 }
        }
    }"#,
        },
        Example {
            title: "Query a Windows service, 10 nodes at a time, and stop after the first failure",
            parameters: r#"{
        "instance_ids": ["i-0123456789abcdef0", "mi-0123456789abcdef0"],
        "command": "Get-Service W32Time",
        "shell": "powershell",
        "concurrency": 10,
        "max_errors": 0,
        "cloudwatch_log_group": "/stepward/commands"
    }"#,
            output: r#"{
        "command_ids": ["b61d9e07-4f2a-4c38-8e55-90a7d3c1f248"],
        "succeeded": 2,
        "failed": 0,
        "nodes": {
            "i-0123456789abcdef0": {
                "status": "succeeded",
                "exit_code": 0,
                "output": "Running  W32Time  Windows Time"
            },
            "mi-0123456789abcdef0": {
                "status": "succeeded",
                "exit_code": 0,
                "output": "Running  W32Time  Windows Time"
            }
        }
    }"#,
        },
        Example {
            title: "Collect long logs in a bucket, node by node, without failing the step",
            parameters: r#"{
        "instance_ids": ["i-0123456789abcdef0", "i-0123456789abcdef1"],
        "command": "journalctl --since today",
        "concurrency": 1,
        "in_order": true,
        "output_bucket": "stepward-results-222222222222",
        "fail_on_error": false
    }"#,
            output: concat!(
                r#"{
        "command_ids": [
            "27e4b8c0-1a95-4d63-b7f2-c80d56e9a13f",
            "5c0f9d3e-7b48-4e16-a2d9-1f86b3e70c25"
        ],
        "succeeded": 1,
        "failed": 1,
        "nodes": {
            "i-0123456789abcdef0": {
                "status": "succeeded",
                "exit_code": 0,
                "output": "…Nov 30 06:00:01 web-1 systemd[1]: Finished Rotate log files.",
                "output_url": "s3://stepward-results-222222222222/stepward/"#,
                "27e4b8c0-1a95-4d63-b7f2-c80d56e9a13f/i-0123456789abcdef0/",
                r#"awsrunShellScript/0.awsrunShellScript/stdout"
            },
            "i-0123456789abcdef1": {
                "status": "failed",
                "exit_code": 1,
                "error_output": "Failed to open journal: Permission denied",
                "message": "exit code 1"
            }
        }
    }"#
            ),
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = crate::ERRORS;
    const TIMEOUT: Duration = TIMEOUT;
    const FUNCTION: FunctionConfig = FUNCTION;
    type Output = CommandResults;

    fn validate(&self) -> Result<(), StepError> {
        let Merged(RunCommandParameters { command, .. }, _) = &self.0;
        require(!command.trim().is_empty(), || {
            "parameter \"command\": the text is empty; pass the command to run".into()
        })?;
        require(command.len() <= MAX_COMMAND_BYTES, || {
            format!(
                "parameter \"command\": expected up to {MAX_COMMAND_BYTES} bytes, got {}; use \
                 ssm-run-script for longer texts",
                command.len()
            )
        })?;
        require(!command.contains('\0'), || {
            "parameter \"command\": the text contains a NUL character, which no shell accepts; \
             remove it"
                .into()
        })?;
        self.plan().validate()
    }

    fn permissions(&self) -> Permissions {
        self.plan().permissions()
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<CommandResults>, StepError> {
        engine::run(&self.plan(), &self.payload(), ctx, resume.as_ref()).await
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        engine::cancel(&self.plan(), &self.payload(), ctx, resume.as_ref()).await
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ssm::types::PingStatus;
    use serde_json::{Value, json};
    use stepward::node::Status;
    use stepward::testing::{assert_invalid_parameters_are_named, log_lines};
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::{self, FakeSsm, IDS, create_bucket, create_nodes, run_to_end};

    #[expect(clippy::needless_pass_by_value, reason = "callers pass a literal")]
    fn step(parameters: Value) -> RunCommand {
        testing::step_with_parameters(
            json!({ "instance_ids": IDS, "command": "uptime" }),
            &parameters,
        )
    }

    #[tokio::test]
    async fn done_runs_the_command_on_all_nodes() {
        let fake = FakeSsm::default();
        fake.lock().output = "up 3 days".into();
        let ctx = fake.context(&[]);
        let step = step(
            json!({ "timeout": 60, "cloudwatch_log_group": "group", "output_bucket": "bucket" }),
        );
        let results = run_to_end(&step, &ctx).await.unwrap();
        assert_eq!(
            (results.succeeded, results.failed, results.command_ids.len()),
            (2, 0, 1)
        );
        let outcome = &results.nodes[IDS[1]];
        assert_eq!(
            (outcome.status, outcome.exit_code, outcome.output.as_str()),
            (Status::Succeeded, Some(0), "up 3 days")
        );
        let sent = fake.lock().commands[0].clone();
        assert_eq!(
            (sent.document.as_str(), sent.text(), sent.delivery_timeout),
            ("AWS-RunShellScript", "uptime", 600)
        );
        assert_eq!(
            (sent.instance_ids, sent.concurrency),
            (IDS.map(String::from).to_vec(), 2)
        );
        assert_eq!(sent.parameters["executionTimeout"], ["60"]);
        assert_eq!(
            (sent.bucket.as_deref(), sent.log_group.as_deref()),
            (Some("bucket"), Some("group"))
        );
        let log = log_lines(&ctx);
        assert!(
            log.contains(&format!("{} succeeded (exit 0)", IDS[0])),
            "{log:?}"
        );
    }

    #[tokio::test]
    async fn done_on_windows_uses_the_powershell_document() {
        let fake = FakeSsm::default();
        run_to_end(
            &step(json!({ "shell": "powershell", "command": "Get-Date" })),
            &fake.context(&[]),
        )
        .await
        .unwrap();
        let sent = fake.lock().commands[0].clone();
        assert_eq!(
            (sent.document.as_str(), sent.text()),
            ("AWS-RunPowerShellScript", "Get-Date")
        );
    }

    #[tokio::test]
    async fn done_with_windows_line_endings_in_the_command() {
        let sent_text = async |shell: &str, command: &str| {
            let fake = FakeSsm::default();
            let step = step(json!({ "shell": shell, "command": command }));
            run_to_end(&step, &fake.context(&[])).await.unwrap();
            fake.lock().commands[0].text().to_owned()
        };
        let run_with_sh = |text: &str| {
            let output = std::process::Command::new("/bin/sh")
                .args(["-c", text])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };

        let text = sent_text("bash", "cd /tmp\r\npwd\r\n").await;
        assert_eq!(text, "cd /tmp\npwd\n");
        // A command with braces is sent in Base64.
        let text = sent_text("bash", "cd /tmp\r\necho '{{x}}' $PWD\r\n").await;
        assert_eq!(run_with_sh(&text), "{{x}} /tmp\n");
        let text = sent_text("powershell", "cd C:\\\r\nGet-Date\r\n").await;
        assert_eq!(text, "cd C:\\\r\nGet-Date\r\n");
    }

    #[tokio::test]
    async fn already_sent_commands_are_found_and_not_repeated() {
        let fake = FakeSsm::default();
        let (step, ctx) = (step(json!({})), fake.context(&[]));
        step.run(&ctx, None).await.unwrap();
        let results = run_to_end(&step, &ctx).await.unwrap();
        assert_eq!((results.succeeded, fake.call_count("SendCommand")), (2, 1));
        assert!(
            log_lines(&ctx)
                .iter()
                .any(|line| line.contains("sent before its response was lost"))
        );
    }

    #[tokio::test]
    async fn not_found_nodes_are_reported_and_the_others_run() {
        let fake = FakeSsm::default();
        fake.lock().unavailable_nodes = [(IDS[0].to_owned(), None)].into();
        let results = run_to_end(&step(json!({ "fail_on_error": false })), &fake.context(&[]))
            .await
            .unwrap();
        assert_eq!(
            (results.nodes[IDS[0]].status, results.nodes[IDS[1]].status),
            (Status::Unmanaged, Status::Succeeded)
        );
        assert!(
            results.nodes[IDS[0]]
                .message
                .as_ref()
                .unwrap()
                .contains("AmazonSSMManagedInstanceCore")
        );
    }

    #[test]
    fn invalid_parameters_are_named() {
        assert_invalid_parameters_are_named::<RunCommand>();
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        step(
            json!({ "command": "x".repeat(MAX_COMMAND_BYTES), "max_errors": 0, "in_order": true }),
        )
        .validate()
        .unwrap();
        for (invalid, expected) in [
            (json!({ "command": " \n" }), "command"),
            (
                json!({ "command": "x".repeat(MAX_COMMAND_BYTES + 1) }),
                "ssm-run-script",
            ),
            (json!({ "command": "a\u{0}" }), "NUL"),
            (json!({ "instance_ids": [] }), "instance_ids"),
            (json!({ "instance_ids": "web-1" }), "instance_ids"),
            (json!({ "concurrency": 0 }), "concurrency"),
            (json!({ "timeout": 0 }), "timeout"),
            (json!({ "output_bucket": "a/b" }), "output_bucket"),
            (
                json!({ "output_bucket": "m123.mrap" }),
                "output_bucket: \"m123.mrap\" is a Multi-Region Access Point",
            ),
        ] {
            let error = step(invalid.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{invalid}");
            assert!(error.message.contains(expected), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_repeated() {
        let fake = FakeSsm::default();
        let results = run_to_end(&step(json!({})), &fake.throttled_context())
            .await
            .unwrap();
        assert_eq!((results.succeeded, fake.lock().commands.len()), (2, 1));
    }

    #[tokio::test]
    async fn pending_immediately_after_sending_then_polls_less_often() {
        let fake = FakeSsm::default();
        fake.lock().stuck_nodes = IDS.map(String::from).into();
        let (step, ctx) = (step(json!({})), fake.context(&[]));
        let Progress::Pending {
            state,
            retry_after,
            progress,
        } = step.run(&ctx, None).await.unwrap()
        else {
            panic!("done")
        };
        assert_eq!(
            (retry_after, progress.as_str()),
            (Duration::ZERO, "0 of 2 nodes finished, 0 failed")
        );
        let state_with_age = |seconds: i64| {
            let mut state = state.clone();
            state["moved"] = json!(state["moved"].as_i64().unwrap() - seconds);
            stepward::testing::resume_from(&state)
        };
        for (age, interval) in [(0, 2), (1200, 60), (864_000, 300)] {
            let Progress::Pending { retry_after, .. } =
                step.run(&ctx, Some(state_with_age(age))).await.unwrap()
            else {
                panic!("done")
            };
            assert_eq!(retry_after.as_secs(), interval);
        }
        assert_eq!(fake.call_count("SendCommand"), 1);
    }

    #[tokio::test]
    async fn failed_nodes_fail_the_step_only_with_fail_on_error() {
        let fake = FakeSsm::default();
        fake.lock().failing_nodes = [IDS[0].to_owned()].into();
        fake.lock().unavailable_nodes =
            [(IDS[1].to_owned(), Some(PingStatus::ConnectionLost))].into();
        let error = run_to_end(&step(json!({})), &fake.context(&[]))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .starts_with("2 of 2 nodes did not succeed (1 failed, 1 offline): "),
            "{error}"
        );
        let results = run_to_end(&step(json!({ "fail_on_error": false })), &fake.context(&[]))
            .await
            .unwrap();
        assert_eq!((results.succeeded, results.failed), (0, 2));
        assert_eq!(results.nodes[IDS[0]].exit_code, Some(3));
    }

    /// Writes more output than SSM returns.
    const LONG_OUTPUT: &str = "i=0; while [ $i -lt 4000 ]; do echo 123456789; i=$((i+1)); done";
    const OUTPUT_READ: &str =
        "If a complete output cannot be read, the step logs that and keeps the part of SSM.";
    const UNPROVEN: [(&str, &str); 5] = [
        (
            "ssm:CancelCommand",
            "The step cancels commands only if the job is stopped or max_errors is exceeded.",
        ),
        ("ssm:GetCommandInvocation", OUTPUT_READ),
        ("logs:GetLogEvents", OUTPUT_READ),
        ("s3:GetObject", OUTPUT_READ),
        (
            "kms:Decrypt",
            "The local cloud encrypts nothing with a KMS key of the account.",
        ),
    ];

    #[test]
    fn permissions_match_those_that_the_local_cloud_requires() {
        prove_permissions::<RunCommand>(&UNPROVEN, async |scene| {
            json!({
                "instance_ids": create_nodes(scene).await,
                "command": LONG_OUTPUT,
                "cloudwatch_log_group": scene.name("/commands"),
                "fail_on_error": false,
            })
        });
    }

    #[test]
    fn permissions_with_an_output_bucket_match_too() {
        prove_permissions::<RunCommand>(&UNPROVEN, async |scene| {
            json!({
                "instance_ids": create_nodes(scene).await,
                "command": LONG_OUTPUT,
                "output_bucket": create_bucket(scene).await,
                "fail_on_error": false,
            })
        });
    }
}
