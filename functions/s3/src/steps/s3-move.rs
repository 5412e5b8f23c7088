//! The step `s3-move`.

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

/// Move files and objects to S3, from S3, or between buckets, as `aws s3 mv` does.
///
/// Use this step to archive files to S3, download objects and remove them from the bucket, or
/// rename objects. It deletes a source only after it has verified the copy.
///
/// # Prerequisites
///
/// The same as for `s3-copy`: a local root for local paths, a bucket policy that lets S3 itself
/// copy from a second account, and a lifecycle rule for incomplete multipart uploads. In addition,
/// the role in the source's account must allow `s3:DeleteObject`.
///
/// # Behavior
///
/// The step transfers each object or file exactly as `s3-copy` does: the same selection, integrity
/// checks, metadata, handling of large objects, and continuation over several calls. Then it
/// verifies the copy and deletes the source:
///
/// - **After an upload** the step reads the object's size and checksum from S3 and compares them
///   with those of the data it sent. For a file below 8 MiB it reads the file again.
/// - **After a download** the step flushes the file to disk, reads it again, and compares it with
///   the data it received. A large file takes several calls.
/// - **Between buckets** the step compares the sizes, and the checksums or entity tags that S3 has
///   of both objects. If the two objects have no comparable checksum, the step reads both, up to 1
///   GiB.
/// - **If the source changed** since it was copied, it is kept. An object is compared by entity
///   tag; a file by size, modification time and inode.
///
/// Directories that become empty stay. In a versioned bucket, including one with Object Lock, the
/// source keeps the versions of a moved object and gets a delete marker.
///
/// The first call for a single source only checks that the source exists; the next call moves it.
/// So after a lost response the step can distinguish a source that it moved from one that never
/// existed. When the job is stopped, each source is either unchanged or completely at the
/// destination.
///
/// # Failures
///
/// The step reports failures in the same way as `s3-copy`, and keeps the sources of failed moves.
/// In addition:
///
/// - A source that changed after it was copied fails as `Conflict`. The destination has the earlier
///   state; run the move again.
/// - An object above 1 GiB without a checksum of the whole object cannot be verified and fails as
///   `StepFailed`. Its copy is complete: compare both, then delete the source with `s3-delete`.
/// - If the destination is the source itself or under it, the step fails with `InvalidInput` and
///   moves nothing. The name of an access point does not tell its bucket, so the step treats an
///   access point and any other bucket or access point as the same bucket: you can move objects
///   between them to another key, but not to the same one.
///
/// # Cost
///
/// This step itself has no charge. S3 charges for the same requests as for `s3-copy`. The
/// verification adds one request per upload, two per copy between buckets, and more if the step has
/// to read objects again. Deletions are free, except that some storage classes charge for objects
/// that you delete early.
///
/// # Proof
///
/// Proven against the AWS CLI 1.46.3 with random trees and buckets (500 seeds; `docs/AWS-CLI.md`
/// lists the intended differences), and with the step killed at 50 random points. Unit tests
/// show the requests on the wire, what is verified, and when a source is kept. The local cloud
/// proves the permissions. It checks neither KMS keys, Object Lock nor bucket policies, and applies
/// its own rules to copies between accounts.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct S3Move(Merged<TransferLocations, Transfer>);

impl S3Move {
    fn task(&self) -> Task<'_> {
        let Merged(
            TransferLocations {
                source,
                destination,
                recursive,
            },
            transfer,
        ) = &self.0;
        Task::for_transfer(Operation::Move, (source, destination), *recursive, transfer)
    }
}

