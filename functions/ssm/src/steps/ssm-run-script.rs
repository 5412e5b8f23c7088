//! The step `ssm-run-script`.

use std::time::Duration;

use crate::engine;
use crate::node_script::{self, Download};
use crate::params::CommandOptions;
use crate::payload::{FilePayload, FileSource};
use crate::plan::{Plan, Shell};
use crate::{FUNCTION, TIMEOUT, quote};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::bucket;
use stepward::model::input::{StringList, require};
use stepward::model::merged::Merged;
use stepward::node::CommandResults;
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError, node::shell,
};

/// The maximum length of all arguments together, in bytes. They are part of the command, where a
/// single quote takes five bytes, and SSM limits the command to 64 KB.
const MAX_ARGUMENT_BYTES: usize = 10 * 1024;
/// How many arguments a script may have.
const MAX_ARGUMENTS: usize = 100;
/// The byte order mark of UTF-8. Windows PowerShell reads a file without it in a legacy code page.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Run a script on any number of nodes with SSM Run Command and wait for all results.
///
/// Use this step for scripts of any length, and whenever you pass values as arguments: a script
/// receives its arguments exactly as you pass them, because neither a shell nor an SSM template
/// interprets them. For a short command line, `ssm-run-command` is simpler.
///
/// # Prerequisites
///
/// - Each node runs the SSM agent and is online in Systems Manager.
/// - Each EC2 instance has an instance profile whose role has the policy
///   `AmazonSSMManagedInstanceCore` or equal permissions. It needs no permissions for S3 to
///   download the script: nodes use a link and not their own credentials.
/// - Each node reaches the endpoints `ssm`, `ssmmessages`, `ec2messages` and `s3` of its Region on
///   port 443: through the internet, a NAT gateway or VPC endpoints.
/// - The step's role is allowed to send AWS's document `AWS-RunShellScript` (Linux and macOS) or
///   `AWS-RunPowerShellScript` (Windows) to these nodes.
/// - Linux and macOS nodes have `curl`, `wget` or `python3`, and the script's interpreter.
/// - `bucket`, if you pass one, is in the Region that the step works in.
/// - With `output_bucket`, the instance profile allows `s3:PutObject` on `stepward/*` in this
///   bucket. With `cloudwatch_log_group`, it allows `logs:CreateLogGroup`, `logs:CreateLogStream`,
///   `logs:DescribeLogGroups`, `logs:DescribeLogStreams` and `logs:PutLogEvents`. If the bucket or
///   the log group uses a KMS key, it also allows the use of this key.
///
/// # Behavior
///
/// - The script is uploaded as a temporary object: to `bucket`, or to Stepward's artifacts bucket
///   if you pass none. The step removes it when all nodes have finished, when the step fails and
///   when the job is stopped. After an error that Step Functions retries, the object is kept for
///   the retry.
/// - Each node gets a Run Command that downloads the script from a presigned S3 URL and stores it
///   in a private directory. The URL is for this object only and expires after 15 minutes.
/// - The node checks size and SHA-256 of the script, runs it with the arguments and removes it.
/// - With `bash`, the line endings of Windows in the script (CRLF) become those of Linux, and a
///   byte order mark is removed. With `powershell`, the script is unchanged. Arguments are
///   never changed.
/// - The script's exit code is the exit code of the node.
/// - Batches, `concurrency`, retries, stopping and the output work as in `ssm-run-command`. A
///   batch has at most `concurrency` nodes, so that no node waits until its URL has expired.
///
/// # Failures
///
/// - A node that cannot download or verify the script gets exit code 125 and the reason in its
///   output. The script did not run there.
/// - If the temporary object cannot be removed, the step logs that and does not fail. Remove the
///   object manually.
///
/// # Cost
///
/// AWS charges for the requests to S3, and for outputs that are stored in CloudWatch Logs or S3.
/// Run Command on EC2 instances has no charge; AWS charges for on-premises nodes of the advanced
/// tier.
///
/// # Limits
///
/// - 25,000 nodes and 500 commands (batches) in one step.
/// - 100 arguments with 10,240 bytes in total.
/// - 48 hours for the script on each node.
///
/// # Proof
///
/// Proven on the local cloud, which simulates each node with a directory of one machine, through a
/// bucket of the account. Tests run the command that the step sends with `sh`, and show that
/// arguments are never run as code. The PowerShell script was not run.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct RunScript(Merged<RunScriptParameters, CommandOptions>);

