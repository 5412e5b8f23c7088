//! The step `ssm-copy-file`.

use std::time::Duration;

use crate::engine;
use crate::node_script::{self, Download};
use crate::params::Rollout;
use crate::payload::{FilePayload, FileSource};
use crate::plan::{Plan, Shell};
use crate::{FUNCTION, TIMEOUT};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::bucket;
use stepward::model::input::require;
use stepward::model::merged::Merged;
use stepward::node::CommandResults;
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};

/// The longest path on Linux, in bytes.
const MAX_PATH_BYTES: usize = 4096;

/// Copy a file to any number of nodes through S3 and verify it on each node.
///
/// Use this step to distribute a configuration file or a release. The file is an object in the
/// account (`source`) or text that you pass (`content`). A node that cannot download or verify the
/// file keeps its old file.
///
/// # Prerequisites
///
/// - Each node runs the SSM agent and is online in Systems Manager.
/// - Each EC2 instance has an instance profile whose role has the policy
///   `AmazonSSMManagedInstanceCore` or equal permissions. It needs no permissions for S3: nodes
///   download through a link and do not use their own credentials.
/// - Each node reaches the endpoints `ssm`, `ssmmessages`, `ec2messages` and `s3` of its Region on
///   port 443: through the internet, a NAT gateway or VPC endpoints.
/// - The step's role is allowed to send AWS's document `AWS-RunShellScript` (Linux and macOS) or
///   `AWS-RunPowerShellScript` (Windows) to these nodes.
/// - Linux and macOS nodes have `curl`, `wget` or `python3`.
/// - The directory of the destination exists on the nodes.
/// - The bucket of `source`, and `bucket` if you set it, are in the Region that the step works in.
///
/// # Behavior
///
/// - The file is copied byte for byte, with its line endings.
/// - `content` is uploaded as a temporary object: to `bucket`, or to Stepward's artifacts bucket if
///   you pass none. The step removes it when all nodes have finished, when the step fails and when
///   the job is stopped. After an error that Step Functions retries, the object is kept for the
///   retry.
/// - For `source`, the step uses the SHA-256 that S3 stores for the whole object. If S3 has none,
///   the step reads the object once to compute it.
/// - Each node gets a Run Command that downloads the file through a link. The link opens only this
///   object and expires after 15 minutes.
/// - The node writes the file under a private name next to the destination, checks size and
///   SHA-256, sets owner and mode, and then renames it to the destination. Renaming replaces an
///   existing file.
/// - Batches, `concurrency`, retries, stopping and the output work as in `ssm-run-command`. A
///   batch has at most `concurrency` nodes, so that no node waits until its URL has expired.
///
/// # Failures
///
/// - A node that cannot download or verify the file gets exit code 125 and the reason in its
///   output. Its old file is unchanged. You can run the step again for this node.
/// - If the temporary object cannot be removed, the step logs that and does not fail. Remove the
///   object manually.
///
/// # Cost
///
/// AWS charges for the requests to S3 and for data that S3 transfers out of the Region. Run Command
/// on EC2 instances has no charge; AWS charges for on-premises nodes of the advanced tier.
///
/// # Limits
///
/// - 25,000 nodes and 500 commands (batches) in one step.
/// - 5 GiB for a source object without a SHA-256 checksum in S3.
/// - 4,096 bytes for the path.
///
/// # Proof
///
/// Proven on the local cloud, which simulates each node with a directory of one machine: through a
/// bucket of the account and from an object. Tests run the script with `sh` and show that a node
/// gets the right file or none. The PowerShell script was not run.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct CopyFile(Merged<CopyFileParameters, Rollout>);

/// The parameters that only `ssm-copy-file` has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CopyFileParameters {
    /// The object to copy, for example `s3://bucket/key`. Required unless you set `content`; set
    /// only one of the two.
    source: Option<String>,
    /// The text to copy. Required unless you set `source`; set only one of the two.
    content: Option<String>,
    /// The absolute path of the file on the nodes. With `powershell` it starts with a drive or with
    /// `\\`.
    destination: String,
    /// The file's mode, for example `0644`. The default `0600` lets only the owner read and write
    /// it. Not available with `powershell`.
    mode: Option<String>,
    /// The file's owner, for example `app` or `app:www`. The default is the agent's user, root. Not
    /// available with `powershell`.
    owner: Option<String>,
    /// The bucket in the account for the temporary object of `content`, under `stepward/scratch/`.
    bucket: Option<String>,
}

