//! Recognizes that S3 rejected the credentials of a `HeadObject` request.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::model::error::StepError;
use crate::model::s3_error::s3_error;

/// The error with which S3 rejects the credentials of a failed `HeadObject` request, if it does.
///
/// A response to HEAD has no body, so status 400 or 403 can mean rejected credentials, a missing
/// permission or something else. This function therefore reads the first byte of the object, which
/// requires the same permission. S3 names the reason in that response.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html>
///
/// `owner` is the account that must own the bucket, as in the failed request.
pub async fn rejection_of_head(
    error: &SdkError<HeadObjectError>,
    s3: &Client,
    bucket: &str,
    key: &str,
    owner: Option<&str>,
) -> Option<StepError> {
    let status = error.raw_response()?.status().as_u16();
    if !matches!(status, 400 | 403) || error.code().is_some() {
        return None;
    }
    let read = s3
        .get_object()
        .bucket(bucket)
        .key(key)
        .range("bytes=0-0")
        .set_expected_bucket_owner(owner.map(str::to_owned));
    // Boxed, because this rare request would enlarge the future of every caller.
    let error = s3_error(Box::pin(read.send()).await.err()?);
    error.rejects_credentials().then_some(error)
}
