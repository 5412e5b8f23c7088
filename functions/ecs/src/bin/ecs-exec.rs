//! The step `ecs-exec`.

use std::process::ExitCode;
use std::time::Duration;

use aws_sdk_ecs::Client;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::input::require;
use stepward::node::{self, Status};
use stepward::permissions::{arn, literal};
use stepward::{Context, ErrorName, Function, Permissions, Progress, Resume, Step, StepError};
use stepward_ecs::exec::channel::Why;
use stepward_ecs::exec::ready::{self, Ready};
use stepward_ecs::exec::session::{self, Ran};
use stepward_ecs::exec::transcript::End;
use stepward_ecs::exec::wrapper;
use stepward_ecs::{check_cluster, check_place, check_task, name_of, task_arns};
use tokio::time::Instant;

/// The longest that a command may run, in seconds: Lambda's 15 minutes, less what comes before and after.
const LONGEST: u64 = 840;
/// Kept free at the end of the call: to end the session, and to answer.
const MARGIN: Duration = Duration::from_secs(8);
/// Characters of the output that an error's message has.
const TAIL: usize = 1000;

/// Run a command in a container of an ECS task and report its output and exit code.
///
/// The command is a line for `/bin/sh`, run as root in the container's working directory, with the container's
/// environment. It gets no input. What it writes to standard output and standard error comes back as one output, in order;
/// of more than 1 MiB the end. What is not UTF-8 is replaced: have binary output written as base64. The container needs
/// `/bin/sh` and a `/tmp` that can be written to; without `stty` in the image, `\r\n` comes back as `\n`.
///
/// The task must have been started with ECS Exec enabled. An agent that is still starting is waited for, for up to a
/// minute; why it cannot work is said before anything is tried. A container has two sessions at a time by default; others
/// wait, and one that does not begin within 30 seconds is given up.
///
/// ECS Exec reports no exit code, so the command is run by a script that writes it behind the output. Where that does not
/// arrive (the container stopped, the connection broke), the exit code is unknown: `unknown` is never success.
///
/// ECS Exec has no client token either. To never run a command twice for one step of one execution, the script first makes
/// a file, `/tmp/.stepward-…`, and a call that finds it runs nothing: an earlier one began the command, its answer was
/// lost, and the step ends as `unknown`. So a `Retry` in the state machine, too, runs nothing that had begun; a new
/// execution does. The script removes such files after a day.
///
/// The session is held by one call and ended by it, whatever happens. Ending it kills the command's shell; what the command
/// left in the background gets SIGHUP, and may go on if it ignores that. When the job is stopped, the session is looked
/// for by its owner and ended. The customer's CloudTrail, and ECS Exec's own log where the cluster has one, show the
/// command: put no secret into it. Sessions that the cluster encrypts with a KMS key are supported.
///
/// Proven against a counterpart of the agent that runs commands in a terminal and loses, doubles and reorders messages,
/// with frames of AWS's own client and agent as vectors; who may ask ECS for it, on the local cloud. Not seen against AWS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Exec {
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
struct Outcome {
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
    /// What became of the command, for the outcome. An error where there was no session to run it in.
    fn outcome(&self, ran: Ran) -> Result<node::Outcome, StepError> {
        let Ran { why, told, errors, exit_code, before, has_begun } = ran;
        let end = exit_code.map(End::Exited).or(told.end);
        let (status, exit_code, message) = match (end, why) {
            (Some(End::Exited(0)), _) => (Status::Succeeded, Some(0), None),
            (Some(End::Exited(code)), _) => (Status::Failed, Some(code), Some(meaning(code))),
            (Some(End::Begun), _) => (
                Status::Unknown,
                None,
                Some(
                    "an earlier call of this step had begun the command, and its answer was lost: it has run, or runs \
                     still. Nothing was run now; look at what it was to do, and run it again in a new execution"
                        .into(),
                ),
            ),
            (Some(End::Unclaimed), _) => (
                Status::Failed,
                None,
                Some(
                    "no file can be made in /tmp of the container, without which a command could run twice; nothing was \
                     run"
                        .into(),
                ),
            ),
            (None, Why::NoKey(error)) => {
                let message = format!("the cluster encrypts sessions, and there is no key for this one: {}", error.message);
                return Err(StepError { message, ..error });
            }
            (None, Why::Deadline) => {
                (Status::TimedOut, None, Some("the command was not over in time, and its session was ended".into()))
            }
            (None, Why::Closed(said)) if !has_begun => {
                let said = [said, before].into_iter().find(|text| !text.is_empty());
                let said = said.unwrap_or_else(|| "the agent says nothing about it".into());
                (Status::Failed, None, Some(format!("the command could not be started: {said}")))
            }
            (None, why) => (Status::Unknown, None, Some(format!("{}; the exit code is unknown", lost(why)))),
        };
        let message = match told.dropped {
            0 => message,
            // Success has no message.
            dropped => message.map(|message| format!("{message} (the first {dropped} bytes of output were not kept)")),
        };
        Ok(node::Outcome { status, exit_code, output: told.output, error_output: errors, output_url: None, message })
    }

