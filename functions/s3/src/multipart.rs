//! Multipart uploads: started, resumed, completed, and always aborted after a failure.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html>

mod abandoned;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use aws_sdk_s3::config::Config;
use aws_sdk_s3::operation::create_multipart_upload::CreateMultipartUploadError;
use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use crc_fast::CrcAlgorithm;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use stepward::model::s3_error::s3_error;
use stepward::runtime::retry_policy::RetryThrottlingOnly;
use stepward::{ErrorName, StepError};

use crate::body::Checksum;
use crate::bucket::{Attributes, Bucket, long_request_config};
use crate::call_budget::CallBudget;
use crate::retries::{MAX_ATTEMPTS, random_delay};
use crate::transfer::{PartialTransfer, StartedUpload, TransferProgress};

pub(crate) use self::abandoned::abort_if_exists;
use self::abandoned::abort_lost_uploads;
pub use self::abandoned::{
    abort_after_error, abort_lost_after_error, abort_upload, is_started_by, list_unfinished,
};

/// The size of a part. Objects of at least this size are transferred in parts. The AWS CLI has the
/// same defaults.
pub const PART_SIZE: u64 = 8 * 1024 * 1024;
/// The maximum number of parts of an object:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const MAX_PARTS: u64 = 10_000;
/// How many parts of one object are transferred at the same time.
pub const MAX_CONCURRENT_PARTS: usize = 8;

/// A multipart upload.
pub struct Upload<'a> {
    /// The bucket.
    pub bucket: &'a Bucket,
    /// The key of the object.
    pub key: &'a str,
    /// How the object is written.
    pub attributes: &'a Attributes,
    /// The size of the object, in bytes.
    pub size: u64,
    /// The size of each part except the last, in bytes.
    pub part_size: u64,
    /// The version of the source: a file's size, time and inode, or an object's entity tag.
    pub source_version: &'a str,
    /// The role session that uploads. Uploads that it started and lost are aborted.
    pub session_arn: Option<&'a str>,
    /// The time that the call may spend.
    pub budget: &'a CallBudget,
}

/// How far an upload got.
pub enum UploadOutcome {
    /// Complete, with the checksum of the sent bytes if every part has one.
    Complete(Option<Checksum>),
    /// Partial; another call continues it.
    Partial(StartedUpload),
}

impl UploadOutcome {
    /// The upload that another call continues.
    #[must_use]
    pub fn into_unfinished(self) -> Option<StartedUpload> {
        match self {
            Self::Complete(_) => None,
            Self::Partial(started) => Some(started),
        }
    }
}

/// A part to upload.
#[derive(Clone, Debug)]
pub struct UploadPart {
    /// S3's ID of the upload.
    pub upload_id: String,
    /// The part's number, from 1.
    pub number: i32,
    /// The position of its first byte.
    pub offset: u64,
    /// Its length, in bytes.
    pub length: u64,
}

/// The size of the parts of an object, so that S3's limit of 10,000 parts suffices.
#[must_use]
pub fn part_size(size: u64, min_part_size: u64) -> u64 {
    min_part_size.max(size.div_ceil(MAX_PARTS))
}

