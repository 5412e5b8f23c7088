//! Multipart uploads: begun, resumed, finished, and never left behind.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html>

mod left;

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
use stepward::runtime::resend::RetryThrottlingOnly;
use stepward::{ErrorName, StepError};

use crate::body::Checksum;
use crate::bucket::{Attributes, Bucket, patient};
use crate::slice::Slice;
use crate::transfer::{Begin, Begun, Reached};
use crate::tries::{TRIES, jitter};

use self::left::abort_lost;
pub(crate) use self::left::aborted;
pub use self::left::{abort, abort_after, abort_lost_after, is_of, unfinished};

/// Size above which an object is moved in parts, and of a part: the AWS CLI's.
pub const PART: u64 = 8 * 1024 * 1024;
/// Parts that an object can have.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const PARTS: u64 = 10_000;
/// Parts of one object that are on their way at once.
pub const AT_ONCE: usize = 8;

/// What a multipart upload is to make.
pub struct Upload<'a> {
    /// Where.
    pub bucket: &'a Bucket,
    /// As what.
    pub key: &'a str,
    /// How it is written.
    pub attributes: &'a Attributes,
    /// Bytes of the whole.
    pub size: u64,
    /// Bytes of a part, but for the last.
    pub part_size: u64,
    /// What it is of: the source's size and time, or its entity tag.
    pub of: &'a str,
    /// The role session that uploads: what it has begun and lost is aborted.
    pub session_arn: Option<&'a str>,
    /// When to stop for now.
    pub slice: &'a Slice,
}

/// What has come of it.
pub enum Uploaded {
    /// All of it, with the checksum of what was sent, where every part has one.
    All(Option<Checksum>),
    /// What another call goes on with.
    Partly(Begun),
}

impl Uploaded {
    /// What another call goes on with.
    #[must_use]
    pub fn left(self) -> Option<Begun> {
        match self {
            Self::All(_) => None,
            Self::Partly(begun) => Some(begun),
        }
    }
}

/// A part that is to be uploaded.
#[derive(Clone, Debug)]
pub struct Part {
    /// S3's ID of the upload.
    pub upload_id: String,
    /// Its number, from 1.
    pub number: i32,
    /// Where it begins.
    pub at: u64,
    /// Its bytes.
    pub length: u64,
}

/// How big parts must be for an object of this size.
#[must_use]
pub fn part_size(size: u64, at_least: u64) -> u64 {
    at_least.max(size.div_ceil(PARTS))
}