    /// The outcome as the step's answer.
    fn answer(&self, ctx: &Context, ready: &Ready, outcome: node::Outcome) -> Result<Progress<Outcome>, StepError> {
        let Ready { cluster, task, container, .. } = ready;
        let place = format!("container {container} of task {task}");
        match (outcome.exit_code, &outcome.message) {
            (Some(code), _) => ctx.log(format_args!("The command ended with exit code {code} in {place}")),
            (None, message) => ctx.log(format_args!("In {place}: {}", message.as_deref().unwrap_or_default())),
        }
        if self.fail_on_error && !outcome.status.is_success() {
            let name = if outcome.status == Status::TimedOut { ErrorName::TimedOut } else { ErrorName::StepFailed };
            let message = outcome.message.as_deref().unwrap_or_default();
            let output = [outcome.output.trim_end(), outcome.error_output.trim_end()].join("\n");
            let skip = output.trim().chars().count().saturating_sub(TAIL);
            let tail: String = output.trim().chars().skip(skip).collect();
            let tail = if tail.is_empty() { tail } else { format!(". Its output ends: {tail}") };
            return Err(name.because(format!("{message} ({place}){tail}")));
        }
        let (cluster, task, container) = (cluster.clone(), task.clone(), container.clone());
        Ok(Progress::Done(Outcome { outcome, cluster, task, container }))
    }
}

/// What a shell means by an exit code.
/// <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_08_02>
fn meaning(code: i32) -> String {
    let means = match code {
        126 => ": what it names cannot be executed".into(),
        127 => ": what it names was not found in the container".into(),
        129..=192 => format!(": signal {} ended it", code - 128),
        _ => String::new(),
    };
    format!("the command ended with exit code {code}{means}")
}

fn lost(why: Why) -> String {
    match why {
        Why::Closed(said) if said.is_empty() => "the session was ended before the command was over".into(),
        Why::Closed(said) => format!("the session was ended before the command was over: {said}"),
        Why::Silent => "the command did not begin within 30 seconds: the container's sessions (two by default) may all be \
                        in use, or its agent may hang; its session was ended"
            .into(),
        Why::Gone(why) => format!("the command was not over when it was seen that {why}"),
        Why::Lost(why) => format!("the session broke off: {why}"),
        Why::Ended | Why::Deadline | Why::NoKey(_) => "the session is over".into(),
    }
}

