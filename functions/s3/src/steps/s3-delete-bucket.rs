//! The step `s3-delete-bucket`.

use std::time::Duration;

use crate::bucket::{Bucket, TARGET_REGION};
use crate::call_budget::CallBudget;
use crate::contents::{BucketContents, Removal};
use crate::location::S3Uri;
use aws_sdk_s3::Client;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::permissions::{literal, s3_arn};
use stepward::model::s3_error::s3_error;
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};

/// How many times the step goes through the bucket. The second pass retries what was refused once,
/// and finds what was written during the first.
const PASSES: u32 = 2;

/// Delete an empty S3 bucket or, with `force`, a bucket and everything in it.
///
/// Use this step to remove a bucket that is no longer needed. **You cannot undo it**, and
/// afterwards any AWS account can create a bucket with the same name.
///
/// # Behavior
///
/// Without `force` the step deletes an empty bucket only. A bucket with content is a `Conflict` and
/// stays unchanged. Old versions and delete markers count as content, although `aws s3 ls` does not
/// show them.
///
/// With `force` the step removes all versions of all objects, all delete markers and all unfinished
/// multipart uploads, 1,000 versions per request, and then the bucket. It goes through the bucket
/// at most twice, so first stop the applications that write to it.
///
/// The step refuses the alias or ARN of an access point: S3 can empty a bucket through it, but not
/// delete the bucket.
///
/// The first call only checks that the bucket exists; about 10 seconds later the next call deletes.
/// So after a lost response the step can distinguish a bucket that it deleted from one that never
/// existed (`NotFound`).
///
/// A bucket with millions of objects takes many calls. When the job is stopped, deleted objects are
/// gone and the others stay; run the step again to continue.
///
/// # Failures
///
/// S3 refuses to delete versions that an Object Lock retention, a legal hold or a bucket policy
/// protects. The step then removes everything else, keeps the bucket, and fails with the number of
/// refused versions and the first keys. Each refused version is one line of the log. The step never
/// bypasses governance retention.
///
/// # Cost
///
/// This step itself has no charge. S3 charges for the listing requests, one per 1,000 versions;
/// deletions are free. Storage classes with a minimum storage duration, such as `STANDARD_IA` and
/// `GLACIER`, charge for the remaining days of an object that you delete earlier.
///
/// # Proof
///
/// Proven on the local cloud with versions, delete markers and unfinished uploads. Only unit tests
/// with a fake S3 cover locked versions, keys with control characters, and buckets that take many
/// calls.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteBucket {
    /// The bucket in the form `s3://name`, without a key.
    uri: String,
    /// Whether to delete everything in the bucket first.
    #[serde(default)]
    force: bool,
}

/// The bucket that was deleted, and what was in it.
#[derive(Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Deleted {
    /// The bucket's name.
    bucket: String,
    /// How many versions of objects and delete markers were removed first.
    versions: u64,
    /// How many unfinished multipart uploads were aborted first.
    uploads: u64,
}

impl DeleteBucket {
    fn bucket_name(&self) -> Result<String, StepError> {
        S3Uri::parse("uri", &self.uri)?.into_bucket_name("uri", "use s3-delete to delete objects")
    }
}

/// Checks that the bucket exists, and deletes nothing yet.
async fn check_bucket(
    contents: &BucketContents<'_>,
    force: bool,
) -> Result<Progress<Deleted>, StepError> {
    let bucket = &contents.bucket.name;
    let is_filled = contents.has_versions().await.map_err(|mut error| {
        if error.name == ErrorName::AccessDenied && !error.rejects_credentials() {
            error.message = format!(
                "{}; or another account owns bucket \"{bucket}\"",
                error.message
            );
        }
        error
    })?;
    if is_filled && !force {
        return Err(not_empty_error(bucket));
    }

    // The state machine keeps this response. If a later call finds no bucket, this step deleted it.
    Progress::pending(
        &Removal::default(),
        Duration::ZERO,
        format!("bucket \"{bucket}\" exists; deleting it next"),
    )
}

