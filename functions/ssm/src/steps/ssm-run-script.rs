//! The step `ssm-run-script`.

use std::time::Duration;

use crate::deliver::{self, Fetch};
use crate::engine;
use crate::params::CommandOptions;
use crate::payload::{File, Origin};
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

/// How long all arguments together may be, in bytes, and how many: they go with the command, where
/// a quote takes five bytes, and which SSM limits to 64 KB.
const LONGEST_ARGS: usize = 10 * 1024;
const MOST_ARGS: usize = 100;
/// Windows PowerShell reads a file without it in an old code page.
const UTF8: char = '\u{feff}';

/// Run a script on any number of nodes with SSM Run Command and wait for all results.
///
/// The script goes through S3 as with `ssm-copy-file`: nodes fetch it by a link that lives 15
/// minutes into a private directory, check its size and SHA-256, run it with the arguments, and
/// remove it. The script's exit code is the node's; a node that could not get or check it fails
/// with 125 and the reason. The object is removed when all nodes are over, also when the step fails
/// or is stopped; after an error that is tried again it stays for the next call. One that cannot be
/// removed is a line of the log and no failure.
///
/// Arguments reach the script as they are, whatever is in them: no shell and no template of SSM's
/// reads them.
///
/// Batches, concurrency, repeated calls and the output are those of `ssm-run-command`; as links are
/// short-lived, a batch has no more nodes than begin at once.
///
/// Proven on the local cloud, whose nodes are directories of one machine, through a bucket of the
/// account. That arguments are never code is proven by running what is sent with `sh`; what
/// PowerShell is sent was not run.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct RunScript(Merged<Own, CommandOptions>);

/// The parameters of `ssm-run-script` alone.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Own {
    /// The script's text.
    script: String,
    /// The program that reads it, with options between spaces, as in `/usr/bin/python3 -u`. Without
    /// it, what the script's first line names after `#!`, else `/bin/sh`. With powershell the
    /// script is PowerShell, and this is not taken.
    interpreter: Option<String>,
    /// The script's arguments, up to 100, with 10,240 bytes in all.
    #[serde(default)]
    args: StringList,
    /// The bucket of the account that the script goes through, below `stepward/scratch/`;
    /// Stepward's own without it.
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

    fn origin(&self) -> Origin {
        let Merged(own, _) = &self.0;
        let mut content = own.script.clone();
        if self.shell() == Shell::Powershell && !content.starts_with(UTF8) {
            content.insert(0, UTF8);
        }
        Origin::Content {
            content: content.into_bytes(),
            bucket: own.bucket.clone(),
        }
    }

    /// What reads the script, as words of a shell.
    fn reader(&self) -> String {
        let Merged(
            Own {
                script,
                interpreter,
                ..
            },
            _,
        ) = &self.0;
        let given = interpreter.as_deref();
        let given = given.map(|words| {
            words
                .split_whitespace()
                .map(shell::quote)
                .collect::<Vec<_>>()
                .join(" ")
        });
        given
            .or_else(|| quote::named_reader(script))
            .unwrap_or_else(|| shell::quote("/bin/sh"))
    }

    fn file(&self) -> File<impl Fn(&Fetch<'_>) -> String + Send + Sync> {
        let Merged(Own { args, .. }, _) = &self.0;
        let on_node = |fetch: &Fetch<'_>| match self.shell() {
            Shell::Bash => deliver::sh_run(fetch, &self.reader(), args),
            Shell::Powershell => deliver::powershell_run(fetch, args),
        };
        File {
            origin: self.origin(),
            on_node,
        }
    }
}

