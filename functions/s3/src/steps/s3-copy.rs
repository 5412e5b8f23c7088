//! The step `s3-copy`.

use std::time::Duration;

use crate::params::{Transfer, TransferLocations};
use crate::report::TransferSummary;
use crate::task::{self, Operation, Task};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::merged::Merged;
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Peer, Permissions, Progress, Resume,
    RundeckPlugin, Step, StepError,
};

/// Copy files and objects to S3, from S3, or between buckets, as `aws s3 cp` does.
///
/// Use this step to upload files, download objects, or copy objects within or between buckets, also
/// from a second account of the same customer. It overwrites objects and files that exist at the
/// destination; use `s3-sync` to transfer only those that differ.
///
/// # Prerequisites
///
/// - A local path needs a deployment with a file system: its local root is set by the parameters
///   `FileSystemAccessPointArn` and `FileSystemMountPath` of `infra/template.yaml`.
/// - For copies from a second account, S3 can copy the objects itself only if the policy of the
///   source bucket allows the target's role to read them. If the objects are encrypted with a KMS
///   key, its key policy must allow this too. Otherwise the step itself reads and writes the
///   objects, part by part.
/// - Give each destination bucket a lifecycle rule that aborts incomplete multipart uploads; see
///   Failures.
///
/// # Behavior
///
/// The step copies the object or file that `source` names or, with `recursive`, everything under
/// it. If `destination` ends with a slash or is a directory, the copy keeps the source's name. The
/// step skips empty objects whose key ends with a slash, which the S3 console creates as folders.
/// Links below the local root are followed as long as they stay inside it. With `dry_run` the step
/// only logs what it would copy.
///
/// - **Files** are downloaded into the directory `.stepward` below the local root, which the step
///   removes at the end. The step moves a complete file to its destination in one operation, which
///   replaces an existing file. The file has the modification time of the object.
/// - **Large objects**, from 8 MiB, are transferred in parts of 8 MiB, or of a larger size if the
///   object would need more than 10,000 parts.
/// - **Integrity**: S3 checks the CRC-64/NVME checksum of each uploaded part and of the whole
///   object. The step compares each download with the checksum that S3 has of the whole object, if
///   it has one.
/// - **Between buckets** S3 copies the objects itself, and objects above 5 GiB in parts. If S3 is
///   not allowed to copy from `source_account`, the step reads the objects with the credentials of
///   that account and writes them with those of the target.
/// - **Bucket owner**: the step writes only to a bucket that `bucket_owner` owns, by default the
///   target's account.
/// - **Access points**: a location can name an access point of a general purpose bucket instead of
///   the bucket, by alias (`s3://name-…-s3alias/key`) or ARN
///   (`s3://arn:aws:s3:eu-west-1:222222222222:accesspoint/name/key`). The customer's role must then
///   allow the actions under Permissions on the access point and its objects, too; the generated
///   role template names buckets only. The step refuses S3 Object Lambda, Multi-Region Access
///   Points, S3 on Outposts, directory buckets and table buckets.
/// - **Metadata**: a copy between buckets keeps content type, encoding, language and disposition,
///   cache control, expiry, user-defined metadata and tags. It does not keep ACLs, Object Lock
///   retention or older versions. An upload gets its content type from the file's name, or S3's
///   default. A versioned bucket keeps an overwritten object as an older version, also under Object
///   Lock.
///
/// A call works for about 50 seconds. The next call continues after the last key and, within a
/// large object, after the last complete part. Throttled or interrupted requests are sent again. If
/// the response of a call is lost, Step Functions repeats this call, but not the calls before it.
/// The repeated call first aborts the uploads that the lost call started, which it recognizes by
/// key and role session.
///
/// A request that S3 does not respond to is cut off shortly before the call's deadline. A large
/// object then continues in the next call, and fails as `TimedOut` if a whole call made no progress
/// on it; a small object fails at once. If S3's response to the last request of an upload is lost,
/// the step reads the object's checksum to find out whether it is complete.
///
/// When the job is stopped, copied objects and files stay. The step aborts unfinished uploads and
/// removes unfinished files.
///
/// # Failures
///
/// An object that fails does not stop the others. Each failure is one line of the log. At the end
/// the step fails with the number of failures and the first reasons; a new run copies everything
/// again. These cannot be copied:
///
/// - a key that cannot be a file name: a part between slashes is empty, `.`, `..` or longer than
///   255 bytes, or the key is below `.stepward`;
/// - a key below another key that is already a file;
/// - a link that is broken, circular or leads out of the local root; a device, a pipe or a socket;
/// - a file or object that changes while it is read;
/// - an archived object that was not restored;
/// - an object or file below the destination, if the destination is below the source.
///
/// If the response of a call is lost, its uploads stay unfinished in two cases: no later call
/// transfers the same key, or Stepward uses the account without a role. AWS charges for the parts
/// of such an upload until a lifecycle rule aborts it.
///
/// # Cost
///
/// This step itself has no charge. S3 charges for one request per object, one per 1,000 listed
/// objects, and, for a large object, one per part and up to four more. AWS charges for data that
/// leaves its Region.
///
/// # Limits
///
/// - At most 64 objects are transferred at the same time, at most 4 of them large, each with 8
///   parts.
/// - `filters` takes at most 1,000 rules of at most 4,096 bytes each.
///
/// # Proof
///
/// Proven against the AWS CLI 1.46.3 with random trees and buckets (500 seeds; `docs/AWS-CLI.md`
/// lists the intended differences), and with the step killed at 50 random points. Unit tests
/// show the requests on the wire, and what is resumed, refused and left behind. The local cloud
/// proves the permissions. It checks neither KMS keys, Object Lock nor bucket policies, and applies
/// its own rules to copies between accounts.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct S3Copy(Merged<TransferLocations, Transfer>);

impl S3Copy {
    fn task(&self) -> Task<'_> {
        let Merged(
            TransferLocations {
                source,
                destination,
                recursive,
            },
            transfer,
        ) = &self.0;
        Task::for_transfer(Operation::Copy, (source, destination), *recursive, transfer)
    }
}