impl CopyFile {
    fn plan(&self) -> Plan {
        let Merged(_, rollout) = &self.0;
        rollout.plan()
    }

    fn file_source(&self) -> FileSource {
        let Merged(parameters, _) = &self.0;
        if let Some((bucket, key)) = parameters.source.as_deref().and_then(parse_object_uri) {
            return FileSource::Object {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
            };
        }
        FileSource::Content {
            content: parameters.content.clone().unwrap_or_default().into_bytes(),
            bucket: parameters.bucket.clone(),
        }
    }

    fn payload(&self) -> FilePayload<impl Fn(&Download<'_>) -> String + Send + Sync> {
        let Merged(parameters, rollout) = &self.0;
        let CopyFileParameters {
            destination,
            mode,
            owner,
            ..
        } = parameters;
        let build_script = |download: &Download<'_>| match rollout.shell {
            Shell::Bash => node_script::sh_copy_script(
                download,
                destination,
                mode.as_deref(),
                owner.as_deref(),
            ),
            Shell::Powershell => node_script::powershell_copy_script(download, destination),
        };
        FilePayload {
            source: self.file_source(),
            build_script,
        }
    }

    fn check_destination(&self) -> Result<(), StepError> {
        let Merged(parameters, rollout) = &self.0;
        let path = parameters.destination.as_str();
        let is_absolute = match rollout.shell {
            Shell::Bash => path.starts_with('/') && !path.ends_with('/'),
            Shell::Powershell => is_windows_file_path(path),
        };
        let is_valid = is_absolute && path.len() <= MAX_PATH_BYTES && !path.contains('\0');
        require(is_valid, || {
            format!(
                "parameter \"destination\": {path:?} is not the absolute path of a file; pass a \
                 path such as /etc/app.conf or C:\\app\\app.conf"
            )
        })?;

        let mode = parameters.mode.as_deref();
        require(mode.is_none_or(is_octal_mode), || {
            format!(
                "parameter \"mode\": {:?} is not an octal mode; pass three or four octal digits, \
                 as in 0644",
                mode.unwrap_or_default()
            )
        })?;
        let owner = parameters.owner.as_deref();
        require(owner.is_none_or(is_owner), || {
            format!(
                "parameter \"owner\": {:?} is not an owner; pass user or user:group",
                owner.unwrap_or_default()
            )
        })?;

        let has_neither = mode.is_none() && owner.is_none();
        require(rollout.shell == Shell::Bash || has_neither, || {
            "parameters \"mode\" and \"owner\": not available with shell powershell; remove them, \
             because a Windows file inherits the permissions of its directory"
                .into()
        })
    }
}

/// Bucket and key of `s3://bucket/key`, if it is the URI of an object.
fn parse_object_uri(uri: &str) -> Option<(&str, &str)> {
    bucket::parse_s3_uri(uri).filter(|(_, key)| !key.is_empty() && !key.ends_with('/'))
}

fn is_windows_file_path(path: &str) -> bool {
    let starts_with_drive = matches!(
        path.as_bytes(),
        [letter, b':', b'\\', _, ..] if letter.is_ascii_alphabetic()
    );
    (starts_with_drive || path.starts_with(r"\\")) && !path.ends_with('\\')
}

fn is_octal_mode(mode: &str) -> bool {
    (3..=4).contains(&mode.len()) && mode.bytes().all(|byte| (b'0'..=b'7').contains(&byte))
}

fn is_owner(owner: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    !owner.is_empty() && !owner.starts_with(['-', ':']) && owner.bytes().all(is_allowed)
}

