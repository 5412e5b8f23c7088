//! Copies objects between buckets: by S3 itself if it is allowed to, otherwise through this
//! function.

use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumMode, CompletedPart};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use stepward::model::s3_error::s3_error;
use stepward::{ErrorName, StepError};

use super::context::TransferContext;
use super::partial::{PartialTransfer, StartedUpload, TransferProgress};
use super::receive::{changed_object_error, check_length, interrupted_error};
use crate::body::Checksum;
use crate::bucket::{Bucket, ObjectHead, copy_source_header, long_request_config};
use crate::listing::Entry;
use crate::multipart::{self, PART_SIZE, UploadOutcome, UploadPart};
use crate::retries::retry_interrupted;
use crate::verify;

/// The largest object that S3 copies with one request, in bytes: 5 GiB.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html>
pub(super) const COPY_LIMIT: u64 = 5 << 30;
/// The start of [`StartedUpload::source_version`] for parts that pass through this function, so
/// that the next call continues in the same mode.
const THROUGH_FUNCTION: &str = "here ";
/// The size of the parts that S3 copies itself: large, because only requests are sent.
const COPY_PART_SIZE: u64 = 512 << 20;

impl TransferContext<'_> {
    /// Copies an object: by S3 itself, or through this function if S3 is not allowed to.
    pub(super) async fn copy_object(
        &self,
        source: (&Bucket, &str),
        entry: &Entry,
        destination: (&Bucket, &str),
        partial: Option<PartialTransfer>,
        progress: &TransferProgress,
    ) -> Result<Option<PartialTransfer>, StepError> {
        let started = partial.and_then(PartialTransfer::into_upload);
        let unfinished = match self
            .copy_by_s3(source, entry, destination, started.clone(), progress)
            .await
        {
            Err(error) if error.name == ErrorName::AccessDenied && self.has_peer_source => {
                if !self.copies_through_function.swap(true, Ordering::Relaxed) {
                    self.ctx.log(
                        "S3 is not allowed to copy between the two accounts; the objects pass \
                         through the step's function",
                    );
                }
                Box::pin(self.copy_through_function(source, entry, destination, started, progress))
                    .await?
            }
            result => result?,
        };
        if unfinished.is_none() && self.is_move {
            let etag = verify::verify_copy(source, destination).await?;
            self.delete_moved_source(source.0, source.1, etag.or_else(|| entry.etag.clone()))
                .await?;
        }

        Ok(unfinished.map(PartialTransfer::Upload))
    }

    /// Lets S3 copy the object; `AccessDenied` if it is not allowed to.
    async fn copy_by_s3(
        &self,
        (source_bucket, source_key): (&Bucket, &str),
        entry: &Entry,
        (bucket, key): (&Bucket, &str),
        started: Option<StartedUpload>,
        progress: &TransferProgress,
    ) -> Result<Option<StartedUpload>, StepError> {
        let passed_through_function = started
            .as_ref()
            .is_some_and(|upload| upload.source_version.starts_with(THROUGH_FUNCTION));
        if passed_through_function || self.copies_through_function.load(Ordering::Relaxed) {
            return Err(ErrorName::AccessDenied
                .with_message("S3 is not allowed to copy between the two accounts"));
        }

        if entry.size > COPY_LIMIT {
            return Box::pin(self.copy_parts_by_s3(
                (source_bucket, source_key),
                entry,
                (bucket, key),
                started,
                progress,
            ))
            .await;
        }

        let request = bucket
            .client
            .copy_object()
            .bucket(&bucket.name)
            .key(key)
            .copy_source(copy_source_header(&source_bucket.name, source_key));
        let request = request
            .set_copy_source_if_match(entry.etag.clone())
            .set_storage_class(self.attributes.storage_class.clone())
            .set_server_side_encryption(self.attributes.encryption.clone())
            .set_ssekms_key_id(self.attributes.kms_key.clone())
            .set_expected_bucket_owner(bucket.owner.clone())
            .set_expected_source_bucket_owner(source_bucket.owner.clone());
        request
            .customize()
            .config_override(long_request_config())
            .send()
            .await
            .map_err(changed_object_error)?;
        Ok(None)
    }

    /// Lets S3 copy the object in parts.
    async fn copy_parts_by_s3(
        &self,
        (source_bucket, source_key): (&Bucket, &str),
        entry: &Entry,
        (bucket, key): (&Bucket, &str),
        started: Option<StartedUpload>,
        progress: &TransferProgress,
    ) -> Result<Option<StartedUpload>, StepError> {
        let head = source_bucket.head_object(source_key).await?;
        let (source_version, part_size) = (
            entry.etag.clone().unwrap_or_default(),
            multipart::part_size(head.size, COPY_PART_SIZE),
        );
        let (upload, head) = (
            self.new_upload((bucket, key), head.size, part_size, &source_version),
            &head,
        );
        let part = |UploadPart {
                        upload_id,
                        number,
                        offset,
                        length,
                    }: UploadPart| async move {
            let request = bucket
                .client
                .upload_part_copy()
                .bucket(&bucket.name)
                .key(key)
                .upload_id(upload_id);
            let request = request
                .part_number(number)
                .copy_source(copy_source_header(&source_bucket.name, source_key));
            let request =
                request.copy_source_range(format!("bytes={offset}-{}", offset + length - 1));
            let request = request
                .set_copy_source_if_match(entry.etag.clone())
                .set_expected_bucket_owner(bucket.owner.clone())
                .set_expected_source_bucket_owner(source_bucket.owner.clone());
            let response = request
                .customize()
                .config_override(long_request_config())
                .send()
                .await
                .map_err(changed_object_error)?;
            let result = response.copy_part_result;
            let result = result.ok_or_else(|| {
                ErrorName::Internal
                    .with_message("S3 copied a part and returned no result; report this as a bug")
            })?;
            let completed = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(result.e_tag);
            Ok(completed
                .set_checksum_crc64_nvme(result.checksum_crc64_nvme)
                .build())
        };
        Box::pin(upload.run(
            started,
            progress,
            self.create_upload_like((source_bucket, source_key), head, bucket),
            part,
        ))
        .await
        .map(UploadOutcome::into_unfinished)
    }

    /// Reads the object and writes it again.
    async fn copy_through_function(
        &self,
        (source_bucket, source_key): (&Bucket, &str),
        entry: &Entry,
        (bucket, key): (&Bucket, &str),
        started: Option<StartedUpload>,
        progress: &TransferProgress,
    ) -> Result<Option<StartedUpload>, StepError> {
        let head = source_bucket.head_object(source_key).await?;
        if entry.etag.is_some() && entry.etag != head.etag {
            return Err(ErrorName::Conflict
                .with_message("the object changed while it was copied; run the step again"));
        }

        if head.size < PART_SIZE {
            let _memory = self.reserve_memory(head.size).await?;
            let bytes = fetch_bytes(source_bucket, source_key, &head, None).await?;
            let response = &head.response;
            let checksum = Checksum::compute(CrcAlgorithm::Crc64Nvme, &bytes);
            let request = bucket
                .client
                .put_object()
                .bucket(&bucket.name)
                .key(key)
                .checksum_crc64_nvme(checksum.to_base64());
            let request = request
                .body(ByteStream::from(bytes))
                .set_content_type(response.content_type.clone())
                .set_content_encoding(response.content_encoding.clone())
                .set_content_language(response.content_language.clone())
                .set_content_disposition(response.content_disposition.clone())
                .set_cache_control(response.cache_control.clone())
                .set_expires(parse_expires(response))
                .set_metadata(response.metadata.clone())
                .set_tagging(read_tags(source_bucket, source_key).await?)
                .set_storage_class(self.attributes.storage_class.clone())
                .set_server_side_encryption(self.attributes.encryption.clone())
                .set_ssekms_key_id(self.attributes.kms_key.clone())
                .set_expected_bucket_owner(bucket.owner.clone());
            request
                .customize()
                .disable_payload_signing()
                .send()
                .await
                .map_err(s3_error)?;
            return Ok(None);
        }

        let source_version = format!(
            "{THROUGH_FUNCTION}{}",
            head.etag.as_deref().unwrap_or_default()
        );
        let part_size = multipart::part_size(head.size, PART_SIZE);
        let (upload, head) = (
            self.new_upload((bucket, key), head.size, part_size, &source_version),
            &head,
        );
        let part = |UploadPart {
                        upload_id,
                        number,
                        offset,
                        length,
                    }: UploadPart| async move {
            let _memory = self.reserve_memory(length).await?;
            let bytes =
                fetch_bytes(source_bucket, source_key, head, Some((offset, length))).await?;
            let checksum = Checksum::compute(CrcAlgorithm::Crc64Nvme, &bytes);
            let request = bucket
                .client
                .upload_part()
                .bucket(&bucket.name)
                .key(key)
                .upload_id(upload_id)
                .part_number(number);
            let request = request
                .checksum_crc64_nvme(checksum.to_base64())
                .body(ByteStream::from(bytes));
            let request = request.set_expected_bucket_owner(bucket.owner.clone());
            let response = request
                .customize()
                .disable_payload_signing()
                .send()
                .await
                .map_err(s3_error)?;
            let completed = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(response.e_tag);
            Ok(completed.checksum_crc64_nvme(checksum.to_base64()).build())
        };
        Box::pin(upload.run(
            started,
            progress,
            self.create_upload_like((source_bucket, source_key), head, bucket),
            part,
        ))
        .await
        .map(UploadOutcome::into_unfinished)
    }

    /// The request for an upload with the metadata and tags of another object. S3 copies these
    /// itself only with a single request.
    async fn create_upload_like(
        &self,
        (source_bucket, source_key): (&Bucket, &str),
        head: &ObjectHead,
        bucket: &Bucket,
    ) -> Result<CreateMultipartUploadFluentBuilder, StepError> {
        let response = &head.response;
        let request = bucket
            .client
            .create_multipart_upload()
            .set_content_type(response.content_type.clone());
        Ok(request
            .set_content_encoding(response.content_encoding.clone())
            .set_content_language(response.content_language.clone())
            .set_content_disposition(response.content_disposition.clone())
            .set_cache_control(response.cache_control.clone())
            .set_expires(parse_expires(response))
            .set_metadata(response.metadata.clone())
            .set_tagging(read_tags(source_bucket, source_key).await?))
    }
}

