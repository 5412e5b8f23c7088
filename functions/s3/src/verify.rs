//! Whether a copy is what it was copied from: asked before a move deletes its source.

use std::sync::Arc;

use crc_fast::CrcAlgorithm;
use stepward::{ErrorName, StepError};

use crate::body::{CHUNK, Checksum, blocking};
use crate::bucket::{Bucket, Head};
use crate::local::{OpenFile, Root};

/// The largest object that is read again, in bytes, where S3 has no checksum to compare: 1 GiB.
const READ_LIMIT: u64 = 1 << 30;

/// Whether an object is what the file is.
///
/// # Errors
/// `StepFailed` when it is not, or why one of them cannot be read.
pub async fn uploaded(file: &OpenFile, bucket: &Bucket, key: &str) -> Result<(), StepError> {
    let head = bucket.head(key).await?;
    same_size(file.stat.size, head.size)?;
    let there = match head.checksums.first() {
        Some(checksum) => *checksum,
        None => read_again(bucket, key, &head).await?,
    };
    let file = file.clone();
    let here = blocking(move || of_file(&file, there.algorithm)).await?;
    same(here, there)
}

/// Whether a file is what was received.
///
/// # Errors
/// `StepFailed` when it is not, or why it cannot be read.
pub async fn downloaded(root: &Arc<Root>, path: &str, received: Checksum) -> Result<(), StepError> {
    let (root, path) = (Arc::clone(root), path.to_owned());
    let written = blocking(move || of_file(&root.open_file(&path)?, received.algorithm)).await?;
    same(received, written)
}

/// Whether an object is what another one is; the entity tag of that other one.
///
/// # Errors
/// `StepFailed` when it is not, or when neither S3's checksums nor reading both can tell.
pub async fn copied((from, source): (&Bucket, &str), (to, key): (&Bucket, &str)) -> Result<Option<String>, StepError> {
    let (before, after) = futures_util::try_join!(from.head(source), to.head(key))?;
    same_size(before.size, after.size)?;
    let both = before.checksums.iter().find_map(|one| {
        let other = after.checksums.iter().find(|other| other.algorithm == one.algorithm)?;
        Some((*one, *other))
    });
    match both {
        Some((one, other)) => same(one, other)?,
        // Equal entity tags are equal content; different ones tell nothing.
        // https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
        None if before.etag.is_some() && before.etag == after.etag => {}
        None => {
            let (one, other) = futures_util::try_join!(read_again(from, source, &before), read_again(to, key, &after))?;
            same(one, other)?;
        }
    }
    Ok(before.etag)
}

fn same_size(one: u64, other: u64) -> Result<(), StepError> {
    if one == other {
        return Ok(());
    }
    Err(ErrorName::StepFailed
        .because(format!("the copy has {other} bytes and not {one}, so the source was kept; run the move again")))
}

fn same(one: Checksum, other: Checksum) -> Result<(), StepError> {
    if one == other {
        return Ok(());
    }
    Err(ErrorName::StepFailed.because(format!(
        "the copy's checksum is {} and the source's {}, so the source was kept; run the move again",
        other.text(),
        one.text()
    )))
}

async fn read_again(bucket: &Bucket, key: &str, head: &Head) -> Result<Checksum, StepError> {
    if head.size > READ_LIMIT {
        return Err(ErrorName::StepFailed.because(
            "the copy is complete, but S3 has no checksum that could verify an object of this size, so the source was \
             kept: compare them, then delete it with s3-delete",
        ));
    }
    let request = bucket.client.get_object().bucket(&bucket.name).key(key).set_if_match(head.etag.clone());
    let mut body = request.set_expected_bucket_owner(bucket.owner.clone()).send().await?.body;
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme);
    let mut bytes = 0;
    while let Some(piece) = body.next().await {
        let piece =
            piece.map_err(|error| ErrorName::TimedOut.because(format!("the copy cannot be read again: {error}")))?;
        digest.update(&piece);
        bytes += piece.len() as u64;
    }
    Ok(Checksum { algorithm: CrcAlgorithm::Crc64Nvme, value: digest.finalize(), bytes })
}

fn of_file(file: &OpenFile, algorithm: CrcAlgorithm) -> Result<Checksum, StepError> {
    let mut checksum = Checksum::empty(algorithm);
    while checksum.bytes < file.stat.size {
        let piece = file.piece(checksum.bytes, CHUNK.min(file.stat.size - checksum.bytes))?;
        checksum = checksum.then(Checksum::of(algorithm, &piece));
    }
    Ok(checksum)
}