impl Step for S3Copy {
    const NAME: &'static str = "s3-copy";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-cli-s3-cp-step",
        fields: &[
            ("source", "source"),
            ("destination", "destination"),
            ("include", "filters"),
            ("exclude", "filters"),
            ("recursive", "recursive"),
            ("dryrun", "dry_run"),
            ("default_region", "region"),
        ],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Upload a file",
            parameters: r#"{
                "source": "reports/today.csv",
                "destination": "s3://stepward-data-222222222222/reports/"
            }"#,
            output: r#"{
                "transferred": 1,
                "bytes": 18432,
                "deleted": 0,
                "unchanged": 0,
                "dry_run": false
            }"#,
        },
        Example {
            title: "Download the CSV files under a prefix",
            parameters: r#"{
                "source": "s3://stepward-data-222222222222/reports",
                "destination": "reports",
                "recursive": true,
                "filters": [{ "exclude": "*" }, { "include": "*.csv" }]
            }"#,
            output: r#"{
                "transferred": 12,
                "bytes": 4194304,
                "deleted": 0,
                "unchanged": 0,
                "dry_run": false
            }"#,
        },
        Example {
            title: "Copy a prefix from another account of the customer",
            parameters: r#"{
                "source": "s3://stepward-data-333333333333/reports",
                "source_account": "archive",
                "destination": "s3://stepward-data-222222222222/reports",
                "recursive": true
            }"#,
            output: r#"{
                "transferred": 1840,
                "bytes": 7516192768,
                "deleted": 0,
                "unchanged": 0,
                "dry_run": false
            }"#,
        },
        Example {
            title: "Copy an object to a cheaper storage class",
            parameters: r#"{
                "source": "s3://stepward-data-222222222222/reports/today.csv",
                "destination": "s3://stepward-data-222222222222/latest.csv",
                "storage_class": "STANDARD_IA"
            }"#,
            output: r#"{
                "transferred": 1,
                "bytes": 18432,
                "deleted": 0,
                "unchanged": 0,
                "dry_run": false
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The source or a bucket does not exist. Check the paths.",
        ),
        (
            ErrorName::InvalidInput,
            "A parameter is wrong, a path or link leaves the local root, this deployment has no \
             local root, or a bucket is in another Region. Correct the parameter that the message names.",
        ),
        (
            ErrorName::Conflict,
            "The source changed while it was copied: run the step again. Or it is archived: \
             restore it first. The message says which.",
        ),
        (
            ErrorName::AccessDenied,
            "The role lacks the permission that the message names, or the bucket belongs to an \
             unexpected account. Add the permission, or set `bucket_owner`.",
        ),
        (
            ErrorName::StepFailed,
            "Some objects were copied and others failed. The log has the reason for each failure; \
             fix it and run the step again.",
        ),
    ];
    const TIMEOUT: Duration = task::TIMEOUT;
    const FUNCTION: FunctionConfig = FunctionConfig::TRANSFER;
    type Output = TransferSummary;

    fn validate(&self) -> Result<(), StepError> {
        self.task().validate()
    }

    fn permissions(&self) -> Permissions {
        self.task().permissions()
    }

    fn peer(&self) -> Option<Peer> {
        self.task().peer()
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<TransferSummary>, StepError> {
        self.task().run(ctx, resume).await
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        self.task().cancel(ctx, resume).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use serde_json::{Value, json};
    use stepward::testing::{assert_invalid_parameters_are_named, expect_done, log_lines};
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::scenes::{
        COPY_ONLY, LARGE_ONLY, S3_DESTINATION_ONLY, S3_SOURCE_ONLY, unused_permissions,
    };
    use crate::testing::{
        ACCESS_POINT, ALIAS, FakeS3, Object, PEER_ACCOUNT, SentRequest, WRITTEN_AT,
        before_deadline, crc_base64, mib_bytes, refusal, run_in_root, run_with_root, scenes,
        unwrap_pending, valid_step,
    };

    const SESSION: &str = "arn:aws:sts::222222222222:assumed-role/Stepward/acme@execution-1";
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn copy_step(params: Value) -> S3Copy {
        valid_step(params)
    }

    fn upload(source: &str) -> S3Copy {
        copy_step(json!({ "source": source, "destination": "s3://data/copy" }))
    }

    fn download() -> S3Copy {
        copy_step(json!({ "source": "s3://data/object", "destination": "file" }))
    }

    fn copy_between_accounts() -> S3Copy {
        copy_step(
            json!({ "source": "s3://theirs/object", "source_account": "archive",
                "destination": "s3://data/copy" }),
        )
    }

    /// All files below a directory.
    fn files(root: &Path) -> Vec<String> {
        let mut paths: Vec<_> = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        let list_path = |path: &Path| -> Vec<String> {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                files(path)
                    .iter()
                    .map(|file| format!("{name}/{file}"))
                    .collect()
            } else {
                vec![name.into()]
            }
        };
        paths.iter().flat_map(|path| list_path(path)).collect()
    }

    #[test]
    fn done_uploads_a_small_file_with_type_checksum_and_owner() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("today.csv"), "a,b\n").unwrap();
            let step = copy_step(json!({
                "source": "today.csv", "destination": "s3://data/reports/",
                "storage_class": "STANDARD_IA",
                "sse": "aws:kms", "sse_kms_key_id": "key-1",
            }));
            let ctx = s3.context();
            let output = expect_done(step.run(&ctx, None).await);
            assert_eq!((output.transferred, output.bytes), (1, 4));
            let line = format!(
                "upload: {}/today.csv to s3://data/reports/today.csv",
                root.display()
            );
            assert_eq!(log_lines(&ctx), [line]);
            let [sent] = &s3.take_requests()[..] else {
                panic!("one request")
            };
            assert_eq!(
                (sent.summary().as_str(), &sent.body[..]),
                ("PutObject data/reports/today.csv", &b"a,b\n"[..])
            );
            for (name, value) in [
                ("content-type", "text/csv"),
                ("x-amz-checksum-crc64nvme", &crc_base64(b"a,b\n")),
                ("x-amz-storage-class", "STANDARD_IA"),
                ("x-amz-server-side-encryption", "aws:kms"),
                ("x-amz-server-side-encryption-aws-kms-key-id", "key-1"),
                ("x-amz-expected-bucket-owner", "222222222222"),
            ] {
                assert_eq!(sent.header(name), Some(value), "{name}");
            }
        });
    }

    #[test]
    fn done_writes_only_to_a_bucket_of_the_expected_owner() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("a"), "a").unwrap();
            let theirs = json!({ "source": "a", "destination": "s3://theirs/a" });
            let error = copy_step(theirs.clone())
                .run(&s3.context(), None)
                .await
                .unwrap_err();
            assert_eq!(
                (error.name, s3.object("theirs", "a").is_none()),
                (ErrorName::AccessDenied, true)
            );
            let mut params = theirs;
            params["bucket_owner"] = PEER_ACCOUNT.into();
            expect_done(copy_step(params).run(&s3.context(), None).await);
            assert!(s3.object("theirs", "a").is_some());
        });
    }

    #[test]
    fn done_copies_through_access_points() {
        run_in_root(async |root| {
            fs::write(root.join("file"), "content").unwrap();
            for point in [ALIAS, ACCESS_POINT] {
                let s3 = FakeS3::default();
                let at_point = |key: &str| format!("s3://{point}/{key}");
                for (source, destination) in [
                    ("file".to_owned(), at_point("uploaded")),
                    (at_point("uploaded"), "downloaded".to_owned()),
                    (at_point("uploaded"), "s3://other/copied".to_owned()),
                    ("s3://other/copied".to_owned(), at_point("copied")),
                    (at_point("uploaded"), at_point("again")),
                ] {
                    let step = copy_step(json!({ "source": source, "destination": destination }));
                    expect_done(step.run(&s3.context(), None).await);
                }
                for (bucket, key) in [("data", "copied"), ("data", "again"), ("other", "copied")] {
                    assert!(s3.object(bucket, key).unwrap().bytes == "content", "{key}");
                }
                assert_eq!(fs::read(root.join("downloaded")).unwrap(), b"content");
                fs::remove_file(root.join("downloaded")).unwrap();
            }
        });
    }

    #[test]
    fn done_streams_a_file_with_a_trailing_checksum() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("object"), mib_bytes(3)).unwrap();
            expect_done(upload("object").run(&s3.context(), None).await);
            let [sent] = &s3.take_requests()[..] else {
                panic!("one request")
            };
            assert_eq!(
                (sent.operation, sent.body == mib_bytes(3)),
                ("PutObject", true)
            );
            assert_eq!(
                sent.header("x-amz-checksum-crc64nvme"),
                Some(crc_base64(&mib_bytes(3)).as_str())
            );
        });
    }

    #[test]
    fn done_uploads_a_large_file_in_parts_with_checksums() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("large.tar"), mib_bytes(20)).unwrap();
            let step = copy_step(
                json!({ "source": "large.tar", "destination": "s3://data/copy", "sse": "AES256" }),
            );
            expect_done(step.run(&s3.context_in_session(SESSION), None).await);
            let sent = s3.take_requests();
            let lines: Vec<_> = sent.iter().map(SentRequest::summary).collect();
            assert_eq!(
                lines[..2],
                [
                    "ListMultipartUploads data/copy",
                    "CreateMultipartUpload data/copy"
                ]
            );
            let mut parts = lines[2..5].to_vec();
            parts.sort();
            assert_eq!(
                parts,
                [
                    "UploadPart data/copy 1",
                    "UploadPart data/copy 2",
                    "UploadPart data/copy 3"
                ]
            );
            assert_eq!(lines[5..], ["CompleteMultipartUpload data/copy"]);
            for (index, name, value) in [
                (1, "content-type", "application/x-tar"),
                (1, "x-amz-server-side-encryption", "AES256"),
                (1, "x-amz-checksum-algorithm", "CRC64NVME"),
                (1, "x-amz-checksum-type", "FULL_OBJECT"),
                (5, "x-amz-checksum-crc64nvme", &crc_base64(&mib_bytes(20))),
                (5, "x-amz-checksum-type", "FULL_OBJECT"),
            ] {
                assert_eq!(sent[index].header(name), Some(value), "{name}");
            }
            for part in &sent[2..5] {
                assert_eq!(
                    part.header("x-amz-checksum-crc64nvme"),
                    Some(crc_base64(&part.body).as_str())
                );
            }
            assert!(
                sent.iter()
                    .all(|sent| sent.header("x-amz-expected-bucket-owner") == Some("222222222222"))
            );
            assert!(s3.object("data", "copy").unwrap().bytes == mib_bytes(20));
        });
    }

    #[test]
    fn done_names_a_complete_file_and_sets_the_objects_time() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            s3.put("data", "object", "content");
            let root_path = root.to_owned();
            s3.hook_operation("GetObject", move |_, _| {
                assert_eq!(files(&root_path), [""; 0], "the file has no name yet");
                None
            });
            let step =
                copy_step(json!({ "source": "s3://data/object", "destination": "new/folder/" }));
            let ctx = s3.context();
            expect_done(step.run(&ctx, None).await);
            assert_eq!(
                s3.take_summaries(),
                ["HeadObject data/object", "GetObject data/object"]
            );
            let path = root.join("new/folder/object");
            assert_eq!(
                log_lines(&ctx),
                [format!("download: s3://data/object to {}", path.display())]
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), "content");
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(WRITTEN_AT.unsigned_abs());
            assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), written);
            assert!(!root.join(".stepward").exists(), "nothing is left behind");
        });
    }

    #[test]
    fn done_downloads_a_large_object_in_ranges_of_one_version() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            s3.put("data", "object", mib_bytes(20));
            expect_done(download().run(&s3.context(), None).await);
            let etag = s3.object("data", "object").unwrap().etag;
            let mut ranges: Vec<_> = s3
                .sent_requests("GetObject")
                .iter()
                .map(|sent| sent.header("range").unwrap().to_owned())
                .collect();
            ranges.sort();
            assert_eq!(
                ranges,
                [
                    "bytes=0-8388607",
                    "bytes=16777216-20971519",
                    "bytes=8388608-16777215"
                ]
            );
            assert!(
                s3.sent_requests("GetObject")
                    .iter()
                    .all(|sent| sent.header("if-match") == Some(etag.as_str()))
            );
            assert!(fs::read(root.join("file")).unwrap() == mib_bytes(20));
            assert_eq!(files(root), ["file"]);
        });
    }

    #[tokio::test(start_paused = true)]
    async fn done_lets_s3_copy_within_an_account() {
        let s3 = FakeS3::default();
        s3.put("data", "a b/ü", "content");
        let step = copy_step(json!({
            "source": "s3://data/a b/ü", "destination": "s3://other/",
            "storage_class": "GLACIER_IR", "sse": "AES256",
        }));
        let ctx = s3.context();
        assert_eq!(expect_done(step.run(&ctx, None).await).bytes, 7);
        assert_eq!(log_lines(&ctx), ["copy: s3://data/a b/ü to s3://other/ü"]);
        let sent = s3.take_requests();
        assert_eq!(
            sent.iter().map(SentRequest::summary).collect::<Vec<_>>(),
            ["HeadObject data/a b/ü", "CopyObject other/ü"]
        );
        let etag = s3.object("data", "a b/ü").unwrap().etag;
        for (name, value) in [
            ("x-amz-copy-source", "data/a%20b/%C3%BC"),
            ("x-amz-copy-source-if-match", &etag),
            ("x-amz-storage-class", "GLACIER_IR"),
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-expected-bucket-owner", "222222222222"),
        ] {
            assert_eq!(sent[1].header(name), Some(value), "{name}");
        }
    }

    /// An object of more than 5 GiB, with every kind of metadata.
    fn put_huge(s3: &FakeS3) {
        s3.put_size("data", "object", 5 * GIB + 1);
        let headers = [
            ("content-type", "application/x-tar"),
            ("content-language", "de"),
            ("expires", "Sat, 31 Jan 2026 10:40:00 GMT"),
            ("x-amz-meta-owner", "ann"),
            ("x-amz-tagging", "cost=it%20%26%20co&x=y"),
        ];
        let headers = headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        s3.store().objects.values_mut().next().unwrap().headers = headers;
    }

    #[tokio::test(start_paused = true)]
    async fn done_copies_above_5_gib_in_parts_with_metadata() {
        let s3 = FakeS3::default();
        put_huge(&s3);
        let step = copy_step(
            json!({ "source": "s3://data/object", "destination": "s3://data/copy",
                "storage_class": "STANDARD_IA" }),
        );
        expect_done(step.run(&s3.context(), None).await);
        let [started] = &s3.sent_requests("CreateMultipartUpload")[..] else {
            panic!("one upload")
        };
        for (name, value) in [
            ("content-type", "application/x-tar"),
            ("content-language", "de"),
            ("expires", "Sat, 31 Jan 2026 10:40:00 GMT"),
            ("x-amz-meta-owner", "ann"),
            ("x-amz-tagging", "cost=it%20%26%20co&x=y"),
            ("x-amz-storage-class", "STANDARD_IA"),
        ] {
            assert_eq!(started.header(name), Some(value), "{name}");
        }
        let parts = s3.sent_requests("UploadPartCopy");
        let etag = s3.object("data", "object").unwrap().etag;
        assert_eq!(
            (parts.len(), parts[0].header("x-amz-copy-source-range")),
            (11, Some("bytes=0-536870911"))
        );
        assert_eq!(
            parts[10].header("x-amz-copy-source-range"),
            Some("bytes=5368709120-5368709120")
        );
        assert!(
            parts
                .iter()
                .all(|part| part.header("x-amz-copy-source-if-match") == Some(etag.as_str()))
        );
        assert_eq!(s3.object("data", "copy").unwrap().size, 5 * GIB + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn done_lets_s3_copy_between_accounts_if_it_may() {
        let s3 = FakeS3::default();
        s3.put("theirs", "object", "content");
        expect_done(
            copy_between_accounts()
                .run(&s3.context_with_peer(), None)
                .await,
        );
        let sent: Vec<_> = s3
            .take_requests()
            .iter()
            .map(|sent| (sent.summary(), sent.account.clone()))
            .collect();
        let expected = [
            ("HeadObject theirs/object", PEER_ACCOUNT),
            ("CopyObject data/copy", "222222222222"),
        ];
        assert_eq!(
            sent,
            expected.map(|(line, account)| (line.to_owned(), account.to_owned()))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn done_copies_between_accounts_itself_if_s3_may_not() {
        let s3 = FakeS3::default();
        for key in ["in/a", "in/b"] {
            s3.put("theirs", key, "content");
            let headers = [
                ("content-type", "text/csv"),
                ("x-amz-meta-owner", "ann"),
                ("x-amz-tagging", "cost=it"),
            ];
            let headers = headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
            s3.store()
                .objects
                .get_mut(&("theirs".into(), key.into()))
                .unwrap()
                .headers = headers;
        }
        s3.put("theirs", "in/large", mib_bytes(9));
        s3.refuse_requests("CopyObject", 1, 403, "AccessDenied");
        let step = copy_step(json!({
            "source": "s3://theirs/in", "source_account": "archive", "destination": "s3://data",
            "recursive": true,
        }));
        let ctx = s3.context_with_peer();
        // The first refused copy decides for all later objects.
        assert_eq!(expect_done(step.run(&ctx, None).await).transferred, 3);
        let notices = log_lines(&ctx)
            .iter()
            .filter(|line| line.contains("is not allowed to copy between the two accounts"))
            .count();
        assert_eq!(notices, 1);
        for sent in s3.take_requests() {
            let account = if sent.bucket == "theirs" {
                PEER_ACCOUNT
            } else {
                "222222222222"
            };
            assert_eq!(sent.account, account, "{}", sent.summary());
            if sent.operation == "PutObject" {
                assert_eq!(
                    (sent.header("content-type"), sent.header("x-amz-meta-owner")),
                    (Some("text/csv"), Some("ann"))
                );
                assert_eq!(sent.header("x-amz-tagging"), Some("cost=it"));
                assert_eq!(
                    sent.header("x-amz-checksum-crc64nvme"),
                    Some(crc_base64(b"content").as_str())
                );
            }
        }
        let large = s3.object("data", "large").unwrap();
        assert_eq!(
            (large.bytes == mib_bytes(9), large.checksum),
            (true, Some(crc_base64(&mib_bytes(9))))
        );
    }

    #[test]
    fn done_recursively_copies_the_selected_names() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            for key in [
                "in/a.log",
                "in/b/c.log",
                "in/b/c.txt",
                "in/folder/",
                "inside",
            ] {
                s3.put("data", key, if key.ends_with('/') { "" } else { "x" });
            }
            s3.store().page = Some(2);
            let step = copy_step(json!({
                "source": "s3://data/in", "destination": "out", "recursive": true,
                "filters": [{ "exclude": "*" }, { "include": "*.log" }],
            }));
            assert_eq!(
                expect_done(step.run(&s3.context(), None).await).transferred,
                2
            );
            assert_eq!(files(root), ["out/a.log", "out/b/c.log"]);
            let lists = s3.sent_requests("ListObjectsV2");
            assert!(
                lists.len() > 1
                    && lists
                        .iter()
                        .all(|sent| sent.key == "in/" && sent.query["encoding-type"] == "url")
            );
        });
    }

    #[test]
    fn done_with_dry_run_only_logs() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("a"), "abc").unwrap();
            let ctx = s3.context();
            let step =
                copy_step(json!({ "source": "a", "destination": "s3://data/", "dry_run": true }));
            let output = expect_done(step.run(&ctx, None).await);
            assert_eq!(
                (output.transferred, output.bytes, output.dry_run),
                (1, 3, true)
            );
            assert_eq!(
                log_lines(&ctx),
                [format!(
                    "(dryrun) upload: {}/a to s3://data/a",
                    root.display()
                )]
            );
            assert_eq!(s3.take_summaries(), [""; 0]);
        });
    }

    // no proof of already: the step overwrites existing objects, as `aws s3 cp` does; s3-sync
    // compares.

    #[test]
    fn not_found_is_a_missing_source_or_bucket() {
        run_in_root(async |_| {
            let s3 = FakeS3::default();
            for (source, destination, recursive, reason) in [
                (
                    "s3://data/none",
                    "file",
                    false,
                    "\"s3://data/none\" does not exist",
                ),
                ("s3://gone/in", "out", true, "NoSuchBucket"),
                (
                    "none",
                    "s3://data/",
                    false,
                    "source file \"none\" does not exist",
                ),
                (
                    "none",
                    "s3://data/",
                    true,
                    "source directory \"none\" does not exist",
                ),
            ] {
                let step = copy_step(
                    json!({ "source": source, "destination": destination, "recursive": recursive }),
                );
                let error = step.run(&s3.context(), None).await.unwrap_err();
                assert_eq!(error.name, ErrorName::NotFound, "{source}: {error}");
                assert!(error.to_string().contains(reason), "{error}");
            }
        });
    }

    #[test]
    fn invalid_parameters_are_named() {
        assert_invalid_parameters_are_named::<S3Copy>();
        let params =
            json!({ "source": "a", "destination": "s3://data/a", "filters": [{ "include": 7 }] });
        let error = serde_json::from_value::<S3Copy>(params)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("field `filters[0].include`: invalid type: integer `7`"),
            "{error}"
        );
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let ok = json!({ "source": "s3://data/a", "destination": "s3://data/b" });
        copy_step(ok.clone());
        for (field, value, reason) in [
            ("source", json!("s3://Data/a"), "source"),
            ("source", json!("s3://data"), "set recursive"),
            ("source", json!("s3://data/in/"), "set recursive"),
            (
                "source",
                json!(""),
                "expected a URI such as s3://bucket/key or a path",
            ),
            ("destination", json!("s3://da"), "destination"),
            (
                "destination",
                json!(format!("s3://data/{}", "k".repeat(1025))),
                "1,024",
            ),
            (
                "storage_class",
                json!("COLD"),
                "\"storage_class\": expected one of",
            ),
            ("sse_kms_key_id", json!("key-1"), "set sse to"),
            ("bucket_owner", json!("12"), "bucket_owner"),
        ] {
            let mut params = ok.clone();
            params[field] = value;
            let error = serde_json::from_value::<S3Copy>(params)
                .unwrap()
                .validate()
                .unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{field}");
            assert!(error.message.contains(reason), "{error}");
        }
        for (params, reason) in [
            (json!({ "source": "a", "destination": "b" }), "both local"),
            (
                json!({ "source": "a", "destination": "s3://data/", "source_account": "archive" }),
                "the source is local",
            ),
            (
                json!({ "source": "a", "destination": "s3://data/", "source_region": "eu-west-2" }),
                "the source is local",
            ),
        ] {
            let error = serde_json::from_value::<S3Copy>(params)
                .unwrap()
                .validate()
                .unwrap_err();
            assert!(
                error.name == ErrorName::InvalidInput && error.message.contains(reason),
                "{error}"
            );
        }
        for params in [
            json!({ "source": "a", "destination": "s3://data/", "sse": "none" }),
            json!({ "source": "a", "destination": "s3://data/", "recursiv": true }),
            json!({ "source": "a", "destination": "s3://data/", "filters": [{ "only": "*" }] }),
        ] {
            assert!(
                serde_json::from_value::<S3Copy>(params.clone()).is_err(),
                "{params}"
            );
        }
    }

    #[test]
    fn invalid_paths_are_refused_before_any_call() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::create_dir(root.join("folder")).unwrap();
            fs::write(root.join("file"), "x").unwrap();
            std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
            for (source, recursive, reason) in [
                ("../a", false, "leaves the local root"),
                ("/etc/passwd", false, "leaves the local root"),
                (".stepward/a", false, "unfinished files"),
                ("link", false, "leads out of the local root"),
                ("folder", false, "set recursive"),
                ("file", true, "omit recursive"),
                ("file/", false, "names a directory but is a file"),
                ("file/", true, "omit recursive"),
            ] {
                let step = copy_step(json!({ "source": source, "destination": "s3://data/",
                        "recursive": recursive }));
                let error = step.run(&s3.context(), None).await.unwrap_err();
                assert_eq!(error.name, ErrorName::InvalidInput, "{source}: {error}");
                assert!(error.message.contains(reason), "{error}");
            }
            let step = copy_step(
                json!({ "source": "s3://data/in", "destination": "file", "recursive": true }),
            );
            let error = step.run(&s3.context(), None).await.unwrap_err();
            assert!(
                error.name == ErrorName::InvalidInput && error.message.contains("not a directory"),
                "{error}"
            );
            assert_eq!(s3.take_summaries(), [""; 0]);
        });
    }

    #[tokio::test]
    async fn invalid_are_local_paths_without_a_local_root() {
        let error = upload("file")
            .run(&FakeS3::default().context(), None)
            .await
            .unwrap_err();
        assert!(
            error.name == ErrorName::InvalidInput && error.message.contains("no local root"),
            "{error}"
        );
    }

    #[test]
    fn throttled_requests_are_repeated() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("large"), mib_bytes(9)).unwrap();
            for operation in [
                "CreateMultipartUpload",
                "UploadPart",
                "CompleteMultipartUpload",
            ] {
                s3.refuse_requests(operation, 2, 503, "SlowDown");
            }
            expect_done(upload("large").run(&s3.context(), None).await);
            let counts = [
                "CreateMultipartUpload",
                "UploadPart",
                "CompleteMultipartUpload",
            ]
            .map(|operation| s3.sent_requests(operation).len());
            assert_eq!(counts, [3, 4, 3]);
            for operation in ["ListObjectsV2", "GetObject", "CopyObject"] {
                s3.refuse_requests(operation, 2, 503, "SlowDown");
            }
            for destination in ["out", "s3://other"] {
                let step = copy_step(
                    json!({ "source": "s3://data", "destination": destination, "recursive": true }),
                );
                assert_eq!(
                    expect_done(step.run(&s3.context(), None).await).transferred,
                    1,
                    "{destination}"
                );
            }
            assert!(fs::read(root.join("out/copy")).unwrap() == mib_bytes(9));
        });
    }

    #[test]
    fn pending_uploads_continue_and_send_no_part_twice() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("large"), mib_bytes(65)).unwrap();
            s3.spend_budget_at("UploadPart", 1);
            let (resume, progress) = unwrap_pending(upload("large").run(&s3.context(), None).await);
            assert!(progress.contains("1 large ones running"), "{progress}");
            assert_eq!(
                (s3.sent_requests("UploadPart").len(), s3.uploads().len()),
                (8, 1)
            );
            s3.take_requests();
            let output = expect_done(upload("large").run(&s3.context(), Some(resume)).await);
            assert_eq!((output.transferred, output.bytes), (1, 65 * MIB));
            assert_eq!(
                s3.take_summaries(),
                [
                    "ListParts data/copy",
                    "UploadPart data/copy 9",
                    "CompleteMultipartUpload data/copy"
                ]
            );
            let copy = s3.object("data", "copy").unwrap();
            assert_eq!((copy.bytes == mib_bytes(65), s3.uploads().len()), (true, 0));
        });
    }

    #[test]
    fn pending_downloads_continue_where_they_stopped() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            s3.put("data", "object", mib_bytes(65));
            s3.spend_budget_at("GetObject", 1);
            let (resume, _) = unwrap_pending(download().run(&s3.context(), None).await);
            let [unfinished] = &files(root)[..] else {
                panic!("one file")
            };
            assert!(unfinished.starts_with(".stepward/"), "{unfinished}");
            assert_eq!(s3.sent_requests("GetObject").len(), 8);
            s3.take_requests();
            expect_done(download().run(&s3.context(), Some(resume)).await);
            let ranges: Vec<_> = s3
                .sent_requests("GetObject")
                .iter()
                .map(|sent| sent.header("range").unwrap().to_owned())
                .collect();
            assert_eq!(ranges, ["bytes=67108864-68157439"]);
            assert!(fs::read(root.join("file")).unwrap() == mib_bytes(65));
            assert_eq!(files(root), ["file"]);
        });
    }

    #[test]
    fn pending_downloads_restart_if_object_or_file_changed() {
        run_in_root(async |root| {
            for is_file_missing in [false, true] {
                let s3 = FakeS3::default();
                s3.put("data", "object", mib_bytes(65));
                s3.spend_budget_at("GetObject", 1);
                let (resume, _) = unwrap_pending(download().run(&s3.context(), None).await);
                if is_file_missing {
                    fs::remove_dir_all(root.join(".stepward")).unwrap();
                } else {
                    s3.put("data", "object", mib_bytes(10));
                }
                expect_done(download().run(&s3.context(), Some(resume)).await);
                assert!(
                    fs::read(root.join("file")).unwrap()
                        == s3.object("data", "object").unwrap().bytes
                );
                assert_eq!(files(root), ["file"]);
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn pending_copies_by_s3_continue_and_copy_no_part_twice() {
        let s3 = FakeS3::default();
        put_huge(&s3);
        s3.spend_budget_at("UploadPartCopy", 1);
        let step =
            copy_step(json!({ "source": "s3://data/object", "destination": "s3://data/copy" }));
        let (resume, _) = unwrap_pending(step.run(&s3.context(), None).await);
        assert_eq!(s3.sent_requests("UploadPartCopy").len(), 8);
        s3.take_requests();
        expect_done(step.run(&s3.context(), Some(resume)).await);
        let copied: Vec<_> = s3
            .sent_requests("UploadPartCopy")
            .iter()
            .map(|sent| sent.query["partNumber"].clone())
            .collect();
        assert_eq!(
            (copied, s3.sent_requests("CreateMultipartUpload").len()),
            (vec!["9".into(), "10".into(), "11".into()], 0)
        );
        assert_eq!(s3.object("data", "copy").unwrap().size, 5 * GIB + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn pending_copies_through_the_function_continue_the_same_way() {
        for size in [65 * MIB, 5 * GIB + 1] {
            let s3 = FakeS3::default();
            s3.put_size("theirs", "object", size);
            // As many zeros as requested.
            s3.hook_operation("GetObject", |sent, store| {
                let object = &store.objects[&(sent.bucket.clone(), sent.key.clone())];
                let range = sent
                    .header("range")
                    .unwrap()
                    .strip_prefix("bytes=")
                    .unwrap()
                    .to_owned();
                let (first, last) = range
                    .split_once('-')
                    .map(|(first, last)| (first.parse::<u64>().unwrap(), last.parse().unwrap()))
                    .unwrap();
                let length = usize::try_from(u64::min(last, object.size - 1) + 1 - first).unwrap();
                Some((206, Vec::new(), vec![0; length].into()))
            });
            s3.refuse_requests("CopyObject", usize::MAX, 403, "AccessDenied");
            s3.refuse_requests("UploadPartCopy", usize::MAX, 403, "AccessDenied");
            s3.spend_budget_at("UploadPart", 1);
            let (resume, _) = unwrap_pending(
                copy_between_accounts()
                    .run(&s3.context_with_peer(), None)
                    .await,
            );
            let uploads = s3.uploads();
            let [(id, upload)] = &uploads.iter().collect::<Vec<_>>()[..] else {
                panic!("one upload")
            };
            assert_eq!(upload.parts.len(), 8, "{size}");
            s3.take_requests();
            s3.spend_budget_at("UploadPart", 1);
            let response = copy_between_accounts()
                .run(&s3.context_with_peer(), Some(resume))
                .await
                .unwrap();
            assert_eq!(matches!(response, Progress::Done(_)), size == 65 * MIB);
            let numbers: Vec<_> = s3
                .sent_requests("UploadPart")
                .iter()
                .map(|sent| sent.query["partNumber"].clone())
                .collect();
            let expected: Vec<_> = (9..=if size == 65 * MIB { 9 } else { 16 })
                .map(|n: u32| n.to_string())
                .collect();
            assert_eq!(numbers, expected, "{size}: no part is sent twice");
            assert!(
                s3.sent_requests("UploadPart")
                    .iter()
                    .all(|sent| sent.query["uploadId"] == **id)
            );
            assert_eq!(
                (
                    s3.sent_requests("CopyObject").len(),
                    s3.sent_requests("UploadPartCopy").len()
                ),
                (0, 0),
                "{size}: the step does not try a copy by S3 again"
            );
        }
    }

    #[test]
    fn pending_uploads_of_lost_calls_are_aborted() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("large"), mib_bytes(65)).unwrap();
            s3.spend_budget_at("UploadPart", 1);
            unwrap_pending(
                upload("large")
                    .run(
                        &s3.context_in_session(
                            "arn:aws:sts::222222222222:assumed-role/Stepward/other",
                        ),
                        None,
                    )
                    .await,
            );
            s3.spend_budget_at("UploadPart", 1);
            unwrap_pending(
                upload("large")
                    .run(&s3.context_in_session(SESSION), None)
                    .await,
            );
            s3.take_requests();
            expect_done(
                upload("large")
                    .run(&s3.context_in_session(SESSION), None)
                    .await,
            );
            let aborted: Vec<_> = s3
                .sent_requests("AbortMultipartUpload")
                .iter()
                .map(|sent| sent.query["uploadId"].clone())
                .collect();
            assert_eq!(aborted, ["upload-2"]);
            assert_eq!(
                s3.uploads().keys().collect::<Vec<_>>(),
                ["upload-1"],
                "the upload of another session stays"
            );
        });
    }

    #[test]
    fn pending_downloads_of_lost_calls_leave_no_file() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            s3.put("data", "object", mib_bytes(65));
            s3.spend_budget_at("GetObject", 1);
            unwrap_pending(download().run(&s3.context(), None).await);
            expect_done(download().run(&s3.context(), None).await);
            assert_eq!(files(root), ["file"]);
        });
    }

    #[test]
    fn pending_copies_continue_after_the_last_decided_key() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            for n in 0..200 {
                s3.put("data", &format!("in/{n:03}"), "x");
            }
            let step = copy_step(
                json!({ "source": "s3://data/in", "destination": "out", "recursive": true }),
            );
            s3.spend_budget_at("GetObject", 1);
            let (resume, progress) = unwrap_pending(step.run(&s3.context(), None).await);
            let got = s3.sent_requests("GetObject").len();
            assert!(
                progress.starts_with(&format!("{got} transferred ")) && got < 200,
                "{progress}"
            );
            s3.take_requests();
            assert_eq!(
                expect_done(step.run(&s3.context(), Some(resume)).await).transferred,
                200
            );
            assert_eq!(
                (s3.sent_requests("GetObject").len(), files(root).len()),
                (200 - got, 200)
            );
            let after = &s3.sent_requests("ListObjectsV2")[0].query["start-after"];
            assert_eq!(*after, format!("in/{:03}", got - 1));
        });
    }

    #[test]
    fn pending_uploads_without_responses_get_one_more_call() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("large"), mib_bytes(20)).unwrap();
            s3.never_respond("UploadPart", |sent| sent.query["partNumber"] != "1");
            let (resume, _) = unwrap_pending(
                before_deadline(upload("large").run(&s3.context_in_session(SESSION), None)).await,
            );
            assert_eq!(s3.uploads()["upload-1"].parts.len(), 1);
            let error = before_deadline(
                upload("large").run(&s3.context_in_session(SESSION), Some(resume.clone())),
            )
            .await
            .unwrap_err();
            assert_eq!(error.name, ErrorName::TimedOut, "{error}");
            assert!(s3.uploads().is_empty(), "a whole call made no progress");
            s3.respond_again();
            expect_done(
                upload("large")
                    .run(&s3.context_in_session(SESSION), Some(resume))
                    .await,
            );
            assert_eq!(
                (s3.object("data", "copy").unwrap().size, s3.uploads().len()),
                (20 << 20, 0)
            );
        });
    }

    #[test]
    fn pending_downloads_without_responses_continue_in_the_next_call() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            s3.put("data", "object", mib_bytes(20));
            s3.never_respond("GetObject", |sent| {
                sent.header("range")
                    .is_some_and(|range| !range.starts_with("bytes=0-"))
            });
            let (resume, _) =
                unwrap_pending(before_deadline(download().run(&s3.context(), None)).await);
            s3.respond_again();
            s3.take_requests();
            expect_done(download().run(&s3.context(), Some(resume)).await);
            assert_eq!(
                (
                    s3.sent_requests("GetObject").len(),
                    fs::read(root.join("file")).unwrap() == mib_bytes(20)
                ),
                (2, true)
            );
        });
    }

    #[test]
    fn failed_objects_without_responses_leave_no_upload() {
        run_in_root(async |root| {
            fs::create_dir(root.join("up")).unwrap();
            for name in ["a", "b", "c"] {
                fs::write(root.join("up").join(name), mib_bytes(9)).unwrap();
            }
            fs::write(root.join("up/small"), "x").unwrap();
            for operation in ["CreateMultipartUpload", "PutObject"] {
                let s3 = FakeS3::default();
                s3.never_respond(operation, |sent| sent.key == "b" || sent.key == "small");
                if operation == "CreateMultipartUpload" {
                    // S3 starts the upload, and the response is lost.
                    s3.hook_operation(operation, |sent, store| {
                        (sent.key == "b").then(|| store.response(sent))
                    });
                }
                let step = copy_step(
                    json!({ "source": "up", "destination": "s3://data", "recursive": true }),
                );
                let error = before_deadline(step.run(&s3.context_in_session(SESSION), None))
                    .await
                    .unwrap_err();
                assert!(error.message.contains("1 failed, 3 succeeded"), "{error}");
                assert!(
                    error.message.contains("before the call's time ended"),
                    "{error}"
                );
                assert!(s3.uploads().is_empty(), "{operation}");
            }
        });
    }

    #[test]
    fn failed_objects_are_named_and_others_are_copied() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            for key in ["in/a", "in/b//c", "in/d", "in/e"] {
                s3.put("data", key, "x");
            }
            s3.hook_operation("GetObject", |sent, _| {
                (sent.key == "in/d").then(|| refusal(403, "InvalidObjectState"))
            });
            let step = copy_step(
                json!({ "source": "s3://data/in", "destination": "out", "recursive": true }),
            );
            let ctx = s3.context();
            let error = step.run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            for part in [
                "2 failed, 2 succeeded",
                "s3://data/in/b//c: key \"b//c\" cannot be",
                "s3://data/in/d: S3 says no",
            ] {
                assert!(error.message.contains(part), "{error}");
            }
            assert_eq!(files(root), ["out/a", "out/e"]);
            let log = log_lines(&ctx);
            assert_eq!(
                log.iter()
                    .filter(|line| line.starts_with("download failed: s3://data/in/"))
                    .count(),
                2,
                "{log:?}"
            );
        });
    }

    #[test]
    fn failed_are_keys_and_files_that_cannot_be_copied() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            for key in [
                "in/../x",
                "in/./x",
                "in//x",
                "in/x\0y",
                "in/.stepward/x",
                &format!("in/{}", "n".repeat(256)),
            ] {
                s3.put("data", key, "x");
            }
            let step = copy_step(
                json!({ "source": "s3://data/in", "destination": ".", "recursive": true }),
            );
            let error = step.run(&s3.context(), None).await.unwrap_err();
            assert!(
                error.message.starts_with("objects: 6 failed, 0 succeeded"),
                "{error}"
            );
            assert_eq!(
                (error.name, files(root)),
                (ErrorName::InvalidInput, Vec::new())
            );
            fs::create_dir(root.join("up")).unwrap();
            fs::write(root.join("up/fine"), "x").unwrap();
            std::os::unix::fs::symlink("none", root.join("up/broken")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", root.join("up/outside")).unwrap();
            assert!(
                std::process::Command::new("mkfifo")
                    .arg(root.join("up/pipe"))
                    .status()
                    .unwrap()
                    .success()
            );
            let step = copy_step(
                json!({ "source": "up", "destination": "s3://data/up", "recursive": true }),
            );
            let error = step.run(&s3.context(), None).await.unwrap_err();
            for part in [
                "3 failed, 1 succeeded",
                "a broken link",
                "leads out of the local root",
                "a pipe",
            ] {
                assert!(error.message.contains(part), "{error}");
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn failed_are_objects_below_a_nested_destination() {
        let s3 = FakeS3::default();
        s3.put("data", "a", "x");
        s3.put("data", "copy/a", "x");
        let step = copy_step(
            json!({ "source": "s3://data", "destination": "s3://data/copy", "recursive": true }),
        );
        let error = step.run(&s3.context(), None).await.unwrap_err();
        assert!(
            error.message.contains("1 failed, 1 succeeded")
                && error.message.contains("s3://data/copy/a"),
            "{error}"
        );
        assert!(s3.object("data", "copy/copy/a").is_none());
    }

    #[test]
    fn failed_parts_abort_the_upload() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("large"), mib_bytes(20)).unwrap();
            s3.hook_operation("UploadPart", |sent, _| {
                (sent.query["partNumber"] == "2").then(|| refusal(403, "AccessDenied"))
            });
            let error = upload("large").run(&s3.context(), None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::AccessDenied);
            assert!(
                error.message.contains("AWS denied s3:UploadPart"),
                "{error}"
            );
            assert_eq!(
                (
                    s3.sent_requests("AbortMultipartUpload").len(),
                    s3.uploads().len()
                ),
                (1, 0)
            );
        });
    }

    #[test]
    fn failed_aborts_are_added_to_the_first_error() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("large"), mib_bytes(65)).unwrap();
            s3.spend_budget_at("UploadPart", 1);
            let (resume, _) = unwrap_pending(upload("large").run(&s3.context(), None).await);
            s3.refuse_requests("UploadPart", 9, 400, "BadDigest");
            s3.refuse_requests("AbortMultipartUpload", 9, 403, "AccessDenied");
            let error = upload("large")
                .run(&s3.context(), Some(resume))
                .await
                .unwrap_err();
            for part in [
                "S3 says no; its unfinished multipart upload upload-1 could not be aborted",
                "AWS charges for it",
            ] {
                assert_eq!(error.message.matches(part).count(), 1, "{error}");
            }
        });
    }

    #[test]
    fn failed_aborts_do_not_hide_why_the_run_stopped() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::create_dir(root.join("up")).unwrap();
            fs::write(root.join("up/a"), mib_bytes(20)).unwrap();
            (0..1_000).for_each(|n| fs::write(root.join(format!("up/b{n:03}")), "x").unwrap());
            s3.refuse_requests("PutObject", usize::MAX, 403, "AccessDenied");
            s3.refuse_requests("AbortMultipartUpload", 9, 400, "InvalidRequest");
            // The upload is still running when the run stops.
            s3.never_respond("UploadPart", |sent| sent.query["partNumber"] != "1");
            let step =
                copy_step(json!({ "source": "up", "destination": "s3://data", "recursive": true }));
            let error = before_deadline(step.run(&s3.context(), None))
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::AccessDenied, "{error}");
            for part in [
                "1000 failed, 0 succeeded",
                "AWS denied s3:PutObject",
                "; and S3 says no",
            ] {
                assert!(error.message.contains(part), "{error}");
            }
        });
    }

    #[test]
    fn failed_checksums_leave_no_file() {
        run_in_root(async |root| {
            for size in [1, 20] {
                let s3 = FakeS3::default();
                s3.put("data", "object", mib_bytes(size));
                let wrong = crc_base64(b"something else");
                s3.store()
                    .objects
                    .values_mut()
                    .for_each(|object| object.checksum = Some(wrong.clone()));
                let error = download().run(&s3.context(), None).await.unwrap_err();
                assert!(error.to_string().contains("checksum"), "{size}: {error}");
                assert_eq!(files(root), [""; 0]);
            }
        });
    }

    #[test]
    fn failed_are_files_that_change_during_the_upload() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            let path = root.join("object");
            fs::write(&path, mib_bytes(20)).unwrap();
            s3.hook_operation("CreateMultipartUpload", move |_, _| {
                fs::write(&path, mib_bytes(20)).unwrap();
                None
            });
            let error = upload("object").run(&s3.context(), None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{error}");
            assert!(
                error.message.contains("changed while it was read"),
                "{error}"
            );
            assert!(s3.object("data", "copy").is_none() && s3.uploads().is_empty());
        });
    }

    #[test]
    fn failed_are_objects_that_change_during_the_download() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            s3.put("data", "object", mib_bytes(20));
            let mut gets = 0;
            s3.hook_operation("GetObject", move |_, store| {
                gets += 1;
                let object = store.objects.values_mut().next().unwrap();
                object.etag = format!("\"state-{}\"", gets / 2);
                None
            });
            let error = download().run(&s3.context(), None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict);
            assert!(
                error
                    .message
                    .contains("the object changed while it was copied"),
                "{error}"
            );
            assert_eq!(files(root), [""; 0]);
        });
    }

    #[tokio::test(start_paused = true)]
    async fn failed_head_requests_name_the_missing_action() {
        let s3 = FakeS3::default();
        s3.refuse_requests("HeadObject", 1, 403, "AccessDenied");
        let error = download().run(&s3.context(), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error.message.contains("AWS denied s3:GetObject; allow it"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_copies_of_archived_objects_contain_s3s_message() {
        let s3 = FakeS3::default();
        s3.put("data", "object", "x");
        s3.refuse_requests("CopyObject", 1, 403, "InvalidObjectState");
        let step =
            copy_step(json!({ "source": "s3://data/object", "destination": "s3://data/copy" }));
        let error = step.run(&s3.context(), None).await.unwrap_err();
        assert!(
            error.message.contains("S3 says no") && !error.message.contains("changed"),
            "{error}"
        );
    }

    #[test]
    fn failed_upload_starts_leave_no_upload_behind() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("large"), mib_bytes(9)).unwrap();
            let mut count = 0;
            s3.hook_operation("CreateMultipartUpload", move |sent, store| {
                count += 1;
                // S3 starts the upload, and the response is lost.
                (count == 1).then(|| {
                    store.response(sent);
                    refusal(500, "InternalError")
                })
            });
            expect_done(
                upload("large")
                    .run(&s3.context_in_session(SESSION), None)
                    .await,
            );
            assert_eq!(
                (
                    s3.sent_requests("CreateMultipartUpload").len(),
                    s3.uploads().len()
                ),
                (2, 0)
            );
            assert_eq!(
                s3.sent_requests("AbortMultipartUpload")[0].query["uploadId"],
                "upload-1"
            );
        });
    }

    #[test]
    fn done_if_the_completion_is_lost_but_the_object_exists() {
        run_in_root(async |root| {
            for (is_completed, is_replaced) in [(true, false), (false, false), (true, true)] {
                let s3 = FakeS3::default();
                fs::write(root.join("large"), mib_bytes(9)).unwrap();
                // An older object that must not pass for the result of the upload.
                s3.put("data", "copy", mib_bytes(9));
                s3.hook_operation("CompleteMultipartUpload", move |sent, store| {
                    if is_completed && !store.uploads.is_empty() {
                        store.response(sent);
                    }
                    if is_replaced {
                        let object = Object {
                            checksum: Some(crc_base64(b"another")),
                            ..Object::default()
                        };
                        store.put("data", "copy", object);
                    }
                    Some(refusal(500, "InternalError"))
                });
                let response = upload("large").run(&s3.context(), None).await;
                assert_eq!(
                    response.is_ok(),
                    is_completed && !is_replaced,
                    "{is_completed} {is_replaced}: {response:?}"
                );
                assert!(s3.uploads().is_empty());
            }
        });
    }

    #[test]
    fn a_file_that_became_small_leaves_no_upload() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("large"), mib_bytes(65)).unwrap();
            s3.spend_budget_at("UploadPart", 1);
            let (resume, _) = unwrap_pending(upload("large").run(&s3.context(), None).await);
            fs::write(root.join("large"), "small").unwrap();
            expect_done(upload("large").run(&s3.context(), Some(resume)).await);
            assert_eq!(
                (s3.object("data", "copy").unwrap().size, s3.uploads().len()),
                (5, 0)
            );
        });
    }

    #[test]
    fn cancel_aborts_uploads_and_removes_unfinished_files() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("large"), mib_bytes(65)).unwrap();
            s3.put("data", "object", mib_bytes(65));
            for (step, slow_operation, is_lost) in [
                (upload("large"), "UploadPart", false),
                (upload("large"), "UploadPart", true),
                (download(), "GetObject", false),
            ] {
                s3.spend_budget_at(slow_operation, 1);
                let (resume, _) =
                    unwrap_pending(step.run(&s3.context_in_session(SESSION), None).await);
                step.cancel(
                    &s3.context_in_session(SESSION),
                    (!is_lost).then_some(resume),
                )
                .await
                .unwrap();
                assert_eq!(
                    (s3.uploads().len(), files(root)),
                    (0, vec!["large".to_owned()])
                );
            }
        });
    }

    #[test]
    fn permissions_match_the_local_cloud_for_uploads() {
        let unused = unused_permissions(&[
            ("s3:GetObject", S3_SOURCE_ONLY),
            ("s3:GetObjectTagging", COPY_ONLY),
            ("s3:ListBucket", S3_SOURCE_ONLY),
            ("s3:PutObjectTagging", COPY_ONLY),
        ]);
        run_with_root(|root| {
            prove_permissions::<S3Copy>(&unused, async |scene| {
                scenes::upload_scene(scene, root).await
            });
        });
    }

    #[test]
    fn permissions_match_the_local_cloud_for_downloads() {
        let unused = unused_permissions(&[
            ("s3:GetObjectTagging", COPY_ONLY),
            ("s3:ListBucketMultipartUploads", S3_DESTINATION_ONLY),
            ("s3:PutObject", S3_DESTINATION_ONLY),
            ("s3:PutObjectTagging", COPY_ONLY),
        ]);
        run_with_root(|_| prove_permissions::<S3Copy>(&unused, scenes::download_scene));
    }

    #[test]
    fn permissions_match_the_local_cloud_between_buckets() {
        const TAGS: &str = "The local cloud copies tags without checking it.";
        let unused = unused_permissions(&[
            ("s3:GetObjectTagging", TAGS),
            ("s3:ListBucketMultipartUploads", LARGE_ONLY),
            ("s3:PutObjectTagging", TAGS),
        ]);
        prove_permissions::<S3Copy>(&unused, scenes::between_buckets);
    }

    #[test]
    fn permissions_match_the_local_cloud_between_accounts() {
        const PEER_ONLY: &str = "Only the second account needs it here: the local cloud copies \
            nothing between accounts, so the step's account reads no source.";
        let unused = unused_permissions(&[
            ("s3:GetObject", PEER_ONLY),
            ("s3:GetObjectTagging", PEER_ONLY),
            ("s3:ListBucket", PEER_ONLY),
            ("s3:ListBucketMultipartUploads", LARGE_ONLY),
            (
                "s3:PutObjectTagging",
                "The local cloud writes tags without checking it.",
            ),
        ]);
        prove_permissions::<S3Copy>(&unused, scenes::between_accounts);
    }
}