/// The parameters that only `ssm-run-script` has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunScriptParameters {
    /// The script's text.
    script: String,
    /// The absolute path of the program that runs the script, with options separated by spaces, for
    /// example `/usr/bin/python3 -u`. The default is the program in the script's first line after
    /// `#!`, or else `/bin/sh`. Not available with `powershell`.
    interpreter: Option<String>,
    /// The script's arguments, up to 100, with 10,240 bytes in total.
    #[serde(default)]
    args: StringList,
    /// The bucket in the account for the temporary object, under `stepward/scratch/`. The default
    /// is Stepward's artifacts bucket.
    bucket: Option<String>,
}

impl RunScript {
    fn plan(&self) -> Plan {
        let Merged(_, Merged(rollout, outputs)) = &self.0;
        outputs.plan(rollout)
    }

    fn shell(&self) -> Shell {
        let Merged(_, Merged(rollout, _)) = &self.0;
        rollout.shell
    }

    fn file_source(&self) -> FileSource {
        let Merged(parameters, _) = &self.0;
        FileSource::Content {
            content: self.script_for_shell().into_bytes(),
            bucket: parameters.bucket.clone(),
        }
    }

    /// The script as its shell reads it.
    fn script_for_shell(&self) -> String {
        let Merged(RunScriptParameters { script, .. }, _) = &self.0;
        match self.shell() {
            Shell::Bash => shell::with_unix_line_endings(script),
            Shell::Powershell if script.starts_with(BYTE_ORDER_MARK) => script.clone(),
            Shell::Powershell => format!("{BYTE_ORDER_MARK}{script}"),
        }
    }

    /// The program that runs the script, as quoted words of a shell.
    fn interpreter_words(&self) -> String {
        let Merged(parameters, _) = &self.0;
        let given = parameters.interpreter.as_deref().map(|words| {
            words
                .split_whitespace()
                .map(shell::quote)
                .collect::<Vec<_>>()
                .join(" ")
        });
        given
            .or_else(|| quote::shebang_interpreter(&self.script_for_shell()))
            .unwrap_or_else(|| shell::quote("/bin/sh"))
    }

    fn payload(&self) -> FilePayload<impl Fn(&Download<'_>) -> String + Send + Sync> {
        let Merged(RunScriptParameters { args, .. }, _) = &self.0;
        let build_script = |download: &Download<'_>| match self.shell() {
            Shell::Bash => node_script::sh_run_script(download, &self.interpreter_words(), args),
            Shell::Powershell => node_script::powershell_run_script(download, args),
        };
        FilePayload {
            source: self.file_source(),
            build_script,
        }
    }

    fn check_interpreter(&self) -> Result<(), StepError> {
        let Merged(parameters, _) = &self.0;
        let Some(interpreter) = parameters.interpreter.as_deref() else {
            return Ok(());
        };
        require(
            interpreter.starts_with('/') && !interpreter.contains('\0'),
            || {
                format!(
                    "parameter \"interpreter\": {interpreter:?} is not an absolute path; pass a \
                     path such as /usr/bin/python3"
                )
            },
        )?;
        require(self.shell() == Shell::Bash, || {
            "parameter \"interpreter\": not available with shell powershell; remove it, because \
             the script is PowerShell"
                .into()
        })
    }

    fn check_arguments(&self) -> Result<(), StepError> {
        let Merged(RunScriptParameters { args, .. }, _) = &self.0;
        let (count, bytes) = (args.len(), args.iter().map(String::len).sum::<usize>());
        require(
            bytes <= MAX_ARGUMENT_BYTES && count <= MAX_ARGUMENTS,
            || {
                format!(
                    "parameter \"args\": expected up to {MAX_ARGUMENTS} arguments with \
                     {MAX_ARGUMENT_BYTES} bytes in total, got {count} with {bytes} bytes; copy the \
                     values to the nodes with ssm-copy-file"
                )
            },
        )?;
        require(!args.iter().any(|arg| arg.contains('\0')), || {
            "parameter \"args\": an argument contains a NUL character, which no program accepts; \
             remove it"
                .into()
        })
    }
}