/// Continues to empty the bucket, and deletes it at the end.
async fn empty_and_delete(
    contents: &BucketContents<'_>,
    mut removal: Removal,
) -> Result<Progress<Deleted>, StepError> {
    let is_pass_complete = match contents
        .remove_all(&mut removal, &CallBudget::for_call(contents.ctx))
        .await
    {
        Err(error) if error.has_code("NoSuchBucket") => return Ok(finish(contents, &removal)),
        removed => removed?,
    };

    if is_pass_complete && removal.refused == 0 {
        let is_deleted = delete_bucket(&contents.bucket).await.map_err(|mut error| {
            error.message = format!(
                "{}; {} versions in bucket \"{}\" are already deleted",
                error.message, removal.versions, contents.bucket.name
            );
            error
        })?;
        if is_deleted {
            return Ok(finish(contents, &removal));
        }
    }
    if is_pass_complete {
        if removal.pass + 1 == PASSES {
            return Err(remaining_error(&contents.bucket.name, &removal));
        }
        removal = removal.next_pass();
    }

    let Removal {
        versions,
        uploads,
        refused,
        ..
    } = removal;
    let refused = if refused > 0 {
        format!(", {refused} refused")
    } else {
        String::new()
    };
    let progress = format!("{versions} versions and {uploads} unfinished uploads removed{refused}");
    Progress::pending(&removal, Duration::ZERO, progress)
}

/// Deletes the bucket itself. Returns false if it is not empty.
async fn delete_bucket(
    Bucket {
        client,
        name,
        owner,
        ..
    }: &Bucket,
) -> Result<bool, StepError> {
    let request = client
        .delete_bucket()
        .bucket(name)
        .set_expected_bucket_owner(owner.clone());
    match request.send().await.map_err(s3_error) {
        Err(error) if error.has_code("BucketNotEmpty") => Ok(false),
        // The bucket existed in an earlier call, so another call or person deleted it since.
        Err(error) if !error.has_code("NoSuchBucket") => Err(error),
        _ => Ok(true),
    }
}

fn finish(
    BucketContents { ctx, bucket, .. }: &BucketContents<'_>,
    removal: &Removal,
) -> Progress<Deleted> {
    let Removal {
        versions, uploads, ..
    } = *removal;
    if versions + uploads > 0 {
        ctx.log(format_args!(
            "Removed {versions} versions and {uploads} unfinished uploads"
        ));
    }
    ctx.log(format_args!("Deleted bucket {}", bucket.name));
    Progress::Done(Deleted {
        bucket: bucket.name.clone(),
        versions,
        uploads,
    })
}

fn not_empty_error(bucket: &str) -> StepError {
    ErrorName::Conflict.with_message(format!(
        "bucket \"{bucket}\" is not empty, and nothing was deleted; empty it, including old \
         versions and delete markers, or set force"
    ))
}

/// The error if the bucket still exists after the last pass.
fn remaining_error(
    bucket: &str,
    Removal {
        versions,
        refused,
        named,
        ..
    }: &Removal,
) -> StepError {
    if *refused == 0 {
        return ErrorName::Conflict.with_message(format!(
            "bucket \"{bucket}\" was emptied ({versions} versions removed), but something writes \
             to it; stop the writers and run the step again"
        ));
    }

    let more = if *refused > named.len() as u64 {
        ", …"
    } else {
        ""
    };
    ErrorName::StepFailed.with_message(format!(
        "bucket \"{bucket}\" still has {refused} versions that S3 refused to delete: {}{more}; \
         {versions} were deleted; wait until Object Lock ends or change the bucket policy, then \
         run the step again",
        named.join(", ")
    ))
}

