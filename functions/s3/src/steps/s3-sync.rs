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

/// Bring a directory or prefix up to date with another, as `aws s3 sync` does.
///
/// Use this step to mirror a directory to S3, a prefix to a directory, or one bucket to another. It
/// transfers only what the destination lacks or has in another state. With `delete` it also deletes
/// what only the destination has: check with `dry_run` first, because an empty or mistyped source
/// prefix empties the destination.
///
/// # Prerequisites
///
/// Those of `s3-copy`: a local root for local paths, a bucket policy or the longer route for a
/// second account, and a lifecycle rule for incomplete multipart uploads.
///
/// # Behavior
///
/// The step lists both sides in the order of their keys and compares them name by name. An object
/// or file is transferred if the destination lacks it, has another size, or is out of date:
///
/// - Uploads and copies skip objects at least as new as their source, because S3 records when it
///   wrote an object.
/// - Downloads skip files no newer than their object, because a download gives the file the
///   object's modification time.
///
/// The step does not compare content: it misses a change that keeps the size and does not make the
/// source newer. Objects that are empty and whose key ends with a slash are skipped on both sides.
/// Everything else about the transfers, including metadata and second accounts, is as in `s3-copy`.
///
/// - **`filters`** apply to both sides: excluded names are neither transferred nor deleted.
/// - **`delete`** removes what only the destination has, up to 1,000 objects per request. Deletions
///   can come later than transfers, but a file is deleted before anything is written below its
///   name. Empty directories stay. Below a directory that cannot be read at the source, nothing is
///   deleted.
/// - **Versioned buckets** keep overwritten and deleted objects as older versions, also under
///   Object Lock. Other buckets and directories do not.
///
/// A call works for about 50 seconds; the next one continues after the last key it decided, and
/// large objects continue where they were. Memory does not grow with the number of objects. Objects
/// that appear or disappear during the run may be included or not; all others are handled once.
/// When the job is stopped, finished transfers and deletions stay, and the step aborts unfinished
/// uploads and removes unfinished files.
///
/// # Failures
///
/// An object that fails does not stop the others. Each failure is one line of the log; at the end
/// the step fails with the number of failures and the first reasons. It stops early once 1,000
/// objects failed because of a permission, a timeout or a missing bucket and none succeeded. If a
/// listing fails, running transfers finish, then the step fails. A new run does only what is left.
/// These are refused:
///
/// - `delete` with a source below the destination: it would delete the source. This differs from
///   the AWS CLI.
/// - objects below the destination, if the destination is below the source: each fails as
///   `Conflict`, because it would be copied into itself repeatedly. This differs from the AWS CLI,
///   too.
/// - directory buckets (S3 Express One Zone), which do not list their keys in order.
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
/// lists the intended differences), and with its process killed at 50 random points. Unit tests
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
    /// Delete what the destination has and the source lacks. An empty source then empties the
    /// destination.
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
            parameters: r#"{ "source": "reports",
            "destination": "s3://stepward-data-222222222222/reports", "delete": true }"#,
            output: r#"{ "transferred": 7, "bytes": 1310720, "deleted": 2, "unchanged": 431,
            "dry_run": false }"#,
        },
        Example {
            title: "Download what changed below a prefix",
            parameters: r#"{ "source": "s3://stepward-data-222222222222/reports",
            "destination": "reports" }"#,
            output: r#"{ "transferred": 3, "bytes": 262144, "deleted": 0, "unchanged": 437,
            "dry_run": false }"#,
        },
        Example {
            title: "Mirror a bucket of another account without temporary files",
            parameters: r#"{ "source": "s3://stepward-data-333333333333", "source_account": "archive",
            "destination": "s3://stepward-data-222222222222/archive", "filters": [{ "exclude": "tmp/*" }] }"#,
            output: r#"{ "transferred": 1840, "bytes": 7516192768, "deleted": 0,
            "unchanged": 12004, "dry_run": false }"#,
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
            "A parameter is wrong, or a path leaves the local root. Correct the parameter that the \
             message names.",
        ),
        (
            ErrorName::AccessDenied,
            "The role may not list a bucket, or S3 refused every object. Add the permission that the \
             message names.",
        ),
        (
            ErrorName::StepFailed,
            "Some objects failed, all others are up to date. The message has the first reasons, the log \
             has all of them; fix them and run the step again.",
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
    use stepward::testing::{done, log, names_invalid_parameters};
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::{Object, FakeS3, SentRequest, WRITTEN_AT, run_in_root, before_deadline, pending, refusal, step};

    fn sync(params: Value) -> S3Sync {
        step(params)
    }

    /// From all of one bucket to all of another.
    fn across(delete: bool) -> S3Sync {
        sync(
            json!({ "source": "s3://from-here", "destination": "s3://to-there", "delete": delete }),
        )
    }

    fn here(s3: &FakeS3, keys: impl IntoIterator<Item = impl AsRef<str>>) {
        keys.into_iter()
            .for_each(|key| s3.put("from-here", key.as_ref(), "content"));
    }

    fn there(s3: &FakeS3, keys: impl IntoIterator<Item = impl AsRef<str>>) {
        keys.into_iter()
            .for_each(|key| s3.put("to-there", key.as_ref(), "content"));
    }

    /// An object of this size that was written so many seconds after the others.
    fn put(s3: &FakeS3, bucket: &str, key: &str, size: usize, later: i64) {
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

    fn keys(s3: &FakeS3, bucket: &str) -> Vec<String> {
        let store = s3.store();
        store
            .objects
            .keys()
            .filter(|(of, _)| of == bucket)
            .map(|(_, key)| key.clone())
            .collect()
    }

    /// A file of this size that was written so many seconds after the objects.
    fn file(path: &Path, size: usize, later: i64) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![b'x'; size]).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs((WRITTEN_AT + later).unsigned_abs());
        fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }

    /// The requests of a run, but for the order of what is done at once.
    fn sorted(s3: &FakeS3) -> Vec<String> {
        let mut requests = s3.take_summaries();
        requests.sort();
        requests
    }

    fn deleted(sent: &SentRequest) -> Vec<String> {
        let body = String::from_utf8(sent.body.to_vec()).unwrap();
        body.split("<Key>")
            .skip(1)
            .map(|rest| rest.split_once("</Key>").unwrap().0.to_owned())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn done_copies_what_is_missing_larger_smaller_or_newer_and_nothing_else() {
        let s3 = FakeS3::default();
        for (key, size, later, there) in [
            ("same", 7, 0, Some((7, 0))),
            ("written later there", 7, 0, Some((7, 60))),
            ("newer", 7, 61, Some((7, 60))),
            ("larger", 8, 0, Some((7, 60))),
            ("smaller", 0, 0, Some((7, 60))),
            ("missing/in a folder", 7, 0, None),
            ("folder/", 0, 0, None),
        ] {
            put(&s3, "from-here", &format!("p/{key}"), size, later);
            if let Some((size, later)) = there {
                put(&s3, "to-there", &format!("q/{key}"), size, later);
            }
        }
        there(&s3, ["q/only there", "quite another"]);
        here(&s3, ["pp"]);
        let step = sync(json!({
            "source": "s3://from-here/p", "destination": "s3://to-there/q/", "storage_class": "STANDARD_IA",
        }));
        let ctx = s3.context();
        let output = serde_json::to_value(done(step.run(&ctx, None).await)).unwrap();
        let expected = json!({ "transferred": 4, "bytes": 22, "deleted": 0, "unchanged": 2, "dry_run": false });
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
            log(&ctx).contains(&"copy: s3://from-here/p/newer to s3://to-there/q/newer".to_owned())
        );
        assert_eq!(s3.take_summaries().len(), 4 + 2, "and two listings");
    }

    #[tokio::test(start_paused = true)]
    async fn done_deletes_only_where_it_is_asked_to_and_only_what_the_source_lacks() {
        for delete in [false, true] {
            let s3 = FakeS3::default();
            here(&s3, ["b", "b/1"]);
            there(&s3, ["a", "b", "b-", "b/1", "c/1"]);
            let ctx = s3.context();
            let output = done(across(delete).run(&ctx, None).await);
            assert_eq!(
                (output.transferred, output.deleted, output.unchanged),
                (0, u64::from(delete) * 3, 2)
            );
            let lists = ["ListObjectsV2 from-here/", "ListObjectsV2 to-there/"];
            if delete {
                let [request] = &s3.sent_requests("DeleteObjects")[..] else {
                    panic!("one request deletes all")
                };
                assert_eq!(deleted(request), ["a", "b-", "c/1"]);
                assert_eq!(
                    request.header("x-amz-expected-bucket-owner"),
                    Some("222222222222")
                );
                assert_eq!(log(&ctx)[0], "delete: s3://to-there/a");
                assert_eq!(sorted(&s3), ["DeleteObjects to-there/", lists[0], lists[1]]);
                assert_eq!(keys(&s3, "to-there"), ["b", "b/1"]);
            } else {
                assert_eq!(sorted(&s3), lists);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn done_with_an_empty_source_empties_the_destination() {
        let s3 = FakeS3::default();
        there(&s3, (0..2_500).map(|n| format!("{n:04}")));
        assert_eq!(
            done(across(true).run(&s3.context(), None).await).deleted,
            2_500
        );
        assert_eq!(keys(&s3, "to-there"), [""; 0]);
        let sizes: Vec<_> = s3
            .sent("DeleteObjects")
            .iter()
            .map(|sent| deleted(sent).len())
            .collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
    }

    #[tokio::test(start_paused = true)]
    async fn done_neither_copies_nor_deletes_what_filters_leave_out() {
        let s3 = FakeS3::default();
        here(&s3, ["a.log", "a.tmp", "tmp/b.log"]);
        there(&s3, ["old.log", "old.tmp", "tmp/c.log"]);
        let step = sync(json!({
            "source": "s3://from-here", "destination": "s3://to-there", "delete": true,
            "filters": [{ "exclude": "*" }, { "include": "*.log" }, { "exclude": "tmp/*" }],
        }));
        done(step.run(&s3.context(), None).await);
        assert_eq!(keys(&s3, "to-there"), ["a.log", "old.tmp", "tmp/c.log"]);
    }

    #[tokio::test(start_paused = true)]
    async fn done_dry_only_says_what_it_would_do() {
        let s3 = FakeS3::default();
        here(&s3, ["a", "b"]);
        there(&s3, ["b", "c"]);
        let step = sync(json!({
            "source": "s3://from-here", "destination": "s3://to-there", "delete": true, "dry_run": true,
        }));
        let ctx = s3.context();
        let output = done(step.run(&ctx, None).await);
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
        let says = [
            "(dryrun) copy: s3://from-here/a to s3://to-there/a",
            "(dryrun) delete: s3://to-there/c",
        ];
        assert_eq!(log(&ctx), says);
        assert_eq!(
            sorted(&s3),
            ["ListObjectsV2 from-here/", "ListObjectsV2 to-there/"]
        );
    }

    #[test]
    fn done_sends_files_that_are_missing_of_another_size_or_newer_than_their_object() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            for (key, size, later) in [
                ("same", 7, 0),
                ("older", 7, -60),
                ("newer", 7, 60),
                ("larger", 8, -60),
                ("new", 7, 0),
            ] {
                file(&root.join("in").join(key), size, later);
                if key != "new" {
                    put(&s3, "data", key, 7, 0);
                }
            }
            put(&s3, "data", "only/there", 7, 0);
            let step = sync(json!({ "source": "in", "destination": "s3://data", "delete": true }));
            let output = done(step.run(&s3.context(), None).await);
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
                sorted(&s3),
                [&["DeleteObjects data/", "ListObjectsV2 data/"][..], &puts].concat()
            );
        });
    }

    #[test]
    fn done_gets_objects_that_are_missing_of_another_size_or_older_than_their_file_and_then_is_up_to_date()
     {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            for (key, size, later) in [
                ("same", 7, 0),
                ("older", 7, -60),
                ("newer", 7, 60),
                ("larger", 8, -60),
            ] {
                file(&root.join("out").join(key), size, later);
                put(&s3, "data", key, 7, 0);
            }
            put(&s3, "data", "new/one", 7, 0);
            file(&root.join("out/only/there"), 7, 0);
            let step =
                || sync(json!({ "source": "s3://data", "destination": "out", "delete": true }));
            let output = done(step().run(&s3.context(), None).await);
            assert_eq!(
                (output.transferred, output.deleted, output.unchanged),
                (3, 1, 2)
            );
            let gets = [
                "GetObject data/larger",
                "GetObject data/new/one",
                "GetObject data/newer",
            ];
            assert_eq!(sorted(&s3), [&gets[..], &["ListObjectsV2 data/"]].concat());
            assert!(root.join("out/only").is_dir() && !root.join("out/only/there").exists());
            assert!(!root.join(".stepward").exists());
            assert_eq!(done(step().run(&s3.context(), None).await).unchanged, 5);
            assert_eq!(sorted(&s3), ["ListObjectsV2 data/"]);
        });
    }

    #[test]
    fn done_makes_a_destination_that_is_not_there() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            put(&s3, "data", "a", 7, 0);
            let step =
                sync(json!({ "source": "s3://data", "destination": "new/folder", "delete": true }));
            assert_eq!(done(step.run(&s3.context(), None).await).transferred, 1);
            assert_eq!(fs::read(root.join("new/folder/a")).unwrap(), b"xxxxxxx");
        });
    }

    #[test]
    fn done_makes_a_directory_where_a_file_is_that_is_to_be_deleted() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            // More than one request would delete come between.
            file(&root.join("out/a"), 7, 0);
            (0..1_100).for_each(|n| file(&root.join(format!("out/a-{n:04}")), 7, 0));
            file(&root.join("out/z"), 7, 0);
            for key in ["a/b", "a/c", "z/1"] {
                put(&s3, "data", key, 7, 0);
            }
            let step = sync(json!({ "source": "s3://data", "destination": "out", "delete": true }));
            let output = done(step.run(&s3.context(), None).await);
            assert_eq!((output.transferred, output.deleted), (3, 1_102));
            assert!(
                ["a/b", "a/c", "z/1"]
                    .iter()
                    .all(|key| root.join("out").join(key).is_file())
            );
        });
    }

    #[tokio::test(start_paused = true)]
    async fn already_up_to_date_it_sends_nothing_but_listings() {
        let s3 = FakeS3::default();
        s3.store().page = Some(4);
        let all: Vec<_> = (0..10).map(|n| format!("{n}")).collect();
        here(&s3, &all);
        there(&s3, &all);
        let output = done(across(true).run(&s3.context(), None).await);
        assert_eq!(
            (output.transferred, output.deleted, output.unchanged),
            (0, 0, 10)
        );
        let requests = sorted(&s3);
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
    async fn not_found_is_a_missing_bucket_on_either_side_and_nothing_is_done() {
        for (source, destination) in [
            ("s3://gone", "s3://to-there"),
            ("s3://from-here", "s3://gone"),
        ] {
            let s3 = FakeS3::default();
            here(&s3, ["a"]);
            there(&s3, ["b"]);
            let step =
                sync(json!({ "source": source, "destination": destination, "delete": true }));
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
    fn not_found_is_a_missing_directory_to_read_and_nothing_is_deleted() {
        run_in_root(async |_| {
            let s3 = FakeS3::default();
            put(&s3, "data", "a", 7, 0);
            let step = sync(json!({ "source": "in", "destination": "s3://data", "delete": true }));
            let error = step.run(&s3.context(), None).await.unwrap_err();
            assert_eq!(
                (error.name, error.message.as_str()),
                (ErrorName::NotFound, "there is no directory in")
            );
            assert_eq!(s3.take_summaries(), [""; 0]);
        });
    }

    #[test]
    fn invalid_parameters_are_named() {
        names_invalid_parameters::<S3Sync>();
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let good = json!({ "source": "s3://from-here/a", "destination": "s3://from-here/b" });
        sync(good.clone());
        for (changes, tells) in [
            (json!({ "source": "a", "destination": "b" }), "both local"),
            (json!({ "source": "" }), "source is neither"),
            (
                json!({ "source": "s3://UPPER/a" }),
                "source \"s3://UPPER/a\" names no bucket",
            ),
            (
                json!({ "destination": "s3://" }),
                "destination \"s3://\" names no bucket",
            ),
            (
                json!({ "destination": format!("s3://to-there/{}", "k".repeat(1025)) }),
                "1,024",
            ),
            (
                json!({ "storage_class": "COLD" }),
                "storage_class is none of",
            ),
            (
                json!({ "sse_kms_key_id": "key-1" }),
                "sse_kms_key_id needs sse",
            ),
            (
                json!({ "sse": "AES256", "sse_kms_key_id": "key-1" }),
                "sse_kms_key_id needs sse",
            ),
            (
                json!({ "bucket_owner": "acme" }),
                "bucket_owner is not an account ID",
            ),
            (
                json!({ "source": "in", "source_account": "archive" }),
                "this one is local",
            ),
            (
                json!({ "source": "in", "source_region": "eu-central-1" }),
                "this one is local",
            ),
            (
                json!({ "source": "s3://from-here/b/c", "delete": true }),
                "source is below destination",
            ),
            (
                json!({ "destination": "s3://from-here", "delete": true }),
                "source is below destination",
            ),
        ] {
            let mut params = good.clone();
            params
                .as_object_mut()
                .unwrap()
                .extend(changes.as_object().unwrap().clone());
            let error = serde_json::from_value::<S3Sync>(params)
                .unwrap()
                .validate()
                .unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.contains(tells), "{error}");
        }
        // A part of a name is no directory, and what is left alone is not in danger.
        sync(
            json!({ "source": "s3://from-here/bc", "destination": "s3://from-here/b", "delete": true }),
        );
        sync(json!({ "source": "s3://from-here/b/c", "destination": "s3://from-here/b" }));
        let unknown = json!({ "source": "s3://from-here", "destination": "s3://to-there", "recursive": true });
        assert!(serde_json::from_value::<S3Sync>(unknown).is_err());
    }

    #[test]
    fn invalid_are_paths_that_leave_the_local_root_or_lead_to_a_file() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            file(&root.join("file"), 1, 0);
            for path in ["../elsewhere", "/etc", ".stepward", "file"] {
                for (source, destination) in [(path, "s3://data"), ("s3://data", path)] {
                    let step = sync(
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
    async fn throttled_listings_copies_and_deletions_are_tried_again_by_the_sdk() {
        let s3 = FakeS3::default();
        here(&s3, ["a"]);
        there(&s3, ["b"]);
        for operation in ["ListObjectsV2", "CopyObject", "DeleteObjects"] {
            s3.refuse_requests(operation, 1, 503, "SlowDown");
        }
        let output = done(across(true).run(&s3.context(), None).await);
        assert_eq!((output.transferred, output.deleted), (1, 1));
        let tried = |operation: &str| s3.sent_requests(operation).len();
        assert_eq!(
            (
                retry_interrupted("ListObjectsV2"),
                retry_interrupted("CopyObject"),
                retry_interrupted("DeleteObjects")
            ),
            (3, 2, 2)
        );
    }

    /// Calls a step until it is done, and lets something happen between its calls; its output and
    /// the number of calls.
    async fn to_the_end(step: &S3Sync, s3: &FakeS3, mut between: impl FnMut(usize)) -> (Done, usize) {
        let mut resume = None;
        for calls in 1..100 {
            match step.run(&s3.context(), resume.take()).await {
                Ok(Progress::Done(output)) => return (output, calls),
                answer => resume = Some(pending(answer).0),
            }
            between(calls);
        }
        panic!("it never ends");
    }

    /// Lets the time for a call be over whenever an operation was asked for so many times.
    fn is_slow_every(s3: &FakeS3, operation: &'static str, times: usize) {
        (1..50).for_each(|n| s3.spend_budget_at(operation, n * times));
    }

    #[tokio::test(start_paused = true)]
    async fn pending_goes_on_behind_the_last_key_on_both_sides_with_deletions_done() {
        let s3 = FakeS3::default();
        s3.store().page = Some(2);
        here(&s3, ["p/a", "p/c", "p/e", "p/g", "p/i", "p/k"]);
        there(&s3, ["q/b", "q/d", "q/f", "q/h", "q/j", "q/l"]);
        s3.spend_budget_at("CopyObject", 3);
        let step = sync(
            json!({ "source": "s3://from-here/p", "destination": "s3://to-there/q", "delete": true }),
        );
        let (resume, progress) = pending(step.run(&s3.context(), None).await);
        let first = s3.take_requests();
        let state: Value = resume.state().unwrap();
        let after = state["after"].as_str().unwrap().to_owned();
        let (copied, gone) = (
            state["report"]["done"]["transferred"].clone(),
            state["report"]["done"]["deleted"].clone(),
        );
        assert_eq!(
            progress,
            format!(
                "{copied} transferred ({} bytes), {gone} deleted, 0 unchanged so far",
                copied.as_u64().unwrap() * 7
            )
        );
        // All that was decided is done, what was collected to be deleted too.
        let left: Vec<_> = keys(&s3, "to-there")
            .into_iter()
            .filter(|key| *key <= format!("q/{after}"))
            .collect();
        let expected: Vec<_> = ["q/a", "q/c", "q/e", "q/g", "q/i", "q/k"]
            .into_iter()
            .filter(|key| *key <= format!("q/{after}").as_str())
            .collect();
        assert_eq!(left, expected);
        assert!(
            !first
                .iter()
                .any(|sent| sent.query.contains_key("start-after"))
        );
        let output = done(step.run(&s3.context(), Some(resume)).await);
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
        assert_eq!(writes, 6, "none is sent twice");
        assert!(first.iter().any(|sent| sent.operation == "DeleteObjects"));
    }

    #[tokio::test(start_paused = true)]
    async fn pending_misses_and_repeats_nothing_that_stays_although_objects_come_and_go() {
        let s3 = FakeS3::default();
        s3.store().page = Some(5);
        let name = |n: usize| format!("{n:03}");
        here(&s3, (0..100).filter(|n| n % 5 != 4).map(name));
        there(&s3, (0..100).filter(|n| n % 5 >= 2).map(name));
        is_slow_every(&s3, "CopyObject", 7);
        let (output, calls) = to_the_end(&across(true), &s3, |calls| {
            // Some come on either side, before and behind where it is, and go the next time.
            for n in 0..100 {
                let at = ["from-here", "to-there"]
                    .map(|bucket| (bucket.to_owned(), format!("{n:03}-passing")));
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
        let of = |keys: Vec<String>| {
            keys.into_iter()
                .filter(|key| !key.ends_with("passing"))
                .collect::<Vec<_>>()
        };
        let copied = of(s3
            .sent("CopyObject")
            .into_iter()
            .map(|sent| sent.key)
            .collect());
        let gone = of(s3.sent_requests("DeleteObjects").iter().flat_map(deleted).collect());
        assert_eq!(
            BTreeSet::from_iter(copied.clone()),
            (0..100).filter(|n| n % 5 < 2).map(name).collect()
        );
        assert_eq!(
            gone,
            (0..100)
                .filter(|n| n % 5 == 4)
                .map(name)
                .collect::<Vec<_>>()
        );
        assert_eq!(copied.len(), 40, "none twice");
        assert!(output.unchanged >= 40 && output.transferred >= 40 && output.deleted >= 20);
        assert_eq!(of(keys(&s3, "to-there")), of(keys(&s3, "from-here")));
    }

    #[tokio::test(start_paused = true)]
    async fn pending_also_while_nothing_is_decided_but_to_leave_things_alone() {
        let s3 = FakeS3::default();
        s3.store().page = Some(10);
        there(&s3, (0..200).map(|n| format!("{n:03}")));
        s3.spend_budget_at("ListObjectsV2", 8);
        let answer = across(false).run(&s3.context(), None).await;
        let (resume, progress) = pending(answer);
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
            done(across(false).run(&s3.context(), Some(resume)).await).unchanged,
            0
        );
    }

    #[tokio::test(start_paused = true)]
    async fn done_also_where_a_listing_takes_longer_than_a_call_is_to_work() {
        let s3 = FakeS3::default();
        here(&s3, (0..200).map(|n| format!("{n:03}")));
        s3.spend_budget_at("ListObjectsV2", 1);
        assert_eq!(
            done(across(false).run(&s3.context(), None).await).transferred,
            200
        );
    }

    #[tokio::test(start_paused = true)]
    async fn pending_where_s3_is_silent_about_the_rest_of_a_listing_and_failed_where_about_all_of_it()
     {
        let s3 = FakeS3::default();
        s3.store().page = Some(10);
        here(&s3, (0..20).map(|n| format!("{n:02}")));
        s3.never_answer("ListObjectsV2", |sent| {
            sent.query.contains_key("continuation-token")
        });
        let (resume, progress) = pending(before_deadline(across(false).run(&s3.context(), None)).await);
        assert!(progress.starts_with("10 transferred"), "{progress}");
        s3.answer_again();
        s3.never_answer("ListObjectsV2", |_| true);
        let error = before_deadline(across(false).run(&s3.context(), Some(resume.clone())))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::TimedOut, "{error}");
        s3.answer_again();
        assert_eq!(
            done(across(false).run(&s3.context(), Some(resume)).await).transferred,
            20
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_is_the_listing_of_a_destination_that_is_another_accounts() {
        let s3 = FakeS3::default();
        here(&s3, ["a"]);
        s3.put("theirs", "b", "content");
        let step = sync(
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
            "whose the source is, nobody says"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_are_deletions_that_s3_is_silent_about() {
        let s3 = FakeS3::default();
        there(&s3, ["x", "y\u{1}"]);
        for operation in ["DeleteObject", "DeleteObjects"] {
            s3.never_answer(operation, |_| true);
        }
        let error = before_deadline(across(true).run(&s3.context(), None))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::TimedOut, "{error}");
        assert!(
            error.message.starts_with("2 failed and 0 went well"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn pending_whose_answer_was_lost_finds_what_it_did_unchanged() {
        let s3 = FakeS3::default();
        s3.store().page = Some(2);
        here(&s3, (0..20).map(|n| format!("{n:02}")));
        s3.spend_budget_at("CopyObject", 2);
        pending(across(true).run(&s3.context(), None).await);
        let first = s3
            .take_requests()
            .iter()
            .filter(|sent| sent.operation == "CopyObject")
            .count();
        let output = done(across(true).run(&s3.context(), None).await);
        let copies = s3.sent_requests("CopyObject").len();
        assert!(first > 0 && copies > 0);
        assert_eq!((first + copies, output.unchanged), (20, first as u64));
    }

    #[test]
    fn pending_files_go_on_behind_the_last_one() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            for n in 0..200 {
                file(&root.join(format!("in/{:02}/{n:03}", n / 20)), 1, 0);
            }
            is_slow_every(&s3, "PutObject", 30);
            let step = sync(json!({ "source": "in", "destination": "s3://data", "delete": true }));
            let (output, calls) = to_the_end(&step, &s3, |_| {}).await;
            assert!(calls >= 2, "{calls}");
            assert_eq!(
                (
                    output.transferred,
                    s3.sent_requests("PutObject").len(),
                    keys(&s3, "data").len()
                ),
                (200, 200, 200)
            );
        });
    }

    #[tokio::test(start_paused = true)]
    async fn failed_objects_are_told_with_their_keys_and_all_others_are_done() {
        let s3 = FakeS3::default();
        here(&s3, ["a", "b", "c"]);
        there(&s3, ["x", "y", "z"]);
        s3.hook_operation("CopyObject", |sent, _| {
            (sent.key == "b").then(|| refusal(403, "AccessDenied"))
        });
        s3.hook_operation("DeleteObjects", |_, store| {
            for key in ["x", "z"] {
                store.objects.remove(&("to-there".into(), key.into()));
            }
            let said = "<Error><Key>y</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
            Some((200, Vec::new(), format!("<DeleteResult>{said}</DeleteResult>").into()))
        });
        let ctx = s3.context();
        let error = across(true).run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .starts_with("2 failed and 4 went well (0 were there already); run it again"),
            "{error}"
        );
        for tells in [
            "copy failed: s3://from-here/b: ",
            "delete failed: s3://to-there/y: ",
            "s3:DeleteObject",
        ] {
            assert!(error.message.contains(tells), "{error}");
        }
        assert_eq!(
            log(&ctx)
                .iter()
                .filter(|line| line.contains("failed: "))
                .count(),
            2
        );
        assert_eq!(keys(&s3, "to-there"), ["a", "c", "y"]);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_is_a_listing_that_breaks_off_and_what_was_begun_is_brought_to_its_end() {
        for side in ["from-here", "to-there"] {
            let s3 = FakeS3::default();
            s3.store().page = Some(10);
            here(&s3, (0..50).map(|n| format!("{n:02}")));
            there(&s3, (50..100).map(|n| format!("{n:02}")));
            s3.hook_operation("ListObjectsV2", move |sent, _| {
                let later = sent.bucket == side && sent.query.contains_key("continuation-token");
                later.then(|| refusal(403, "AccessDenied"))
            });
            let ctx = s3.context();
            let error = across(true).run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::AccessDenied, "{error}");
            assert!(error.message.contains("s3:ListObjectsV2"), "{error}");
            let copied = s3.sent_requests("CopyObject").len();
            assert_eq!(
                log(&ctx)
                    .iter()
                    .filter(|line| line.starts_with("copy: "))
                    .count(),
                copied
            );
            assert_eq!(
                keys(&s3, "to-there").len(),
                50 + copied,
                "and nothing is deleted that may be at the source"
            );
            assert!(side == "to-there" || copied == 10, "{copied}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failed_is_a_listing_that_is_not_in_order_as_of_a_directory_bucket() {
        let s3 = FakeS3::default();
        there(&s3, ["a"]);
        s3.hook_operation("ListObjectsV2", |sent, _| {
            let object =
                |key| format!("<BucketContents><Key>{key}</Key><LastModified>2026-01-31T06:00:00Z</LastModified></BucketContents>");
            let listed = format!("<ListBucketResult>{}{}</ListBucketResult>", object("b"), object("a"));
            (sent.bucket == "from-here").then(|| (200, Vec::new(), listed.into()))
        });
        let error = across(true).run(&s3.context(), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(error.message.contains("directory buckets"), "{error}");
        assert_eq!(keys(&s3, "to-there"), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_for_a_thousand_objects_without_a_success_it_is_given_up() {
        let s3 = FakeS3::default();
        here(&s3, (0..3_000).map(|n| format!("{n:04}")));
        s3.refuse_requests("CopyObject", usize::MAX, 403, "AccessDenied");
        let error = across(false).run(&s3.context(), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error
                .message
                .contains("was given up and the rest not tried"),
            "{error}"
        );
        let tried = s3.sent_requests("CopyObject").len();
        assert!((1_000..1_100).contains(&tried), "{tried}");
    }

    #[tokio::test(start_paused = true)]
    async fn failed_is_what_lies_below_a_destination_that_is_below_the_source() {
        let s3 = FakeS3::default();
        here(&s3, ["a", "copy/b"]);
        let step =
            sync(json!({ "source": "s3://from-here", "destination": "s3://from-here/copy" }));
        let error = step.run(&s3.context(), None).await.unwrap_err();
        assert!(
            error.message.starts_with("1 failed and 1 went well"),
            "{error}"
        );
        assert!(
            error
                .message
                .contains("copy failed: s3://from-here/copy/b: it is below the destination"),
            "{error}"
        );
        assert_eq!(keys(&s3, "from-here"), ["a", "copy/a", "copy/b"]);
    }

    #[test]
    fn failed_are_names_that_cannot_be_files_or_keys_and_nothing_is_deleted_for_them() {
        use std::os::unix::ffi::OsStrExt;
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            file(&root.join("in/é"), 7, 0);
            file(
                &root.join("in").join(std::ffi::OsStr::from_bytes(b"\x80")),
                7,
                0,
            );
            put(&s3, "data", "é", 7, 0);
            let step = sync(json!({ "source": "in", "destination": "s3://data", "delete": true }));
            let error = step.run(&s3.context(), None).await.unwrap_err();
            assert!(
                error
                    .message
                    .contains("1 failed and 0 went well (1 were there already)"),
                "{error}"
            );
            assert_eq!(s3.take_summaries(), ["ListObjectsV2 data/"]);
            put(&s3, "data", "a//b", 7, 0);
            let step = sync(json!({ "source": "s3://data", "destination": "out" }));
            let error = step.run(&s3.context(), None).await.unwrap_err();
            assert!(
                error.message.contains("download failed: s3://data/a//b: "),
                "{error}"
            );
            assert!(root.join("out/é").exists() && !root.join("out/a").exists());
        });
    }

    #[tokio::test(start_paused = true)]
    async fn cancel_aborts_what_this_session_has_begun_and_no_other() {
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
        across(true).cancel(&ctx, None).await.unwrap();
        assert_eq!(s3.store().uploads.keys().collect::<Vec<_>>(), ["another"]);
    }

    #[tokio::test(start_paused = true)]
    async fn cancel_aborts_nothing_that_the_execution_has_begun_before_this_step() {
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
        across(true)
            .cancel(&s3.context_in_session(session), Some(resume))
            .await
            .unwrap();
        assert_eq!(s3.store().uploads.keys().collect::<Vec<_>>(), ["before"]);
    }

    const LARGE: &str =
        "Only objects of 8 MiB and more are written in parts; s3-copy has the proof.";
    const KMS: &str = "Nothing is encrypted with KMS on the local cloud.";

    fn bucket(name: &str) -> Value {
        json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": name } })
    }

    /// What no scene here needs, and what this one does not.
    fn idle(of_scene: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        let never = [
            ("s3:ListBucketMultipartUploads", LARGE),
            ("s3:AbortMultipartUpload", LARGE),
            ("s3:ListMultipartUploadParts", LARGE),
            ("kms:Decrypt", KMS),
            ("kms:GenerateDataKey", KMS),
        ];
        [&never[..], of_scene].concat()
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for_copies() {
        const NONE: &str = "Nothing is deleted here; that has a proof of its own.";
        const TAGS: &str =
            "The local cloud copies tags without asking; s3-copy proves what it can.";
        let idle = idle(&[
            ("s3:DeleteObject", NONE),
            ("s3:GetObjectTagging", TAGS),
            ("s3:PutObjectTagging", TAGS),
        ]);
        prove::<S3Sync>(&idle, async |scene| {
            let (from, to) = (scene.name("from"), scene.name("to"));
            scene
                .make(&json!({ "Resources": { "From": bucket(&from), "To": bucket(&to) } }))
                .await;
            let s3 = scene.client(aws_sdk_s3::Client::new);
            s3.put_object()
                .bucket(&from)
                .key("new")
                .tagging("cost=it")
                .send()
                .await
                .unwrap();
            json!({ "source": format!("s3://{from}"), "destination": format!("s3://{to}") })
        });
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for_deletions() {
        const NONE: &str = "Nothing is transferred here; that has proofs of its own.";
        let idle = idle(&[
            ("s3:GetObject", NONE),
            ("s3:GetObjectTagging", NONE),
            ("s3:PutObject", NONE),
            ("s3:PutObjectTagging", NONE),
        ]);
        prove::<S3Sync>(&idle, async |scene| {
            let (from, to) = (scene.name("from"), scene.name("to"));
            scene
                .make(&json!({ "Resources": { "From": bucket(&from), "To": bucket(&to) } }))
                .await;
            let s3 = scene.client(aws_sdk_s3::Client::new);
            s3.put_object().bucket(&to).key("old").send().await.unwrap();
            json!({ "source": format!("s3://{from}"), "destination": format!("s3://{to}"), "delete": true })
        });
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for_another_account() {
        // The bucket's policy does not let the destination's role read it, so that the object goes
        // through the function.
        let idle = idle(&[
            (
                "s3:DeleteObject",
                "Nothing is deleted here; that has a proof of its own.",
            ),
            (
                "s3:GetObject",
                "In its own account it is not let copy, and reads only in the other one.",
            ),
            (
                "s3:GetObjectTagging",
                "In its own account it is not let copy, and reads only in the other one.",
            ),
            (
                "s3:PutObjectTagging",
                "The local cloud writes tags without asking for it.",
            ),
        ]);
        prove::<S3Sync>(&idle, async |scene| {
            let (from, to) = (scene.name("from"), scene.name("to"));
            scene
                .make(&json!({ "Resources": { "To": bucket(&to) } }))
                .await;
            let theirs = scene.peer(aws_sdk_s3::Client::new);
            let region = CreateBucketConfiguration::builder()
                .location_constraint(scene.region().into())
                .build();
            theirs
                .create_bucket()
                .bucket(&from)
                .create_bucket_configuration(region)
                .send()
                .await
                .unwrap();
            theirs
                .put_object()
                .bucket(&from)
                .key("new")
                .tagging("cost=it")
                .send()
                .await
                .unwrap();
            let source = format!("s3://{from}");
            json!({ "source": source, "source_account": "peer", "destination": format!("s3://{to}") })
        });
    }
}
