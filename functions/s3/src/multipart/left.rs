//! Uploads that nobody goes on with: found and aborted.

use aws_sdk_s3::types::{EncodingType, MultipartUpload};
use stepward::StepError;
use stepward::model::s3_error::s3_error;

use crate::bucket::Bucket;
use crate::keys::listed;

/// Aborts an upload; one that is not there is as good.
///
/// # Errors
/// Why S3 failed.
pub async fn abort(bucket: &Bucket, key: &str, upload_id: &str) -> Result<(), StepError> {
    aborted(bucket, key, upload_id).await.map(drop)
}

/// As [`abort`]; whether it was there.
pub(crate) async fn aborted(
    bucket: &Bucket,
    key: &str,
    upload_id: &str,
) -> Result<bool, StepError> {
    let request = bucket
        .client
        .abort_multipart_upload()
        .bucket(&bucket.name)
        .key(key)
        .upload_id(upload_id);
    match request
        .set_expected_bucket_owner(bucket.owner.clone())
        .send()
        .await
        .map_err(s3_error)
    {
        Err(error) if error.has_code("NoSuchUpload") => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// Aborts an upload because of an error. What comes back is that error, and tells what is left if
/// that fails too.
pub async fn abort_after(
    error: StepError,
    bucket: &Bucket,
    key: &str,
    upload_id: &str,
) -> StepError {
    match abort(bucket, key, upload_id).await {
        // Another try to abort has told already.
        Err(_) if error.message.contains(upload_id) => error,
        Err(left) => {
            let message = format!(
                "{}; its unfinished multipart upload {upload_id} could not be aborted either ({left}) and is charged \
                 for until it is",
                error.message
            );
            StepError { message, ..error }
        }
        Ok(()) => error,
    }
}

/// Aborts what a role session has begun for a key and lost.
pub(super) async fn abort_lost(
    bucket: &Bucket,
    key: &str,
    session_arn: Option<&str>,
) -> Result<(), StepError> {
    let Some(session_arn) = session_arn else {
        return Ok(());
    };
    let is_lost =
        |upload: &MultipartUpload| upload.key.as_deref() == Some(key) && is_of(upload, session_arn);
    for (_, upload_id) in unfinished(bucket, key, is_lost).await? {
        abort(bucket, key, &upload_id).await?;
    }
    Ok(())
}

/// As [`abort_after`], where it is not known whether an upload was begun.
pub async fn abort_lost_after(
    error: StepError,
    bucket: &Bucket,
    key: &str,
    session_arn: Option<&str>,
) -> StepError {
    match abort_lost(bucket, key, session_arn).await {
        Ok(()) => error,
        Err(left) => {
            let message = format!(
                "{}; what it may have begun could not be aborted: {left}",
                error.message
            );
            StepError { message, ..error }
        }
    }
}

/// Key and ID of the unfinished uploads below a prefix that are meant.
///
/// # Errors
/// Why S3 failed.
pub async fn unfinished(
    bucket: &Bucket,
    prefix: &str,
    is_meant: impl Fn(&MultipartUpload) -> bool,
) -> Result<Vec<(String, String)>, StepError> {
    let (mut found, mut key_marker, mut id_marker) = (Vec::new(), None, None);
    loop {
        let request = bucket
            .client
            .list_multipart_uploads()
            .bucket(&bucket.name)
            .prefix(prefix);
        let request = request
            .encoding_type(EncodingType::Url)
            .set_expected_bucket_owner(bucket.owner.clone());
        let page = request
            .set_key_marker(key_marker)
            .set_upload_id_marker(id_marker)
            .send()
            .await;
        let page = match page.map_err(s3_error) {
            // Some servers that speak S3 keep uploads and cannot list them. S3 itself can.
            Err(error) if error.has_code("NotImplemented") => return Ok(found),
            page => page?,
        };
        for mut upload in page.uploads.unwrap_or_default() {
            let key = listed(
                page.encoding_type.as_ref(),
                upload.key.take().unwrap_or_default(),
            )?;
            upload.key = Some(key.clone());
            if is_meant(&upload) {
                found.extend(upload.upload_id.map(|upload_id| (key, upload_id)));
            }
        }
        if page.is_truncated != Some(true) || page.next_key_marker.is_none() {
            return Ok(found);
        }
        let encoding = page.encoding_type;
        key_marker = page
            .next_key_marker
            .map(|marker| listed(encoding.as_ref(), marker))
            .transpose()?;
        id_marker = page.next_upload_id_marker;
    }
}

/// Whether a role session has begun an upload.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_Initiator.html>
#[must_use]
pub fn is_of(upload: &MultipartUpload, session_arn: &str) -> bool {
    upload
        .initiator
        .as_ref()
        .and_then(|initiator| initiator.id.as_deref())
        == Some(session_arn)
}
