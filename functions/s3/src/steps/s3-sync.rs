//! The step `s3-sync`.

use std::time::Duration;

use crate::params::Transfer;
use crate::report::TransferSummary;
use crate::task::{self, Operation, Task};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::merged::Merged;
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Peer, Permissions, Progress, Resume,
    RundeckPlugin, Step, StepError,
};

/// Update a directory or prefix to match another one, as `aws s3 sync` does.
///
/// Use this step to mirror a directory to S3, a prefix to a directory, or one bucket to another. It
/// transfers only objects and files that are missing or out of date at the destination. With
/// `delete`, it also deletes those that exist only at the destination. **An empty or mistyped
/// source prefix then empties the destination**: check with `dry_run` first.
///
/// # Prerequisites
///
/// The same as for `s3-copy`: a local root for local paths, a bucket policy that lets S3 itself
/// copy from a second account, and a lifecycle rule for incomplete multipart uploads.
///
/// # Behavior
///
/// The step lists both sides in the order of their keys and compares them name by name. An object
/// or file is transferred if the destination lacks it, has another size, or is out of date:
///
/// - An upload or a copy is up to date if the object is as new as its source, or newer, because S3
///   records when it wrote an object.
/// - A download is up to date if the file is as old as its object, or older, because a download
///   gives the file the object's modification time.
///
/// The step does not compare content: it misses a change that keeps the size and does not make the
/// source newer. On both sides, the step skips empty objects whose key ends with a slash.
/// Everything else about the transfers, including metadata and second accounts, is as in `s3-copy`.
///
/// - **`filters`** apply to both sides: excluded names are neither transferred nor deleted.
/// - **`delete`** removes objects and files that exist only at the destination, up to 1,000 objects
///   per request. Deletions can come later than transfers, but if a directory replaces a file of
///   the same name, the file is deleted first. Empty directories stay. Below a directory that
///   cannot be read at the source, nothing is deleted.
/// - **Versioned buckets** keep overwritten and deleted objects as older versions, also under
///   Object Lock. Other buckets and directories do not.
///
/// The step works in calls of about 50 seconds. Each call continues after the last key that the
/// previous call compared, and large objects continue where they were. Memory does not grow with
/// the number of objects. Objects that appear or disappear during the run may be included or not;
/// all others are handled once. When the job is stopped, finished transfers and deletions stay, and
/// the step aborts unfinished uploads and removes unfinished files.
///
/// # Failures
///
/// An object that fails does not stop the others. Each failure is one line of the log; at the end
/// the step fails with the number of failures and the first reasons. It stops early once 1,000
/// objects failed because of a permission, a timeout or a missing bucket and none succeeded. If a
/// listing fails, the step finishes running transfers and then fails. A new run transfers only what
/// is still missing or out of date. The step refuses:
///
/// - `delete` with a source under the destination: it would delete the source. This differs from
///   the AWS CLI. If one of the two is an access point, the step compares only the prefixes,
///   because the name of an access point does not tell its bucket.
/// - objects below the destination, if the destination is below the source: each fails as
///   `Conflict`, because it would be copied into itself repeatedly. This differs from the AWS CLI,
///   too.
/// - directory buckets (S3 Express One Zone), which do not list their keys in order, and everything
///   else that is not a general purpose bucket or an access point of one.
///
/// # Cost
///
/// This step itself has no charge. S3 charges for one request per 1,000 objects listed on each
/// side, and for transfers as in `s3-copy`. Deletions are free. A sync without changes sends only
/// listing requests.
///
/// # Proof
///
/// Proven against the AWS CLI 1.46.3 with random trees and buckets (500 seeds; `docs/AWS-CLI.md`
/// lists the intended differences), and with the step killed at 50 random points. Unit tests
/// show the requests, decisions and resumed calls, compare random listings with a set-based model,
/// and sync 1,000,000 generated keys on both sides of a fake S3 over several calls within 128 MB.
/// The local cloud proves the permissions; it checks neither KMS keys nor Object Lock.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct S3Sync(Merged<Own, Transfer>);

/// The parameters that only `s3-sync` has.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Own {
    /// Where to read: `s3://bucket/prefix`, or a directory below the deployment's local root.
    source: String,
    /// Where to write: `s3://bucket/prefix`, or a directory below the deployment's local root.
    destination: String,
    /// Whether to delete objects and files that exist only at the destination. An empty source then
    /// empties the destination.
    #[serde(default)]
    delete: bool,
}

impl S3Sync {
    fn task(&self) -> Task<'_> {
        let Merged(
            Own {
                source,
                destination,
                delete,
            },
            transfer,
        ) = &self.0;
        Task::for_transfer(
            Operation::Sync(*delete),
            (source, destination),
            true,
            transfer,
        )
    }
}

