//! Downloads an object to a file, which gets its name only when it is complete.

use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::types::ChecksumMode;
use crc_fast::CrcAlgorithm;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use stepward::model::s3_error::s3_error;
use stepward::{ErrorName, StepError};

use super::context::TransferContext;
use super::partial::{PartialDownload, PartialTransfer, TransferProgress};
use super::receive::{
    changed_object_error, check_length, interrupted_error, scratch_file_name, write_at, write_body,
};
use crate::body::{CHUNK_BYTES, Checksum, run_blocking};
use crate::bucket::{Bucket, ObjectHead};
use crate::listing::Entry;
use crate::local::{Root, Scratch};
use crate::multipart::{MAX_CONCURRENT_PARTS, PART_SIZE};
use crate::retries::retry_interrupted;
use crate::verify;

impl TransferContext<'_> {
    /// Downloads an object and, for a move, verifies the file and deletes the object.
    pub(super) async fn download_object(
        &self,
        (bucket, key): (&Bucket, &str),
        entry: &Entry,
        (root, path): (&Arc<Root>, &str),
        partial: Option<PartialTransfer>,
        progress: &TransferProgress,
    ) -> Result<Option<PartialTransfer>, StepError> {
        let scratch = self.scratch.as_ref().ok_or_else(|| {
            ErrorName::Internal
                .with_message("a download has no scratch directory; report this as a bug")
        })?;
        let name = scratch_file_name(key);
        let partial = match partial {
            Some(PartialTransfer::Download(partial)) => Some(partial),
            _ => None,
        };
        let received = if entry.size <= PART_SIZE && partial.is_none() {
            self.download_whole((bucket, key), scratch, &name, path)
                .await
                .map(|(etag, checksum)| (etag, checksum, None))
        } else {
            match self
                .download_parts((bucket, key), scratch, &name, partial, path, progress)
                .await
            {
                Ok(DownloadOutcome::Incomplete(partial)) => {
                    return Ok(Some(PartialTransfer::Download(partial)));
                }
                Ok(DownloadOutcome::Complete(received)) => Ok(received),
                Err(error) => Err(error),
            }
        };
        let (etag, checksum, verified) = match received {
            Ok(received) => received,
            // The unfinished file is needed to find out whether an earlier call moved the source.
            // It is removed at the end.
            Err(error) if error.name == ErrorName::NotFound => return Err(error),
            Err(error) => {
                // If this fails, the whole directory is removed at the end.
                let (scratch, name) = (Arc::clone(scratch), name.clone());
                let _ = run_blocking(move || scratch.discard_file(&name)).await;
                return Err(error);
            }
        };

        if self.is_move {
            let mut verified = verified.unwrap_or(Checksum::empty(checksum.algorithm));
            while let Some(longer) = verify::verify_download(root, path, checksum, verified).await?
            {
                verified = longer;
                let partial = PartialTransfer::Download(PartialDownload {
                    verified: Some((verified.bytes, verified.to_base64())),
                    ..PartialDownload::new(etag.as_ref(), checksum)
                });
                if self.budget.is_spent() {
                    return Ok(Some(partial));
                }
                progress.record(Some(partial));
            }
            progress.record(None);
            self.delete_moved_source(bucket, key, etag).await?;
        }

        Ok(None)
    }

    /// Downloads with one request. The SDK compares the checksum, if S3 has one.
    async fn download_whole(
        &self,
        (bucket, key): (&Bucket, &str),
        scratch: &Arc<Scratch>,
        name: &str,
        path: &str,
    ) -> Result<(Option<String>, Checksum), StepError> {
        retry_interrupted(|| async {
            let request = bucket
                .client
                .get_object()
                .bucket(&bucket.name)
                .key(key)
                .checksum_mode(ChecksumMode::Enabled);
            let response = request
                .set_expected_bucket_owner(bucket.owner.clone())
                .send()
                .await
                .map_err(s3_error)?;
            let (size, etag) = (
                response.content_length.unwrap_or_default().unsigned_abs(),
                response.e_tag,
            );
            let modified = response
                .last_modified
                .and_then(|time| SystemTime::try_from(time).ok());
            let modified = modified.ok_or_else(|| {
                ErrorName::Internal.with_message(
                    "S3 returned an object without a modification time; report this as a bug",
                )
            })?;
            let (scratch_dir, name, path, durable) = (
                Arc::clone(scratch),
                name.to_owned(),
                path.to_owned(),
                self.is_move,
            );
            if size <= CHUNK_BYTES {
                let bytes = response
                    .body
                    .collect()
                    .await
                    .map_err(|error| interrupted_error(&error))?
                    .into_bytes();
                check_length(bytes.len() as u64, size)?;
                return run_blocking(move || {
                    let file = scratch_dir.create_file(&name)?;
                    write_at(&file, &bytes, 0)?;
                    scratch_dir.publish_file(&name, &path, modified, durable)?;
                    Ok((etag, Checksum::compute(CrcAlgorithm::Crc64Nvme, &bytes)))
                })
                .await;
            }
            let (creating_scratch, file_name) = (Arc::clone(scratch), name.clone());
            let file =
                Arc::new(run_blocking(move || creating_scratch.create_file(&file_name)).await?);
            let checksum =
                write_body(response.body, &file, 0, size, CrcAlgorithm::Crc64Nvme).await?;
            run_blocking(move || scratch_dir.publish_file(&name, &path, modified, durable)).await?;
            Ok((etag, checksum))
        })
        .await
    }

    /// Downloads with one request per part, all of the same version of the object.
    async fn download_parts(
        &self,
        (bucket, key): (&Bucket, &str),
        scratch: &Arc<Scratch>,
        name: &str,
        partial: Option<PartialDownload>,
        path: &str,
        progress: &TransferProgress,
    ) -> Result<DownloadOutcome, StepError> {
        let head = bucket.head_object(key).await?;
        let expected = head.checksums.first().copied();
        let algorithm = expected.map_or(CrcAlgorithm::Crc64Nvme, |checksum| checksum.algorithm);
        let (scratch_dir, file_name) = (Arc::clone(scratch), name.to_owned());
        let partial = partial.filter(|partial| partial.etag == head.etag);
        let parse = |text: &str, bytes| Checksum::parse(algorithm, text, bytes);
        let earlier = partial
            .as_ref()
            .and_then(|partial| parse(&partial.checksum, partial.bytes));
        let verified = partial
            .and_then(|partial| partial.verified)
            .and_then(|(bytes, text)| parse(&text, bytes));
        if let (Some(received), Some(verified)) = (earlier, verified) {
            return Ok(DownloadOutcome::Complete((
                head.etag,
                received,
                Some(verified),
            )));
        }

        let has_earlier_bytes = earlier.is_some();
        let (file, is_continued) = run_blocking(move || {
            let existing = if has_earlier_bytes {
                scratch_dir.reopen_file(&file_name)?
            } else {
                None
            };
            match existing {
                Some(file) => Ok((file, true)),
                None => Ok((scratch_dir.create_file(&file_name)?, false)),
            }
        })
        .await?;
        let mut received = earlier
            .filter(|_| is_continued)
            .unwrap_or(Checksum::empty(algorithm));
        let file = Arc::new(file);

        // In order, so that the received bytes are always the start of the object.
        let mut running = FuturesOrdered::new();
        let mut next = received.bytes;

        loop {
            while running.len() < MAX_CONCURRENT_PARTS
                && next < head.size
                && !self.budget.is_spent()
            {
                let (offset, length) = (next, PART_SIZE.min(head.size - next));
                running.push_back(download_part(
                    (bucket, key),
                    &head,
                    &file,
                    offset,
                    length,
                    algorithm,
                ));
                next += length;
            }
            let Some(part) = running.next().await else {
                break;
            };
            received = received.concat(part?);
            progress.record(Some(PartialTransfer::Download(PartialDownload::new(
                head.etag.as_ref(),
                received,
            ))));
        }
        if received.bytes < head.size {
            return Ok(DownloadOutcome::Incomplete(PartialDownload::new(
                head.etag.as_ref(),
                received,
            )));
        }
        progress.record(None);

        if expected.is_some_and(|expected| expected != received) {
            return Err(ErrorName::StepFailed.with_message(format!(
                "the received bytes have the checksum {}, but S3 has {}; run the step again",
                received.to_base64(),
                expected
                    .map(|expected| expected.to_base64())
                    .unwrap_or_default()
            )));
        }

        let (scratch_dir, name, path, durable) = (
            Arc::clone(scratch),
            name.to_owned(),
            path.to_owned(),
            self.is_move,
        );
        run_blocking(move || scratch_dir.publish_file(&name, &path, head.modified, durable))
            .await?;
        Ok(DownloadOutcome::Complete((
            head.etag.clone(),
            received,
            None,
        )))
    }

    /// Deletes the source of a move, if it is still the version that was moved.
    pub(super) async fn delete_moved_source(
        &self,
        bucket: &Bucket,
        key: &str,
        etag: Option<String>,
    ) -> Result<(), StepError> {
        let request = bucket
            .client
            .delete_object()
            .bucket(&bucket.name)
            .key(key)
            .set_if_match(etag);
        match request
            .set_expected_bucket_owner(bucket.owner.clone())
            .send()
            .await
            .map_err(s3_error)
        {
            Err(error) if error.has_code("PreconditionFailed") => Err(StepError {
                message:
                    "the source changed after it was copied, so it was kept; run the move again"
                        .into(),
                ..error
            }),
            Err(error) if error.name == ErrorName::NotFound => Ok(()),
            result => result.map(drop),
        }
    }
}

/// The result of a download in parts.
enum DownloadOutcome {
    /// The object's entity tag, the checksum of the received bytes, and that of the bytes already
    /// verified.
    Complete((Option<String>, Checksum, Option<Checksum>)),
    Incomplete(PartialDownload),
}

/// Downloads a part to its position in the file, and returns its checksum.
async fn download_part(
    (bucket, key): (&Bucket, &str),
    head: &ObjectHead,
    file: &Arc<File>,
    offset: u64,
    length: u64,
    algorithm: CrcAlgorithm,
) -> Result<Checksum, StepError> {
    retry_interrupted(|| async {
        let request = bucket
            .client
            .get_object()
            .bucket(&bucket.name)
            .key(key)
            .set_if_match(head.etag.clone());
        let request = request.range(format!("bytes={offset}-{}", offset + length - 1));
        let response = request
            .set_expected_bucket_owner(bucket.owner.clone())
            .send()
            .await;
        let response = response.map_err(changed_object_error)?;
        write_body(response.body, file, offset, length, algorithm).await
    })
    .await
}
