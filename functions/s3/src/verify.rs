//! Verifies a copy before a move deletes its source.

use std::sync::Arc;

use crc_fast::CrcAlgorithm;
use stepward::model::s3_error::s3_error;
use stepward::{ErrorName, StepError};

use crate::body::{CHUNK_BYTES, Checksum, run_blocking};
use crate::bucket::{Bucket, ObjectHead};
use crate::local::{OpenFile, Root};

/// The largest object that is read for verification if S3 has no checksum to compare, in bytes: 1
/// GiB.
const READ_LIMIT: u64 = 1 << 30;

/// How many bytes of a downloaded file [`verify_download`] reads at a time. Reading a large file
/// can take longer than one call of the step may last.
const MAX_BYTES_PER_VERIFICATION: u64 = 8 << 20;

/// Verifies an uploaded file against its object. Uses `sent`, the checksum of the sent bytes, if it
/// has the same algorithm as the object's checksum. Otherwise reads the file again.
///
/// # Errors
/// `StepFailed` if the object differs from the file. Also fails if the file or the object cannot be
/// read.
pub async fn verify_upload(
    file: &OpenFile,
    sent: Option<Checksum>,
    bucket: &Bucket,
    key: &str,
) -> Result<(), StepError> {
    let head = bucket.head_object(key).await?;
    check_same_size(file.stat.size, head.size)?;
    let uploaded = match head.checksums.first() {
        Some(checksum) => *checksum,
        None => read_object_checksum(bucket, key, &head).await?,
    };
    if let Some(sent) = sent.filter(|sent| sent.algorithm == uploaded.algorithm) {
        return check_same_checksum(sent, uploaded);
    }
    let file = file.clone();
    let (local, _) = run_blocking(move || {
        read_file_checksum(&file, Checksum::empty(uploaded.algorithm), u64::MAX)
    })
    .await?;
    check_same_checksum(local, uploaded)
}

/// Verifies a downloaded file in parts, one part each time. `verified` is the checksum of the parts
/// that were read before. Returns the checksum that includes this part, or `None` if this was the
/// last part and the file equals the received bytes.
///
/// # Errors
/// `StepFailed` if the file differs from the received bytes. Also fails if the file cannot be read.
pub async fn verify_download(
    root: &Arc<Root>,
    path: &str,
    received: Checksum,
    verified: Checksum,
) -> Result<Option<Checksum>, StepError> {
    let (root, path) = (Arc::clone(root), path.to_owned());
    let (verified, is_complete) = run_blocking(move || {
        read_file_checksum(
            &root.open_file(&path)?,
            verified,
            MAX_BYTES_PER_VERIFICATION,
        )
    })
    .await?;
    if is_complete {
        check_same_checksum(received, verified).map(|()| None)
    } else {
        Ok(Some(verified))
    }
}

/// Verifies a copy between buckets. Returns the entity tag of the source.
///
/// # Errors
/// `StepFailed` if the objects differ, or if they cannot be compared.
pub async fn verify_copy(
    (source_bucket, source_key): (&Bucket, &str),
    (bucket, key): (&Bucket, &str),
) -> Result<Option<String>, StepError> {
    let (source, copy) = futures_util::try_join!(
        source_bucket.head_object(source_key),
        bucket.head_object(key)
    )?;
    check_same_size(source.size, copy.size)?;
    let checksums = source.checksums.iter().find_map(|source_checksum| {
        let copy_checksum = copy
            .checksums
            .iter()
            .find(|checksum| checksum.algorithm == source_checksum.algorithm)?;
        Some((*source_checksum, *copy_checksum))
    });

    match checksums {
        Some((source_checksum, copy_checksum)) => {
            check_same_checksum(source_checksum, copy_checksum)?;
        }
        // Equal entity tags mean equal content; different ones mean nothing:
        // https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
        None if source.etag.is_some() && source.etag == copy.etag => {}
        None => {
            let (source_checksum, copy_checksum) = futures_util::try_join!(
                read_object_checksum(source_bucket, source_key, &source),
                read_object_checksum(bucket, key, &copy)
            )?;
            check_same_checksum(source_checksum, copy_checksum)?;
        }
    }

    Ok(source.etag)
}

fn check_same_size(source: u64, copy: u64) -> Result<(), StepError> {
    if source == copy {
        return Ok(());
    }
    Err(ErrorName::StepFailed.with_message(format!(
        "the copy has {copy} bytes and the source has {source}, so the source was kept; run the \
         move again"
    )))
}

fn check_same_checksum(source: Checksum, copy: Checksum) -> Result<(), StepError> {
    if source == copy {
        return Ok(());
    }
    Err(ErrorName::StepFailed.with_message(format!(
        "the copy has the checksum {} and the source has {}, so the source was kept; run the move \
         again",
        copy.to_base64(),
        source.to_base64()
    )))
}

async fn read_object_checksum(
    bucket: &Bucket,
    key: &str,
    head: &ObjectHead,
) -> Result<Checksum, StepError> {
    if head.size > READ_LIMIT {
        return Err(ErrorName::StepFailed.with_message(
            "the copy is complete, but S3 has no checksum to verify an object of more than 1 GiB, \
             so the source was kept; compare both, then delete the source with s3-delete",
        ));
    }

    let request = bucket
        .client
        .get_object()
        .bucket(&bucket.name)
        .key(key)
        .set_if_match(head.etag.clone());
    let mut body = request
        .set_expected_bucket_owner(bucket.owner.clone())
        .send()
        .await
        .map_err(s3_error)?
        .body;
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme);
    let mut bytes = 0;

    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| {
            ErrorName::TimedOut.with_message(format!(
                "the objects could not be read for verification: {error}; run the move again"
            ))
        })?;
        digest.update(&chunk);
        bytes += chunk.len() as u64;
    }

    Ok(Checksum {
        algorithm: CrcAlgorithm::Crc64Nvme,
        value: digest.finalize(),
        bytes,
    })
}

/// Extends a checksum by up to `max_bytes` more bytes of a file. Returns whether the file ended.
fn read_file_checksum(
    file: &OpenFile,
    mut checksum: Checksum,
    max_bytes: u64,
) -> Result<(Checksum, bool), StepError> {
    let size = file.stat.size;
    let end = size.min(checksum.bytes.saturating_add(max_bytes));
    while checksum.bytes < end {
        let bytes = file.read_range(checksum.bytes, CHUNK_BYTES.min(end - checksum.bytes))?;
        checksum = checksum.concat(Checksum::compute(checksum.algorithm, &bytes));
    }
    Ok((checksum, end == size))
}
