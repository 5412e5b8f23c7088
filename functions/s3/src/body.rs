//! Bytes on their way: a file's, read as S3 takes them, and their checksums.

use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum_combine};
use http_body::{Body, Frame, SizeHint};
use stepward::model::s3_error::s3_error;
use stepward::{AwsError, ErrorName, StepError};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::local::{OpenFile, Stat, failed};

/// Bytes of a file that are in memory at once, for each request. What has no more is sent as a
/// whole.
pub const CHUNK: u64 = 128 * 1024;

/// A part of a file, read in chunks. It ends with an error where the file has changed since it was
/// opened, so that S3 never gets the half of one state and the half of another.
struct Part {
    file: OpenFile,
    at: u64,
    end: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl OpenFile {
    /// The bytes from `at`, as a request's body that can be sent again.
    #[must_use]
    pub fn stream(&self, at: u64, length: u64) -> ByteStream {
        let file = self.clone();
        ByteStream::new(SdkBody::retryable(move || {
            SdkBody::from_body_1_x(Part {
                file: file.clone(),
                at,
                end: at + length,
                reading: None,
            })
        }))
    }

    /// Some bytes.
    ///
    /// # Errors
    /// `Conflict` when the file has changed since it was opened, or why it cannot be read.
    pub fn piece(&self, at: u64, length: u64) -> Result<Bytes, StepError> {
        read(self, at, length).map_err(|error| {
            if self.is_changed() {
                changed()
            } else {
                failed("read", "", &error)
            }
        })
    }

    /// What a request with bytes of the file has failed with.
    #[must_use]
    pub fn failure(&self, error: impl AwsError<aws_sdk_s3::Error>) -> StepError {
        if self.is_changed() {
            changed()
        } else {
            s3_error(error)
        }
    }

    fn is_changed(&self) -> bool {
        Stat::of(&self.file).ok() != Some(self.stat)
    }
}

fn changed() -> StepError {
    ErrorName::Conflict.with_message("the file was changed while it was read; run it again")
}

/// Reads a piece, and makes sure that it is of the file as it was opened.
fn read(OpenFile { file, stat }: &OpenFile, at: u64, length: u64) -> io::Result<Bytes> {
    let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let read = file.read_exact_at(&mut piece, at);
    if Stat::of(file)? != *stat {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file was changed while it was read",
        ));
    }
    read.map(|()| piece.into())
}

impl Body for Part {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.at == self.end {
            return Poll::Ready(None);
        }
        let (file, at, length) = (self.file.clone(), self.at, CHUNK.min(self.end - self.at));
        let reading = self
            .reading
            .get_or_insert_with(|| spawn_blocking(move || read(&file, at, length)));
        let piece = ready!(Pin::new(reading).poll(cx))
            .map_err(io::Error::other)
            .flatten();
        self.reading = None;
        self.at += length;
        if piece.is_err() {
            self.at = self.end;
        }
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

/// A checksum over a whole object that can be put together from those of its parts.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html>
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Checksum {
    /// Which one.
    pub algorithm: CrcAlgorithm,
    /// Its value.
    pub value: u64,
    /// How many bytes it is of.
    pub bytes: u64,
}

impl Checksum {
    /// Of nothing.
    #[must_use]
    pub fn empty(algorithm: CrcAlgorithm) -> Self {
        Self {
            algorithm,
            value: crc_fast::checksum(algorithm, &[]),
            bytes: 0,
        }
    }

    /// Of these bytes.
    #[must_use]
    pub fn of(algorithm: CrcAlgorithm, bytes: &[u8]) -> Self {
        Self {
            algorithm,
            value: crc_fast::checksum(algorithm, bytes),
            bytes: bytes.len() as u64,
        }
    }

    /// From S3's Base64; `None` where that is no checksum of this kind.
    #[must_use]
    pub fn parse(algorithm: CrcAlgorithm, text: &str, bytes: u64) -> Option<Self> {
        let raw = aws_smithy_types::base64::decode(text).ok()?;
        (raw.len() == width(algorithm)).then_some(())?;
        let value = raw
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte));
        Some(Self {
            algorithm,
            value,
            bytes,
        })
    }

    /// As S3 writes it.
    #[must_use]
    pub fn text(&self) -> String {
        let raw = self.value.to_be_bytes();
        aws_smithy_types::base64::encode(&raw[raw.len() - width(self.algorithm)..])
    }

    /// Of these bytes and then those.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let value = checksum_combine(self.algorithm, self.value, next.value, next.bytes);
        Self {
            value,
            bytes: self.bytes + next.bytes,
            ..self
        }
    }
}

fn width(algorithm: CrcAlgorithm) -> usize {
    if algorithm == CrcAlgorithm::Crc64Nvme {
        8
    } else {
        4
    }
}

/// Waits for work that blocks.
///
/// # Errors
/// What the work fails with; `Internal` where it did not end.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    spawn_blocking(work).await.map_err(|error| {
        ErrorName::Internal.with_message(format!("a file operation did not end: {error}"))
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_written_as_s3_writes_them_and_join() {
        // The check values of the CRC catalogue,
        // https://reveng.sourceforge.io/crc-catalogue/all.htm, in Base64.
        for (algorithm, text) in [
            (CrcAlgorithm::Crc64Nvme, "rosUhgp5mIg="),
            (CrcAlgorithm::Crc32IsoHdlc, "y/Q5Jg=="),
            (CrcAlgorithm::Crc32Iscsi, "4waSgw=="),
        ] {
            let whole = Checksum::of(algorithm, b"123456789");
            assert_eq!(whole.text(), text);
            assert_eq!(Checksum::parse(algorithm, text, 9), Some(whole));
            let joined = Checksum::of(algorithm, b"1234").then(Checksum::of(algorithm, b"56789"));
            assert_eq!(Checksum::empty(algorithm).then(joined), whole);
            assert_eq!(Checksum::parse(algorithm, "AAAA", 9), None);
        }
    }
}