impl Step for DeleteBucket {
    const NAME: &'static str = "s3-delete-bucket";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-cli-s3-rb-step",
        fields: &[("S3Uri", "uri"), ("force", "force")],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Delete an empty bucket",
            parameters: r#"{ "uri": "s3://acme-reports-222222222222" }"#,
            output: r#"{ "bucket": "acme-reports-222222222222", "versions": 0, "uploads": 0 }"#,
        },
        Example {
            title: "Delete a bucket with everything in it",
            parameters: r#"{ "uri": "s3://acme-reports-222222222222", "force": true }"#,
            output: r#"{ "bucket": "acme-reports-222222222222", "versions": 48210, "uploads": 3 }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (ErrorName::NotFound, "The bucket does not exist."),
        (
            ErrorName::AccessDenied,
            "The role lacks the permission that the message names, or another account owns the \
             bucket.",
        ),
        (
            ErrorName::Conflict,
            "The bucket is not empty and `force` is not set, or something writes to it while the \
             step empties it. Stop the writers and run the step again.",
        ),
        (
            ErrorName::StepFailed,
            "S3 refused to delete some versions; all others are gone, and the bucket stays. Wait \
             for the end of the retention or change the bucket policy, then run the step again.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_hours(24);
    const FUNCTION: FunctionConfig = FunctionConfig {
        timeout_seconds: 900,
        ..FunctionConfig::SHORT
    };
    type Output = Deleted;

    fn validate(&self) -> Result<(), StepError> {
        self.bucket_name().map(drop)
    }

    fn permissions(&self) -> Permissions {
        let bucket = literal(&self.bucket_name().unwrap_or_default());
        let base = Permissions::default()
            .allow(
                "find out whether the bucket exists and is empty",
                &["s3:ListBucketVersions"],
                [s3_arn(&bucket)],
            )
            .allow("delete the bucket", &["s3:DeleteBucket"], [s3_arn(&bucket)]);
        if !self.force {
            return base;
        }

        let inside = s3_arn(&format!("{bucket}/*"));
        base.allow(
            "find the unfinished multipart uploads, if force is set",
            &["s3:ListBucketMultipartUploads"],
            [s3_arn(&bucket)],
        )
        .allow(
            "abort the unfinished multipart uploads, if force is set",
            &["s3:AbortMultipartUpload"],
            [inside.clone()],
        )
        // S3 checks s3:DeleteObject for versions, too:
        // https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
        .allow(
            "delete versions and delete markers, if force is set",
            &["s3:DeleteObject", "s3:DeleteObjectVersion"],
            [inside],
        )
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Deleted>, StepError> {
        let owner = Some(ctx.scope.account_id.clone());
        let bucket = Bucket {
            client: ctx.client(Client::new),
            name: self.bucket_name()?,
            owner,
            region_parameter: TARGET_REGION,
        };
        let contents = BucketContents { ctx, bucket };
        let Some(resume) = resume else {
            return check_bucket(&contents, self.force).await;
        };
        let removal: Removal = resume.state()?;
        if self.force {
            empty_and_delete(&contents, removal).await
        } else if delete_bucket(&contents.bucket).await? {
            Ok(finish(&contents, &removal))
        } else {
            Err(not_empty_error(&contents.bucket.name))
        }
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        let removal: Option<Removal> = resume.map(|resume| resume.state()).transpose()?;
        let versions = removal.map_or(0, |removal| removal.versions);
        ctx.log(format_args!(
            "Stopped: {versions} versions in bucket {} are deleted permanently, the others stay",
            self.bucket_name()?
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::operation::abort_multipart_upload::{
        AbortMultipartUploadError, AbortMultipartUploadOutput,
    };
    use aws_sdk_s3::operation::delete_bucket::{DeleteBucketError, DeleteBucketOutput};
    use aws_sdk_s3::operation::delete_object::{DeleteObjectError, DeleteObjectOutput};
    use aws_sdk_s3::operation::delete_objects::{
        DeleteObjectsError, DeleteObjectsInput, DeleteObjectsOutput,
    };
    use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;
    use aws_sdk_s3::operation::list_object_versions::{
        ListObjectVersionsError, ListObjectVersionsOutput,
    };
    use aws_sdk_s3::primitives::{ByteStream, DateTime};
    use aws_sdk_s3::types::{
        BucketVersioningStatus, DeleteMarkerEntry, EncodingType, Error, MultipartUpload,
        ObjectVersion, VersioningConfiguration,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::testing;
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const NAME: &str = "acme-old";
    const ACCOUNT: Option<&str> = Some("222222222222");
    const LOCKED: &str = "Access Denied because object protected by object lock.";

    fn step(force: bool) -> DeleteBucket {
        serde_json::from_value(json!({ "uri": "s3://acme-old", "force": force })).unwrap()
    }

    fn error_metadata(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder()
            .code(code)
            .message("S3 says no")
            .build()
    }

    fn version(key: &str, id: &str, written: i64) -> ObjectVersion {
        ObjectVersion::builder()
            .key(key)
            .version_id(id)
            .last_modified(DateTime::from_secs(written))
            .build()
    }

    fn marker(key: &str, id: &str, written: i64) -> DeleteMarkerEntry {
        DeleteMarkerEntry::builder()
            .key(key)
            .version_id(id)
            .last_modified(DateTime::from_secs(written))
            .build()
    }

    /// A page as S3 returns it for a request with encoded keys.
    fn versions_page(versions: &[(&str, &str)], more: bool) -> ListObjectVersionsOutput {
        let versions = versions
            .iter()
            .map(|(key, id)| version(key, id, 0))
            .collect();
        let page = ListObjectVersionsOutput::builder()
            .set_versions(Some(versions))
            .is_truncated(more);
        page.encoding_type(EncodingType::Url).build()
    }

    /// An expected request, by its marker, and the versions and truncation of its response.
    type ExpectedPage = (
        Option<(&'static str, &'static str)>,
        &'static [(&'static str, &'static str)],
        bool,
    );

    fn lists_versions(pages: &'static [ExpectedPage]) -> Vec<Rule> {
        let rule = |(after, found, more): &'static ExpectedPage| {
            mock!(Client::list_object_versions)
                .match_requests(move |request| {
                    let requested = request.key_marker().zip(request.version_id_marker());
                    assert_eq!(
                        (request.bucket(), request.expected_bucket_owner()),
                        (Some(NAME), ACCOUNT)
                    );
                    assert_eq!(request.encoding_type(), Some(&EncodingType::Url));
                    request.max_keys() == Some(1000) && requested == *after
                })
                .then_output(|| versions_page(found, *more))
        };
        pages.iter().map(rule).collect()
    }

    fn removed_versions(request: &DeleteObjectsInput) -> Vec<(&str, &str)> {
        let delete = request.delete().unwrap();
        assert_eq!(
            (request.bucket(), request.expected_bucket_owner()),
            (Some(NAME), ACCOUNT)
        );
        assert_eq!(
            (delete.quiet, request.bypass_governance_retention()),
            (Some(true), None)
        );
        delete
            .objects()
            .iter()
            .map(|object| (object.key(), object.version_id().unwrap()))
            .collect()
    }

    /// A request that deletes exactly versions versions, of which S3 refuses some.
    fn removes_versions(
        versions: &'static [(&'static str, &'static str)],
        refused: &'static [(&'static str, &'static str)],
    ) -> Rule {
        mock!(Client::delete_objects)
            .match_requests(move |request| removed_versions(request) == versions)
            .then_output(|| {
                let error = |(key, id): &(&str, &str)| {
                    Error::builder()
                        .key(*key)
                        .version_id(*id)
                        .code("AccessDenied")
                        .message(LOCKED)
                        .build()
                };
                DeleteObjectsOutput::builder()
                    .set_errors(Some(refused.iter().map(error).collect()))
                    .build()
            })
    }

    fn no_uploads() -> Rule {
        mock!(Client::list_multipart_uploads)
            .then_output(|| ListMultipartUploadsOutput::builder().build())
    }

    fn deletes_bucket() -> Rule {
        mock!(Client::delete_bucket)
            .match_requests(|request| {
                (request.bucket(), request.expected_bucket_owner()) == (Some(NAME), ACCOUNT)
            })
            .then_output(|| DeleteBucketOutput::builder().build())
    }

    fn refuses_deletion(code: &'static str) -> Rule {
        mock!(Client::delete_bucket)
            .then_error(move || DeleteBucketError::generic(error_metadata(code)))
    }

    /// The request of the first call, which only checks the content.
    fn checks_content(found: &'static [(&'static str, &'static str)]) -> Rule {
        mock!(Client::list_object_versions)
            .match_requests(|request| {
                (request.max_keys(), request.expected_bucket_owner()) == (Some(1), ACCOUNT)
            })
            .then_output(|| versions_page(found, !found.is_empty()))
    }

    fn context<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Context {
        let rules: Vec<_> = rules.into_iter().collect();
        testing::context(mock_client!(aws_sdk_s3, RuleMode::MatchAny, &rules))
    }

    /// Passes a pending response through JSON, as the state machine does.
    fn unwrap_pending(response: Progress<Deleted>) -> (Option<Resume>, Duration, String) {
        let Progress::Pending {
            state,
            retry_after,
            progress,
        } = response
        else {
            panic!("not pending: {response:?}")
        };
        (
            Some(stepward::testing::resume_from(&state)),
            retry_after,
            progress,
        )
    }

    fn resume_after_check() -> Resume {
        serde_json::from_value(json!({ "since": 0, "state": Removal::default() })).unwrap()
    }

    fn unwrap_done(response: Progress<Deleted>) -> (u64, u64) {
        let Progress::Done(Deleted {
            bucket,
            versions,
            uploads,
        }) = response
        else {
            panic!("not done: {response:?}")
        };
        assert_eq!(bucket, NAME);
        (versions, uploads)
    }

    #[tokio::test]
    async fn done_deletes_an_empty_bucket() {
        let delete = deletes_bucket();
        let ctx = context([&checks_content(&[]), &delete]);
        let (resume, after, progress) = unwrap_pending(step(false).run(&ctx, None).await.unwrap());
        assert_eq!(
            (after, progress.as_str()),
            (
                Duration::ZERO,
                "bucket \"acme-old\" exists; deleting it next"
            )
        );
        assert_eq!(delete.num_calls(), 0);
        assert_eq!(
            unwrap_done(step(false).run(&ctx, resume).await.unwrap()),
            (0, 0)
        );
        assert_eq!(
            (delete.num_calls(), testing::log_lines(&ctx)),
            (1, vec!["Deleted bucket acme-old".to_owned()])
        );
    }

    #[tokio::test]
    async fn done_with_force_removes_everything_first() {
        let list = mock!(Client::list_object_versions)
            .match_requests(|r| r.max_keys() == Some(1000))
            .then_output(|| {
                let page = ListObjectVersionsOutput::builder().encoding_type(EncodingType::Url);
                page.versions(version("a+b%2F", "2", 20))
                    .versions(version("a+b%2F", "1", 10))
                    .versions(version("line%0Abreak", "3", 5))
                    .delete_markers(marker("a+b%2F", "m", 15))
                    .delete_markers(marker("%01", "null", 5))
                    .build()
            });
        let batch = removes_versions(&[("a b/", "2"), ("a b/", "m"), ("a b/", "1")], &[]);
        let single = mock!(Client::delete_object)
            .match_requests(|request| {
                assert_eq!(
                    (request.bucket(), request.expected_bucket_owner()),
                    (Some(NAME), ACCOUNT)
                );
                assert_eq!(request.bypass_governance_retention(), None);
                let requested = request.key().zip(request.version_id());
                [Some(("line\nbreak", "3")), Some(("\u{1}", "null"))].contains(&requested)
            })
            .then_output(|| DeleteObjectOutput::builder().build());
        let uploads = mock!(Client::list_multipart_uploads)
            .match_requests(|request| {
                let requested = (
                    request.bucket(),
                    request.expected_bucket_owner(),
                    request.encoding_type(),
                );
                requested == (Some(NAME), ACCOUNT, Some(&EncodingType::Url))
            })
            .sequence()
            .output(|| {
                let upload = MultipartUpload::builder()
                    .key("big+file")
                    .upload_id("u-1")
                    .build();
                let page = ListMultipartUploadsOutput::builder()
                    .uploads(upload)
                    .is_truncated(true);
                page.encoding_type(EncodingType::Url).build()
            })
            .output(|| {
                let upload = MultipartUpload::builder()
                    .key("big+file")
                    .upload_id("u-2")
                    .build();
                ListMultipartUploadsOutput::builder()
                    .uploads(upload)
                    .build()
            })
            .build();
        let aborts = mock!(Client::abort_multipart_upload)
            .match_requests(|request| {
                assert_eq!(
                    (request.bucket(), request.expected_bucket_owner()),
                    (Some(NAME), ACCOUNT)
                );
                let requested = request.key().zip(request.upload_id());
                requested == Some(("big file", "u-1")) || requested == Some(("big+file", "u-2"))
            })
            .sequence()
            .output(|| AbortMultipartUploadOutput::builder().build())
            .error(|| AbortMultipartUploadError::generic(error_metadata("NoSuchUpload")))
            .build();
        let delete = deletes_bucket();
        let ctx = context([&list, &batch, &single, &uploads, &aborts, &delete]);
        assert_eq!(
            unwrap_done(
                step(true)
                    .run(&ctx, Some(resume_after_check()))
                    .await
                    .unwrap()
            ),
            (5, 2)
        );
        assert_eq!(
            (batch.num_calls(), single.num_calls(), delete.num_calls()),
            (1, 2, 1)
        );
        assert_eq!(
            testing::log_lines(&ctx)[0],
            "Removed 5 versions and 2 unfinished uploads"
        );
    }

    #[tokio::test]
    async fn done_lists_each_page_after_the_last_refused_version() {
        // The second request has no marker either, because the first page's versions are deleted.
        // The third starts after the refused version.
        let first = mock!(Client::list_object_versions)
            .match_requests(|request| request.key_marker().is_none())
            .sequence()
            .output(|| versions_page(&[("a", "1"), ("b", "1")], true))
            .output(|| versions_page(&[("c", "3"), ("c", "2"), ("c", "1")], true))
            .output(|| versions_page(&[("c", "2")], false))
            .build();
        let rest = lists_versions(&[(Some(("c", "2")), &[("d", "1")], false)]);
        let removals = [
            removes_versions(&[("a", "1"), ("b", "1")], &[]),
            removes_versions(&[("c", "3"), ("c", "2"), ("c", "1")], &[("c", "2")]),
            removes_versions(&[("d", "1")], &[]),
            // The second pass can delete it.
            removes_versions(&[("c", "2")], &[]),
        ];
        let (uploads, delete) = (no_uploads(), deletes_bucket());
        let ctx = context(
            [&first, &uploads, &delete]
                .into_iter()
                .chain(&rest)
                .chain(&removals),
        );
        let (resume, after, progress) = unwrap_pending(
            step(true)
                .run(&ctx, Some(resume_after_check()))
                .await
                .unwrap(),
        );
        assert_eq!(progress, "5 versions and 0 unfinished uploads removed");
        assert_eq!((after, delete.num_calls()), (Duration::ZERO, 0));
        assert_eq!(
            unwrap_done(step(true).run(&ctx, resume).await.unwrap()),
            (6, 0)
        );
        assert_eq!(
            testing::log_lines(&ctx)[0],
            format!("Could not delete c version 2 ({LOCKED})")
        );
    }

    #[tokio::test]
    async fn already_deleted_by_a_lost_call_is_success() {
        let missing_bucket = mock!(Client::list_object_versions)
            .then_error(|| ListObjectVersionsError::generic(error_metadata("NoSuchBucket")));
        let ctx = context([&missing_bucket, &refuses_deletion("NoSuchBucket")]);
        for force in [false, true] {
            assert_eq!(
                unwrap_done(
                    step(force)
                        .run(&ctx, Some(resume_after_check()))
                        .await
                        .unwrap()
                ),
                (0, 0)
            );
        }
        let ctx = context([
            &lists_versions(&[(None, &[], false)])[0],
            &no_uploads(),
            &refuses_deletion("NoSuchBucket"),
        ]);
        assert_eq!(
            unwrap_done(
                step(true)
                    .run(&ctx, Some(resume_after_check()))
                    .await
                    .unwrap()
            ),
            (0, 0)
        );
    }

    #[tokio::test]
    async fn not_found_is_a_bucket_that_never_existed() {
        let missing_bucket = mock!(Client::list_object_versions)
            .then_error(|| ListObjectVersionsError::generic(error_metadata("NoSuchBucket")));
        for force in [false, true] {
            let error = step(force)
                .run(&context([&missing_bucket]), None)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::NotFound);
        }
        let others = mock!(Client::list_object_versions)
            .then_error(|| ListObjectVersionsError::generic(error_metadata("AccessDenied")));
        let error = step(true).run(&context([&others]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(error.message.contains("another account owns"), "{error}");
        let rejected = mock!(Client::list_object_versions)
            .then_error(|| ListObjectVersionsError::generic(error_metadata("InvalidAccessKeyId")));
        let error = step(true)
            .run(&context([&rejected]), None)
            .await
            .unwrap_err();
        assert!(!error.message.contains("another account owns"), "{error}");
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        for params in [
            json!({ "uri": "acme-old" }),
            json!({ "uri": "s3://points-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias" }),
            json!({ "uri": "s3://arn:aws:s3:eu-west-1:222222222222:accesspoint/points" }),
            json!({ "uri": "s3://acme--euw1-az1--x-s3" }),
            json!({ "uri": "s3://A" }),
            json!({ "uri": "s3://acme-old/key" }),
        ] {
            let step: DeleteBucket = serde_json::from_value(params.clone()).unwrap();
            assert_eq!(
                step.validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{params}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_deletions_are_repeated_by_the_sdk() {
        let remove = mock!(Client::delete_objects)
            .sequence()
            .error(|| DeleteObjectsError::generic(error_metadata("SlowDown")))
            .output(|| DeleteObjectsOutput::builder().build())
            .build();
        let list = &lists_versions(&[(None, &[("a", "1")], false)])[0];
        let ctx = context([list, &remove, &no_uploads(), &deletes_bucket()]);
        assert_eq!(
            unwrap_done(
                step(true)
                    .run(&ctx, Some(resume_after_check()))
                    .await
                    .unwrap()
            ),
            (1, 0)
        );
        assert_eq!(remove.num_calls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn pending_removals_continue_in_the_next_call() {
        let list = mock!(Client::list_object_versions)
            .sequence()
            .output(|| versions_page(&[("a", "1"), ("b", "1")], true))
            .build();
        let rest = lists_versions(&[
            (Some(("a", "1")), &[("c", "1")], false),
            (None, &[("a", "1")], false),
        ]);
        let removals = [
            removes_versions(&[("a", "1"), ("b", "1")], &[("a", "1")]),
            removes_versions(&[("c", "1")], &[]),
            removes_versions(&[("a", "1")], &[]),
        ];
        let (uploads, delete) = (no_uploads(), deletes_bucket());
        let ctx = context([&list, &uploads, &delete].into_iter().chain(&removals));
        tokio::time::advance(Duration::from_mins(1)).await;
        let (resume, after, progress) = unwrap_pending(
            step(true)
                .run(&ctx, Some(resume_after_check()))
                .await
                .unwrap(),
        );
        assert_eq!(
            (after, progress.as_str()),
            (
                Duration::ZERO,
                "1 versions and 0 unfinished uploads removed, 1 refused"
            )
        );
        assert_eq!((list.num_calls(), uploads.num_calls()), (1, 0));
        let ctx = context(
            [&uploads, &delete]
                .into_iter()
                .chain(&rest)
                .chain(&removals),
        );
        let (resume, ..) = unwrap_pending(step(true).run(&ctx, resume).await.unwrap());
        assert_eq!(
            unwrap_done(step(true).run(&ctx, resume).await.unwrap()),
            (3, 0)
        );
        assert_eq!(
            (
                removals[1].num_calls(),
                removals[2].num_calls(),
                delete.num_calls()
            ),
            (1, 1, 1)
        );
    }

    #[tokio::test]
    async fn pending_first_calls_delete_nothing_even_when_repeated() {
        let ctx = context([&checks_content(&[("a", "1")])]);
        for _ in 0..2 {
            assert_eq!(
                unwrap_pending(step(true).run(&ctx, None).await.unwrap()).1,
                Duration::ZERO
            );
        }
    }

    #[tokio::test]
    async fn failed_without_force_a_filled_bucket_is_a_conflict() {
        let error = step(false)
            .run(&context([&checks_content(&[("old", "1")])]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("set force"), "{error}");
        let filled = context([&refuses_deletion("BucketNotEmpty")]);
        assert_eq!(
            step(false)
                .run(&filled, Some(resume_after_check()))
                .await
                .unwrap_err()
                .name,
            ErrorName::Conflict
        );
    }

    #[tokio::test]
    async fn failed_locked_versions_are_named_and_the_bucket_stays() {
        let list = mock!(Client::list_object_versions)
            .match_requests(|request| request.key_marker().is_none())
            .then_output(|| versions_page(&[("gone", "1"), ("kept", "null"), ("%01", "7")], false));
        let remove = mock!(Client::delete_objects).then_output(|| {
            let error = Error::builder()
                .key("kept")
                .version_id("null")
                .code("AccessDenied");
            let message = "User: arn:aws:sts::1:assumed-role/x/y is not authorized to perform: \
                s3:DeleteObjectVersion on resource: \"arn:aws:s3:::acme-old/kept\" with an \
                explicit deny in a resource-based policy";
            DeleteObjectsOutput::builder()
                .errors(error.message(message).build())
                .build()
        });
        let single = mock!(Client::delete_object)
            .then_error(|| DeleteObjectError::generic(error_metadata("AccessDenied")));
        let ctx = context([&list, &remove, &single, &no_uploads()]);
        let (resume, _, progress) = unwrap_pending(
            step(true)
                .run(&ctx, Some(resume_after_check()))
                .await
                .unwrap(),
        );
        // Refused versions are counted again in each pass.
        assert_eq!(progress, "1 versions and 0 unfinished uploads removed");
        assert!(
            !serde_json::to_string(&resume.clone().unwrap())
                .unwrap()
                .contains("role")
        );
        let error = step(true).run(&ctx, resume).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        for part in [
            "2 versions that S3 refused",
            "kept (AWS denied s3:DeleteObjectVersion",
            r"\u{1} version 7 (",
        ] {
            assert!(error.message.contains(part), "{part}: {error}");
        }
        assert!(!error.message.contains("role/"), "{error}");
    }

    #[tokio::test]
    async fn failed_when_something_keeps_writing() {
        let list = lists_versions(&[(None, &[("a", "1")], false)]);
        let ctx = context([
            &list[0],
            &removes_versions(&[("a", "1")], &[]),
            &no_uploads(),
            &refuses_deletion("BucketNotEmpty"),
        ]);
        let (resume, ..) = unwrap_pending(
            step(true)
                .run(&ctx, Some(resume_after_check()))
                .await
                .unwrap(),
        );
        let error = step(true).run(&ctx, resume).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("something writes to it"), "{error}");
    }

    #[tokio::test]
    async fn failed_bucket_deletion_reports_that_the_content_is_deleted() {
        let list = lists_versions(&[(None, &[("a", "1")], false)]);
        let ctx = context([
            &list[0],
            &removes_versions(&[("a", "1")], &[]),
            &no_uploads(),
            &refuses_deletion("AccessDenied"),
        ]);
        let error = step(true)
            .run(&ctx, Some(resume_after_check()))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error
                .message
                .ends_with("1 versions in bucket \"acme-old\" are already deleted"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn cancel_logs_what_is_deleted() {
        let ctx = context([]);
        let state = json!({ "versions": 7, "uploads": 0, "pass": 0, "refused": 0, "named": [] });
        let resume = json!({ "since": 0, "state": state });
        step(true)
            .cancel(&ctx, Some(serde_json::from_value(resume).unwrap()))
            .await
            .unwrap();
        assert!(testing::log_lines(&ctx)[0].starts_with("Stopped: 7 versions in bucket acme-old"));
    }

    #[test]
    fn permissions_match_the_local_cloud() {
        prove_permissions::<DeleteBucket>(&[], async |scene| {
            let (bucket, s3) = (scene.name("old"), scene.client(Client::new));
            let make = json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": bucket } });
            scene.make(&json!({ "Resources": { "Old": make } })).await;
            let put = async |key: &str| {
                let body = ByteStream::from_static(b"x");
                s3.put_object()
                    .bucket(&bucket)
                    .key(key)
                    .body(body)
                    .send()
                    .await
                    .unwrap();
            };
            // An unversioned object, two versions, a delete marker, and an unfinished upload.
            put("before").await;
            let versioned = VersioningConfiguration::builder()
                .status(BucketVersioningStatus::Enabled)
                .build();
            s3.put_bucket_versioning()
                .bucket(&bucket)
                .versioning_configuration(versioned)
                .send()
                .await
                .unwrap();
            put("a b+c/ü").await;
            put("a b+c/ü").await;
            s3.delete_object()
                .bucket(&bucket)
                .key("a b+c/ü")
                .send()
                .await
                .unwrap();
            s3.create_multipart_upload()
                .bucket(&bucket)
                .key("big")
                .send()
                .await
                .unwrap();
            json!({ "uri": format!("s3://{bucket}"), "force": true })
        });
    }

    #[test]
    fn permissions_match_the_local_cloud_without_force() {
        let forced = "Only needed with force; another test proves it.";
        let idle = [
            ("s3:AbortMultipartUpload", forced),
            ("s3:DeleteObject", forced),
            ("s3:DeleteObjectVersion", forced),
            ("s3:ListBucketMultipartUploads", forced),
        ];
        prove_permissions::<DeleteBucket>(&idle, async |scene| {
            let bucket = scene.name("old");
            let make = json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": bucket } });
            scene.make(&json!({ "Resources": { "Old": make } })).await;
            json!({ "uri": format!("s3://{bucket}") })
        });
    }
}
