//! The step `ssm-copy-file`.

use std::time::Duration;

use crate::deliver::{self, Fetch};
use crate::engine;
use crate::params::Rollout;
use crate::payload::{File, Origin};
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
const LONGEST_PATH: usize = 4096;

/// Copy a file to any number of nodes through S3 and check it there.
///
/// The file is an object of the account, or text given here. Nodes are told by Run Command to fetch
/// it by a link that lives 15 minutes, which opens this one object; the credentials of the nodes
/// are not used. On the node the file is written under a private name beside its destination, its
/// size and SHA-256 are checked, its owner and mode are set, and only then does it get its name, in
/// the place of what was there. A node that cannot get or check it keeps what it had, and fails
/// with exit code 125 and the reason. Linux and macOS need `curl`, `wget` or `python3`, and the
/// directory must be there.
///
/// Text goes through `bucket`, or through Stepward's own artifacts bucket, and the object is
/// removed when all nodes are over, also when the step fails or is stopped; after an error that is
/// tried again it stays for the next call. One that cannot be removed is a line of the log and no
/// failure. An object of the account is read once for its SHA-256, unless S3 has one of the whole
/// object. Its bucket must be in the Region that the step works in.
///
/// Batches, concurrency, repeated calls and the output are those of `ssm-run-command`; as links are
/// short-lived, a batch has no more nodes than begin at once.
///
/// Proven on the local cloud, whose nodes are directories of one machine, through a bucket of the
/// account and from one. That what is sent puts the right file in place, or none, is proven by
/// running it with `sh`; what PowerShell is sent was not run.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct CopyFile(Merged<Own, Rollout>);

/// The parameters of `ssm-copy-file` alone.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Own {
    /// The object to copy, as in `s3://bucket/key`. Give this or `content`.
    source: Option<String>,
    /// The text to copy. Give this or `source`.
    content: Option<String>,
    /// The file's whole path on the nodes: from `/`, or with powershell from a drive.
    destination: String,
    /// Its permissions, as in `0644`; without it only its owner may read and write it (`0600`). Not
    /// with powershell.
    mode: Option<String>,
    /// Its owner, as in `app` or `app:www`; without it the agent's user, root. Not with powershell.
    owner: Option<String>,
    /// The bucket of the account that `content` goes through, below `stepward/scratch/`.
    bucket: Option<String>,
}

impl CopyFile {
    fn plan(&self) -> Plan {
        let Merged(_, rollout) = &self.0;
        rollout.plan()
    }

    fn origin(&self) -> Origin {
        let Merged(own, _) = &self.0;
        if let Some((bucket, key)) = own.source.as_deref().and_then(place) {
            return Origin::Object {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
            };
        }
        Origin::Content {
            content: own.content.clone().unwrap_or_default().into_bytes(),
            bucket: own.bucket.clone(),
        }
    }

    fn file(&self) -> File<impl Fn(&Fetch<'_>) -> String + Send + Sync> {
        let Merged(
            Own {
                destination,
                mode,
                owner,
                ..
            },
            rollout,
        ) = &self.0;
        let on_node = |fetch: &Fetch<'_>| match rollout.shell {
            Shell::Bash => deliver::sh_copy(fetch, destination, mode.as_deref(), owner.as_deref()),
            Shell::Powershell => deliver::powershell_copy(fetch, destination),
        };
        File {
            origin: self.origin(),
            on_node,
        }
    }

    fn check_destination(&self) -> Result<(), StepError> {
        let Merged(own, rollout) = &self.0;
        let path = own.destination.as_str();
        let is_whole = match rollout.shell {
            Shell::Bash => path.starts_with('/') && !path.ends_with('/'),
            Shell::Powershell => {
                let drive = matches!(path.as_bytes(), [letter, b':', b'\\', _, ..] if letter.is_ascii_alphabetic());
                (drive || path.starts_with(r"\\")) && !path.ends_with('\\')
            }
        };
        require(
            is_whole && path.len() <= LONGEST_PATH && !path.contains('\0'),
            || {
                format!(
                    "destination: {path:?} is not the whole path of a file, as in /etc/app.conf or C:\\app\\app.conf"
                )
            },
        )?;
        let mode = own.mode.as_deref();
        let is_mode = |mode: &str| {
            (3..=4).contains(&mode.len()) && mode.bytes().all(|b| (b'0'..=b'7').contains(&b))
        };
        require(mode.is_none_or(is_mode), || {
            format!("mode: {mode:?} is not three or four octal digits, as in 0644")
        })?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_.:-".contains(&b);
        let is_owner = |owner: &str| {
            !owner.is_empty() && !owner.starts_with(['-', ':']) && owner.bytes().all(legal)
        };
        let owner = own.owner.as_deref();
        require(owner.is_none_or(is_owner), || {
            format!("owner: {owner:?} is not a user, or user:group")
        })?;
        let has_neither = mode.is_none() && owner.is_none();
        require(rollout.shell == Shell::Bash || has_neither, || {
            "mode and owner are for Linux and macOS; on Windows the file has the permissions of its directory".into()
        })
    }
}