impl Step for RunScript {
    const NAME: &'static str = "ssm-run-script";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r##"{
        "instance_ids": "i-0123456789abcdef0",
        "script": "#!/bin/bash\nset -eu\nsystemctl restart \"$1\"\n",
        "args": ["nginx"]
    }"##,
            output: "null",
        },
        Example {
            title: "TODO",
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
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "instance_ids": "i-0123456789abcdef0",
        "script": "import sys; print(sys.argv[1:])",
        "interpreter": "/usr/bin/python3 -u",
        "args": ["a", "b c"],
        "output_bucket": "stepward-results-222222222222"
    }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = crate::ERRORS;
    const TIMEOUT: Duration = TIMEOUT;
    const FUNCTION: FunctionConfig = FUNCTION;
    type Output = CommandResults;

    fn validate(&self) -> Result<(), StepError> {
        let Merged(
            Own {
                script,
                interpreter,
                args,
                bucket,
            },
            _,
        ) = &self.0;
        require(!script.trim().is_empty(), || "script is empty".into())?;
        let interpreter = interpreter.as_deref();
        require(
            interpreter.is_none_or(|words| words.starts_with('/') && !words.contains('\0')),
            || "interpreter must be a program's whole path, as in /usr/bin/python3".into(),
        )?;
        require(interpreter.is_none() || self.shell() == Shell::Bash, || {
            "interpreter is for Linux and macOS; with powershell the script is PowerShell".into()
        })?;
        let length: usize = args.iter().map(String::len).sum();
        require(length <= LONGEST_ARGS && args.len() <= MOST_ARGS, || {
            let count = args.len();
            format!(
                "args are {count} with {length} bytes, and at most {MOST_ARGS} with {LONGEST_ARGS}; copy a file with \
                 ssm-copy-file instead"
            )
        })?;
        require(!args.iter().any(|arg| arg.contains('\0')), || {
            "args hold a NUL, which no program takes".into()
        })?;
        bucket::check_bucket_name("bucket", bucket.as_deref())?;
        self.plan().validate()
    }

    fn permissions(&self) -> Permissions {
        self.plan().permissions().and(self.origin().permissions())
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<CommandResults>, StepError> {
        engine::run(&self.plan(), &self.file(), ctx, resume.as_ref()).await
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        engine::cancel(&self.plan(), &self.file(), ctx, resume.as_ref()).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stepward::model::digest::sha256;
    use stepward::node::Status;
    use stepward::testing::{names_invalid_parameters, with_artifacts};
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::{self, Bucket, Fake, IDS, bucket, nodes, ran};

    #[expect(
        clippy::needless_pass_by_value,
        reason = "it is always written in place"
    )]
    fn step(more: Value) -> RunScript {
        testing::with(
            json!({ "instance_ids": IDS, "script": "echo \"$@\"" }),
            &more,
        )
    }

    fn context(fake: &Fake, own: &Bucket) -> Context {
        with_artifacts(fake.context(&[]), own.client(), "artifacts")
    }

    /// What is sent for a step.
    async fn sent(step: &RunScript) -> String {
        let fake = Fake::default();
        ran(step, &context(&fake, &Bucket::default()))
            .await
            .unwrap();
        fake.lock().commands[0].text().to_owned()
    }

    #[tokio::test]
    async fn done_runs_the_script_with_its_arguments() {
        let (fake, own) = (Fake::default(), Bucket::default());
        let ctx = context(&fake, &own);
        let step = step(json!({ "args": ["it's", "{{ssm:x}}"], "timeout": 60 }));
        step.run(&ctx, None).await.unwrap();
        assert_eq!(own.lock().kept.values().next().unwrap(), b"echo \"$@\"");
        let ran = ran(&step, &ctx).await.unwrap();
        assert_eq!((ran.succeeded, own.counts()), (2, (1, 0, 0)));
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
    async fn done_by_the_program_that_is_named() {
        let named = sent(&step(
            json!({ "script": "#!/usr/bin/env python3\nprint(1)" }),
        ))
        .await;
        assert!(
            named.contains(r#"'/usr/bin/env' 'python3' "$dir/script""#),
            "{named}"
        );
        let given = sent(&step(
            json!({ "script": "#!/bin/sh", "interpreter": "/usr/bin/perl -w" }),
        ))
        .await;
        assert!(
            given.contains(r#"'/usr/bin/perl' '-w' "$dir/script""#),
            "{given}"
        );
    }

    #[tokio::test]
    async fn done_on_windows_the_script_is_utf_8_to_powershell() {
        let (fake, own) = (Fake::default(), Bucket::default());
        let (step, ctx) = (
            step(json!({ "shell": "powershell", "args": ["it's"] })),
            context(&fake, &own),
        );
        step.run(&ctx, None).await.unwrap();
        assert!(
            own.lock()
                .kept
                .values()
                .next()
                .unwrap()
                .starts_with(b"\xef\xbb\xbfecho")
        );
        let sent = fake.lock().commands[0].clone();
        assert_eq!(sent.document, "AWS-RunPowerShellScript");
        assert!(
            sent.text().contains(&quote::powershell("it's")),
            "{}",
            sent.text()
        );
    }

    #[tokio::test]
    async fn already_sent_commands_are_found_and_the_object_is_removed_by_the_later_call() {
        let (fake, own) = (Fake::default(), Bucket::default());
        let (step, ctx) = (step(json!({})), context(&fake, &own));
        step.run(&ctx, None).await.unwrap();
        ran(&step, &ctx).await.unwrap();
        assert_eq!((fake.calls("SendCommand"), own.counts()), (1, (1, 0, 0)));
    }

    #[tokio::test]
    async fn not_found_nodes_are_reported_and_the_others_run() {
        let fake = Fake::default();
        fake.lock().away = [(IDS[0].to_owned(), None)].into();
        let step = step(json!({ "fail_on_error": false }));
        let ran = ran(&step, &context(&fake, &Bucket::default()))
            .await
            .unwrap();
        assert_eq!(
            (ran.nodes[IDS[0]].status, ran.nodes[IDS[1]].status),
            (Status::Unmanaged, Status::Succeeded)
        );
    }

    #[test]
    fn invalid_parameters_are_named() {
        names_invalid_parameters::<RunScript>();
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        step(json!({ "interpreter": "/usr/bin/python3 -u", "args": "one" }))
            .validate()
            .unwrap();
        for (wrong, named) in [
            (json!({ "script": " " }), "script"),
            (json!({ "interpreter": "python3" }), "interpreter"),
            (
                json!({ "interpreter": "/bin/sh", "shell": "powershell" }),
                "interpreter",
            ),
            (json!({ "args": ["x".repeat(LONGEST_ARGS + 1)] }), "args"),
            (json!({ "args": vec!["x"; MOST_ARGS + 1] }), "args"),
            (json!({ "args": ["a\u{0}"] }), "NUL"),
            (json!({ "bucket": "a/b" }), "bucket"),
            (json!({ "instance_ids": "web-1" }), "instance_ids"),
        ] {
            let error = step(wrong.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{wrong}");
            assert!(error.message.contains(named), "{error}");
        }
    }

    #[tokio::test]
    async fn done_with_the_most_arguments_is_within_what_ssm_takes() {
        let quotes = vec!["'".repeat(LONGEST_ARGS / MOST_ARGS); MOST_ARGS];
        for shell in ["bash", "powershell"] {
            let step = step(json!({ "args": quotes, "shell": shell, "destination": null }));
            step.validate().unwrap();
            let text = serde_json::to_string(&sent(&step).await).unwrap();
            assert!(text.len() < 64 * 1024, "{} bytes", text.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_made_again() {
        let ctx = with_artifacts(
            Fake::default().throttled(),
            Bucket::default().client(),
            "artifacts",
        );
        assert_eq!(ran(&step(json!({})), &ctx).await.unwrap().succeeded, 2);
    }

    #[tokio::test]
    async fn pending_keeps_the_object_until_all_nodes_are_over() {
        let (fake, own) = (Fake::default(), Bucket::default());
        fake.lock().stuck = [IDS[1].to_owned()].into();
        let (step, ctx) = (step(json!({})), context(&fake, &own));
        let resume = testing::resumed(step.run(&ctx, None).await.unwrap());
        let Progress::Pending { progress, .. } = step.run(&ctx, Some(resume)).await.unwrap() else {
            panic!("done")
        };
        assert_eq!(
            (progress.as_str(), own.counts()),
            ("1 of 2 nodes are over, 0 failed", (1, 0, 1))
        );
    }

    #[tokio::test]
    async fn failed_scripts_give_their_exit_code() {
        let (fake, own) = (Fake::default(), Bucket::default());
        fake.lock().failing = [IDS[0].to_owned()].into();
        let ctx = context(&fake, &own);
        let error = ran(&step(json!({})), &ctx).await.unwrap_err();
        assert_eq!(
            (error.name, own.counts()),
            (ErrorName::StepFailed, (1, 0, 0))
        );
        let ran = ran(&step(json!({ "fail_on_error": false })), &ctx)
            .await
            .unwrap();
        assert_eq!(ran.nodes[IDS[0]].exit_code, Some(3));
    }

    const CANCELS: &str =
        "Only a job that is stopped, and errors in several batches, cancel commands.";
    const ENCRYPTS: &str = "Nothing is encrypted with a key of the account here.";
    const READS: &str =
        "A whole output that cannot be read is a line of the log, and leaves what SSM gives.";
    const IDLE: [(&str, &str); 6] = [
        ("ssm:CancelCommand", CANCELS),
        ("kms:Decrypt", ENCRYPTS),
        ("kms:GenerateDataKey", ENCRYPTS),
        ("ssm:GetCommandInvocation", READS),
        ("logs:GetLogEvents", READS),
        (
            "s3:DeleteObject",
            "An object that cannot be removed is a line of the log: the script ran on all nodes.",
        ),
    ];

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<RunScript>(&IDLE, async |scene| {
            json!({
                "instance_ids": nodes(scene).await,
                "script": "i=0; while [ $i -lt $1 ]; do echo 123456789; i=$((i+1)); done",
                "args": "4000",
                "bucket": bucket(scene).await,
                "cloudwatch_log_group": scene.name("/scripts"),
                "fail_on_error": false,
            })
        });
    }
}
