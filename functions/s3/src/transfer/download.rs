//! From an object to a file, which has its name only once it is whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;
use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use stepward::model::digest::sha256;
use stepward::model::s3_error::s3_error;
use stepward::{AwsError, ErrorName, StepError};

use super::begin::{Begin, Partial, Reached};
use super::shared::Transfers;
use crate::body::{CHUNK, Checksum, blocking};
use crate::bucket::{Bucket, Head};
use crate::listing::Entry;
use crate::local::{Root, Scratch};
use crate::multipart::{AT_ONCE, PART};
use crate::tries::tried;
use crate::verify;

impl Transfers<'_> {
    pub(super) async fn download(
        &self,
        (bucket, key): (&Bucket, &str),
        entry: &Entry,
        (root, path): (&Arc<Root>, &str),
        begun: Option<Begin>,
        reached: &Reached,
    ) -> Result<Option<Begin>, StepError> {
        let scratch = self
            .scratch
            .as_ref()
            .ok_or_else(|| ErrorName::Internal.with_message("no place for unfinished files"))?;
        let name = scratch_name(key);
        let partial = match begun {
            Some(Begin::Download(partial)) => Some(partial),
            _ => None,
        };
        let received = if entry.size <= PART && partial.is_none() {
            self.whole((bucket, key), scratch, &name, path)
                .await
                .map(|(etag, checksum)| (etag, checksum, None))
        } else {
            match self
                .in_parts((bucket, key), scratch, &name, partial, path, reached)
                .await
            {
                Ok(Received::Partly(partial)) => return Ok(Some(Begin::Download(partial))),
                Ok(Received::All(received)) => Ok(received),
                Err(error) => Err(error),
            }
        };
        let (etag, checksum, read) = match received {
            Ok(received) => received,
            // What is there of a source that is gone tells whether it was moved; it goes at the
            // end.
            Err(error) if error.name == ErrorName::NotFound => return Err(error),
            Err(error) => {
                // Where even that fails, the whole directory goes at the end.
                let (scratch, name) = (Arc::clone(scratch), name.clone());
                let _ = blocking(move || scratch.discard(&name)).await;
                return Err(error);
            }
        };
        if self.is_move {
            let mut read = read.unwrap_or(Checksum::empty(checksum.algorithm));
            while let Some(further) = verify::downloaded(root, path, checksum, read).await? {
                read = further;
                let again = Some((read.bytes, read.text()));
                let left = Begin::Download(Partial {
                    read: again,
                    ..Partial::of(etag.as_ref(), checksum)
                });
                if self.slice.is_over() {
                    return Ok(Some(left));
                }
                reached.note(Some(left));
            }
            reached.note(None);
            self.remove_object(bucket, key, etag).await?;
        }
        Ok(None)
    }

    /// By one request, whose checksum the SDK compares where S3 has one.
    async fn whole(
        &self,
        (bucket, key): (&Bucket, &str),
        scratch: &Arc<Scratch>,
        name: &str,
        path: &str,
    ) -> Result<(Option<String>, Checksum), StepError> {
        tried(|| async {
            let request = bucket
                .client
                .get_object()
                .bucket(&bucket.name)
                .key(key)
                .checksum_mode(ChecksumMode::Enabled);
            let answer = request
                .set_expected_bucket_owner(bucket.owner.clone())
                .send()
                .await
                .map_err(s3_error)?;
            let (size, etag) = (
                answer.content_length.unwrap_or_default().unsigned_abs(),
                answer.e_tag,
            );
            let modified = answer
                .last_modified
                .and_then(|time| SystemTime::try_from(time).ok());
            let modified = modified.ok_or_else(|| {
                ErrorName::Internal.with_message("S3 sent an object without a time")
            })?;
            let (below, name, path, durable) = (
                Arc::clone(scratch),
                name.to_owned(),
                path.to_owned(),
                self.is_move,
            );
            if size <= CHUNK {
                let bytes = answer
                    .body
                    .collect()
                    .await
                    .map_err(|error| broken(&error))?
                    .into_bytes();
                check(bytes.len() as u64, size)?;
                return blocking(move || {
                    let file = below.create(&name)?;
                    written(&file, &bytes, 0)?;
                    below.publish(&name, &path, modified, durable)?;
                    Ok((etag, Checksum::of(CrcAlgorithm::Crc64Nvme, &bytes)))
                })
                .await;
            }
            let (at, called) = (Arc::clone(scratch), name.clone());
            let file = Arc::new(blocking(move || at.create(&called)).await?);
            let checksum = receive(answer.body, &file, 0, size, CrcAlgorithm::Crc64Nvme).await?;
            blocking(move || below.publish(&name, &path, modified, durable)).await?;
            Ok((etag, checksum))
        })
        .await
    }

    /// By requests for parts, all of the same state of the object.
    async fn in_parts(
        &self,
        (bucket, key): (&Bucket, &str),
        scratch: &Arc<Scratch>,
        name: &str,
        partial: Option<Partial>,
        path: &str,
        reached: &Reached,
    ) -> Result<Received, StepError> {
        let head = bucket.head(key).await?;
        let expected = head.checksums.first().copied();
        let algorithm = expected.map_or(CrcAlgorithm::Crc64Nvme, |checksum| checksum.algorithm);
        let (below, called) = (Arc::clone(scratch), name.to_owned());
        let partial = partial.filter(|partial| partial.etag == head.etag);
        let of = |text: &str, bytes| Checksum::parse(algorithm, text, bytes);
        let before = partial
            .as_ref()
            .and_then(|partial| of(&partial.checksum, partial.bytes));
        let again = partial
            .and_then(|partial| partial.read)
            .and_then(|(bytes, text)| of(&text, bytes));
        if let (Some(received), Some(read)) = (before, again) {
            return Ok(Received::All((head.etag, received, Some(read))));
        }
        let goes_on = before.is_some();
        let (file, goes_on) = blocking(move || {
            match if goes_on {
                below.reopen(&called)?
            } else {
                None
            } {
                Some(file) => Ok((file, true)),
                None => Ok((below.create(&called)?, false)),
            }
        })
        .await?;
        let mut received = before
            .filter(|_| goes_on)
            .unwrap_or(Checksum::empty(algorithm));
        let file = Arc::new(file);
        // In order, so that what has come is always a beginning.
        let mut running = FuturesOrdered::new();
        let mut next = received.bytes;
        loop {
            while running.len() < AT_ONCE && next < head.size && !self.slice.is_over() {
                let (at, length) = (next, PART.min(head.size - next));
                running.push_back(part((bucket, key), &head, &file, at, length, algorithm));
                next += length;
            }
            let Some(part) = running.next().await else {
                break;
            };
            received = received.then(part?);
            reached.note(Some(Begin::Download(Partial::of(
                head.etag.as_ref(),
                received,
            ))));
        }
        if received.bytes < head.size {
            return Ok(Received::Partly(Partial::of(head.etag.as_ref(), received)));
        }
        reached.note(None);
        if expected.is_some_and(|expected| expected != received) {
            return Err(ErrorName::StepFailed.with_message(format!(
                "what came has the checksum {}, and S3 has {}; run it again",
                received.text(),
                expected.map(|expected| expected.text()).unwrap_or_default()
            )));
        }
        let (below, name, path, durable) = (
            Arc::clone(scratch),
            name.to_owned(),
            path.to_owned(),
            self.is_move,
        );
        blocking(move || below.publish(&name, &path, head.modified, durable)).await?;
        Ok(Received::All((head.etag.clone(), received, None)))
    }

    /// Deletes a source that has been moved, if it still is what was moved.
    pub(super) async fn remove_object(
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
                    "it was changed after it had been copied, so it was kept; run the move again"
                        .into(),
                ..error
            }),
            Err(error) if error.name == ErrorName::NotFound => Ok(()),
            answer => answer.map(drop),
        }
    }
}