impl Step for S3Sync {
    const NAME: &'static str = "s3-sync";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-cli-s3-sync-step",
        fields: &[
            ("source", "source"),
            ("destination", "destination"),
            ("include", "filters"),
            ("exclude", "filters"),
            ("delete", "delete"),
            ("dryrun", "dry_run"),
            ("default_region", "region"),
        ],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Mirror a directory to a bucket",
            parameters: r#"{
                "source": "reports",
                "destination": "s3://stepward-data-222222222222/reports",
                "delete": true
            }"#,
            output: r#"{
                "transferred": 7,
                "bytes": 1310720,
                "deleted": 2,
                "unchanged": 431,
                "dry_run": false
            }"#,
        },
        Example {
            title: "Download only the changed objects under a prefix",
            parameters: r#"{
                "source": "s3://stepward-data-222222222222/reports",
                "destination": "reports"
            }"#,
            output: r#"{
                "transferred": 3,
                "bytes": 262144,
                "deleted": 0,
                "unchanged": 437,
                "dry_run": false
            }"#,
        },
        Example {
            title: "Mirror a bucket of another account, except the objects under `tmp/`",
            parameters: r#"{
                "source": "s3://stepward-data-333333333333",
                "source_account": "archive",
                "destination": "s3://stepward-data-222222222222/archive",
                "filters": [{ "exclude": "tmp/*" }]
            }"#,
            output: r#"{
                "transferred": 1840,
                "bytes": 7516192768,
                "deleted": 0,
                "unchanged": 12004,
                "dry_run": false
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "A bucket or the source directory does not exist. A prefix without objects is not an \
             error.",
        ),
        (
            ErrorName::InvalidInput,
            "A parameter is wrong, a path leaves the local root, or a bucket is in another Region. \
             Correct the parameter that the message names.",
        ),
        (
            ErrorName::AccessDenied,
            "The role lacks the permission to list a bucket, or S3 refused every object. Add the \
             permission that the message names.",
        ),
        (
            ErrorName::StepFailed,
            "Some objects failed; all others are up to date. The message contains the first \
             reasons, and the log all of them. Fix the causes and run the step again.",
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
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;
    use std::time::SystemTime;

    use aws_sdk_s3::types::CreateBucketConfiguration;
    use serde_json::{Value, json};
    use stepward::testing::{assert_invalid_parameters_are_named, expect_done, log_lines};
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::{
        ACCESS_POINT, ALIAS, FakeS3, Object, SentRequest, WRITTEN_AT, before_deadline, refusal,
        run_in_root, unwrap_pending, valid_step,
    };

    fn sync_step(params: Value) -> S3Sync {
        valid_step(params)
    }

    /// Syncs one whole bucket to another.
    fn sync_buckets(delete: bool) -> S3Sync {
        sync_step(
            json!({ "source": "s3://from-here", "destination": "s3://to-there", "delete": delete }),
        )
    }

    fn put_at_source(s3: &FakeS3, keys: impl IntoIterator<Item = impl AsRef<str>>) {
        keys.into_iter()
            .for_each(|key| s3.put("from-here", key.as_ref(), "content"));
    }

    fn put_at_destination(s3: &FakeS3, keys: impl IntoIterator<Item = impl AsRef<str>>) {
        keys.into_iter()
            .for_each(|key| s3.put("to-there", key.as_ref(), "content"));
    }

    /// An object of this size, written `later` seconds after the others.
    fn put_object(s3: &FakeS3, bucket: &str, key: &str, size: usize, later: i64) {
        let object = Object {
            bytes: vec![b'x'; size].into(),
            size: size as u64,
            ..Object::default()
        };
        s3.store().put(
            bucket,
            key,
            Object {
                modified: WRITTEN_AT + later,
                ..object
            },
        );
    }

    fn keys_in(s3: &FakeS3, bucket: &str) -> Vec<String> {
        let store = s3.store();
        store
            .objects
            .keys()
            .filter(|(of, _)| of == bucket)
            .map(|(_, key)| key.clone())
            .collect()
    }

    /// A file of this size, written `later` seconds after the objects.
    fn write_file(path: &Path, size: usize, later: i64) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![b'x'; size]).unwrap();
        let time =
            SystemTime::UNIX_EPOCH + Duration::from_secs((WRITTEN_AT + later).unsigned_abs());
        fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }

    /// The requests of a run, sorted, because concurrent ones have no fixed order.
    fn sorted_requests(s3: &FakeS3) -> Vec<String> {
        let mut requests = s3.take_summaries();
        requests.sort();
        requests
    }

    fn deleted_keys(sent: &SentRequest) -> Vec<String> {
        let body = String::from_utf8(sent.body.to_vec()).unwrap();
        body.split("<Key>")
            .skip(1)
            .map(|rest| rest.split_once("</Key>").unwrap().0.to_owned())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn done_copies_what_is_missing_or_differs_and_nothing_else() {
        let s3 = FakeS3::default();
        for (key, size, later, existing) in [
            ("same", 7, 0, Some((7, 0))),
            ("written later there", 7, 0, Some((7, 60))),
            ("newer", 7, 61, Some((7, 60))),
            ("larger", 8, 0, Some((7, 60))),
            ("smaller", 0, 0, Some((7, 60))),
            ("missing/in a folder", 7, 0, None),
            ("folder/", 0, 0, None),
        ] {
            put_object(&s3, "from-here", &format!("p/{key}"), size, later);
            if let Some((size, later)) = existing {
                put_object(&s3, "to-there", &format!("q/{key}"), size, later);
            }
        }
        put_at_destination(&s3, ["q/only there", "quite another"]);
        put_at_source(&s3, ["pp"]);
        let step = sync_step(json!({
            "source": "s3://from-here/p", "destination": "s3://to-there/q/",
            "storage_class": "STANDARD_IA",
        }));
        let ctx = s3.context();
        let output = serde_json::to_value(expect_done(step.run(&ctx, None).await)).unwrap();
        let expected = json!({ "transferred": 4, "bytes": 22, "deleted": 0, "unchanged": 2,
            "dry_run": false });
        assert_eq!(output, expected);
        let copies = s3.sent_requests("CopyObject");
        let written: BTreeSet<_> = copies.iter().map(|sent| sent.key.as_str()).collect();
        assert_eq!(
            written,
            BTreeSet::from(["q/larger", "q/missing/in a folder", "q/newer", "q/smaller"])
        );
        let newer = copies.iter().find(|sent| sent.key == "q/newer").unwrap();
        let etag = s3.object("from-here", "p/newer").unwrap().etag;
        for (name, value) in [
            ("x-amz-copy-source", "from-here/p/newer"),
            ("x-amz-copy-source-if-match", &etag),
            ("x-amz-storage-class", "STANDARD_IA"),
            ("x-amz-expected-bucket-owner", "222222222222"),
        ] {
            assert_eq!(newer.header(name), Some(value), "{name}");
        }
        assert!(
            log_lines(&ctx)
                .contains(&"copy: s3://from-here/p/newer to s3://to-there/q/newer".to_owned())
        );
        assert_eq!(
            s3.take_summaries().len(),
            4 + 2,
            "four copies and two listings"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn done_with_delete_removes_what_the_source_lacks() {
        for delete in [false, true] {
            let s3 = FakeS3::default();
            put_at_source(&s3, ["b", "b/1"]);
            put_at_destination(&s3, ["a", "b", "b-", "b/1", "c/1"]);
            let ctx = s3.context();
            let output = expect_done(sync_buckets(delete).run(&ctx, None).await);
            assert_eq!(
                (output.transferred, output.deleted, output.unchanged),
                (0, u64::from(delete) * 3, 2)
            );
            let lists = ["ListObjectsV2 from-here/", "ListObjectsV2 to-there/"];
            if delete {
                let [request] = &s3.sent_requests("DeleteObjects")[..] else {
                    panic!("one request deletes everything")
                };
                assert_eq!(deleted_keys(request), ["a", "b-", "c/1"]);
                assert_eq!(
                    request.header("x-amz-expected-bucket-owner"),
                    Some("222222222222")
                );
                assert_eq!(log_lines(&ctx)[0], "delete: s3://to-there/a");
                assert_eq!(
                    sorted_requests(&s3),
                    ["DeleteObjects to-there/", lists[0], lists[1]]
                );
                assert_eq!(keys_in(&s3, "to-there"), ["b", "b/1"]);
            } else {
                assert_eq!(sorted_requests(&s3), lists);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn done_with_an_empty_source_empties_the_destination() {
        let s3 = FakeS3::default();
        put_at_destination(&s3, (0..2_500).map(|n| format!("{n:04}")));
        assert_eq!(
            expect_done(sync_buckets(true).run(&s3.context(), None).await).deleted,
            2_500
        );
        assert_eq!(keys_in(&s3, "to-there"), [""; 0]);
        let sizes: Vec<_> = s3
            .sent_requests("DeleteObjects")
            .iter()
            .map(|sent| deleted_keys(sent).len())
            .collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
    }

    #[tokio::test(start_paused = true)]
    async fn done_neither_copies_nor_deletes_excluded_names() {
        let s3 = FakeS3::default();
        put_at_source(&s3, ["a.log", "a.tmp", "tmp/b.log"]);
        put_at_destination(&s3, ["old.log", "old.tmp", "tmp/c.log"]);
        let step = sync_step(json!({
            "source": "s3://from-here", "destination": "s3://to-there", "delete": true,
            "filters": [{ "exclude": "*" }, { "include": "*.log" }, { "exclude": "tmp/*" }],
        }));
        expect_done(step.run(&s3.context(), None).await);
        assert_eq!(keys_in(&s3, "to-there"), ["a.log", "old.tmp", "tmp/c.log"]);
    }

    #[tokio::test(start_paused = true)]
    async fn done_with_dry_run_only_logs() {
        let s3 = FakeS3::default();
        put_at_source(&s3, ["a", "b"]);
        put_at_destination(&s3, ["b", "c"]);
        let step = sync_step(json!({
            "source": "s3://from-here", "destination": "s3://to-there", "delete": true,
            "dry_run": true,
        }));
        let ctx = s3.context();
        let output = expect_done(step.run(&ctx, None).await);
        assert_eq!(
            (
                output.transferred,
                output.bytes,
                output.deleted,
                output.unchanged
            ),
            (1, 7, 1, 1)
        );
        assert!(output.dry_run);
        let expected = [
            "(dryrun) copy: s3://from-here/a to s3://to-there/a",
            "(dryrun) delete: s3://to-there/c",
        ];
        assert_eq!(log_lines(&ctx), expected);
        assert_eq!(
            sorted_requests(&s3),
            ["ListObjectsV2 from-here/", "ListObjectsV2 to-there/"]
        );
    }

    #[test]
    fn done_uploads_files_that_are_missing_or_differ() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            for (key, size, later) in [
                ("same", 7, 0),
                ("older", 7, -60),
                ("newer", 7, 60),
                ("larger", 8, -60),
                ("new", 7, 0),
            ] {
                write_file(&root.join("in").join(key), size, later);
                if key != "new" {
                    put_object(&s3, "data", key, 7, 0);
                }
            }
            put_object(&s3, "data", "only/there", 7, 0);
            let step =
                sync_step(json!({ "source": "in", "destination": "s3://data", "delete": true }));
            let output = expect_done(step.run(&s3.context(), None).await);
            assert_eq!(
                (output.transferred, output.deleted, output.unchanged),
                (3, 1, 2)
            );
            let puts = [
                "PutObject data/larger",
                "PutObject data/new",
                "PutObject data/newer",
            ];
            assert_eq!(
                sorted_requests(&s3),
                [&["DeleteObjects data/", "ListObjectsV2 data/"][..], &puts].concat()
            );
        });
    }

    #[test]
    fn done_downloads_objects_that_are_missing_or_differ() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            for (key, size, later) in [
                ("same", 7, 0),
                ("older", 7, -60),
                ("newer", 7, 60),
                ("larger", 8, -60),
            ] {
                write_file(&root.join("out").join(key), size, later);
                put_object(&s3, "data", key, 7, 0);
            }
            put_object(&s3, "data", "new/one", 7, 0);
            write_file(&root.join("out/only/there"), 7, 0);
            let make_step = || {
                sync_step(json!({ "source": "s3://data", "destination": "out", "delete": true }))
            };
            let output = expect_done(make_step().run(&s3.context(), None).await);
            assert_eq!(
                (output.transferred, output.deleted, output.unchanged),
                (3, 1, 2)
            );
            let gets = [
                "GetObject data/larger",
                "GetObject data/new/one",
                "GetObject data/newer",
            ];
            assert_eq!(
                sorted_requests(&s3),
                [&gets[..], &["ListObjectsV2 data/"]].concat()
            );
            assert!(root.join("out/only").is_dir() && !root.join("out/only/there").exists());
            assert!(!root.join(".stepward").exists());
            assert_eq!(
                expect_done(make_step().run(&s3.context(), None).await).unchanged,
                5
            );
            assert_eq!(sorted_requests(&s3), ["ListObjectsV2 data/"]);
        });
    }

    #[test]
    fn done_creates_a_missing_destination() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            put_object(&s3, "data", "a", 7, 0);
            let step = sync_step(
                json!({ "source": "s3://data", "destination": "new/folder", "delete": true }),
            );
            assert_eq!(
                expect_done(step.run(&s3.context(), None).await).transferred,
                1
            );
            assert_eq!(fs::read(root.join("new/folder/a")).unwrap(), b"xxxxxxx");
        });
    }

    #[test]
    fn done_replaces_a_deleted_file_by_a_directory() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            // The files in between fill more than one batch of deletions.
            write_file(&root.join("out/a"), 7, 0);
            (0..1_100).for_each(|n| write_file(&root.join(format!("out/a-{n:04}")), 7, 0));
            write_file(&root.join("out/z"), 7, 0);
            for key in ["a/b", "a/c", "z/1"] {
                put_object(&s3, "data", key, 7, 0);
            }
            let step =
                sync_step(json!({ "source": "s3://data", "destination": "out", "delete": true }));
            let output = expect_done(step.run(&s3.context(), None).await);
            assert_eq!((output.transferred, output.deleted), (3, 1_102));
            assert!(
                ["a/b", "a/c", "z/1"]
                    .iter()
                    .all(|key| root.join("out").join(key).is_file())
            );
        });
    }

    #[tokio::test(start_paused = true)]
    async fn already_up_to_date_sends_only_listings() {
        let s3 = FakeS3::default();
        s3.store().page = Some(4);
        let all: Vec<_> = (0..10).map(|n| format!("{n}")).collect();
        put_at_source(&s3, &all);
        put_at_destination(&s3, &all);
        let output = expect_done(sync_buckets(true).run(&s3.context(), None).await);
        assert_eq!(
            (output.transferred, output.deleted, output.unchanged),
            (0, 0, 10)
        );
        let requests = sorted_requests(&s3);
        assert_eq!(
            requests,
            [
                ["ListObjectsV2 from-here/"; 3],
                ["ListObjectsV2 to-there/"; 3]
            ]
            .concat()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn not_found_is_a_missing_bucket_on_either_side() {
        for (source, destination) in [
            ("s3://gone", "s3://to-there"),
            ("s3://from-here", "s3://gone"),
        ] {
            let s3 = FakeS3::default();
            put_at_source(&s3, ["a"]);
            put_at_destination(&s3, ["b"]);
            let step =
                sync_step(json!({ "source": source, "destination": destination, "delete": true }));
            let error = step.run(&s3.context(), None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::NotFound, "{error}");
            assert!(
                s3.take_summaries()
                    .iter()
                    .all(|request| request.starts_with("ListObjectsV2"))
            );
        }
    }

    #[test]
    fn not_found_is_a_missing_source_directory() {
        run_in_root(async |_| {
            let s3 = FakeS3::default();
            put_object(&s3, "data", "a", 7, 0);
            let step =
                sync_step(json!({ "source": "in", "destination": "s3://data", "delete": true }));
            let error = step.run(&s3.context(), None).await.unwrap_err();
            assert_eq!(
                (error.name, error.message.as_str()),
                (
                    ErrorName::NotFound,
                    "source directory \"in\" does not exist below the local root; check the path"
                )
            );
            assert_eq!(s3.take_summaries(), [""; 0]);
        });
    }

    #[test]
    fn invalid_parameters_are_named() {
        assert_invalid_parameters_are_named::<S3Sync>();
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let valid = json!({ "source": "s3://from-here/a", "destination": "s3://from-here/b" });
        sync_step(valid.clone());
        for (changes, message) in [
            (json!({ "source": "a", "destination": "b" }), "both local"),
            (
                json!({ "source": "" }),
                "expected a URI such as s3://bucket/key or a path",
            ),
            (json!({ "source": "s3://UPPER/a" }), "got \"s3://UPPER/a\""),
            (
                json!({ "destination": "s3://" }),
                "parameter \"destination\": expected a URI",
            ),
            (
                json!({ "destination": format!("s3://to-there/{}", "k".repeat(1025)) }),
                "1,024",
            ),
            (
                json!({ "storage_class": "COLD" }),
                "\"storage_class\": expected one of",
            ),
            (json!({ "sse_kms_key_id": "key-1" }), "set sse to"),
            (
                json!({ "sse": "AES256", "sse_kms_key_id": "key-1" }),
                "set sse to",
            ),
            (
                json!({ "bucket_owner": "acme" }),
                "\"bucket_owner\": expected an account ID",
            ),
            (
                json!({ "source": "in", "source_account": "archive" }),
                "the source is local",
            ),
            (
                json!({ "source": "in", "source_region": "eu-central-1" }),
                "the source is local",
            ),
            (
                json!({ "source": "s3://from-here/b/c", "delete": true }),
                "is under destination",
            ),
            (
                json!({ "destination": "s3://from-here", "delete": true }),
                "is under destination",
            ),
        ] {
            let mut params = valid.clone();
            params
                .as_object_mut()
                .unwrap()
                .extend(changes.as_object().unwrap().clone());
            let error = serde_json::from_value::<S3Sync>(params)
                .unwrap()
                .validate()
                .unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.contains(message), "{error}");
        }
        // A common beginning of names is not a common directory, and without delete there is no
        // danger.
        sync_step(
            json!({ "source": "s3://from-here/bc", "destination": "s3://from-here/b",
                "delete": true }),
        );
        sync_step(json!({ "source": "s3://from-here/b/c", "destination": "s3://from-here/b" }));
        let unknown = json!({ "source": "s3://from-here", "destination": "s3://to-there",
            "recursive": true });
        assert!(serde_json::from_value::<S3Sync>(unknown).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn invalid_are_deletions_of_the_source_through_an_access_point() {
        for [source, destination] in [["data", ALIAS], [ACCESS_POINT, "data"]] {
            let s3 = FakeS3::default();
            s3.put("data", "in/a", "content");
            let step: S3Sync = serde_json::from_value(json!({
                "source": format!("s3://{source}/in"),
                "destination": format!("s3://{destination}/"),
                "delete": true,
            }))
            .unwrap();
            let synced = async {
                step.validate()?;
                step.run(&s3.context(), None).await
            };
            let error = synced.await.unwrap_err();
            assert!(s3.object("data", "in/a").is_some(), "the source is kept");
            assert_eq!(error.name, ErrorName::InvalidInput, "{error}");
            assert!(error.message.contains("may be the same bucket"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn done_through_an_access_point_keeps_all_objects() {
        for [source, destination] in [["data", ALIAS], [ACCESS_POINT, "data"]] {
            let s3 = FakeS3::default();
            s3.put("data", "in/a", "content");
            let step = sync_step(json!({
                "source": format!("s3://{source}/in"),
                "destination": format!("s3://{destination}/in"),
                "delete": true,
            }));
            let output = expect_done(step.run(&s3.context(), None).await);
            assert_eq!((output.unchanged, output.deleted), (1, 0));
            assert!(s3.object("data", "in/a").is_some());
        }
    }

    #[test]
    fn invalid_are_paths_outside_the_root_or_to_files() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            write_file(&root.join("file"), 1, 0);
            for path in ["../outside", "/etc", ".stepward", "file"] {
                for (source, destination) in [(path, "s3://data"), ("s3://data", path)] {
                    let step = sync_step(
                        json!({ "source": source, "destination": destination, "delete": true }),
                    );
                    let error = step.run(&s3.context(), None).await.unwrap_err();
                    assert_eq!(
                        error.name,
                        ErrorName::InvalidInput,
                        "{source} to {destination}: {error}"
                    );
                }
            }
            assert_eq!(s3.take_summaries(), [""; 0]);
        });
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_repeated_by_the_sdk() {
        let s3 = FakeS3::default();
        put_at_source(&s3, ["a"]);
        put_at_destination(&s3, ["b"]);
        for operation in ["ListObjectsV2", "CopyObject", "DeleteObjects"] {
            s3.refuse_requests(operation, 1, 503, "SlowDown");
        }
        let output = expect_done(sync_buckets(true).run(&s3.context(), None).await);
        assert_eq!((output.transferred, output.deleted), (1, 1));
        let count_requests = |operation: &str| s3.sent_requests(operation).len();
        assert_eq!(
            (
                count_requests("ListObjectsV2"),
                count_requests("CopyObject"),
                count_requests("DeleteObjects")
            ),
            (3, 2, 2)
        );
    }

    /// Calls a step until it is done, and calls `between` between the calls. Returns the output and
    /// the number of calls.
    async fn run_to_end(
        step: &S3Sync,
        s3: &FakeS3,
        mut between: impl FnMut(usize),
    ) -> (TransferSummary, usize) {
        let mut resume = None;
        for calls in 1..100 {
            match step.run(&s3.context(), resume.take()).await {
                Ok(Progress::Done(output)) => return (output, calls),
                response => resume = Some(unwrap_pending(response).0),
            }
            between(calls);
        }
        panic!("the step never finishes");
    }

    /// Spends the call's budget at every n-th request of an operation.
    fn spend_budget_every(s3: &FakeS3, operation: &'static str, times: usize) {
        (1..50).for_each(|n| s3.spend_budget_at(operation, n * times));
    }

    #[tokio::test(start_paused = true)]
    async fn pending_syncs_continue_after_the_last_key_on_both_sides() {
        let s3 = FakeS3::default();
        s3.store().page = Some(2);
        put_at_source(&s3, ["p/a", "p/c", "p/e", "p/g", "p/i", "p/k"]);
        put_at_destination(&s3, ["q/b", "q/d", "q/f", "q/h", "q/j", "q/l"]);
        s3.spend_budget_at("CopyObject", 3);
        let step = sync_step(
            json!({ "source": "s3://from-here/p", "destination": "s3://to-there/q",
                "delete": true }),
        );
        let (resume, progress) = unwrap_pending(step.run(&s3.context(), None).await);
        let first = s3.take_requests();
        let state: Value = resume.state().unwrap();
        let after = state["after"].as_str().unwrap().to_owned();
        let (copied, deleted) = (
            state["report"]["done"]["transferred"].clone(),
            state["report"]["done"]["deleted"].clone(),
        );
        assert_eq!(
            progress,
            format!(
                "{copied} transferred ({} bytes), {deleted} deleted, 0 unchanged so far",
                copied.as_u64().unwrap() * 7
            )
        );
        // Everything that was decided is done, including the batched deletions.
        let remaining: Vec<_> = keys_in(&s3, "to-there")
            .into_iter()
            .filter(|key| *key <= format!("q/{after}"))
            .collect();
        let expected: Vec<_> = ["q/a", "q/c", "q/e", "q/g", "q/i", "q/k"]
            .into_iter()
            .filter(|key| *key <= format!("q/{after}").as_str())
            .collect();
        assert_eq!(remaining, expected);
        assert!(
            !first
                .iter()
                .any(|sent| sent.query.contains_key("start-after"))
        );
        let output = expect_done(step.run(&s3.context(), Some(resume)).await);
        let second = s3.take_requests();
        for (bucket, prefix) in [("from-here", "p/"), ("to-there", "q/")] {
            let list = second
                .iter()
                .find(|sent| sent.operation == "ListObjectsV2" && sent.bucket == bucket)
                .unwrap();
            assert_eq!(
                list.query.get("start-after"),
                Some(&format!("{prefix}{after}"))
            );
        }
        assert_eq!(
            (output.transferred, output.deleted, output.bytes),
            (6, 6, 42)
        );
        let writes = first
            .iter()
            .chain(&second)
            .filter(|sent| sent.operation == "CopyObject")
            .count();
        assert_eq!(writes, 6, "no object is copied twice");
        assert!(first.iter().any(|sent| sent.operation == "DeleteObjects"));
    }

    #[tokio::test(start_paused = true)]
    async fn pending_syncs_tolerate_objects_that_appear_and_disappear() {
        let s3 = FakeS3::default();
        s3.store().page = Some(5);
        let name = |n: usize| format!("{n:03}");
        put_at_source(&s3, (0..100).filter(|n| n % 5 != 4).map(name));
        put_at_destination(&s3, (0..100).filter(|n| n % 5 >= 2).map(name));
        spend_budget_every(&s3, "CopyObject", 7);
        let (output, calls) = run_to_end(&sync_buckets(true), &s3, |calls| {
            // Objects appear on both sides, before and after the position, and disappear later.
            for n in 0..100 {
                let at = ["from-here", "to-there"]
                    .map(|bucket| (bucket.to_owned(), format!("{n:03}-temporary")));
                for (bucket, key) in at {
                    if (n + calls) % 3 == 0 {
                        s3.put(&bucket, &key, "content");
                    } else {
                        s3.store().objects.remove(&(bucket, key));
                    }
                }
            }
        })
        .await;
        assert!(calls >= 3, "{calls}");
        let without_temporary = |keys: Vec<String>| {
            keys.into_iter()
                .filter(|key| !key.ends_with("temporary"))
                .collect::<Vec<_>>()
        };
        let copied = without_temporary(
            s3.sent_requests("CopyObject")
                .into_iter()
                .map(|sent| sent.key)
                .collect(),
        );
        let deleted = without_temporary(
            s3.sent_requests("DeleteObjects")
                .iter()
                .flat_map(deleted_keys)
                .collect(),
        );
        assert_eq!(
            BTreeSet::from_iter(copied.clone()),
            (0..100).filter(|n| n % 5 < 2).map(name).collect()
        );
        assert_eq!(
            deleted,
            (0..100)
                .filter(|n| n % 5 == 4)
                .map(name)
                .collect::<Vec<_>>()
        );
        assert_eq!(copied.len(), 40, "no object is copied twice");
        assert!(output.unchanged >= 40 && output.transferred >= 40 && output.deleted >= 20);
        assert_eq!(
            without_temporary(keys_in(&s3, "to-there")),
            without_temporary(keys_in(&s3, "from-here"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn pending_also_while_only_skipping_names() {
        let s3 = FakeS3::default();
        s3.store().page = Some(10);
        put_at_destination(&s3, (0..200).map(|n| format!("{n:03}")));
        s3.spend_budget_at("ListObjectsV2", 8);
        let response = sync_buckets(false).run(&s3.context(), None).await;
        let (resume, progress) = unwrap_pending(response);
        assert_eq!(
            progress,
            "0 transferred (0 bytes), 0 deleted, 0 unchanged so far"
        );
        let state: Value = resume.state().unwrap();
        assert!(
            state["after"].as_str().is_some_and(|after| after > "020"),
            "{state}"
        );
        assert_eq!(
            expect_done(sync_buckets(false).run(&s3.context(), Some(resume)).await).unchanged,
            0
        );
    }

    #[tokio::test(start_paused = true)]
    async fn done_even_if_a_listing_outlasts_the_budget() {
        let s3 = FakeS3::default();
        put_at_source(&s3, (0..200).map(|n| format!("{n:03}")));
        s3.spend_budget_at("ListObjectsV2", 1);
        assert_eq!(
            expect_done(sync_buckets(false).run(&s3.context(), None).await).transferred,
            200
        );
    }

    #[tokio::test(start_paused = true)]
    async fn pending_stalled_listings_continue_and_silent_ones_fail() {
        let s3 = FakeS3::default();
        s3.store().page = Some(10);
        put_at_source(&s3, (0..20).map(|n| format!("{n:02}")));
        s3.never_respond("ListObjectsV2", |sent| {
            sent.query.contains_key("continuation-token")
        });
        let (resume, progress) =
            unwrap_pending(before_deadline(sync_buckets(false).run(&s3.context(), None)).await);
        assert!(progress.starts_with("10 transferred"), "{progress}");
        s3.respond_again();
        s3.never_respond("ListObjectsV2", |_| true);
        let error = before_deadline(sync_buckets(false).run(&s3.context(), Some(resume.clone())))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::TimedOut, "{error}");
        s3.respond_again();
        assert_eq!(
            expect_done(sync_buckets(false).run(&s3.context(), Some(resume)).await).transferred,
            20
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_are_destinations_of_another_account() {
        let s3 = FakeS3::default();
        put_at_source(&s3, ["a"]);
        s3.put("theirs", "b", "content");
        let step = sync_step(
            json!({ "source": "s3://from-here", "destination": "s3://theirs", "delete": true }),
        );
        assert_eq!(
            step.run(&s3.context(), None).await.unwrap_err().name,
            ErrorName::AccessDenied
        );
        let requests = s3.take_requests();
        assert!(
            requests
                .iter()
                .all(|sent| sent.operation == "ListObjectsV2"),
            "{requests:?}"
        );
        let owners: BTreeSet<_> = requests
            .iter()
            .map(|sent| sent.header("x-amz-expected-bucket-owner"))
            .collect();
        assert_eq!(
            owners,
            BTreeSet::from([None, Some("222222222222")]),
            "no owner is expected of the source"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_are_deletions_without_a_response() {
        let s3 = FakeS3::default();
        put_at_destination(&s3, ["x", "y\u{1}"]);
        for operation in ["DeleteObject", "DeleteObjects"] {
            s3.never_respond(operation, |_| true);
        }
        let error = before_deadline(sync_buckets(true).run(&s3.context(), None))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::TimedOut, "{error}");
        assert!(
            error.message.starts_with("objects: 2 failed, 0 succeeded"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn pending_syncs_find_their_lost_work_unchanged() {
        let s3 = FakeS3::default();
        s3.store().page = Some(2);
        put_at_source(&s3, (0..20).map(|n| format!("{n:02}")));
        s3.spend_budget_at("CopyObject", 2);
        unwrap_pending(sync_buckets(true).run(&s3.context(), None).await);
        let first = s3
            .take_requests()
            .iter()
            .filter(|sent| sent.operation == "CopyObject")
            .count();
        let output = expect_done(sync_buckets(true).run(&s3.context(), None).await);
        let copies = s3.sent_requests("CopyObject").len();
        assert!(first > 0 && copies > 0);
        assert_eq!((first + copies, output.unchanged), (20, first as u64));
    }

    #[test]
    fn pending_uploads_continue_after_the_last_file() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            for n in 0..200 {
                write_file(&root.join(format!("in/{:02}/{n:03}", n / 20)), 1, 0);
            }
            spend_budget_every(&s3, "PutObject", 30);
            let step =
                sync_step(json!({ "source": "in", "destination": "s3://data", "delete": true }));
            let (output, calls) = run_to_end(&step, &s3, |_| {}).await;
            assert!(calls >= 2, "{calls}");
            assert_eq!(
                (
                    output.transferred,
                    s3.sent_requests("PutObject").len(),
                    keys_in(&s3, "data").len()
                ),
                (200, 200, 200)
            );
        });
    }

    #[tokio::test(start_paused = true)]
    async fn failed_objects_are_reported_and_others_are_synced() {
        let s3 = FakeS3::default();
        put_at_source(&s3, ["a", "b", "c"]);
        put_at_destination(&s3, ["x", "y", "z"]);
        s3.hook_operation("CopyObject", |sent, _| {
            (sent.key == "b").then(|| refusal(403, "AccessDenied"))
        });
        s3.hook_operation("DeleteObjects", |_, store| {
            for key in ["x", "z"] {
                store.objects.remove(&("to-there".into(), key.into()));
            }
            let errors = "<Error><Key>y</Key><Code>AccessDenied</Code><Message>Access \
                Denied</Message></Error>";
            Some((
                200,
                Vec::new(),
                format!("<DeleteResult>{errors}</DeleteResult>").into(),
            ))
        });
        let ctx = s3.context();
        let error = sync_buckets(true).run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .starts_with("objects: 2 failed, 4 succeeded, 0 were unchanged; fix the causes"),
            "{error}"
        );
        for message in [
            "copy failed: s3://from-here/b: ",
            "delete failed: s3://to-there/y: ",
            "s3:DeleteObject",
        ] {
            assert!(error.message.contains(message), "{error}");
        }
        assert_eq!(
            log_lines(&ctx)
                .iter()
                .filter(|line| line.contains("failed: "))
                .count(),
            2
        );
        assert_eq!(keys_in(&s3, "to-there"), ["a", "c", "y"]);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_listings_let_running_work_finish() {
        for side in ["from-here", "to-there"] {
            let s3 = FakeS3::default();
            s3.store().page = Some(10);
            put_at_source(&s3, (0..50).map(|n| format!("{n:02}")));
            put_at_destination(&s3, (50..100).map(|n| format!("{n:02}")));
            s3.hook_operation("ListObjectsV2", move |sent, _| {
                let later = sent.bucket == side && sent.query.contains_key("continuation-token");
                later.then(|| refusal(403, "AccessDenied"))
            });
            let ctx = s3.context();
            let error = sync_buckets(true).run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::AccessDenied, "{error}");
            assert!(error.message.contains("s3:ListObjectsV2"), "{error}");
            let copied = s3.sent_requests("CopyObject").len();
            assert_eq!(
                log_lines(&ctx)
                    .iter()
                    .filter(|line| line.starts_with("copy: "))
                    .count(),
                copied
            );
            assert_eq!(
                keys_in(&s3, "to-there").len(),
                50 + copied,
                "no object is deleted that may exist at the source"
            );
            assert!(side == "to-there" || copied == 10, "{copied}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failed_are_listings_that_are_not_in_order() {
        let s3 = FakeS3::default();
        put_at_destination(&s3, ["a"]);
        s3.hook_operation("ListObjectsV2", |sent, _| {
            let object = |key| {
                format!(
                    "<Contents><Key>{key}</Key>\
                         <LastModified>2026-01-31T06:00:00Z</LastModified></Contents>"
                )
            };
            let listed = format!(
                "<ListBucketResult>{}{}</ListBucketResult>",
                object("b"),
                object("a")
            );
            (sent.bucket == "from-here").then(|| (200, Vec::new(), listed.into()))
        });
        let error = sync_buckets(true)
            .run(&s3.context(), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(error.message.contains("not a directory bucket"), "{error}");
        assert_eq!(keys_in(&s3, "to-there"), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_runs_stop_after_a_thousand_failures() {
        let s3 = FakeS3::default();
        put_at_source(&s3, (0..3_000).map(|n| format!("{n:04}")));
        s3.refuse_requests("CopyObject", usize::MAX, 403, "AccessDenied");
        let error = sync_buckets(false)
            .run(&s3.context(), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error
                .message
                .contains("so the step stopped before the rest"),
            "{error}"
        );
        let tried = s3.sent_requests("CopyObject").len();
        assert!((1_000..1_100).contains(&tried), "{tried}");
    }

    #[tokio::test(start_paused = true)]
    async fn failed_are_objects_below_a_nested_destination() {
        let s3 = FakeS3::default();
        put_at_source(&s3, ["a", "copy/b"]);
        let step =
            sync_step(json!({ "source": "s3://from-here", "destination": "s3://from-here/copy" }));
        let error = step.run(&s3.context(), None).await.unwrap_err();
        assert!(
            error.message.starts_with("objects: 1 failed, 1 succeeded"),
            "{error}"
        );
        assert!(
            error
                .message
                .contains("copy failed: s3://from-here/copy/b: it is below the destination"),
            "{error}"
        );
        assert_eq!(keys_in(&s3, "from-here"), ["a", "copy/a", "copy/b"]);
    }

    #[test]
    fn failed_names_cause_no_deletions() {
        use std::os::unix::ffi::OsStrExt;
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            write_file(&root.join("in/é"), 7, 0);
            write_file(
                &root.join("in").join(std::ffi::OsStr::from_bytes(b"\x80")),
                7,
                0,
            );
            put_object(&s3, "data", "é", 7, 0);
            let step =
                sync_step(json!({ "source": "in", "destination": "s3://data", "delete": true }));
            let error = step.run(&s3.context(), None).await.unwrap_err();
            assert!(
                error
                    .message
                    .contains("1 failed, 0 succeeded, 1 were unchanged"),
                "{error}"
            );
            assert_eq!(s3.take_summaries(), ["ListObjectsV2 data/"]);
            put_object(&s3, "data", "a//b", 7, 0);
            let step = sync_step(json!({ "source": "s3://data", "destination": "out" }));
            let error = step.run(&s3.context(), None).await.unwrap_err();
            assert!(
                error.message.contains("download failed: s3://data/a//b: "),
                "{error}"
            );
            assert!(root.join("out/é").exists() && !root.join("out/a").exists());
        });
    }

    #[tokio::test(start_paused = true)]
    async fn cancel_aborts_only_the_uploads_of_this_session() {
        let s3 = FakeS3::default();
        let session = "arn:aws:sts::222222222222:assumed-role/Stepward/acme@execution-1";
        let ctx = s3.context_in_session(session);
        for (id, initiator) in [
            ("lost", session),
            ("another", "arn:aws:sts::222222222222:assumed-role/Other/x"),
        ] {
            let (bucket, key) = ("to-there".to_owned(), "large".to_owned());
            let upload = crate::testing::Upload {
                bucket,
                key,
                initiator: initiator.into(),
                ..Default::default()
            };
            s3.store().uploads.insert(id.into(), upload);
        }
        sync_buckets(true).cancel(&ctx, None).await.unwrap();
        assert_eq!(s3.store().uploads.keys().collect::<Vec<_>>(), ["another"]);
    }

    #[tokio::test(start_paused = true)]
    async fn cancel_aborts_no_uploads_of_earlier_steps() {
        let s3 = FakeS3::default();
        let session = "arn:aws:sts::222222222222:assumed-role/Stepward/acme@execution-1";
        for (id, initiated) in [("before", WRITTEN_AT - 600), ("since", WRITTEN_AT + 5)] {
            let (bucket, key, initiator) = (
                "to-there".to_owned(),
                "large".to_owned(),
                session.to_owned(),
            );
            let upload = crate::testing::Upload {
                bucket,
                key,
                initiator,
                initiated,
                ..Default::default()
            };
            s3.store().uploads.insert(id.into(), upload);
        }
        let position =
            json!({ "after": null, "unfinished": [], "report": crate::report::Report::default() });
        let resume =
            serde_json::from_value(json!({ "since": WRITTEN_AT, "state": position })).unwrap();
        sync_buckets(true)
            .cancel(&s3.context_in_session(session), Some(resume))
            .await
            .unwrap();
        assert_eq!(s3.store().uploads.keys().collect::<Vec<_>>(), ["before"]);
    }

    const LARGE: &str =
        "Only objects from 8 MiB are written in parts; a test of s3-copy proves it.";
    const KMS: &str = "The local cloud encrypts nothing with KMS keys.";

    fn bucket_resource(name: &str) -> Value {
        json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": name } })
    }

    /// The permissions that no scene here uses, and those that this scene does not use.
    fn unused_permissions(
        in_scene: &[(&'static str, &'static str)],
    ) -> Vec<(&'static str, &'static str)> {
        let never = [
            ("s3:ListBucketMultipartUploads", LARGE),
            ("s3:AbortMultipartUpload", LARGE),
            ("s3:ListMultipartUploadParts", LARGE),
            ("kms:Decrypt", KMS),
            ("kms:GenerateDataKey", KMS),
        ];
        [&never[..], in_scene].concat()
    }

    #[test]
    fn permissions_match_the_local_cloud_for_copies() {
        const NONE: &str = "This scene deletes nothing; another test proves it.";
        const TAGS: &str = "The local cloud copies tags without checking it.";
        let unused = unused_permissions(&[
            ("s3:DeleteObject", NONE),
            ("s3:GetObjectTagging", TAGS),
            ("s3:PutObjectTagging", TAGS),
        ]);
        prove_permissions::<S3Sync>(&unused, async |scene| {
            let (source_bucket, target_bucket) = (scene.name("from"), scene.name("to"));
            scene
                .make(
                    &json!({ "Resources": { "From": bucket_resource(&source_bucket),
                    "To": bucket_resource(&target_bucket) } }),
                )
                .await;
            let s3 = scene.client(aws_sdk_s3::Client::new);
            s3.put_object()
                .bucket(&source_bucket)
                .key("new")
                .tagging("cost=it")
                .send()
                .await
                .unwrap();
            json!({ "source": format!("s3://{source_bucket}"),
                "destination": format!("s3://{target_bucket}") })
        });
    }

    #[test]
    fn permissions_match_the_local_cloud_for_deletions() {
        const NONE: &str = "This scene transfers nothing; other tests prove it.";
        let unused = unused_permissions(&[
            ("s3:GetObject", NONE),
            ("s3:GetObjectTagging", NONE),
            ("s3:PutObject", NONE),
            ("s3:PutObjectTagging", NONE),
        ]);
        prove_permissions::<S3Sync>(&unused, async |scene| {
            let (source_bucket, target_bucket) = (scene.name("from"), scene.name("to"));
            scene
                .make(
                    &json!({ "Resources": { "From": bucket_resource(&source_bucket),
                    "To": bucket_resource(&target_bucket) } }),
                )
                .await;
            let s3 = scene.client(aws_sdk_s3::Client::new);
            s3.put_object()
                .bucket(&target_bucket)
                .key("old")
                .send()
                .await
                .unwrap();
            json!({ "source": format!("s3://{source_bucket}"),
                "destination": format!("s3://{target_bucket}"),
                "delete": true })
        });
    }

    #[test]
    fn permissions_match_the_local_cloud_for_another_account() {
        // The bucket policy does not allow the target's role to read, so the object passes through
        // the function.
        let unused = unused_permissions(&[
            (
                "s3:DeleteObject",
                "This scene deletes nothing; another test proves it.",
            ),
            (
                "s3:GetObject",
                "The target's account has no access; the second account reads the object.",
            ),
            (
                "s3:GetObjectTagging",
                "The target's account has no access; the second account reads the object.",
            ),
            (
                "s3:PutObjectTagging",
                "The local cloud writes tags without checking it.",
            ),
        ]);
        prove_permissions::<S3Sync>(&unused, async |scene| {
            let (source_bucket, target_bucket) = (scene.name("from"), scene.name("to"));
            scene
                .make(&json!({ "Resources": { "To": bucket_resource(&target_bucket) } }))
                .await;
            let peer_client = scene.peer(aws_sdk_s3::Client::new);
            let region = CreateBucketConfiguration::builder()
                .location_constraint(scene.region().into())
                .build();
            peer_client
                .create_bucket()
                .bucket(&source_bucket)
                .create_bucket_configuration(region)
                .send()
                .await
                .unwrap();
            peer_client
                .put_object()
                .bucket(&source_bucket)
                .key("new")
                .tagging("cost=it")
                .send()
                .await
                .unwrap();
            let source = format!("s3://{source_bucket}");
            json!({ "source": source, "source_account": "peer",
                "destination": format!("s3://{target_bucket}") })
        });
    }
}
