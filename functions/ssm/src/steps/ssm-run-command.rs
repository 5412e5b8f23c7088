//! The step `ssm-run-command`.

use std::time::Duration;

use crate::engine;
use crate::params::{CommandOptions, defaults};
use crate::payload::Command;
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

/// The longest command, in bytes. SSM takes a document of 64 KB with its parameters, and this may
/// go there in Base64.
/// <https://docs.aws.amazon.com/general/latest/gr/ssm.html>
const LONGEST: usize = 44 * 1024;

/// Run a command on any number of nodes with SSM Run Command and wait for all results.
///
/// Nodes are EC2 instances and other machines that SSM manages. They are sent the command in
/// batches of up to 50; never more than `concurrency` of them run it at once, over all batches. A
/// node that SSM does not manage, or whose agent is not connected, is not waited for: it is
/// reported as `unmanaged` or `offline`. Each node that is over is a line of the log as soon as it
/// is seen. With `bash`, nodes with Windows are not sent to: they are reported as `unmanaged`.
///
/// When AWS refuses a batch after others were sent, those are waited for, no more are begun, and
/// the nodes of the rest are reported as `not_started` with AWS's reason. A node of which SSM hears
/// no end, or whose result cannot be found, is `unknown`: only the node can tell whether it ran.
///
/// A repeated call finds the commands that it has sent, by the comment that each has, and sends
/// none twice; so does the same step of an execution that is run again within an hour. Stopping the
/// job cancels what is under way: what a command has done by then is done.
///
/// `output` and `error_output` have what the command wrote: SSM gives 24,000 and 8,000 characters
/// of a node, and whole outputs are read from `cloudwatch_log_group` or `output_bucket`. All nodes
/// together have 4 MiB of output here, each the same share and 256 KiB at most; of what is longer
/// the end is kept, and `output_url` says where the whole is. A whole output that cannot be read is
/// a line of the log, and leaves what SSM gives.
///
/// Proven on the local cloud, whose nodes are directories of one machine. Windows, nodes that fall
/// silent while they run, SSM's own rate control and outputs in CloudWatch Logs and S3 rest on unit
/// tests of what is sent and read.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct RunCommand(Merged<Own, CommandOptions>);

/// The parameters of `ssm-run-command` alone.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Own {
    /// The command, up to 45,056 bytes: any text that the shell takes. With `bash` that is the
    /// node's `sh`, unless the first line names another program, as in `#!/bin/bash`. Longer ones
    /// are for `ssm-run-script`.
    command: String,
    /// Seconds within which a node's agent must take the command, 30 to 2,592,000. In a batch with
    /// more nodes than run at once SSM is told that much with the `timeout` of each turn before the
    /// last, so that no node expires while it waits.
    #[serde(default = "defaults::delivery_timeout")]
    delivery_timeout: i32,
}

impl RunCommand {
    fn plan(&self) -> Plan {
        let Merged(own, Merged(rollout, outputs)) = &self.0;
        Plan {
            short_lived: false,
            delivery_timeout: own.delivery_timeout,
            ..outputs.plan(rollout)
        }
    }

    fn payload(&self) -> Command {
        let Merged(Own { command, .. }, Merged(rollout, _)) = &self.0;
        Command(match rollout.shell {
            Shell::Bash => quote::sh_command(command),
            Shell::Powershell => quote::powershell_command(command),
        })
    }
}