impl Upload<'_> {
    /// Uploads all parts that are not there yet. Not over in time, it answers what to go on with;
    /// after a failure it leaves nothing behind.
    ///
    /// # Errors
    /// What a part, or S3, failed with.
    pub async fn run<F: Future<Output = Result<CompletedPart, StepError>>>(
        &self,
        begun: Option<Begun>,
        reached: &Reached,
        create: impl Future<Output = Result<CreateMultipartUploadFluentBuilder, StepError>>,
        part: impl Fn(Part) -> F,
    ) -> Result<Uploaded, StepError> {
        let (begun, mut done) = if let Some(resumed) = self.resumed(begun).await? {
            resumed
        } else {
            let begun = Begun {
                upload_id: self.begin(&create.await?).await?,
                of: self.of.into(),
            };
            reached.note(Some(Begin::Upload(begun.clone())));
            (begun, BTreeMap::new())
        };
        let further = || reached.note(Some(Begin::Upload(begun.clone())));
        let upload_id = begun.upload_id.clone();
        let worked = match self.parts(&upload_id, &mut done, further, part).await {
            Ok(false) => return Ok(Uploaded::Partly(begun)),
            Ok(true) => self.complete(&upload_id, done).await,
            Err(error) => Err(error),
        };
        reached.note(None);
        match worked {
            Ok(whole) => Ok(Uploaded::All(whole)),
            Err(error) => Err(abort_after(error, self.bucket, self.key, &upload_id).await),
        }
    }

    /// Begins the upload. When the answer is lost it may have begun all the same, so it is never
    /// asked for twice without a look for what is there.
    async fn begin(
        &self,
        request: &CreateMultipartUploadFluentBuilder,
    ) -> Result<String, StepError> {
        let mut tries = 0;
        loop {
            abort_lost(self.bucket, self.key, self.session_arn).await?;
            tries += 1;
            match self.create(request.clone()).await {
                Err(error) if matches!(error.name, ErrorName::TimedOut | ErrorName::Internal) => {
                    if tries == TRIES {
                        return Err(abort_lost_after(
                            error,
                            self.bucket,
                            self.key,
                            self.session_arn,
                        )
                        .await);
                    }
                    tokio::time::sleep(jitter(Duration::from_secs(1 << tries))).await;
                }
                answer => return answer,
            }
        }
    }

    async fn create(
        &self,
        request: CreateMultipartUploadFluentBuilder,
    ) -> Result<String, StepError> {
        let once = Config::builder()
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
        let answer = request
            .customize()
            .config_override(once)
            .send()
            .await
            .map_err(s3_error)?;
        answer
            .upload_id
            .ok_or_else(|| ErrorName::Internal.with_message("S3 began an upload and gave it no ID"))
    }

    /// The parts that an upload of an earlier call has; `None` where it is of no use any more.
    async fn resumed(
        &self,
        begun: Option<Begun>,
    ) -> Result<Option<(Begun, BTreeMap<i32, CompletedPart>)>, StepError> {
        let Some(Begun { upload_id, of }) = begun else {
            return Ok(None);
        };
        if of != self.of {
            abort(self.bucket, self.key, &upload_id).await?;
            return Ok(None);
        }
        let request = self
            .bucket
            .client
            .list_parts()
            .bucket(&self.bucket.name)
            .key(self.key)
            .upload_id(&upload_id);
        let request = request.set_expected_bucket_owner(self.bucket.owner.clone());
        let mut parts = request.into_paginator().items().send();
        let mut done = BTreeMap::new();
        while let Some(part) = parts.next().await {
            let part = match part.map_err(s3_error) {
                Err(error) if error.has_code("NoSuchUpload") => return Ok(None),
                part => part?,
            };
            let number = part.part_number.unwrap_or_default();
            if part.size.map(i64::unsigned_abs) == Some(self.length(number)) {
                let completed = CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(part.e_tag);
                done.insert(
                    number,
                    completed
                        .set_checksum_crc64_nvme(part.checksum_crc64_nvme)
                        .build(),
                );
            }
        }
        Ok(Some((Begun { upload_id, of }, done)))
    }

    /// Whether all parts are there now.
    async fn parts<F: Future<Output = Result<CompletedPart, StepError>>>(
        &self,
        upload_id: &str,
        done: &mut BTreeMap<i32, CompletedPart>,
        further: impl Fn(),
        part: impl Fn(Part) -> F,
    ) -> Result<bool, StepError> {
        let count = i32::try_from(self.size.div_ceil(self.part_size)).map_err(|_| {
            ErrorName::Internal.with_message("more parts than there are numbers for")
        })?;
        let mut missing = (1..=count)
            .filter(|number| !done.contains_key(number))
            .collect::<Vec<_>>()
            .into_iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < AT_ONCE && !self.slice.is_over() {
                let Some(number) = missing.next() else { break };
                let at = u64::from(number.unsigned_abs() - 1) * self.part_size;
                running.push(part(Part {
                    upload_id: upload_id.into(),
                    number,
                    at,
                    length: self.length(number),
                }));
            }
            let Some(completed) = running.next().await else {
                return Ok(missing.len() == 0);
            };
            let completed = match completed {
                // Parts that are on their way would come after the upload is aborted.
                Err(error) => {
                    while running.next().await.is_some() {}
                    return Err(error);
                }
                completed => completed?,
            };
            done.insert(completed.part_number.unwrap_or_default(), completed);
            further();
        }
    }

    fn length(&self, number: i32) -> u64 {
        let before =
            (u64::from(number.unsigned_abs()).saturating_sub(1)).saturating_mul(self.part_size);
        self.size.saturating_sub(before).min(self.part_size)
    }

    async fn complete(
        &self,
        upload_id: &str,
        done: BTreeMap<i32, CompletedPart>,
    ) -> Result<Option<Checksum>, StepError> {
        // Where every part has a checksum, S3 is told that of the whole and refuses what does not
        // fit.
        let whole = done.iter().try_fold(
            Checksum::empty(CrcAlgorithm::Crc64Nvme),
            |whole, (number, part)| {
                let text = part.checksum_crc64_nvme.as_deref()?;
                Some(whole.then(Checksum::parse(
                    CrcAlgorithm::Crc64Nvme,
                    text,
                    self.length(*number),
                )?))
            },
        );
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(done.into_values().collect()))
            .build();
        let request = self
            .bucket
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket.name)
            .key(self.key);
        let request = request.upload_id(upload_id).multipart_upload(parts);
        let request = request.set_checksum_crc64_nvme(whole.map(|whole| whole.text()));
        let request = request.set_checksum_type(whole.map(|_| ChecksumType::FullObject));
        let request = request.set_expected_bucket_owner(self.bucket.owner.clone());
        let Err(error) = request
            .customize()
            .config_override(patient())
            .send()
            .await
            .map_err(s3_error)
        else {
            return Ok(whole);
        };
        // The answer may have been lost, and another try have found no upload any more.
        let is_unclear = matches!(error.name, ErrorName::TimedOut | ErrorName::Internal)
            || error.has_code("NoSuchUpload");
        if is_unclear && self.is_complete(upload_id, whole).await {
            Ok(whole)
        } else {
            Err(error)
        }
    }

    /// Whether the upload is over, and its object there.
    async fn is_complete(&self, upload_id: &str, whole: Option<Checksum>) -> bool {
        // What can be aborted has not been completed: the object is an older one then.
        let is_over = matches!(aborted(self.bucket, self.key, upload_id).await, Ok(false));
        is_over
            && self
                .bucket
                .head(self.key)
                .await
                .is_ok_and(|head| whole.is_some_and(|sum| head.checksums.contains(&sum)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_with_the_object_so_that_ten_thousand_are_enough() {
        const GIB: u64 = 1 << 30;
        assert_eq!(part_size(1, PART), PART);
        assert_eq!(part_size(78 * GIB, PART), PART);
        for size in [79 * GIB, 5 << 40, 48 << 40] {
            assert!(size.div_ceil(part_size(size, PART)) <= PARTS);
        }
    }
}