impl Step for CopyFile {
    const NAME: &'static str = "ssm-copy-file";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-ssm-copier",
        fields: &[
            ("instanceId", "instance_ids"),
            ("region", "region"),
            ("ssm-copier-bucket", "bucket"),
        ],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Copy a configuration file from S3 to a Linux instance",
            parameters: r#"{
        "instance_ids": "i-0123456789abcdef0",
        "source": "s3://releases-222222222222/app/app.conf",
        "destination": "/etc/app/app.conf",
        "mode": "0644"
    }"#,
            output: r#"{
        "command_ids": ["5d20c7f6-93b1-4e8a-a6d4-1f7b3c0e9258"],
        "succeeded": 1,
        "failed": 0,
        "nodes": {
            "i-0123456789abcdef0": { "status": "succeeded", "exit_code": 0 }
        }
    }"#,
        },
        Example {
            title: "Write a text file on Windows nodes through a bucket of the account",
            parameters: r#"{
        "instance_ids": ["i-0123456789abcdef0", "mi-0123456789abcdef0"],
        "content": "maintenance=on",
        "destination": "C:\\app\\state.txt",
        "shell": "powershell",
        "bucket": "stepward-files-222222222222"
    }"#,
            output: r#"{
        "command_ids": ["e9a41b3d-0c76-4f25-92e8-7b60d5f1c4a7"],
        "succeeded": 2,
        "failed": 0,
        "nodes": {
            "i-0123456789abcdef0": { "status": "succeeded", "exit_code": 0 },
            "mi-0123456789abcdef0": { "status": "succeeded", "exit_code": 0 }
        }
    }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = crate::ERRORS;
    const TIMEOUT: Duration = TIMEOUT;
    const FUNCTION: FunctionConfig = FUNCTION;
    type Output = CommandResults;

    fn validate(&self) -> Result<(), StepError> {
        let Merged(parameters, _) = &self.0;
        let CopyFileParameters {
            source,
            content,
            bucket,
            ..
        } = parameters;
        require(source.is_some() != content.is_some(), || {
            "parameters \"source\" and \"content\": expected exactly one of them; pass source for \
             an object in the account, or content for text"
                .into()
        })?;
        if let Some(source) = source {
            require(parse_object_uri(source).is_some(), || {
                format!(
                    "parameter \"source\": {source:?} is not the URI of an object; pass \
                     s3://bucket/key"
                )
            })?;
            let source_bucket = parse_object_uri(source).map(|(bucket, _)| bucket);
            bucket::check_bucket_name("source", source_bucket)?;
            require(bucket.is_none(), || {
                "parameter \"bucket\": only valid with content; remove it, because source already \
                 names a bucket"
                    .into()
            })?;
        }
        bucket::check_bucket_name("bucket", bucket.as_deref())?;
        self.check_destination()?;
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
    use aws_sdk_ssm::types::PingStatus;
    use serde_json::{Value, json};
    use stepward::model::digest::sha256;
    use stepward::node::Status;
    use stepward::testing::{assert_invalid_parameters_are_named, log_lines, with_artifacts};
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::{
        self, FakeBucket, FakeSsm, IDS, create_bucket, create_nodes, resume_from, run_to_end,
    };

    #[expect(clippy::needless_pass_by_value, reason = "callers pass a literal")]
    fn step(parameters: Value) -> CopyFile {
        testing::step_with_parameters(
            json!({ "instance_ids": IDS, "content": "hello", "destination": "/etc/motd" }),
            &parameters,
        )
    }

    /// A context with Stepward's artifacts bucket and the account's buckets.
    fn context(fake: &FakeSsm, artifacts: &FakeBucket, account: &FakeBucket) -> Context {
        let ctx = with_artifacts(fake.context(&[]), artifacts.client(), "artifacts");
        ctx.client(|_| account.client());
        ctx
    }

    #[tokio::test]
    async fn done_uploads_the_content_and_removes_it() {
        let (fake, artifacts, account) = (
            FakeSsm::default(),
            FakeBucket::default(),
            FakeBucket::default(),
        );
        let ctx = context(&fake, &artifacts, &account);
        let step = step(json!({ "mode": "0644", "owner": "app:www" }));
        let response = step.run(&ctx, None).await.unwrap();
        let (key, content) = artifacts.lock().stored.clone().into_iter().next().unwrap();
        assert!(
            key.starts_with("artifacts/executions/acme/execution-1/step-1/-/.scratch/"),
            "{key}"
        );
        assert_eq!(content, b"hello");
        let sent = fake.lock().commands[0].clone();
        for part in [
            "X-Amz-Expires=900",
            ".scratch/",
            "bytes=5\n",
            &sha256("hello"),
            "destination='/etc/motd'",
            "chown 'app:www'",
            "chmod '0644'",
        ] {
            assert!(sent.text().contains(part), "{part}: {}", sent.text());
        }
        // Neither the log nor the resume state has the link or the content's SHA-256.
        let resume = resume_from(response);
        let saved = serde_json::to_string(&resume).unwrap() + &log_lines(&ctx).join("");
        assert!(
            !saved.contains("X-Amz") && !saved.contains("http"),
            "{saved}"
        );
        assert!(
            !saved.contains(&sha256("hello")) && !saved.contains("digest"),
            "{saved}"
        );
        let Progress::Done(results) = step.run(&ctx, Some(resume)).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(results.succeeded, 2);
        assert_eq!(
            (artifacts.counts(), account.counts()),
            ((1, 0, 0), (0, 0, 0))
        );
    }

    #[tokio::test]
    async fn done_through_a_bucket_of_the_account() {
        let (fake, artifacts, account) = (
            FakeSsm::default(),
            FakeBucket::default(),
            FakeBucket::default(),
        );
        let ctx = context(&fake, &artifacts, &account);
        run_to_end(&step(json!({ "bucket": "files" })), &ctx)
            .await
            .unwrap();
        assert_eq!(
            (artifacts.counts(), account.counts()),
            ((0, 0, 0), (1, 0, 0))
        );
        assert!(fake.lock().commands[0].text().contains("stepward/scratch/"));
        // Upload and removal expect the account as the bucket's owner.
        assert_eq!(
            account.lock().expected_owners,
            vec![Some("222222222222".to_owned()); 2]
        );
    }

    #[tokio::test]
    async fn done_with_an_object_reads_it_once_and_keeps_it() {
        let (fake, account) = (FakeSsm::default(), FakeBucket::default());
        account
            .lock()
            .stored
            .insert("releases/app {{1}}.conf".into(), b"hello".to_vec());
        let ctx = context(&fake, &FakeBucket::default(), &account);
        let step = step(
            json!({ "content": null, "source": "s3://releases/app {{1}}.conf", "concurrency": 1 }),
        );
        run_to_end(&step, &ctx).await.unwrap();
        let ssm = fake.lock();
        assert_eq!((ssm.commands.len(), account.counts()), (2, (0, 1, 1)));
        for sent in &ssm.commands {
            assert!(
                sent.text().contains(&sha256("hello")) && !sent.text().contains("{{"),
                "{}",
                sent.text()
            );
        }
    }

    #[tokio::test]
    async fn done_with_an_object_with_checksum_does_not_read_it() {
        let (fake, account) = (FakeSsm::default(), FakeBucket::default());
        account
            .lock()
            .stored
            .insert("releases/app".into(), b"hello".to_vec());
        // The SHA-256 of "hello".
        account.lock().checksum = Some("LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=".into());
        let ctx = context(&fake, &FakeBucket::default(), &account);
        run_to_end(
            &step(json!({ "content": null, "source": "s3://releases/app" })),
            &ctx,
        )
        .await
        .unwrap();
        assert_eq!(account.lock().gets, 0);
        assert!(fake.lock().commands[0].text().contains(&sha256("hello")));
        // The checksum of a multipart upload is not the SHA-256 of the content.
        account.lock().checksum = Some("LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=-2".into());
        let ctx = context(&FakeSsm::default(), &FakeBucket::default(), &account);
        run_to_end(
            &step(json!({ "content": null, "source": "s3://releases/app" })),
            &ctx,
        )
        .await
        .unwrap();
        assert_eq!(account.lock().gets, 1);
    }

    #[tokio::test]
    async fn already_sent_commands_are_found_and_the_object_is_removed() {
        let (fake, artifacts) = (FakeSsm::default(), FakeBucket::default());
        let (step, ctx) = (
            step(json!({})),
            context(&fake, &artifacts, &FakeBucket::default()),
        );
        step.run(&ctx, None).await.unwrap();
        run_to_end(&step, &ctx).await.unwrap();
        assert_eq!(
            (fake.call_count("SendCommand"), artifacts.lock().puts),
            (1, 1)
        );
        assert!(artifacts.lock().stored.is_empty());
    }

    #[tokio::test]
    async fn already_started_copies_are_cancelled_and_the_object_removed() {
        let (fake, artifacts) = (FakeSsm::default(), FakeBucket::default());
        let (step, ctx) = (
            step(json!({})),
            context(&fake, &artifacts, &FakeBucket::default()),
        );
        step.run(&ctx, None).await.unwrap();
        step.cancel(&ctx, None).await.unwrap();
        assert_eq!(fake.call_count("CancelCommand"), 1);
        assert!(artifacts.lock().stored.is_empty());
    }

    #[tokio::test]
    async fn not_found_source_object_fails_before_sending() {
        let (fake, account) = (FakeSsm::default(), FakeBucket::default());
        let ctx = context(&fake, &FakeBucket::default(), &account);
        let error = run_to_end(
            &step(json!({ "content": null, "source": "s3://releases/app" })),
            &ctx,
        )
        .await
        .unwrap_err();
        assert_eq!(
            (error.name, fake.call_count("SendCommand")),
            (ErrorName::NotFound, 0)
        );
        assert!(error.message.contains("s3://releases/app"), "{error}");
    }

    #[test]
    fn invalid_parameters_are_named() {
        assert_invalid_parameters_are_named::<CopyFile>();
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        step(json!({ "mode": "0644", "owner": "app:www" }))
            .validate()
            .unwrap();
        step(json!({ "shell": "powershell", "destination": r"C:\app\x" }))
            .validate()
            .unwrap();
        step(json!({ "shell": "powershell", "destination": r"\\server\share\x" }))
            .validate()
            .unwrap();
        for (invalid, expected) in [
            (
                json!({ "source": "s3://bucket/key" }),
                "exactly one of them",
            ),
            (json!({ "content": null }), "exactly one of them"),
            (json!({ "content": null, "source": "bucket/key" }), "source"),
            (
                json!({ "content": null, "source": "s3://bucket/dir/" }),
                "source",
            ),
            (
                json!({ "content": null, "source": "s3://bucket/key", "bucket": "files" }),
                "only valid with content",
            ),
            (json!({ "bucket": "Files" }), "bucket"),
            (
                json!({ "bucket": "files-s3alias" }),
                "bucket: \"files-s3alias\" is the alias of an access point",
            ),
            (
                json!({ "content": null, "source": "s3://files--ol-s3/key" }),
                "source: \"files--ol-s3\" is an S3 Object Lambda access point",
            ),
            (json!({ "destination": "etc/motd" }), "destination"),
            (json!({ "destination": "/etc/" }), "destination"),
            (json!({ "destination": "/etc/a\u{0}" }), "destination"),
            (json!({ "mode": "u+x" }), "mode"),
            (json!({ "mode": "888" }), "mode"),
            (json!({ "owner": "-R" }), "owner"),
            (json!({ "owner": "a b" }), "owner"),
            (json!({ "shell": "powershell" }), "destination"),
            (
                json!({ "shell": "powershell", "destination": r"C:\x", "mode": "0644" }),
                "\"mode\" and \"owner\"",
            ),
            (json!({ "instance_ids": [] }), "instance_ids"),
        ] {
            let error = step(invalid.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{invalid}");
            assert!(error.message.contains(expected), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_repeated() {
        let (fake, artifacts) = (FakeSsm::default(), FakeBucket::default());
        let ctx = with_artifacts(fake.throttled_context(), artifacts.client(), "artifacts");
        assert_eq!(
            run_to_end(&step(json!({})), &ctx).await.unwrap().succeeded,
            2
        );
    }

    #[tokio::test]
    async fn pending_batches_each_get_a_new_link() {
        let (fake, artifacts) = (FakeSsm::default(), FakeBucket::default());
        let ctx = context(&fake, &artifacts, &FakeBucket::default());
        run_to_end(&step(json!({ "concurrency": 1 })), &ctx)
            .await
            .unwrap();
        let sizes: Vec<_> = fake
            .lock()
            .commands
            .iter()
            .map(|sent| (sent.instance_ids.len(), sent.concurrency))
            .collect();
        assert_eq!((sizes, artifacts.lock().puts), (vec![(1, 1), (1, 1)], 2));
    }

    #[tokio::test]
    async fn failed_nodes_fail_the_step_and_the_object_is_removed() {
        let (fake, artifacts) = (FakeSsm::default(), FakeBucket::default());
        fake.lock().failing_nodes = [IDS[0].to_owned()].into();
        fake.lock().unavailable_nodes =
            [(IDS[1].to_owned(), Some(PingStatus::ConnectionLost))].into();
        let ctx = context(&fake, &artifacts, &FakeBucket::default());
        let error = run_to_end(&step(json!({})), &ctx).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert_eq!(artifacts.counts(), (1, 0, 0));
        let results = run_to_end(&step(json!({ "fail_on_error": false })), &ctx)
            .await
            .unwrap();
        assert_eq!(results.nodes[IDS[1]].status, Status::Offline);
    }

    /// A temporary directory. The nodes of the local cloud run on this machine and copy to it.
    struct TemporaryDirectory(std::path::PathBuf);

    impl TemporaryDirectory {
        fn new(name: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("stepward-copy-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for TemporaryDirectory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const UNPROVEN: [(&str, &str); 3] = [
        (
            "ssm:GetCommandInvocation",
            "The step requests only long outputs again, and a copy has no output.",
        ),
        (
            "ssm:CancelCommand",
            "The step cancels commands only if the job is stopped or max_errors is exceeded.",
        ),
        (
            "kms:Decrypt",
            "The local cloud encrypts nothing with a KMS key of the account.",
        ),
    ];

    const OBJECT_REMOVAL: (&str, &str) = (
        "s3:DeleteObject",
        "If the object cannot be removed, the step logs that: the file is on all nodes.",
    );

    #[test]
    fn permissions_match_those_that_the_local_cloud_requires() {
        let dir = TemporaryDirectory::new("content");
        let unproven = [
            &UNPROVEN[..],
            &[
                (
                    "kms:GenerateDataKey",
                    "The local cloud encrypts nothing with a KMS key of the account.",
                ),
                OBJECT_REMOVAL,
            ],
        ]
        .concat();
        prove_permissions::<CopyFile>(&unproven, async |scene| {
            json!({
                "instance_ids": create_nodes(scene).await,
                "content": "hello",
                "destination": dir.0.join(scene.name("file")),
                "bucket": create_bucket(scene).await,
                "fail_on_error": false,
            })
        });
    }

    #[test]
    fn permissions_for_a_source_object_match_too() {
        const EXISTING: &str = "The source object already exists and is kept.";
        let dir = TemporaryDirectory::new("object");
        let not_for_objects = [
            ("s3:PutObject", EXISTING),
            ("s3:DeleteObject", EXISTING),
            ("kms:GenerateDataKey", EXISTING),
        ];
        prove_permissions::<CopyFile>(&[&UNPROVEN[..], &not_for_objects].concat(), async |scene| {
            let bucket = create_bucket(scene).await;
            let put = scene
                .client(aws_sdk_s3::Client::new)
                .put_object()
                .bucket(&bucket)
                .key("file");
            put.body(b"hello".to_vec().into()).send().await.unwrap();
            json!({
                "instance_ids": create_nodes(scene).await,
                "source": format!("s3://{bucket}/file"),
                "destination": dir.0.join(scene.name("file")),
                "fail_on_error": false,
            })
        });
    }
}