/// The bytes of an object, or a range of them, in memory.
async fn fetch_bytes(
    bucket: &Bucket,
    key: &str,
    head: &ObjectHead,
    range: Option<(u64, u64)>,
) -> Result<Bytes, StepError> {
    retry_interrupted(|| async {
        let request = bucket
            .client
            .get_object()
            .bucket(&bucket.name)
            .key(key)
            .set_if_match(head.etag.clone());
        let request = request.set_range(
            range.map(|(offset, length)| format!("bytes={offset}-{}", offset + length - 1)),
        );
        let request = request.set_checksum_mode(range.is_none().then_some(ChecksumMode::Enabled));
        let response = request
            .set_expected_bucket_owner(bucket.owner.clone())
            .send()
            .await
            .map_err(changed_object_error)?;
        let bytes = response
            .body
            .collect()
            .await
            .map_err(|error| interrupted_error(&error))?
            .into_bytes();
        check_length(
            bytes.len() as u64,
            range.map_or(head.size, |(_, length)| length),
        )?;
        Ok(bytes)
    })
    .await
}

/// When the object's cached copies expire, if the value is a valid HTTP date.
fn parse_expires(response: &HeadObjectOutput) -> Option<DateTime> {
    DateTime::from_str(
        response.expires_string.as_deref()?,
        DateTimeFormat::HttpDate,
    )
    .ok()
}

/// An object's tags, in the form of the header `x-amz-tagging`.
async fn read_tags(bucket: &Bucket, key: &str) -> Result<Option<String>, StepError> {
    let request = bucket
        .client
        .get_object_tagging()
        .bucket(&bucket.name)
        .key(key);
    let response = request
        .set_expected_bucket_owner(bucket.owner.clone())
        .send()
        .await
        .map_err(s3_error)?;
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let tags: Vec<_> = response
        .tag_set
        .iter()
        .map(|tag| format!("{}={}", encoded(&tag.key), encoded(&tag.value)))
        .collect();
    Ok((!tags.is_empty()).then(|| tags.join("&")))
}