enum Received {
    /// The object's entity tag, what came, and what has been read again of it.
    All((Option<String>, Checksum, Option<Checksum>)),
    Partly(Partial),
}

async fn part(
    (bucket, key): (&Bucket, &str),
    head: &Head,
    file: &Arc<File>,
    at: u64,
    length: u64,
    algorithm: CrcAlgorithm,
) -> Result<Checksum, StepError> {
    tried(|| async {
        let request = bucket
            .client
            .get_object()
            .bucket(&bucket.name)
            .key(key)
            .set_if_match(head.etag.clone());
        let request = request.range(format!("bytes={at}-{}", at + length - 1));
        let answer = request
            .set_expected_bucket_owner(bucket.owner.clone())
            .send()
            .await;
        let answer = answer.map_err(changed)?;
        receive(answer.body, file, at, length, algorithm).await
    })
    .await
}

/// A refusal because the object is not what it was.
pub(super) fn changed(error: impl AwsError<aws_sdk_s3::Error>) -> StepError {
    match s3_error(error) {
        // And no other conflict: an archived object is one too, which another run would not mend.
        error if error.has_code("PreconditionFailed") => StepError {
            message: "the object was changed while it was copied; run it again".into(),
            ..error
        },
        error => error,
    }
}

/// Writes a body to its place in a file, chunk by chunk.
async fn receive(
    mut body: ByteStream,
    file: &Arc<File>,
    at: u64,
    length: u64,
    algorithm: CrcAlgorithm,
) -> Result<Checksum, StepError> {
    let mut checksum = Checksum::empty(algorithm);
    let mut chunk = BytesMut::new();
    loop {
        let piece = body
            .next()
            .await
            .transpose()
            .map_err(|error| broken(&error))?;
        let is_last = piece.is_none();
        chunk.extend_from_slice(&piece.unwrap_or_default());
        if chunk.len() as u64 >= CHUNK || is_last && !chunk.is_empty() {
            let (file, bytes, place) = (
                Arc::clone(file),
                chunk.split().freeze(),
                at + checksum.bytes,
            );
            checksum = checksum.then(
                blocking(move || {
                    written(&file, &bytes, place)?;
                    Ok(Checksum::of(algorithm, &bytes))
                })
                .await?,
            );
        }
        if is_last {
            check(checksum.bytes, length)?;
            return Ok(checksum);
        }
    }
}

fn written(file: &File, bytes: &Bytes, at: u64) -> Result<(), StepError> {
    file.write_all_at(bytes, at)
        .map_err(|error| crate::local::failed("write", "", &error))
}

pub(super) fn check(bytes: u64, expected: u64) -> Result<(), StepError> {
    if bytes == expected {
        return Ok(());
    }
    Err(ErrorName::TimedOut.with_message(format!(
        "only {bytes} of {expected} bytes came; run it again"
    )))
}

pub(super) fn broken(error: &dyn std::error::Error) -> StepError {
    let cause = std::iter::successors(Some(error), |error| error.source())
        .last()
        .map(ToString::to_string);
    ErrorName::TimedOut.with_message(format!(
        "the object broke off on its way: {}; run it again",
        cause.unwrap_or_default()
    ))
}

/// What an unfinished file is called: a key may be longer than a name can be.
pub(crate) fn scratch_name(key: &str) -> String {
    sha256(key)[..32].to_owned()
}
