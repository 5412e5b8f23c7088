//! From bucket to bucket: by S3 itself where it may, through here where it may not.

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

use super::begin::{Begin, Begun, Reached};
use super::download::{broken, changed, check};
use super::shared::Transfers;
use crate::body::Checksum;
use crate::bucket::{Bucket, Head, copy_source, patient};
use crate::listing::Entry;
use crate::multipart::{self, PART, Part, Uploaded};
use crate::tries::tried;
use crate::verify;

/// The largest object that S3 copies by one request, in bytes: 5 GiB.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html>
pub(super) const COPY_LIMIT: u64 = 5 << 30;
/// What [`Begun::of`] begins with where the parts go through here: the next call goes on in the
/// same way.
const HERE: &str = "here ";
/// Parts of a copy that S3 makes: large, because only requests travel.
const COPY_PART: u64 = 512 << 20;

impl Transfers<'_> {
    pub(super) async fn copy(
        &self,
        from: (&Bucket, &str),
        entry: &Entry,
        to: (&Bucket, &str),
        begun: Option<Begin>,
        reached: &Reached,
    ) -> Result<Option<Begin>, StepError> {
        let begun = begun.and_then(Begin::upload);
        let left = match self.by_s3(from, entry, to, begun.clone(), reached).await {
            Err(error) if error.name == ErrorName::AccessDenied && self.two_accounts => {
                if !self.relay.swap(true, Ordering::Relaxed) {
                    self.ctx.log("S3 may not copy between these two accounts by itself: the objects go through here");
                }
                Box::pin(self.through_here(from, entry, to, begun, reached)).await?
            }
            answer => answer?,
        };
        if left.is_none() && self.is_move {
            let etag = verify::copied(from, to).await?;
            self.remove_object(from.0, from.1, etag.or_else(|| entry.etag.clone()))
                .await?;
        }
        Ok(left.map(Begin::Upload))
    }

    async fn by_s3(
        &self,
        (from, source): (&Bucket, &str),
        entry: &Entry,
        (to, key): (&Bucket, &str),
        begun: Option<Begun>,
        reached: &Reached,
    ) -> Result<Option<Begun>, StepError> {
        let went_through_here = begun
            .as_ref()
            .is_some_and(|begun| begun.of.starts_with(HERE));
        if went_through_here || self.relay.load(Ordering::Relaxed) {
            return Err(ErrorName::AccessDenied
                .with_message("S3 may not copy between these two accounts by itself"));
        }
        if entry.size > COPY_LIMIT {
            return Box::pin(self.parts_by_s3((from, source), entry, (to, key), begun, reached))
                .await;
        }
        let request = to
            .client
            .copy_object()
            .bucket(&to.name)
            .key(key)
            .copy_source(copy_source(&from.name, source));
        let request = request
            .set_copy_source_if_match(entry.etag.clone())
            .set_storage_class(self.attributes.storage_class.clone())
            .set_server_side_encryption(self.attributes.encryption.clone())
            .set_ssekms_key_id(self.attributes.kms_key.clone())
            .set_expected_bucket_owner(to.owner.clone())
            .set_expected_source_bucket_owner(from.owner.clone());
        request
            .customize()
            .config_override(patient())
            .send()
            .await
            .map_err(changed)?;
        Ok(None)
    }

    async fn parts_by_s3(
        &self,
        (from, source): (&Bucket, &str),
        entry: &Entry,
        (to, key): (&Bucket, &str),
        begun: Option<Begun>,
        reached: &Reached,
    ) -> Result<Option<Begun>, StepError> {
        let head = from.head(source).await?;
        let (of, part_size) = (
            entry.etag.clone().unwrap_or_default(),
            multipart::part_size(head.size, COPY_PART),
        );
        let (upload, head) = (
            self.in_parts_to((to, key), head.size, part_size, &of),
            &head,
        );
        let part = |Part {
                        upload_id,
                        number,
                        at,
                        length,
                    }: Part| async move {
            let request = to
                .client
                .upload_part_copy()
                .bucket(&to.name)
                .key(key)
                .upload_id(upload_id);
            let request = request
                .part_number(number)
                .copy_source(copy_source(&from.name, source));
            let request = request.copy_source_range(format!("bytes={at}-{}", at + length - 1));
            let request = request
                .set_copy_source_if_match(entry.etag.clone())
                .set_expected_bucket_owner(to.owner.clone())
                .set_expected_source_bucket_owner(from.owner.clone());
            let answer = request
                .customize()
                .config_override(patient())
                .send()
                .await
                .map_err(changed)?;
            let result = answer.copy_part_result;
            let result = result.ok_or_else(|| {
                ErrorName::Internal.with_message("S3 copied a part and told nothing of it")
            })?;
            let completed = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(result.e_tag);
            Ok(completed
                .set_checksum_crc64_nvme(result.checksum_crc64_nvme)
                .build())
        };
        Box::pin(upload.run(begun, reached, self.like((from, source), head, to), part))
            .await
            .map(Uploaded::left)
    }

    async fn through_here(
        &self,
        (from, source): (&Bucket, &str),
        entry: &Entry,
        (to, key): (&Bucket, &str),
        begun: Option<Begun>,
        reached: &Reached,
    ) -> Result<Option<Begun>, StepError> {
        let head = from.head(source).await?;
        if entry.etag.is_some() && entry.etag != head.etag {
            return Err(ErrorName::Conflict
                .with_message("the object was changed while it was copied; run it again"));
        }
        if head.size < PART {
            let _room = self.room(head.size).await?;
            let bytes = fetched(from, source, &head, None).await?;
            let answer = &head.answer;
            let checksum = Checksum::of(CrcAlgorithm::Crc64Nvme, &bytes);
            let request = to
                .client
                .put_object()
                .bucket(&to.name)
                .key(key)
                .checksum_crc64_nvme(checksum.text());
            let request = request
                .body(ByteStream::from(bytes))
                .set_content_type(answer.content_type.clone())
                .set_content_encoding(answer.content_encoding.clone())
                .set_content_language(answer.content_language.clone())
                .set_content_disposition(answer.content_disposition.clone())
                .set_cache_control(answer.cache_control.clone())
                .set_expires(expires(answer))
                .set_metadata(answer.metadata.clone())
                .set_tagging(tags(from, source).await?)
                .set_storage_class(self.attributes.storage_class.clone())
                .set_server_side_encryption(self.attributes.encryption.clone())
                .set_ssekms_key_id(self.attributes.kms_key.clone())
                .set_expected_bucket_owner(to.owner.clone());
            request
                .customize()
                .disable_payload_signing()
                .send()
                .await
                .map_err(s3_error)?;
            return Ok(None);
        }
        let of = format!("{HERE}{}", head.etag.as_deref().unwrap_or_default());
        let part_size = multipart::part_size(head.size, PART);
        let (upload, head) = (
            self.in_parts_to((to, key), head.size, part_size, &of),
            &head,
        );
        let part = |Part {
                        upload_id,
                        number,
                        at,
                        length,
                    }: Part| async move {
            let _room = self.room(length).await?;
            let bytes = fetched(from, source, head, Some((at, length))).await?;
            let checksum = Checksum::of(CrcAlgorithm::Crc64Nvme, &bytes);
            let request = to
                .client
                .upload_part()
                .bucket(&to.name)
                .key(key)
                .upload_id(upload_id)
                .part_number(number);
            let request = request
                .checksum_crc64_nvme(checksum.text())
                .body(ByteStream::from(bytes));
            let request = request.set_expected_bucket_owner(to.owner.clone());
            let answer = request
                .customize()
                .disable_payload_signing()
                .send()
                .await
                .map_err(s3_error)?;
            let completed = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(answer.e_tag);
            Ok(completed.checksum_crc64_nvme(checksum.text()).build())
        };
        Box::pin(upload.run(begun, reached, self.like((from, source), head, to), part))
            .await
            .map(Uploaded::left)
    }

    /// The beginning of an upload that makes an object like another one: what S3 copies by itself
    /// only for one request.
    async fn like(
        &self,
        (from, source): (&Bucket, &str),
        head: &Head,
        to: &Bucket,
    ) -> Result<CreateMultipartUploadFluentBuilder, StepError> {
        let answer = &head.answer;
        let request = to
            .client
            .create_multipart_upload()
            .set_content_type(answer.content_type.clone());
        Ok(request
            .set_content_encoding(answer.content_encoding.clone())
            .set_content_language(answer.content_language.clone())
            .set_content_disposition(answer.content_disposition.clone())
            .set_cache_control(answer.cache_control.clone())
            .set_expires(expires(answer))
            .set_metadata(answer.metadata.clone())
            .set_tagging(tags(from, source).await?))
    }
}

