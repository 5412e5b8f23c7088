//! Finds and aborts multipart uploads that no call will continue.

use aws_sdk_s3::types::{EncodingType, MultipartUpload};
use stepward::StepError;
use stepward::model::s3_error::s3_error;

use crate::bucket::Bucket;
use crate::keys::decode_listed_key;

/// Aborts an upload. An upload that does not exist is not an error.
///
/// # Errors
/// The error that S3 returned.
pub async fn abort_upload(bucket: &Bucket, key: &str, upload_id: &str) -> Result<(), StepError> {
    abort_if_exists(bucket, key, upload_id).await.map(drop)
}

/// Aborts an upload, and returns whether it existed.
pub(crate) async fn abort_if_exists(
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
        response => response.map(|_| true),
    }
}

/// Aborts an upload because of an error. Returns that error, and adds to its message if the abort
/// fails, too.
pub async fn abort_after_error(
    error: StepError,
    bucket: &Bucket,
    key: &str,
    upload_id: &str,
) -> StepError {
    match abort_upload(bucket, key, upload_id).await {
        // The error already reports a failed abort.
        Err(_) if error.message.contains(upload_id) => error,
        Err(abort_error) => {
            let message = format!(
                "{}; its unfinished multipart upload {upload_id} could not be aborted \
                 ({abort_error}), and AWS charges for it until you abort it",
                error.message
            );
            StepError { message, ..error }
        }
        Ok(()) => error,
    }
}

/// Aborts the unfinished uploads that a role session started for a key. Their IDs are unknown,
/// because S3's responses were lost.
pub(super) async fn abort_lost_uploads(
    bucket: &Bucket,
    key: &str,
    session_arn: Option<&str>,
) -> Result<(), StepError> {
    let Some(session_arn) = session_arn else {
        return Ok(());
    };
    let is_lost = |upload: &MultipartUpload| {
        upload.key.as_deref() == Some(key) && is_started_by(upload, session_arn)
    };
    for (_, upload_id) in list_unfinished(bucket, key, is_lost).await? {
        abort_upload(bucket, key, &upload_id).await?;
    }
    Ok(())
}

/// Aborts the uploads that S3 may have started without a response, because of an error. Returns
/// that error, and adds to its message if the abort fails, too.
pub async fn abort_lost_after_error(
    error: StepError,
    bucket: &Bucket,
    key: &str,
    session_arn: Option<&str>,
) -> StepError {
    match abort_lost_uploads(bucket, key, session_arn).await {
        Ok(()) => error,
        Err(abort_error) => {
            let message = format!(
                "{}; a multipart upload that S3 may have started could not be aborted: \
                 {abort_error}",
                error.message
            );
            StepError { message, ..error }
        }
    }
}

/// Keys and IDs of the selected unfinished uploads below a prefix.
///
/// # Errors
/// The error that S3 returned.
pub async fn list_unfinished(
    bucket: &Bucket,
    prefix: &str,
    is_selected: impl Fn(&MultipartUpload) -> bool,
) -> Result<Vec<(String, String)>, StepError> {
    let (mut uploads, mut key_marker, mut id_marker) = (Vec::new(), None, None);

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
            // Some S3-compatible servers cannot list uploads. S3 itself can.
            Err(error) if error.has_code("NotImplemented") => return Ok(uploads),
            page => page?,
        };
        for mut upload in page.uploads.unwrap_or_default() {
            let key = decode_listed_key(
                page.encoding_type.as_ref(),
                upload.key.take().unwrap_or_default(),
            )?;
            upload.key = Some(key.clone());
            if is_selected(&upload) {
                uploads.extend(upload.upload_id.map(|upload_id| (key, upload_id)));
            }
        }
        if page.is_truncated != Some(true) || page.next_key_marker.is_none() {
            return Ok(uploads);
        }
        let encoding = page.encoding_type;
        key_marker = page
            .next_key_marker
            .map(|marker| decode_listed_key(encoding.as_ref(), marker))
            .transpose()?;
        id_marker = page.next_upload_id_marker;
    }
}

/// Whether a role session started an upload:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_Initiator.html>
#[must_use]
pub fn is_started_by(upload: &MultipartUpload, session_arn: &str) -> bool {
    upload
        .initiator
        .as_ref()
        .and_then(|initiator| initiator.id.as_deref())
        == Some(session_arn)
}