impl Step for RunCommand {
    const NAME: &'static str = "ssm-run-command";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "awsssmexecutor",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "instance_ids": "i-0123456789abcdef0", "command": "systemctl restart nginx" }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "instance_ids": ["i-0123456789abcdef0", "mi-0123456789abcdef0"],
        "command": "Get-Service W32Time",
        "shell": "powershell",
        "concurrency": 10,
        "max_errors": 0,
        "cloudwatch_log_group": "/stepward/commands"
    }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "instance_ids": ["i-0123456789abcdef0", "i-0123456789abcdef1"],
        "command": "journalctl --since today",
        "in_order": true,
        "output_bucket": "stepward-results-222222222222",
        "fail_on_error": false
    }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = crate::ERRORS;
    const TIMEOUT: Duration = TIMEOUT;
    const FUNCTION: FunctionConfig = FUNCTION;
    type Output = CommandResults;

    fn validate(&self) -> Result<(), StepError> {
        let Merged(Own { command, .. }, _) = &self.0;
        require(
            !command.trim().is_empty() && command.len() <= LONGEST,
            || {
                let length = command.len();
                format!(
                    "command must have 1 to {LONGEST} bytes, not {length}; ssm-run-script takes longer ones"
                )
            },
        )?;
        require(!command.contains('\0'), || {
            "command holds a NUL, which no shell takes".into()
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
    use stepward::testing::{log, names_invalid_parameters};
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::{self, Fake, IDS, bucket, nodes, ran};

    #[expect(
        clippy::needless_pass_by_value,
        reason = "it is always written in place"
    )]
    fn step(more: Value) -> RunCommand {
        testing::with(json!({ "instance_ids": IDS, "command": "uptime" }), &more)
    }

    #[tokio::test]
    async fn done_runs_the_command_on_all_nodes() {
        let fake = Fake::default();
        fake.lock().output = "up 3 days".into();
        let ctx = fake.context(&[]);
        let step = step(
            json!({ "timeout": 60, "cloudwatch_log_group": "group", "output_bucket": "bucket" }),
        );
        let ran = ran(&step, &ctx).await.unwrap();
        assert_eq!(
            (ran.succeeded, ran.failed, ran.command_ids.len()),
            (2, 0, 1)
        );
        let outcome = &ran.nodes[IDS[1]];
        assert_eq!(
            (outcome.status, outcome.exit_code, outcome.output.as_str()),
            (Status::Succeeded, Some(0), "up 3 days")
        );
        let sent = fake.lock().commands[0].clone();
        assert_eq!(
            (sent.document.as_str(), sent.text(), sent.delivery),
            ("AWS-RunShellScript", "uptime", 600)
        );
        assert_eq!(
            (sent.ids, sent.concurrency),
            (IDS.map(String::from).to_vec(), 2)
        );
        assert_eq!(sent.parameters["executionTimeout"], ["60"]);
        assert_eq!(
            (sent.bucket.as_deref(), sent.log_group.as_deref()),
            (Some("bucket"), Some("group"))
        );
        let log = log(&ctx);
        assert!(
            log.contains(&format!("{} succeeded (exit 0)", IDS[0])),
            "{log:?}"
        );
    }

    #[tokio::test]
    async fn done_on_windows_is_the_other_document() {
        let fake = Fake::default();
        ran(
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
    async fn already_sent_commands_are_found_and_not_sent_again() {
        let fake = Fake::default();
        let (step, ctx) = (step(json!({})), fake.context(&[]));
        step.run(&ctx, None).await.unwrap();
        let ran = ran(&step, &ctx).await.unwrap();
        assert_eq!((ran.succeeded, fake.calls("SendCommand")), (2, 1));
        assert!(
            log(&ctx)
                .iter()
                .any(|line| line.contains("whose answer was lost"))
        );
    }

    #[tokio::test]
    async fn not_found_nodes_are_reported_and_the_others_run() {
        let fake = Fake::default();
        fake.lock().away = [(IDS[0].to_owned(), None)].into();
        let ran = ran(&step(json!({ "fail_on_error": false })), &fake.context(&[]))
            .await
            .unwrap();
        assert_eq!(
            (ran.nodes[IDS[0]].status, ran.nodes[IDS[1]].status),
            (Status::Unmanaged, Status::Succeeded)
        );
        assert!(
            ran.nodes[IDS[0]]
                .message
                .as_ref()
                .unwrap()
                .contains("AmazonSSMManagedInstanceCore")
        );
    }

    #[test]
    fn invalid_parameters_are_named() {
        names_invalid_parameters::<RunCommand>();
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        step(json!({ "command": "x".repeat(LONGEST), "max_errors": 0, "in_order": true }))
            .validate()
            .unwrap();
        for (wrong, named) in [
            (json!({ "command": " \n" }), "command"),
            (
                json!({ "command": "x".repeat(LONGEST + 1) }),
                "ssm-run-script",
            ),
            (json!({ "command": "a\u{0}" }), "NUL"),
            (json!({ "instance_ids": [] }), "instance_ids"),
            (json!({ "instance_ids": "web-1" }), "instance_ids"),
            (json!({ "concurrency": 0 }), "concurrency"),
            (json!({ "timeout": 0 }), "timeout"),
            (json!({ "output_bucket": "a/b" }), "output_bucket"),
        ] {
            let error = step(wrong.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{wrong}");
            assert!(error.message.contains(named), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_made_again() {
        let fake = Fake::default();
        let ran = ran(&step(json!({})), &fake.throttled()).await.unwrap();
        assert_eq!((ran.succeeded, fake.lock().commands.len()), (2, 1));
    }

    #[tokio::test]
    async fn pending_at_once_after_it_has_sent_and_then_looks_rarely() {
        let fake = Fake::default();
        fake.lock().stuck = IDS.map(String::from).into();
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
            (Duration::ZERO, "0 of 2 nodes are over, 0 failed")
        );
        let moved = |seconds: i64| {
            let mut state = state.clone();
            state["moved"] = json!(state["moved"].as_i64().unwrap() - seconds);
            stepward::testing::resume(&state)
        };
        for (ago, wait) in [(0, 2), (1200, 60), (864_000, 300)] {
            let Progress::Pending { retry_after, .. } =
                step.run(&ctx, Some(moved(ago))).await.unwrap()
            else {
                panic!("done")
            };
            assert_eq!(retry_after.as_secs(), wait);
        }
        assert_eq!(fake.calls("SendCommand"), 1);
    }

    #[tokio::test]
    async fn failed_nodes_fail_the_step_unless_the_output_alone_is_to_say_so() {
        let fake = Fake::default();
        fake.lock().failing = [IDS[0].to_owned()].into();
        fake.lock().away = [(IDS[1].to_owned(), Some(PingStatus::ConnectionLost))].into();
        let error = ran(&step(json!({})), &fake.context(&[])).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .starts_with("2 of 2 nodes did not succeed (1 failed, 1 offline): "),
            "{error}"
        );
        let ran = ran(&step(json!({ "fail_on_error": false })), &fake.context(&[]))
            .await
            .unwrap();
        assert_eq!((ran.succeeded, ran.failed), (0, 2));
        assert_eq!(ran.nodes[IDS[0]].exit_code, Some(3));
    }

    /// Writes more than SSM gives by itself.
    const LOUD: &str = "i=0; while [ $i -lt 4000 ]; do echo 123456789; i=$((i+1)); done";
    const READS: &str =
        "A whole output that cannot be read is a line of the log, and leaves what SSM gives.";
    const IDLE: [(&str, &str); 5] = [
        (
            "ssm:CancelCommand",
            "Only a job that is stopped, and errors in several batches, cancel commands.",
        ),
        ("ssm:GetCommandInvocation", READS),
        ("logs:GetLogEvents", READS),
        ("s3:GetObject", READS),
        (
            "kms:Decrypt",
            "Nothing is encrypted with a key of the account here.",
        ),
    ];

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<RunCommand>(&IDLE, async |scene| {
            json!({
                "instance_ids": nodes(scene).await,
                "command": LOUD,
                "cloudwatch_log_group": scene.name("/commands"),
                "fail_on_error": false,
            })
        });
    }

    #[test]
    fn permissions_with_outputs_in_a_bucket_are_those_too() {
        prove::<RunCommand>(&IDLE, async |scene| {
            json!({
                "instance_ids": nodes(scene).await,
                "command": LOUD,
                "output_bucket": bucket(scene).await,
                "fail_on_error": false,
            })
        });
    }
}