/// An object's bytes, or some of them, held in memory.
async fn fetched(
    from: &Bucket,
    key: &str,
    head: &Head,
    range: Option<(u64, u64)>,
) -> Result<Bytes, StepError> {
    tried(|| async {
        let request = from
            .client
            .get_object()
            .bucket(&from.name)
            .key(key)
            .set_if_match(head.etag.clone());
        let request =
            request.set_range(range.map(|(at, length)| format!("bytes={at}-{}", at + length - 1)));
        let request = request.set_checksum_mode(range.is_none().then_some(ChecksumMode::Enabled));
        let answer = request
            .set_expected_bucket_owner(from.owner.clone())
            .send()
            .await
            .map_err(changed)?;
        let bytes = answer
            .body
            .collect()
            .await
            .map_err(|error| broken(&error))?
            .into_bytes();
        check(
            bytes.len() as u64,
            range.map_or(head.size, |(_, length)| length),
        )?;
        Ok(bytes)
    })
    .await
}

/// When an object is no longer to be cached, if it says so as HTTP has it.
fn expires(answer: &HeadObjectOutput) -> Option<DateTime> {
    DateTime::from_str(answer.expires_string.as_deref()?, DateTimeFormat::HttpDate).ok()
}

/// An object's tags, as a request to write takes them.
async fn tags(bucket: &Bucket, key: &str) -> Result<Option<String>, StepError> {
    let request = bucket
        .client
        .get_object_tagging()
        .bucket(&bucket.name)
        .key(key);
    let answer = request
        .set_expected_bucket_owner(bucket.owner.clone())
        .send()
        .await
        .map_err(s3_error)?;
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let tags: Vec<_> = answer
        .tag_set
        .iter()
        .map(|tag| format!("{}={}", encoded(&tag.key), encoded(&tag.value)))
        .collect();
    Ok((!tags.is_empty()).then(|| tags.join("&")))
}