impl Step for Exec {
    const NAME: &'static str = "ecs-exec";
    const RUNDECK: &'static [&'static str] = &["aws-ecs-run-command"];
    const EXAMPLES: &'static [&'static str] = &[
        r#"{
        "cluster": "production",
        "task": "0123456789abcdef0123456789abcdef",
        "command": "df -h /"
    }"#,
        r#"{
        "cluster": "production",
        "task": "0123456789abcdef0123456789abcdef",
        "container": "app",
        "command": "bin/rake cache:clear && echo cleared",
        "timeout": 120,
        "fail_on_error": false
    }"#,
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (ErrorName::NotFound, "There is no such cluster, task or container; ECS forgets stopped tasks."),
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
        (ErrorName::TimedOut, "The command was not over in time and was ended, or there was no way to it."),
    ];
    const FUNCTION: Function = Function { timeout_seconds: 900, memory_mib: 512, local_files: false };
    type Output = Outcome;

    fn validate(&self) -> Result<(), StepError> {
        check_cluster(&self.cluster)?;
        check_task(&self.cluster, &self.task)?;
        require(self.container.as_deref().is_none_or(stepward_ecs::is_name), || {
            format!("container: {:?} is not a container's name", self.container.as_deref().unwrap_or_default())
        })?;
        require((1..=LONGEST).contains(&self.timeout), || {
            format!("timeout must be 1 to {LONGEST} seconds, not {}", self.timeout)
        })?;
        require(!self.command.trim().is_empty(), || "command is empty".into())?;
        require(!self.command.contains('\0'), || "command holds a NUL character, which no command can".into())?;
        let bytes = wrapper::wrapped(&self.command, &wrapper::nonce([0; 16]), &wrapper::claim(&"0".repeat(64))).len();
        require(bytes <= wrapper::LIMIT, || {
            format!(
                "command is too long: with the script around it it has {bytes} bytes, and at most {} are known to be \
                 taken. Put a script into the image, or have the command fetch it",
                wrapper::LIMIT
            )
        })
    }

    fn permissions(&self) -> Permissions {
        let task = literal(name_of(&self.task));
        // The key is the cluster's. Of all of the account's it can make data keys for sessions of ECS Exec only.
        let for_sessions = json!({ "StringLike": { "kms:EncryptionContext:aws:ssm:TargetId": "ecs:*" } });
        Permissions::default()
            .allow(&["ecs:DescribeTasks", "ecs:ExecuteCommand"], task_arns(&self.cluster, &task))
            .allow(
                &["ssm:TerminateSession", "ssmmessages:OpenDataChannel"],
                [arn("ssm", "session/ecs-execute-command-*")],
            )
            .allow_if(for_sessions, &["kms:GenerateDataKey"], [arn("kms", "key/*")])
            .allow(&["ssm:DescribeSessions"], ["*"])
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Outcome>, StepError> {
        check_place(&ctx.place, "cluster", &self.cluster)?;
        check_place(&ctx.place, "task", &self.task)?;
        let end = ctx.deadline().checked_sub(MARGIN).unwrap_or_else(Instant::now);
        let ecs = ctx.client(Client::new);
        let ready = ready::wait(&ecs, &self.cluster, &self.task, self.container.as_deref(), end).await?;
        let deadline = end.min(Instant::now() + Duration::from_secs(self.timeout));
        let token = ctx.client_token(&format!("ecs-exec {}", self.command));
        let ran = session::run(ctx, &ready, &self.command, &token, deadline).await?;
        self.answer(ctx, &ready, self.outcome(ran)?)
    }

    /// The call that holds the session may run still, and cannot be reached: the session is found by its owner.
    async fn cancel(&self, ctx: &Context, _: Option<Resume>) -> Result<(), StepError> {
        let found = ready::look(&ctx.client(Client::new), &self.cluster, &self.task).await;
        let ready = match found.and_then(|task| ready::find(&task, self.container.as_deref())) {
            Ok(ready) => ready,
            // With the container its sessions are gone.
            Err(error) if matches!(error.name, ErrorName::NotFound | ErrorName::InvalidInput) => return Ok(()),
            Err(error) => return Err(error),
        };
        for id in session::own(ctx, &ready).await? {
            session::end(ctx, &id).await?;
            ctx.log(format_args!("Session {id} was ended, and with it the command"));
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    stepward::serve::<Exec>()
}