impl Step for S3Move {
    const NAME: &'static str = "s3-move";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-cli-s3-mv-step",
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
            title: "Move a file to a bucket",
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
            title: "Download the CSV files under a prefix and remove them from the bucket",
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
            title: "Move a prefix from another account of the customer",
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
            title: "Move an object to another prefix",
            parameters: r#"{
                "source": "s3://stepward-data-222222222222/reports/today.csv",
                "destination": "s3://stepward-data-222222222222/2026/"
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
            "The source or a bucket does not exist. An earlier run may have moved the source \
             already; check the destination.",
        ),
        (
            ErrorName::InvalidInput,
            "A parameter is wrong, a path or link leaves the local root, this deployment has no \
             local root, a bucket is in another Region, or the destination is the source or under \
             it. Correct the parameter that the message names.",
        ),
        (
            ErrorName::Conflict,
            "The source changed while it was moved, and was kept: run the step again. Or it is \
             archived: restore it first.",
        ),
        (
            ErrorName::AccessDenied,
            "The role lacks the permission that the message names, or the bucket belongs to an \
             unexpected account. Add the permission, or set `bucket_owner`.",
        ),
        (
            ErrorName::StepFailed,
            "A copy could not be verified, or some objects were moved and others failed. The step \
             keeps the failed sources; the log contains the reason for each.",
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

    use serde_json::{Value, json};
    use stepward::testing::{assert_invalid_parameters_are_named, expect_done, log_lines};
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::scenes::{
        COPY_ONLY, LARGE_ONLY, S3_DESTINATION_ONLY, S3_SOURCE_ONLY, unused_permissions,
    };
    use crate::testing::{
        ACCESS_POINT, ALIAS, FakeS3, Object, PEER_ACCOUNT, SentRequest, crc_base64, mib_bytes,
        refusal, run_in_root, run_with_root, scenes, unwrap_pending, valid_step,
    };

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn move_step(params: Value) -> S3Move {
        valid_step(params)
    }

    fn upload() -> S3Move {
        move_step(json!({ "source": "file", "destination": "s3://data/copy" }))
    }

    fn download() -> S3Move {
        move_step(json!({ "source": "s3://data/object", "destination": "file" }))
    }

    fn move_between_buckets() -> S3Move {
        move_step(json!({ "source": "s3://data/object", "destination": "s3://other/copy" }))
    }

    /// The first call, which only checks a single source, and the next, which moves it.
    async fn check_then_move(
        step: &S3Move,
        s3: &FakeS3,
    ) -> Result<Progress<TransferSummary>, StepError> {
        let (resume, progress) = unwrap_pending(step.run(&s3.context(), None).await);
        assert_eq!(progress, "the source exists; moving it next");
        s3.take_requests();
        step.run(&s3.context(), Some(resume)).await
    }

    /// Whether the source of a failed move still exists.
    fn is_source_kept(s3: &FakeS3) -> bool {
        s3.sent_requests("DeleteObject").is_empty() && s3.object("data", "object").is_some()
    }

    #[test]
    fn done_deletes_a_file_after_its_object_is_verified() {
        run_in_root(async |root| {
            for size in [1, 20] {
                let s3 = FakeS3::default();
                let file = root.join("file");
                fs::write(&file, mib_bytes(size)).unwrap();
                let source = file.clone();
                s3.hook_operation("HeadObject", move |_, store| {
                    assert!(
                        source.exists() && store.uploads.is_empty(),
                        "the source exists until the copy is verified"
                    );
                    None
                });
                let output = expect_done(check_then_move(&upload(), &s3).await);
                assert_eq!(
                    (output.transferred, output.bytes),
                    (1, u64::from(size) * MIB)
                );
                let sent = s3.take_requests();
                let last = sent.last().unwrap();
                assert_eq!(
                    (last.summary().as_str(), last.header("x-amz-checksum-mode")),
                    ("HeadObject data/copy", Some("ENABLED"))
                );
                assert!(
                    !file.exists() && s3.object("data", "copy").unwrap().bytes == mib_bytes(size)
                );
            }
        });
    }

    #[test]
    fn done_deletes_an_unchanged_object_after_its_file_is_verified() {
        run_in_root(async |root| {
            for size in [1, 20] {
                let s3 = FakeS3::default();
                s3.put("data", "object", mib_bytes(size));
                let etag = s3.object("data", "object").unwrap().etag;
                let file = root.join("file");
                s3.hook_operation("DeleteObject", move |_, _| {
                    assert!(
                        fs::read(&file).unwrap() == mib_bytes(size),
                        "the file is complete before"
                    );
                    None
                });
                expect_done(check_then_move(&download(), &s3).await);
                let [deleted] = &s3.sent_requests("DeleteObject")[..] else {
                    panic!("one deletion")
                };
                assert_eq!(
                    (deleted.key.as_str(), deleted.header("if-match")),
                    ("object", Some(etag.as_str()))
                );
                assert!(s3.object("data", "object").is_none() && !root.join(".stepward").exists());
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn done_deletes_an_object_after_both_are_compared() {
        let s3 = FakeS3::default();
        s3.put("data", "object", "content");
        let etag = s3.object("data", "object").unwrap().etag;
        expect_done(check_then_move(&move_between_buckets(), &s3).await);
        let sent = s3.take_requests();
        assert_eq!(
            sent.iter().map(SentRequest::summary).collect::<Vec<_>>(),
            [
                "HeadObject data/object",
                "CopyObject other/copy",
                "HeadObject data/object",
                "HeadObject other/copy",
                "DeleteObject data/object",
            ]
        );
        assert_eq!(sent[4].header("if-match"), Some(etag.as_str()));
        assert!(s3.object("data", "object").is_none() && s3.object("other", "copy").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn done_reads_both_objects_without_a_common_checksum() {
        let s3 = FakeS3::default();
        s3.put("data", "object", "content");
        s3.hook_operation("HeadObject", |sent, store| {
            // Like an old object that was uploaded in parts.
            let (checksum, etag) = (None, format!("\"{}-2\"", sent.bucket));
            if let Some(object) = store
                .objects
                .get_mut(&(sent.bucket.clone(), sent.key.clone()))
            {
                *object = Object {
                    etag,
                    checksum,
                    ..object.clone()
                };
            }
            None
        });
        expect_done(check_then_move(&move_between_buckets(), &s3).await);
        let mut read: Vec<_> = s3
            .sent_requests("GetObject")
            .iter()
            .map(SentRequest::summary)
            .collect();
        read.sort();
        assert_eq!(read, ["GetObject data/object", "GetObject other/copy"]);
        assert!(s3.object("data", "object").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn done_deletes_with_the_source_accounts_credentials() {
        for copies_itself in [false, true] {
            let s3 = FakeS3::default();
            s3.put("theirs", "in/a", "content");
            if copies_itself {
                s3.refuse_requests("CopyObject", 1, 403, "AccessDenied");
            }
            let step = move_step(json!({
                "source": "s3://theirs/in", "source_account": "archive",
                "destination": "s3://data/out", "recursive": true,
            }));
            expect_done(step.run(&s3.context_with_peer(), None).await);
            assert_eq!(s3.sent_requests("DeleteObject")[0].account, PEER_ACCOUNT);
            assert!(
                s3.sent_requests("HeadObject")
                    .iter()
                    .any(|sent| sent.account == "222222222222" && sent.key == "out/a")
            );
            assert!(s3.object("theirs", "in/a").is_none() && s3.object("data", "out/a").is_some());
        }
    }

    #[test]
    fn done_with_dry_run_deletes_nothing() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("file"), "x").unwrap();
            let step = move_step(
                json!({ "source": "file", "destination": "s3://data/", "dry_run": true }),
            );
            assert_eq!(
                expect_done(step.run(&s3.context(), None).await).transferred,
                1
            );
            assert!(root.join("file").exists() && s3.take_summaries().is_empty());
        });
    }

    // no proof of already: a moved object is not at the source any more, which not_found shows.

    #[test]
    fn not_found_is_a_missing_source_or_bucket() {
        run_in_root(async |_| {
            let s3 = FakeS3::default();
            for (source, destination, recursive) in [
                ("s3://data/none", "file", false),
                ("s3://gone/in", "out", true),
                ("none", "s3://data/", false),
                ("none", "s3://data/", true),
            ] {
                let step = move_step(
                    json!({ "source": source, "destination": destination, "recursive": recursive }),
                );
                let error = step.run(&s3.context(), None).await.unwrap_err();
                assert_eq!(error.name, ErrorName::NotFound, "{source}: {error}");
            }
        });
    }

    #[test]
    fn invalid_parameters_are_named() {
        assert_invalid_parameters_are_named::<S3Move>();
    }

    #[test]
    fn invalid_are_moves_onto_or_below_the_source() {
        for (source, destination, recursive, is_valid) in [
            ("s3://data/a", "s3://data/a", false, false),
            ("s3://data/in/a", "s3://data/in/", false, false),
            ("s3://data/a", "s3://data", false, false),
            ("s3://data/in", "s3://data/in", true, false),
            ("s3://data/in/", "s3://data/in/below", true, false),
            ("s3://data", "s3://data/in", true, false),
            ("s3://data/in", "s3://data", true, true),
            ("s3://data/in", "s3://data/inside", true, true),
            ("s3://data/a", "s3://other/a", false, true),
            ("a", "b", false, false),
            ("s3://data/in/", "s3://other", false, false),
            ("s3://data", "s3://other", false, false),
        ] {
            let params =
                json!({ "source": source, "destination": destination, "recursive": recursive });
            let response = serde_json::from_value::<S3Move>(params).unwrap().validate();
            let name = response.as_ref().err().map(|error| error.name);
            assert_eq!(
                name,
                (!is_valid).then_some(ErrorName::InvalidInput),
                "{source} {destination}: {response:?}"
            );
        }
        for (field, value) in [
            ("storage_class", "COLD"),
            ("sse_kms_key_id", "key-1"),
            ("bucket_owner", "x"),
            ("source_account", "archive"),
        ] {
            let mut params = json!({ "source": "a", "destination": "s3://data/" });
            params[field] = value.into();
            let error = serde_json::from_value::<S3Move>(params)
                .unwrap()
                .validate()
                .unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{field}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn invalid_are_moves_onto_the_source_through_an_access_point() {
        for point in [ALIAS, ACCESS_POINT] {
            for (key, new_key, recursive) in [
                ("in/a", "in/a", false),
                ("in/a", "in/", false),
                ("in", "in", true),
                ("in", "in/under", true),
                ("", "", true),
            ] {
                for names in [["data", point], [point, "data"], [ALIAS, ACCESS_POINT]] {
                    for account in [None, Some("archive")] {
                        let s3 = FakeS3::default();
                        s3.put("data", "in/a", "the only copy");
                        let [source, destination] = names;
                        let step: S3Move = serde_json::from_value(json!({
                            "source": format!("s3://{source}/{key}"),
                            "destination": format!("s3://{destination}/{new_key}"),
                            "recursive": recursive,
                            "source_account": account,
                            "storage_class": "STANDARD_IA",
                        }))
                        .unwrap();
                        let moved = async {
                            step.validate()?;
                            let ctx = s3.context_with_peer();
                            if recursive {
                                return step.run(&ctx, None).await;
                            }
                            let (resume, _) = unwrap_pending(step.run(&ctx, None).await);
                            step.run(&ctx, Some(resume)).await
                        };
                        let error = moved.await.unwrap_err();
                        assert!(s3.object("data", "in/a").is_some(), "{names:?} {key}");
                        assert_eq!(error.name, ErrorName::InvalidInput, "{error}");
                        assert!(error.message.contains("may be the same bucket"), "{error}");
                    }
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn done_moves_to_another_key_through_an_access_point() {
        for [source, destination] in [["data", ALIAS], [ACCESS_POINT, "data"]] {
            let s3 = FakeS3::default();
            s3.put("data", "in/a", "content");
            s3.put("data", "old/old/a", "would overwrite a source");
            let step = move_step(json!({
                "source": format!("s3://{source}/in"),
                "destination": format!("s3://{destination}/out"),
                "recursive": true,
            }));
            expect_done(step.run(&s3.context(), None).await);
            assert!(s3.object("data", "in/a").is_none() && s3.object("data", "out/a").is_some());
            let step = move_step(json!({
                "source": format!("s3://{source}/old"),
                "destination": format!("s3://{destination}/"),
                "recursive": true,
            }));
            let error = step.run(&s3.context(), None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{error}");
            assert!(s3.object("data", "old/old/a").is_some());
        }
    }

    #[test]
    fn invalid_are_names_of_other_resources_than_buckets() {
        for name in [
            "x--ol-s3",
            "x--euw1-az1--x-s3",
            "m.mrap",
            "arn:aws:s3::222222222222:accesspoint/m.mrap",
            "arn:aws:s3-object-lambda:eu-west-1:222222222222:accesspoint/x",
            "arn:aws:s3-outposts:eu-west-1:222222222222:outpost/op-1/accesspoint/x",
        ] {
            let uri = format!("s3://{name}/a");
            for (source, destination) in [(&uri, "s3://data/b"), (&"s3://data/b".into(), &uri)] {
                let params = json!({ "source": source, "destination": destination });
                let step: S3Move = serde_json::from_value(params).unwrap();
                let error = step.validate().unwrap_err();
                assert_eq!(error.name, ErrorName::InvalidInput);
                assert!(error.message.contains("do not support"), "{error}");
            }
        }
    }

    #[test]
    fn invalid_file_with_a_final_slash_is_kept() {
        run_in_root(async |root| {
            fs::write(root.join("file"), "x").unwrap();
            for source in ["file/", "file/.", "file/./.", "file/x/..", "file/./"] {
                let step = move_step(json!({ "source": source, "destination": "s3://data/" }));
                let error = step.run(&FakeS3::default().context(), None).await;
                let error = error.expect_err(source);
                assert!(
                    matches!(error.name, ErrorName::InvalidInput | ErrorName::NotFound),
                    "{source}: {error}"
                );
                assert!(root.join("file").exists(), "{source}");
            }
        });
    }

    #[test]
    fn invalid_are_links_that_leave_the_root() {
        run_in_root(async |root| {
            let outside = root.with_extension("outside");
            fs::create_dir_all(&outside).unwrap();
            fs::write(outside.join("a"), "x").unwrap();
            std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
            let s3 = FakeS3::default();
            s3.put("data", "object", "x");
            for (source, destination) in [
                ("link/a", "s3://data/"),
                ("../a", "s3://data/"),
                ("s3://data/object", "link/b"),
            ] {
                let step = move_step(json!({ "source": source, "destination": destination }));
                let error = step.run(&s3.context(), None).await.unwrap_err();
                assert_eq!(error.name, ErrorName::InvalidInput, "{source}: {error}");
            }
            let count = fs::read_dir(&outside).unwrap().count();
            fs::remove_dir_all(&outside).unwrap();
            assert!(count == 1 && is_source_kept(&s3));
        });
    }

    #[test]
    fn throttled_requests_are_repeated() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("file"), "x").unwrap();
            s3.put("data", "object", "x");
            for operation in ["PutObject", "HeadObject", "DeleteObject", "CopyObject"] {
                s3.refuse_requests(operation, 2, 503, "SlowDown");
            }
            expect_done(check_then_move(&upload(), &s3).await);
            let put = s3.sent_requests("PutObject").len();
            expect_done(check_then_move(&move_between_buckets(), &s3).await);
            let counts =
                ["CopyObject", "DeleteObject"].map(|operation| s3.sent_requests(operation).len());
            assert_eq!((put, counts), (3, [3, 3]));
            assert!(!root.join("file").exists() && s3.object("data", "object").is_none());
        });
    }

    #[test]
    fn pending_moves_keep_the_source_until_the_copy_is_complete() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("file"), mib_bytes(65)).unwrap();
            s3.spend_budget_at("UploadPart", 1);
            let (resume, _) = unwrap_pending(check_then_move(&upload(), &s3).await);
            assert!(root.join("file").exists());
            s3.take_requests();
            expect_done(upload().run(&s3.context(), Some(resume)).await);
            assert_eq!(
                s3.take_summaries(),
                [
                    "ListParts data/copy",
                    "UploadPart data/copy 9",
                    "CompleteMultipartUpload data/copy",
                    "HeadObject data/copy"
                ]
            );
            assert!(!root.join("file").exists());
            s3.put("data", "object", mib_bytes(65));
            s3.spend_budget_at("GetObject", 1);
            let (resume, _) = unwrap_pending(check_then_move(&download(), &s3).await);
            assert!(is_source_kept(&s3) && !root.join("file").exists());
            expect_done(download().run(&s3.context(), Some(resume)).await);
            assert!(
                s3.object("data", "object").is_none()
                    && fs::read(root.join("file")).unwrap() == mib_bytes(65)
            );
        });
    }

    #[tokio::test(start_paused = true)]
    async fn pending_moves_after_a_lost_response_move_the_rest() {
        let s3 = FakeS3::default();
        (0..200).for_each(|n| s3.put("data", &format!("in/{n:03}"), "x"));
        let step = move_step(
            json!({ "source": "s3://data/in", "destination": "s3://other/out", "recursive": true }),
        );
        s3.spend_budget_at("CopyObject", 1);
        unwrap_pending(step.run(&s3.context(), None).await);
        let moved = s3.sent_requests("CopyObject").len();
        assert!((1..200).contains(&moved), "{moved}");
        assert_eq!(
            expect_done(step.run(&s3.context(), None).await).transferred,
            200 - moved as u64
        );
        assert_eq!(
            (
                s3.sent_requests("CopyObject").len(),
                s3.sent_requests("DeleteObject").len()
            ),
            (200, 200),
            "no object is moved twice"
        );
        let keys: Vec<_> = s3
            .store()
            .objects
            .keys()
            .map(|(bucket, _)| bucket.clone())
            .collect();
        assert_eq!(keys, vec!["other"; 200]);
    }

    #[tokio::test(start_paused = true)]
    async fn pending_moves_of_one_object_succeed_after_lost_responses() {
        let s3 = FakeS3::default();
        s3.put("data", "object", "content");
        let first_call =
            || async { unwrap_pending(move_between_buckets().run(&s3.context(), None).await).0 };
        let (resume, second_resume) = (first_call().await, first_call().await);
        assert!(is_source_kept(&s3), "a first call only checks the source");
        expect_done(
            move_between_buckets()
                .run(&s3.context(), Some(resume))
                .await,
        );
        assert_eq!(
            expect_done(
                move_between_buckets()
                    .run(&s3.context(), Some(second_resume))
                    .await
            )
            .transferred,
            0
        );
        assert!(s3.object("data", "object").is_none() && s3.object("other", "copy").is_some());
    }

    /// How many bytes this process has read so far.
    fn bytes_read() -> u64 {
        let counts = fs::read_to_string("/proc/self/io").unwrap();
        counts
            .lines()
            .find_map(|line| line.strip_prefix("rchar: "))
            .unwrap()
            .parse()
            .unwrap()
    }

    #[test]
    fn done_verifies_a_large_upload_without_reading_the_file_again() {
        run_in_root(async |root| {
            for is_wrong in [false, true] {
                let s3 = FakeS3::default();
                fs::write(root.join("file"), mib_bytes(20)).unwrap();
                let before = std::sync::Arc::new(std::sync::Mutex::new(0));
                let recorded = before.clone();
                s3.hook_operation("HeadObject", move |_, store| {
                    *recorded.lock().unwrap() = bytes_read();
                    let copy = store.objects.get_mut(&("data".into(), "copy".into()))?;
                    copy.checksum = if is_wrong {
                        Some(crc_base64(b"another"))
                    } else {
                        copy.checksum.take()
                    };
                    None
                });
                assert_eq!(check_then_move(&upload(), &s3).await.is_ok(), !is_wrong);
                assert!(bytes_read() - *before.lock().unwrap() < MIB);
                assert_eq!(root.join("file").exists(), is_wrong);
            }
        });
    }

    #[test]
    fn pending_verifications_of_files_continue_in_another_call() {
        run_in_root(async |root| {
            for is_corrupted in [false, true] {
                let s3 = FakeS3::default();
                s3.put("data", "object", mib_bytes(20));
                s3.spend_budget_at("GetObject", 3);
                let (resume, _) = unwrap_pending(check_then_move(&download(), &s3).await);
                assert!(
                    is_source_kept(&s3) && fs::read(root.join("file")).unwrap() == mib_bytes(20),
                    "the file is complete"
                );
                if is_corrupted {
                    fs::write(
                        root.join("file"),
                        [mib_bytes(19), vec![0; 1 << 20].into()].concat(),
                    )
                    .unwrap();
                }
                s3.take_requests();
                let response = download().run(&s3.context(), Some(resume)).await;
                if is_corrupted {
                    assert_eq!(response.unwrap_err().name, ErrorName::StepFailed);
                    assert!(is_source_kept(&s3));
                } else {
                    expect_done(response);
                    assert_eq!(
                        s3.take_summaries(),
                        ["HeadObject data/object", "DeleteObject data/object"]
                    );
                }
            }
        });
    }

    #[test]
    fn pending_large_moves_are_counted_after_lost_responses() {
        run_in_root(async |root| {
            let relayed = move_step(json!({
                "source": "s3://theirs/object", "source_account": "archive",
                "destination": "s3://other/copy",
            }));
            for (step, slow_operation) in [
                (upload(), "UploadPart"),
                (download(), "GetObject"),
                (relayed, "UploadPart"),
            ] {
                let s3 = FakeS3::default();
                fs::write(root.join("file"), mib_bytes(65)).unwrap();
                for bucket in ["data", "theirs"] {
                    s3.put(bucket, "object", mib_bytes(65));
                }
                s3.refuse_requests("CopyObject", 9, 403, "AccessDenied");
                let call = async |resume| step.run(&s3.context_with_peer(), resume).await;
                let (first_resume, _) = unwrap_pending(call(None).await);
                s3.spend_budget_at(slow_operation, 1);
                let (resume, _) = unwrap_pending(call(Some(first_resume)).await);
                for _ in 0..2 {
                    let output = expect_done(call(Some(resume.clone())).await);
                    assert_eq!(
                        (output.transferred, output.bytes),
                        (1, 65 * MIB),
                        "{slow_operation}"
                    );
                }
                assert!(!root.join(".stepward").exists());
            }
        });
    }

    #[test]
    fn not_found_is_a_deleted_source_of_an_unfinished_move() {
        run_in_root(async |root| {
            for (step, slow_operation) in [(upload(), "UploadPart"), (download(), "GetObject")] {
                let s3 = FakeS3::default();
                fs::write(root.join("file"), mib_bytes(65)).unwrap();
                for key in ["object", "copy"] {
                    s3.put("data", key, mib_bytes(65));
                }
                s3.spend_budget_at(slow_operation, 1);
                let (resume, _) = unwrap_pending(check_then_move(&step, &s3).await);
                if slow_operation == "UploadPart" {
                    fs::remove_file(root.join("file")).unwrap();
                } else {
                    s3.store().objects.remove(&("data".into(), "object".into()));
                }
                let error = step.run(&s3.context(), Some(resume)).await.unwrap_err();
                assert_eq!(error.name, ErrorName::NotFound, "{error}");
                assert!(s3.uploads().is_empty() && !root.join(".stepward").exists());
            }
        });
    }

    #[test]
    fn failed_verifications_keep_the_source() {
        run_in_root(async |root| {
            for (size, bytes, reason) in [
                (3, "sum", "the copy has the checksum"),
                (4, "abcd", "the copy has 4 bytes and the source has 3"),
            ] {
                let s3 = FakeS3::default();
                fs::write(root.join("file"), "abc").unwrap();
                s3.put("data", "object", "abc");
                s3.hook_operation("HeadObject", move |sent, store| {
                    // The copy was replaced in the meantime.
                    if sent.key == "copy" {
                        let object = Object {
                            size,
                            bytes: bytes.into(),
                            checksum: Some(crc_base64(bytes.as_bytes())),
                            ..Object::default()
                        };
                        store.put(&sent.bucket, "copy", object);
                    }
                    None
                });
                for step in [upload(), move_between_buckets()] {
                    let error = check_then_move(&step, &s3).await.unwrap_err();
                    assert_eq!(error.name, ErrorName::StepFailed, "{error}");
                    assert!(
                        error.message.contains(reason)
                            && error.message.contains("the source was kept"),
                        "{error}"
                    );
                }
                assert!(is_source_kept(&s3) && root.join("file").exists());
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn failed_are_large_objects_without_a_checksum() {
        let s3 = FakeS3::default();
        s3.put_size("data", "object", GIB + 1);
        s3.hook_operation("HeadObject", |sent, store| {
            let object = store
                .objects
                .get_mut(&(sent.bucket.clone(), sent.key.clone()))?;
            object.etag = format!("\"{}-9\"", sent.bucket);
            None
        });
        let error = check_then_move(&move_between_buckets(), &s3)
            .await
            .unwrap_err();
        assert!(
            error.message.contains("the source was kept; compare both"),
            "{error}"
        );
        assert!(is_source_kept(&s3) && s3.object("other", "copy").is_some());
    }

    #[test]
    fn failed_moves_keep_sources_that_changed_after_the_copy() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            s3.put("data", "object", "abc");
            s3.hook_operation("DeleteObject", |_, store| {
                store
                    .objects
                    .get_mut(&("data".into(), "object".into()))
                    .unwrap()
                    .etag = "\"later\"".into();
                None
            });
            for step in [download(), move_between_buckets()] {
                s3.put("data", "object", "abc");
                let error = check_then_move(&step, &s3).await.unwrap_err();
                assert_eq!(error.name, ErrorName::Conflict, "{error}");
                assert!(error.message.contains("so it was kept"), "{error}");
                assert!(s3.object("data", "object").is_some());
            }
            let file = root.join("file");
            fs::write(&file, "abc").unwrap();
            let later = file.clone();
            s3.hook_operation("HeadObject", move |sent, _| {
                if sent.key == "copy" && sent.bucket == "data" {
                    fs::write(&later, "abcd").unwrap();
                }
                None
            });
            let error = check_then_move(&upload(), &s3).await.unwrap_err();
            assert_eq!(
                (error.name, fs::read_to_string(file).unwrap().as_str()),
                (ErrorName::Conflict, "abcd")
            );
        });
    }

    #[test]
    fn failed_copies_delete_nothing_and_the_others_are_moved() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::create_dir(root.join("up")).unwrap();
            for name in ["a", "b", "c"] {
                fs::write(root.join("up").join(name), name).unwrap();
            }
            s3.hook_operation("PutObject", |sent, _| {
                (sent.key == "b").then(|| refusal(400, "InvalidRequest"))
            });
            let step =
                move_step(json!({ "source": "up", "destination": "s3://data", "recursive": true }));
            let ctx = s3.context();
            let error = step.run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(
                error.message.contains("1 failed, 2 succeeded") && error.message.contains("up/b: "),
                "{error}"
            );
            let exists = |name: &str| Path::new(root).join("up").join(name).exists();
            assert_eq!(["a", "b", "c"].map(exists), [false, true, false]);
            assert!(
                log_lines(&ctx)
                    .iter()
                    .any(|line| line.starts_with("move failed: ") && line.contains("up/b"))
            );
        });
    }

    #[test]
    fn failed_parts_and_checksums_keep_the_source_and_leave_nothing() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("file"), mib_bytes(20)).unwrap();
            s3.hook_operation("UploadPart", |sent, _| {
                (sent.query["partNumber"] == "2").then(|| refusal(400, "BadDigest"))
            });
            check_then_move(&upload(), &s3).await.unwrap_err();
            assert!(root.join("file").exists() && s3.uploads().is_empty());
            fs::remove_file(root.join("file")).unwrap();
            s3.put("data", "object", mib_bytes(20));
            s3.store()
                .objects
                .values_mut()
                .for_each(|object| object.checksum = Some(crc_base64(b"another")));
            check_then_move(&download(), &s3).await.unwrap_err();
            assert!(is_source_kept(&s3) && fs::read_dir(root).unwrap().count() == 0);
        });
    }

    #[test]
    fn failed_deletions_are_reported_and_keep_the_copy() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            s3.put("data", "object", "abc");
            s3.refuse_requests("DeleteObject", 1, 403, "AccessDenied");
            let error = check_then_move(&download(), &s3).await.unwrap_err();
            assert!(
                error.name == ErrorName::AccessDenied && error.message.contains("s3:DeleteObject"),
                "{error}"
            );
            assert!(s3.object("data", "object").is_some() && root.join("file").exists());
        });
    }

    #[test]
    fn cancel_keeps_the_source_and_leaves_nothing_unfinished() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            fs::write(root.join("file"), mib_bytes(65)).unwrap();
            s3.spend_budget_at("UploadPart", 1);
            let (resume, _) = unwrap_pending(check_then_move(&upload(), &s3).await);
            upload().cancel(&s3.context(), Some(resume)).await.unwrap();
            assert!(
                root.join("file").exists()
                    && s3.uploads().is_empty()
                    && s3.object("data", "copy").is_none()
            );
        });
    }

    #[test]
    fn permissions_match_the_local_cloud_for_uploads() {
        let unused = unused_permissions(&[
            ("s3:DeleteObject", S3_SOURCE_ONLY),
            ("s3:GetObjectTagging", COPY_ONLY),
            ("s3:ListBucket", S3_SOURCE_ONLY),
            ("s3:PutObjectTagging", COPY_ONLY),
        ]);
        run_with_root(|root| {
            prove_permissions::<S3Move>(&unused, async |scene| {
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
        run_with_root(|_| prove_permissions::<S3Move>(&unused, scenes::download_scene));
    }

    #[test]
    fn permissions_match_the_local_cloud_between_buckets() {
        const TAGS: &str = "The local cloud copies tags without checking it.";
        let unused = unused_permissions(&[
            ("s3:GetObjectTagging", TAGS),
            ("s3:ListBucketMultipartUploads", LARGE_ONLY),
            ("s3:PutObjectTagging", TAGS),
        ]);
        prove_permissions::<S3Move>(&unused, scenes::between_buckets);
    }

    #[test]
    fn permissions_match_the_local_cloud_between_accounts() {
        const PEER_ONLY: &str = "Only the second account needs it here: the local cloud copies \
            nothing between accounts, so the step's account reads no source.";
        let unused = unused_permissions(&[
            ("s3:DeleteObject", PEER_ONLY),
            ("s3:GetObjectTagging", PEER_ONLY),
            ("s3:ListBucket", PEER_ONLY),
            ("s3:ListBucketMultipartUploads", LARGE_ONLY),
            (
                "s3:PutObjectTagging",
                "The local cloud writes tags without checking it.",
            ),
        ]);
        prove_permissions::<S3Move>(&unused, scenes::between_accounts);
    }
}