impl Step for RunScript {
    const NAME: &'static str = "ssm-run-script";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Run a shell script with an argument",
            parameters: r##"{
        "instance_ids": "i-0123456789abcdef0",
        "script": "#!/bin/bash\nset -eu\nsystemctl restart \"$1\"\n",
        "args": ["nginx"]
    }"##,
            output: r#"{
        "command_ids": ["c07f5e92-8b34-4a1d-b5c9-6e20d8f7a413"],
        "succeeded": 1,
        "failed": 0,
        "nodes": {
            "i-0123456789abcdef0": { "status": "succeeded", "exit_code": 0 }
        }
    }"#,
        },
        Example {
            title: "Run a PowerShell script on Windows nodes with outputs in CloudWatch Logs",
            parameters: r#"{
        "instance_ids": ["i-0123456789abcdef0", "mi-0123456789abcdef0"],
        "script": "param($Name) Restart-Service $Name",
        "args": ["W32Time"],
        "shell": "powershell",
        "bucket": "stepward-files-222222222222",
        "cloudwatch_log_group": "/stepward/scripts",
        "concurrency": 10,
        "max_errors": 0
    }"#,
            output: r#"{
        "command_ids": ["4a8e1d60-f295-4c7b-83d0-b9f61c52e7d8"],
        "succeeded": 2,
        "failed": 0,
        "nodes": {
            "i-0123456789abcdef0": { "status": "succeeded", "exit_code": 0 },
            "mi-0123456789abcdef0": { "status": "succeeded", "exit_code": 0 }
        }
    }"#,
        },
        Example {
            title: "Run a Python script with outputs in a bucket",
            parameters: r#"{
        "instance_ids": "i-0123456789abcdef0",
        "script": "import sys; print(sys.argv[1:])",
        "interpreter": "/usr/bin/python3 -u",
        "args": ["a", "b c"],
        "output_bucket": "stepward-results-222222222222"
    }"#,
            output: r#"{
        "command_ids": ["91b6f0c4-2e7d-4853-ad1e-05c7e84b3f96"],
        "succeeded": 1,
        "failed": 0,
        "nodes": {
            "i-0123456789abcdef0": {
                "status": "succeeded",
                "exit_code": 0,
                "output": "['a', 'b c']"
            }
        }
    }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = crate::ERRORS;
    const TIMEOUT: Duration = TIMEOUT;
    const FUNCTION: FunctionConfig = FUNCTION;
    type Output = CommandResults;

    fn validate(&self) -> Result<(), StepError> {
        let Merged(RunScriptParameters { script, bucket, .. }, _) = &self.0;
        require(!script.trim().is_empty(), || {
            "parameter \"script\": the text is empty; pass the script to run".into()
        })?;
        self.check_interpreter()?;
        self.check_arguments()?;
        bucket::check_bucket_name("bucket", bucket.as_deref())?;
        self.plan().validate()
    }

    fn permissions(&self) -> Permissions {
        self.plan()
            .permissions()
            .and(self.file_source().permissions())
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
    use serde_json::{Value, json};
    use stepward::model::digest::sha256;
    use stepward::node::Status;
    use stepward::testing::{assert_invalid_parameters_are_named, with_artifacts};
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::{self, FakeBucket, FakeSsm, IDS, create_bucket, create_nodes, run_to_end};

    #[expect(clippy::needless_pass_by_value, reason = "callers pass a literal")]
    fn step(parameters: Value) -> RunScript {
        testing::step_with_parameters(
            json!({ "instance_ids": IDS, "script": "echo \"$@\"" }),
            &parameters,
        )
    }

    fn context(fake: &FakeSsm, artifacts: &FakeBucket) -> Context {
        with_artifacts(fake.context(&[]), artifacts.client(), "artifacts")
    }

    /// The text that the step sends.
    async fn sent_text(step: &RunScript) -> String {
        let fake = FakeSsm::default();
        run_to_end(step, &context(&fake, &FakeBucket::default()))
            .await
            .unwrap();
        fake.lock().commands[0].text().to_owned()
    }

    #[tokio::test]
    async fn done_runs_the_script_with_its_arguments() {
        let (fake, artifacts) = (FakeSsm::default(), FakeBucket::default());
        let ctx = context(&fake, &artifacts);
        let step = step(json!({ "args": ["it's", "{{ssm:x}}"], "timeout": 60 }));
        step.run(&ctx, None).await.unwrap();
        assert_eq!(
            artifacts.lock().stored.values().next().unwrap(),
            b"echo \"$@\""
        );
        let results = run_to_end(&step, &ctx).await.unwrap();
        assert_eq!((results.succeeded, artifacts.counts()), (2, (1, 0, 0)));
        let text = fake.lock().commands[0].text().to_owned();
        assert!(
            text.contains(&sha256("echo \"$@\"")) && !text.contains("{{"),
            "{text}"
        );
        assert!(
            text.contains(r#"'/bin/sh' "$dir/script" 'it'\''s' '{''{ssm:x}}'"#),
            "{text}"
        );
        assert_eq!(
            fake.lock().commands[0].parameters["executionTimeout"],
            ["60"]
        );
    }

    #[tokio::test]
    async fn done_with_the_interpreter_of_script_or_parameter() {
        let named = sent_text(&step(
            json!({ "script": "#!/usr/bin/env python3\nprint(1)" }),
        ))
        .await;
        assert!(
            named.contains(r#"'/usr/bin/env' 'python3' "$dir/script""#),
            "{named}"
        );
        let given = sent_text(&step(
            json!({ "script": "#!/bin/sh", "interpreter": "/usr/bin/perl -w" }),
        ))
        .await;
        assert!(
            given.contains(r#"'/usr/bin/perl' '-w' "$dir/script""#),
            "{given}"
        );
    }

    #[tokio::test]
    async fn done_on_windows_with_a_byte_order_mark() {
        let (fake, artifacts) = (FakeSsm::default(), FakeBucket::default());
        let (step, ctx) = (
            step(json!({ "shell": "powershell", "args": ["it's"] })),
            context(&fake, &artifacts),
        );
        step.run(&ctx, None).await.unwrap();
        assert!(
            artifacts
                .lock()
                .stored
                .values()
                .next()
                .unwrap()
                .starts_with(b"\xef\xbb\xbfecho")
        );
        let sent = fake.lock().commands[0].clone();
        assert_eq!(sent.document, "AWS-RunPowerShellScript");
        assert!(
            sent.text().contains(&quote::powershell_expression("it's")),
            "{}",
            sent.text()
        );
    }

    #[tokio::test]
    async fn done_with_windows_line_endings_in_the_script() {
        let uploaded = async |shell: &str, script: &str| {
            let (fake, artifacts) = (FakeSsm::default(), FakeBucket::default());
            let step = step(json!({ "shell": shell, "script": script, "args": ["a\r\nb"] }));
            step.run(&context(&fake, &artifacts), None).await.unwrap();
            let content = artifacts.lock().stored.values().next().unwrap().clone();
            let text = fake.lock().commands[0].text().to_owned();
            (String::from_utf8(content).unwrap(), text)
        };

        let (content, text) = uploaded("bash", "\u{feff}#!/bin/bash\r\ncd /tmp\r\n").await;
        assert_eq!(content, "#!/bin/bash\ncd /tmp\n");
        assert!(
            text.contains(r#"'/bin/bash' "$dir/script""#) && text.contains("'a\r\nb'"),
            "{text}"
        );
        let (content, _) = uploaded("powershell", "cd C:\\\r\nGet-Date\r\n").await;
        assert_eq!(content, "\u{feff}cd C:\\\r\nGet-Date\r\n");
    }

    #[tokio::test]
    async fn already_sent_commands_are_found_and_the_object_is_removed() {
        let (fake, artifacts) = (FakeSsm::default(), FakeBucket::default());
        let (step, ctx) = (step(json!({})), context(&fake, &artifacts));
        step.run(&ctx, None).await.unwrap();
        run_to_end(&step, &ctx).await.unwrap();
        assert_eq!(
            (fake.call_count("SendCommand"), artifacts.counts()),
            (1, (1, 0, 0))
        );
    }

    #[tokio::test]
    async fn not_found_nodes_are_reported_and_the_others_run() {
        let fake = FakeSsm::default();
        fake.lock().unavailable_nodes = [(IDS[0].to_owned(), None)].into();
        let step = step(json!({ "fail_on_error": false }));
        let results = run_to_end(&step, &context(&fake, &FakeBucket::default()))
            .await
            .unwrap();
        assert_eq!(
            (results.nodes[IDS[0]].status, results.nodes[IDS[1]].status),
            (Status::Unmanaged, Status::Succeeded)
        );
    }

    #[test]
    fn invalid_parameters_are_named() {
        assert_invalid_parameters_are_named::<RunScript>();
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        step(json!({ "interpreter": "/usr/bin/python3 -u", "args": "one" }))
            .validate()
            .unwrap();
        for (invalid, expected) in [
            (json!({ "script": " " }), "script"),
            (json!({ "interpreter": "python3" }), "interpreter"),
            (
                json!({ "interpreter": "/bin/sh", "shell": "powershell" }),
                "interpreter",
            ),
            (
                json!({ "args": ["x".repeat(MAX_ARGUMENT_BYTES + 1)] }),
                "args",
            ),
            (json!({ "args": vec!["x"; MAX_ARGUMENTS + 1] }), "args"),
            (json!({ "args": ["a\u{0}"] }), "NUL"),
            (json!({ "bucket": "a/b" }), "bucket"),
            (json!({ "instance_ids": "web-1" }), "instance_ids"),
        ] {
            let error = step(invalid.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{invalid}");
            assert!(error.message.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn done_with_maximum_arguments_fits_into_a_command() {
        let quoted_arguments = vec!["'".repeat(MAX_ARGUMENT_BYTES / MAX_ARGUMENTS); MAX_ARGUMENTS];
        for shell in ["bash", "powershell"] {
            let step =
                step(json!({ "args": quoted_arguments, "shell": shell, "destination": null }));
            step.validate().unwrap();
            let text = serde_json::to_string(&sent_text(&step).await).unwrap();
            assert!(text.len() < 64 * 1024, "{} bytes", text.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_repeated() {
        let ctx = with_artifacts(
            FakeSsm::default().throttled_context(),
            FakeBucket::default().client(),
            "artifacts",
        );
        assert_eq!(
            run_to_end(&step(json!({})), &ctx).await.unwrap().succeeded,
            2
        );
    }

    #[tokio::test]
    async fn pending_keeps_the_object_until_all_nodes_finished() {
        let (fake, artifacts) = (FakeSsm::default(), FakeBucket::default());
        fake.lock().stuck_nodes = [IDS[1].to_owned()].into();
        let (step, ctx) = (step(json!({})), context(&fake, &artifacts));
        let resume = testing::resume_from(step.run(&ctx, None).await.unwrap());
        let Progress::Pending { progress, .. } = step.run(&ctx, Some(resume)).await.unwrap() else {
            panic!("done")
        };
        assert_eq!(
            (progress.as_str(), artifacts.counts()),
            ("1 of 2 nodes finished, 0 failed", (1, 0, 1))
        );
    }

    #[tokio::test]
    async fn failed_scripts_return_their_exit_code() {
        let (fake, artifacts) = (FakeSsm::default(), FakeBucket::default());
        fake.lock().failing_nodes = [IDS[0].to_owned()].into();
        let ctx = context(&fake, &artifacts);
        let error = run_to_end(&step(json!({})), &ctx).await.unwrap_err();
        assert_eq!(
            (error.name, artifacts.counts()),
            (ErrorName::StepFailed, (1, 0, 0))
        );
        let results = run_to_end(&step(json!({ "fail_on_error": false })), &ctx)
            .await
            .unwrap();
        assert_eq!(results.nodes[IDS[0]].exit_code, Some(3));
    }

    const CANCELLATION: &str =
        "The step cancels commands only if the job is stopped or max_errors is exceeded.";
    const ENCRYPTION: &str = "The local cloud encrypts nothing with a KMS key of the account.";
    const OUTPUT_READ: &str =
        "If a complete output cannot be read, the step logs that and keeps the part of SSM.";
    const UNPROVEN: [(&str, &str); 6] = [
        ("ssm:CancelCommand", CANCELLATION),
        ("kms:Decrypt", ENCRYPTION),
        ("kms:GenerateDataKey", ENCRYPTION),
        ("ssm:GetCommandInvocation", OUTPUT_READ),
        ("logs:GetLogEvents", OUTPUT_READ),
        (
            "s3:DeleteObject",
            "If the object cannot be removed, the step logs that: the script ran on all nodes.",
        ),
    ];

    #[test]
    fn permissions_match_those_that_the_local_cloud_requires() {
        prove_permissions::<RunScript>(&UNPROVEN, async |scene| {
            json!({
                "instance_ids": create_nodes(scene).await,
                "script": "i=0; while [ $i -lt $1 ]; do echo 123456789; i=$((i+1)); done",
                "args": "4000",
                "bucket": create_bucket(scene).await,
                "cloudwatch_log_group": scene.name("/scripts"),
                "fail_on_error": false,
            })
        });
    }
}