/// Bucket and key of `s3://bucket/key`.
fn place(uri: &str) -> Option<(&str, &str)> {
    bucket::parse_s3_uri(uri).filter(|(_, key)| !key.is_empty() && !key.ends_with('/'))
}

impl Step for CopyFile {
    const NAME: &'static str = "ssm-copy-file";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-ssm-copier",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{
        "instance_ids": "i-0123456789abcdef0",
        "source": "s3://releases-222222222222/app/app.conf",
        "destination": "/etc/app/app.conf",
        "mode": "0644"
    }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "instance_ids": ["i-0123456789abcdef0", "mi-0123456789abcdef0"],
        "content": "maintenance=on",
        "destination": "C:\\app\\state.txt",
        "shell": "powershell",
        "bucket": "stepward-files-222222222222"
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
                source,
                content,
                bucket,
                ..
            },
            _,
        ) = &self.0;
        require(source.is_some() != content.is_some(), || {
            "give source, an object of the account, or content, the text itself; one of them".into()
        })?;
        if let Some(source) = source {
            require(place(source).is_some(), || {
                format!("source: {source:?} is no object, as in s3://bucket/key")
            })?;
            require(bucket.is_none(), || {
                "bucket is for content; source has a bucket of its own".into()
            })?;
        }
        bucket::check_bucket_name("bucket", bucket.as_deref())?;
        self.check_destination()?;
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
    use aws_sdk_ssm::types::PingStatus;
    use serde_json::{Value, json};
    use stepward::model::digest::sha256;
    use stepward::node::Status;
    use stepward::testing::{log, names_invalid_parameters, with_artifacts};
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::{self, Bucket, Fake, IDS, bucket, nodes, ran, resumed};

    #[expect(
        clippy::needless_pass_by_value,
        reason = "it is always written in place"
    )]
    fn step(more: Value) -> CopyFile {
        testing::with(
            json!({ "instance_ids": IDS, "content": "hello", "destination": "/etc/motd" }),
            &more,
        )
    }

    /// A context with Stepward's artifacts bucket, and the account's buckets.
    fn context(fake: &Fake, own: &Bucket, account: &Bucket) -> Context {
        let ctx = with_artifacts(fake.context(&[]), own.client(), "artifacts");
        ctx.client(|_| account.client());
        ctx
    }

    #[tokio::test]
    async fn done_hands_out_the_content_and_removes_it() {
        let (fake, own, account) = (Fake::default(), Bucket::default(), Bucket::default());
        let ctx = context(&fake, &own, &account);
        let step = step(json!({ "mode": "0644", "owner": "app:www" }));
        let answer = step.run(&ctx, None).await.unwrap();
        let (key, content) = own.lock().kept.clone().into_iter().next().unwrap();
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
            "to='/etc/motd'",
            "chown 'app:www'",
            "chmod '0644'",
        ] {
            assert!(sent.text().contains(part), "{part}: {}", sent.text());
        }
        // Neither the log nor what goes to the next call has the link, or what tells of the
        // content.
        let resume = resumed(answer);
        let kept = serde_json::to_string(&resume).unwrap() + &log(&ctx).join("");
        assert!(!kept.contains("X-Amz") && !kept.contains("http"), "{kept}");
        assert!(
            !kept.contains(&sha256("hello")) && !kept.contains("digest"),
            "{kept}"
        );
        let Progress::Done(ran) = step.run(&ctx, Some(resume)).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(ran.succeeded, 2);
        assert_eq!((own.counts(), account.counts()), ((1, 0, 0), (0, 0, 0)));
    }

    #[tokio::test]
    async fn done_through_the_accounts_bucket_touches_no_other() {
        let (fake, own, account) = (Fake::default(), Bucket::default(), Bucket::default());
        let ctx = context(&fake, &own, &account);
        ran(&step(json!({ "bucket": "files" })), &ctx)
            .await
            .unwrap();
        assert_eq!((own.counts(), account.counts()), ((0, 0, 0), (1, 0, 0)));
        assert!(fake.lock().commands[0].text().contains("stepward/scratch/"));
        // It is written and removed only where the bucket is the account's.
        assert_eq!(
            account.lock().owners,
            vec![Some("222222222222".to_owned()); 2]
        );
    }

    #[tokio::test]
    async fn done_with_an_object_reads_it_once_and_leaves_it() {
        let (fake, account) = (Fake::default(), Bucket::default());
        account
            .lock()
            .kept
            .insert("releases/app {{1}}.conf".into(), b"hello".to_vec());
        let ctx = context(&fake, &Bucket::default(), &account);
        let step = step(
            json!({ "content": null, "source": "s3://releases/app {{1}}.conf", "concurrency": 1 }),
        );
        ran(&step, &ctx).await.unwrap();
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
    async fn done_with_an_object_whose_checksum_s3_has_does_not_read_it() {
        let (fake, account) = (Fake::default(), Bucket::default());
        account
            .lock()
            .kept
            .insert("releases/app".into(), b"hello".to_vec());
        // Of "hello".
        account.lock().checksum = Some("LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=".into());
        let ctx = context(&fake, &Bucket::default(), &account);
        ran(
            &step(json!({ "content": null, "source": "s3://releases/app" })),
            &ctx,
        )
        .await
        .unwrap();
        assert_eq!(account.lock().gets, 0);
        assert!(fake.lock().commands[0].text().contains(&sha256("hello")));
        // One of parts is none of the content.
        account.lock().checksum = Some("LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=-2".into());
        let ctx = context(&Fake::default(), &Bucket::default(), &account);
        ran(
            &step(json!({ "content": null, "source": "s3://releases/app" })),
            &ctx,
        )
        .await
        .unwrap();
        assert_eq!(account.lock().gets, 1);
    }

    #[tokio::test]
    async fn already_sent_commands_are_found_and_the_object_is_removed_by_the_later_call() {
        let (fake, own) = (Fake::default(), Bucket::default());
        let (step, ctx) = (step(json!({})), context(&fake, &own, &Bucket::default()));
        step.run(&ctx, None).await.unwrap();
        ran(&step, &ctx).await.unwrap();
        assert_eq!((fake.calls("SendCommand"), own.lock().puts), (1, 1));
        assert!(own.lock().kept.is_empty());
    }

    #[tokio::test]
    async fn already_begun_copies_are_cancelled_and_the_object_removed() {
        let (fake, own) = (Fake::default(), Bucket::default());
        let (step, ctx) = (step(json!({})), context(&fake, &own, &Bucket::default()));
        step.run(&ctx, None).await.unwrap();
        step.cancel(&ctx, None).await.unwrap();
        assert_eq!(fake.calls("CancelCommand"), 1);
        assert!(own.lock().kept.is_empty());
    }

    #[tokio::test]
    async fn not_found_is_an_object_that_is_not_there() {
        let (fake, account) = (Fake::default(), Bucket::default());
        let ctx = context(&fake, &Bucket::default(), &account);
        let error = ran(
            &step(json!({ "content": null, "source": "s3://releases/app" })),
            &ctx,
        )
        .await
        .unwrap_err();
        assert_eq!(
            (error.name, fake.calls("SendCommand")),
            (ErrorName::NotFound, 0)
        );
        assert!(error.message.contains("s3://releases/app"), "{error}");
    }

    #[test]
    fn invalid_parameters_are_named() {
        names_invalid_parameters::<CopyFile>();
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
        for (wrong, named) in [
            (json!({ "source": "s3://bucket/key" }), "one of them"),
            (json!({ "content": null }), "one of them"),
            (json!({ "content": null, "source": "bucket/key" }), "source"),
            (
                json!({ "content": null, "source": "s3://bucket/dir/" }),
                "source",
            ),
            (
                json!({ "content": null, "source": "s3://bucket/key", "bucket": "files" }),
                "bucket is for content",
            ),
            (json!({ "bucket": "Files" }), "bucket"),
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
                "mode and owner",
            ),
            (json!({ "instance_ids": [] }), "instance_ids"),
        ] {
            let error = step(wrong.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{wrong}");
            assert!(error.message.contains(named), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_made_again() {
        let (fake, own) = (Fake::default(), Bucket::default());
        let ctx = with_artifacts(fake.throttled(), own.client(), "artifacts");
        assert_eq!(ran(&step(json!({})), &ctx).await.unwrap().succeeded, 2);
    }

    #[tokio::test]
    async fn pending_batches_get_a_link_of_their_own() {
        let (fake, own) = (Fake::default(), Bucket::default());
        let ctx = context(&fake, &own, &Bucket::default());
        ran(&step(json!({ "concurrency": 1 })), &ctx).await.unwrap();
        let sizes: Vec<_> = fake
            .lock()
            .commands
            .iter()
            .map(|sent| (sent.ids.len(), sent.concurrency))
            .collect();
        assert_eq!((sizes, own.lock().puts), (vec![(1, 1), (1, 1)], 2));
    }

    #[tokio::test]
    async fn failed_nodes_fail_the_step_and_the_object_is_removed() {
        let (fake, own) = (Fake::default(), Bucket::default());
        fake.lock().failing = [IDS[0].to_owned()].into();
        fake.lock().away = [(IDS[1].to_owned(), Some(PingStatus::ConnectionLost))].into();
        let ctx = context(&fake, &own, &Bucket::default());
        let error = ran(&step(json!({})), &ctx).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert_eq!(own.counts(), (1, 0, 0));
        let ran = ran(&step(json!({ "fail_on_error": false })), &ctx)
            .await
            .unwrap();
        assert_eq!(ran.nodes[IDS[1]].status, Status::Offline);
    }

    /// A directory of this machine that the nodes of the local cloud copy to.
    struct Directory(std::path::PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("stepward-copy-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const IDLE: [(&str, &str); 3] = [
        (
            "ssm:GetCommandInvocation",
            "Only long outputs are asked for again, and a copy has none.",
        ),
        (
            "ssm:CancelCommand",
            "Only a job that is stopped, and errors in several batches, cancel commands.",
        ),
        (
            "kms:Decrypt",
            "Nothing is encrypted with a key of the account here.",
        ),
    ];

    const REMOVES: (&str, &str) = (
        "s3:DeleteObject",
        "An object that cannot be removed is a line of the log: the file is on all nodes.",
    );

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let dir = Directory::new("content");
        let idle = [
            &IDLE[..],
            &[
                (
                    "kms:GenerateDataKey",
                    "Nothing is encrypted with a key of the account here.",
                ),
                REMOVES,
            ],
        ]
        .concat();
        prove::<CopyFile>(&idle, async |scene| {
            json!({
                "instance_ids": nodes(scene).await,
                "content": "hello",
                "destination": dir.0.join(scene.name("file")),
                "bucket": bucket(scene).await,
                "fail_on_error": false,
            })
        });
    }

    #[test]
    fn permissions_for_an_object_are_those_too() {
        const OWN: &str = "The object is the account's own and stays.";
        let dir = Directory::new("object");
        let own = [
            ("s3:PutObject", OWN),
            ("s3:DeleteObject", OWN),
            ("kms:GenerateDataKey", OWN),
        ];
        prove::<CopyFile>(&[&IDLE[..], &own].concat(), async |scene| {
            let bucket = bucket(scene).await;
            let put = scene
                .client(aws_sdk_s3::Client::new)
                .put_object()
                .bucket(&bucket)
                .key("file");
            put.body(b"hello".to_vec().into()).send().await.unwrap();
            json!({
                "instance_ids": nodes(scene).await,
                "source": format!("s3://{bucket}/file"),
                "destination": dir.0.join(scene.name("file")),
                "fail_on_error": false,
            })
        });
    }
}
