//! Whether a copy is what it was copied from: asked before a move deletes its source.

use std::sync::Arc;

use crc_fast::CrcAlgorithm;
use stepward::model::s3_error::s3_error;
use stepward::{ErrorName, StepError};

use crate::body::{CHUNK, Checksum, blocking};
use crate::bucket::{Bucket, Head};
use crate::local::{OpenFile, Root};

/// The largest object that is read again, in bytes, where S3 has no checksum to compare: 1 GiB.
const READ_LIMIT: u64 = 1 << 30;

/// Bytes of a file that are read again at a time: a large one takes longer than a call.
const STRETCH: u64 = 8 << 20;

/// Whether an object is what the file is: by the checksum of what was sent of it, where that is
/// known, else by reading it again.
///
/// # Errors
/// `StepFailed` when it is not, or why one of them cannot be read.
pub async fn uploaded(
    file: &OpenFile,
    sent: Option<Checksum>,
    bucket: &Bucket,
    key: &str,
) -> Result<(), StepError> {
    let head = bucket.head(key).await?;
    same_size(file.stat.size, head.size)?;
    let there = match head.checksums.first() {
        Some(checksum) => *checksum,
        None => read_again(bucket, key, &head).await?,
    };
    if let Some(sent) = sent.filter(|sent| sent.algorithm == there.algorithm) {
        return same(sent, there);
    }
    let file = file.clone();
    let (here, _) =
        blocking(move || read_on(&file, Checksum::empty(there.algorithm), u64::MAX)).await?;
    same(here, there)
}

/// Whether a file is what was received, as far as one stretch tells behind what was read of it
/// before; `None` once that is all of it.
///
/// # Errors
/// `StepFailed` when it is not, or why it cannot be read.
pub async fn downloaded(
    root: &Arc<Root>,
    path: &str,
    received: Checksum,
    read: Checksum,
) -> Result<Option<Checksum>, StepError> {
    let (root, path) = (Arc::clone(root), path.to_owned());
    let (read, is_over) = blocking(move || read_on(&root.open_file(&path)?, read, STRETCH)).await?;
    if is_over {
        same(received, read).map(|()| None)
    } else {
        Ok(Some(read))
    }
}

/// Whether an object is what another one is; the entity tag of that other one.
///
/// # Errors
/// `StepFailed` when it is not, or when neither S3's checksums nor reading both can tell.
pub async fn copied(
    (from, source): (&Bucket, &str),
    (to, key): (&Bucket, &str),
) -> Result<Option<String>, StepError> {
    let (before, after) = futures_util::try_join!(from.head(source), to.head(key))?;
    same_size(before.size, after.size)?;
    let both = before.checksums.iter().find_map(|one| {
        let other = after
            .checksums
            .iter()
            .find(|other| other.algorithm == one.algorithm)?;
        Some((*one, *other))
    });
    match both {
        Some((one, other)) => same(one, other)?,
        // Equal entity tags are equal content; different ones tell nothing.
        // https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
        None if before.etag.is_some() && before.etag == after.etag => {}
        None => {
            let (one, other) = futures_util::try_join!(
                read_again(from, source, &before),
                read_again(to, key, &after)
            )?;
            same(one, other)?;
        }
    }
    Ok(before.etag)
}

fn same_size(one: u64, other: u64) -> Result<(), StepError> {
    if one == other {
        return Ok(());
    }
    Err(ErrorName::StepFailed.with_message(format!(
        "the copy has {other} bytes and not {one}, so the source was kept; run the move again"
    )))
}

fn same(one: Checksum, other: Checksum) -> Result<(), StepError> {
    if one == other {
        return Ok(());
    }
    Err(ErrorName::StepFailed.with_message(format!(
        "the copy's checksum is {} and the source's {}, so the source was kept; run the move again",
        other.text(),
        one.text()
    )))
}

async fn read_again(bucket: &Bucket, key: &str, head: &Head) -> Result<Checksum, StepError> {
    if head.size > READ_LIMIT {
        return Err(ErrorName::StepFailed.with_message(
            "the copy is complete, but S3 has no checksum that could verify an object of this size, so the source was \
             kept: compare them, then delete it with s3-delete",
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
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| {
            ErrorName::TimedOut.with_message(format!("the copy cannot be read again: {error}"))
        })?;
        digest.update(&piece);
        bytes += piece.len() as u64;
    }
    Ok(Checksum {
        algorithm: CrcAlgorithm::Crc64Nvme,
        value: digest.finalize(),
        bytes,
    })
}

/// Reads some of a file behind what was read of it already; whether that was the rest.
fn read_on(file: &OpenFile, mut read: Checksum, most: u64) -> Result<(Checksum, bool), StepError> {
    let size = file.stat.size;
    let end = size.min(read.bytes.saturating_add(most));
    while read.bytes < end {
        let piece = file.piece(read.bytes, CHUNK.min(end - read.bytes))?;
        read = read.then(Checksum::of(read.algorithm, &piece));
    }
    Ok((read, end == size))
}