impl Upload<'_> {
    /// Uploads all missing parts. If the budget is spent first, another call can continue. After a
    /// failure nothing remains.
    ///
    /// # Errors
    /// The error of a part or of S3.
    pub async fn run<F: Future<Output = Result<CompletedPart, StepError>>>(
        &self,
        earlier: Option<StartedUpload>,
        progress: &TransferProgress,
        create: impl Future<Output = Result<CreateMultipartUploadFluentBuilder, StepError>>,
        upload_part: impl Fn(UploadPart) -> F,
    ) -> Result<UploadOutcome, StepError> {
        let (started, mut parts) = if let Some(resumed) = self.resume_upload(earlier).await? {
            resumed
        } else {
            let started = StartedUpload {
                upload_id: self.start_upload(&create.await?).await?,
                source_version: self.source_version.into(),
            };
            progress.record(Some(PartialTransfer::Upload(started.clone())));
            (started, BTreeMap::new())
        };

        let record_part = || progress.record(Some(PartialTransfer::Upload(started.clone())));
        let upload_id = started.upload_id.clone();
        let result = match self
            .upload_parts(&upload_id, &mut parts, record_part, upload_part)
            .await
        {
            Ok(false) => return Ok(UploadOutcome::Partial(started)),
            Ok(true) => self.complete_upload(&upload_id, parts).await,
            Err(error) => Err(error),
        };
        progress.record(None);
        match result {
            Ok(checksum) => Ok(UploadOutcome::Complete(checksum)),
            Err(error) => Err(abort_after_error(error, self.bucket, self.key, &upload_id).await),
        }
    }

    /// Starts the upload. If the response is lost, S3 may have started it, so each attempt first
    /// aborts the uploads that earlier attempts left.
    async fn start_upload(
        &self,
        request: &CreateMultipartUploadFluentBuilder,
    ) -> Result<String, StepError> {
        let mut attempts = 0;

        loop {
            abort_lost_uploads(self.bucket, self.key, self.session_arn).await?;
            attempts += 1;
            match self.create_upload(request.clone()).await {
                Err(error) if matches!(error.name, ErrorName::TimedOut | ErrorName::Internal) => {
                    if attempts == MAX_ATTEMPTS {
                        return Err(abort_lost_after_error(
                            error,
                            self.bucket,
                            self.key,
                            self.session_arn,
                        )
                        .await);
                    }
                    tokio::time::sleep(random_delay(Duration::from_secs(1 << attempts))).await;
                }
                result => return result,
            }
        }
    }

    async fn create_upload(
        &self,
        request: CreateMultipartUploadFluentBuilder,
    ) -> Result<String, StepError> {
        let without_retries = Config::builder()
            .retry_classifier(RetryThrottlingOnly::<CreateMultipartUploadError>::default());
        let request = request.bucket(&self.bucket.name).key(self.key);
        let request = request
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .checksum_type(ChecksumType::FullObject);
        let Attributes {
            storage_class,
            encryption,
            kms_key,
        } = self.attributes;
        let request = request
            .set_storage_class(storage_class.clone())
            .set_server_side_encryption(encryption.clone())
            .set_ssekms_key_id(kms_key.clone())
            .set_expected_bucket_owner(self.bucket.owner.clone());
        let response = request
            .customize()
            .config_override(without_retries)
            .send()
            .await
            .map_err(s3_error)?;
        response.upload_id.ok_or_else(|| {
            ErrorName::Internal
                .with_message("S3 started an upload and returned no ID; report this as a bug")
        })
    }

    /// The existing parts of an earlier call's upload; `None` if the upload cannot be used any
    /// more.
    async fn resume_upload(
        &self,
        earlier: Option<StartedUpload>,
    ) -> Result<Option<(StartedUpload, BTreeMap<i32, CompletedPart>)>, StepError> {
        let Some(started) = earlier else {
            return Ok(None);
        };
        if started.source_version != self.source_version {
            abort_upload(self.bucket, self.key, &started.upload_id).await?;
            return Ok(None);
        }

        let request = self
            .bucket
            .client
            .list_parts()
            .bucket(&self.bucket.name)
            .key(self.key)
            .upload_id(&started.upload_id);
        let request = request.set_expected_bucket_owner(self.bucket.owner.clone());
        let mut listed = request.into_paginator().items().send();
        let mut parts = BTreeMap::new();

        while let Some(part) = listed.next().await {
            let part = match part.map_err(s3_error) {
                Err(error) if error.has_code("NoSuchUpload") => return Ok(None),
                part => part?,
            };
            let number = part.part_number.unwrap_or_default();
            if part.size.map(i64::unsigned_abs) == Some(self.part_length(number)) {
                let completed = CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(part.e_tag);
                parts.insert(
                    number,
                    completed
                        .set_checksum_crc64_nvme(part.checksum_crc64_nvme)
                        .build(),
                );
            }
        }

        Ok(Some((started, parts)))
    }

    /// Uploads the missing parts. Returns whether all parts exist now.
    async fn upload_parts<F: Future<Output = Result<CompletedPart, StepError>>>(
        &self,
        upload_id: &str,
        parts: &mut BTreeMap<i32, CompletedPart>,
        record_part: impl Fn(),
        upload_part: impl Fn(UploadPart) -> F,
    ) -> Result<bool, StepError> {
        let count = i32::try_from(self.size.div_ceil(self.part_size)).map_err(|_| {
            ErrorName::Internal
                .with_message("the object needs more than 10,000 parts, which is S3's limit")
        })?;
        let mut missing = (1..=count)
            .filter(|number| !parts.contains_key(number))
            .collect::<Vec<_>>()
            .into_iter();
        let mut running = FuturesUnordered::new();

        loop {
            while running.len() < MAX_CONCURRENT_PARTS && !self.budget.is_spent() {
                let Some(number) = missing.next() else { break };
                let offset = u64::from(number.unsigned_abs() - 1) * self.part_size;
                running.push(upload_part(UploadPart {
                    upload_id: upload_id.into(),
                    number,
                    offset,
                    length: self.part_length(number),
                }));
            }
            let Some(completed) = running.next().await else {
                return Ok(missing.len() == 0);
            };
            let completed = match completed {
                // Wait for running parts; otherwise they would arrive after the abort.
                Err(error) => {
                    while running.next().await.is_some() {}
                    return Err(error);
                }
                completed => completed?,
            };
            parts.insert(completed.part_number.unwrap_or_default(), completed);
            record_part();
        }
    }

    fn part_length(&self, number: i32) -> u64 {
        let before =
            (u64::from(number.unsigned_abs()).saturating_sub(1)).saturating_mul(self.part_size);
        self.size.saturating_sub(before).min(self.part_size)
    }

    async fn complete_upload(
        &self,
        upload_id: &str,
        parts: BTreeMap<i32, CompletedPart>,
    ) -> Result<Option<Checksum>, StepError> {
        // If every part has a checksum, S3 gets the checksum of the whole object and refuses an
        // object that differs.
        let whole = parts.iter().try_fold(
            Checksum::empty(CrcAlgorithm::Crc64Nvme),
            |whole, (number, part)| {
                let text = part.checksum_crc64_nvme.as_deref()?;
                Some(whole.concat(Checksum::parse(
                    CrcAlgorithm::Crc64Nvme,
                    text,
                    self.part_length(*number),
                )?))
            },
        );
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.into_values().collect()))
            .build();
        let request = self
            .bucket
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket.name)
            .key(self.key);
        let request = request.upload_id(upload_id).multipart_upload(parts);
        let request = request.set_checksum_crc64_nvme(whole.map(|checksum| checksum.to_base64()));
        let request = request.set_checksum_type(whole.map(|_| ChecksumType::FullObject));
        let request = request.set_expected_bucket_owner(self.bucket.owner.clone());
        let Err(error) = request
            .customize()
            .config_override(long_request_config())
            .send()
            .await
            .map_err(s3_error)
        else {
            return Ok(whole);
        };

        // If a response was lost, the SDK's next attempt found no upload.
        let is_unclear = matches!(error.name, ErrorName::TimedOut | ErrorName::Internal)
            || error.has_code("NoSuchUpload");
        if is_unclear && self.was_completed(upload_id, whole).await {
            Ok(whole)
        } else {
            Err(error)
        }
    }

    /// Whether the upload was completed and its object exists.
    async fn was_completed(&self, upload_id: &str, whole: Option<Checksum>) -> bool {
        // An upload that can be aborted was not completed, so an existing object is an older one.
        let is_gone = matches!(
            abort_if_exists(self.bucket, self.key, upload_id).await,
            Ok(false)
        );
        is_gone
            && self
                .bucket
                .head_object(self.key)
                .await
                .is_ok_and(|head| whole.is_some_and(|checksum| head.checksums.contains(&checksum)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_suffice_for_every_object() {
        const GIB: u64 = 1 << 30;
        assert_eq!(part_size(1, PART_SIZE), PART_SIZE);
        assert_eq!(part_size(78 * GIB, PART_SIZE), PART_SIZE);
        for size in [79 * GIB, 5 << 40, 48 << 40] {
            assert!(size.div_ceil(part_size(size, PART_SIZE)) <= MAX_PARTS);
        }
    }
}
