//! The step `ssm-run-command`.

use std::process::ExitCode;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::input::{List, require};
use stepward::{Context, ErrorName, Function, Permissions, Progress, Resume, Step, StepError};
use stepward_ssm::engine::{self, Ran};
use stepward_ssm::payload::Command;
use stepward_ssm::plan::{Plan, Shell, defaults};
use stepward_ssm::{FUNCTION, TIMEOUT, quote};

/// The longest command, in bytes. SSM takes a document of 64 KB with its parameters, and this may go there in Base64.
/// <https://docs.aws.amazon.com/general/latest/gr/ssm.html>
const LONGEST: usize = 44 * 1024;

/// Run a command on any number of nodes with SSM Run Command and wait for all results.
///
/// Nodes are EC2 instances and other machines that SSM manages. They are sent the command in batches of up to 50; never more
/// than `concurrency` of them run it at once, over all batches. A node that SSM does not manage, or whose agent is not connected,
/// is not waited for: it is reported as `unmanaged` or `offline`. Each node that is over is a line of the log as soon as it is
/// seen.
///
/// A repeated call finds the commands that it has sent, by the comment that each has, and sends none twice; so does the same
/// step of an execution that is run again. Stopping the job cancels what is under way: what a command has done by then is done.
///
/// `output` and `error_output` have what the command wrote: SSM gives 24,000 and 8,000 characters of a node, and whole outputs
/// are read from `cloudwatch_log_group` or `output_bucket`. All nodes together have 4 MiB of output here, each the same share and
/// 256 KiB at most; of what is longer the end is kept, and `output_url` says where the whole is.
///
/// Proven on the local cloud, whose nodes are directories of one machine. Windows, nodes that fall silent while they run, SSM's
/// own rate control and outputs in CloudWatch Logs and S3 rest on unit tests of what is sent and read.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunCommand {
    /// The nodes, by ID: `i-…` for EC2 instances, `mi-…` for other machines. Up to 25,000; one named twice is run on once.
    instance_ids: List,
    /// The command, up to 45,056 bytes: any text that the shell takes. Longer ones are for `ssm-run-script`.
    command: String,
    /// What reads it: `bash` is for Linux and macOS and means the node's `sh`, unless the command's first line names another
    /// program, as in `#!/bin/bash`; `powershell` is for Windows.
    #[serde(default)]
    shell: Shell,
    /// How many nodes run it at once, over all batches.
    #[serde(default = "defaults::concurrency")]
    concurrency: usize,
    /// After more failed nodes than this no more are begun; those at work are let finish. Without it there is no limit. A node on
    /// which the command did not run does not count.
    max_errors: Option<u32>,
    /// Whether nodes are begun in the order given: as many as `concurrency` at once, the next ones when all of these are over.
    #[serde(default)]
    in_order: bool,
    /// Seconds that the command may run on a node, up to 172,800 (48 hours); then it is stopped.
    #[serde(default = "defaults::timeout")]
    timeout: u32,
    /// Seconds within which a node's agent must take the command, 30 to 2,592,000.
    #[serde(default = "defaults::delivery_timeout")]
    delivery_timeout: i32,
    /// A CloudWatch log group that the nodes write whole outputs to. Their instance profile must allow it.
    cloudwatch_log_group: Option<String>,
    /// A bucket of the account that the nodes write whole outputs to, below `stepward/`. Their instance profile must allow it.
    output_bucket: Option<String>,
    /// Whether a node that did not succeed fails the step; else the output alone says so.
    #[serde(default = "defaults::yes")]
    fail_on_error: bool,
}

impl RunCommand {
    fn plan(&self) -> Plan {
        Plan {
            ids: Plan::nodes(&self.instance_ids),
            shell: self.shell,
            concurrency: self.concurrency,
            max_errors: self.max_errors,
            in_order: self.in_order,
            short_lived: false,
            timeout: self.timeout,
            delivery_timeout: self.delivery_timeout,
            log_group: self.cloudwatch_log_group.clone(),
            output_bucket: self.output_bucket.clone(),
            fail_on_error: self.fail_on_error,
        }
    }

    fn payload(&self) -> Command {
        Command(match self.shell {
            Shell::Bash => quote::sh_command(&self.command),
            Shell::Powershell => quote::powershell_command(&self.command),
        })
    }
}

impl Step for RunCommand {
    const NAME: &'static str = "ssm-run-command";
    const RUNDECK: &'static [&'static str] = &["awsssmexecutor"];
    const EXAMPLES: &'static [&'static str] = &[
        r#"{ "instance_ids": "i-0123456789abcdef0", "command": "systemctl restart nginx" }"#,
        r#"{
        "instance_ids": ["i-0123456789abcdef0", "mi-0123456789abcdef0"],
        "command": "Get-Service W32Time",
        "shell": "powershell",
        "concurrency": 10,
        "max_errors": 0,
        "cloudwatch_log_group": "/stepward/commands"
    }"#,
        r#"{
        "instance_ids": ["i-0123456789abcdef0", "i-0123456789abcdef1"],
        "command": "journalctl --since today",
        "in_order": true,
        "output_bucket": "stepward-results-222222222222",
        "fail_on_error": false
    }"#,
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = stepward_ssm::ERRORS;
    const TIMEOUT: Duration = TIMEOUT;
    const FUNCTION: Function = FUNCTION;
    type Output = Ran;

    fn validate(&self) -> Result<(), StepError> {
        require(!self.command.trim().is_empty() && self.command.len() <= LONGEST, || {
            let length = self.command.len();
            format!("command must have 1 to {LONGEST} bytes, not {length}; ssm-run-script takes longer ones")
        })?;
        require(!self.command.contains('\0'), || "command holds a NUL, which no shell takes".into())?;
        self.plan().validate()
    }

    fn permissions(&self) -> Permissions {
        self.plan().permissions()
    }

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Ran>, StepError> {
        engine::run(&self.plan(), &self.payload(), ctx, resume.as_ref()).await
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        engine::cancel(&self.plan(), &self.payload(), ctx, resume.as_ref()).await
    }
}

fn main() -> ExitCode {
    stepward::serve::<RunCommand>()
}
