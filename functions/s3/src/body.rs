//! Request bodies that stream a file, and checksums.

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

use crate::local::{FileStat, OpenFile, open_file_error};

/// How many bytes of a file each request holds in memory. A smaller file is sent as a whole.
pub const CHUNK_BYTES: u64 = 128 * 1024;

/// A part of a file that is read in chunks. It ends with an error if the file changed since it was
/// opened, so that S3 never gets a mixture of two states.
struct FilePart {
    file: OpenFile,
    offset: u64,
    end: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl OpenFile {
    /// The bytes from `offset` as a request's body, which the SDK can send again.
    #[must_use]
    pub fn body_stream(&self, offset: u64, length: u64) -> ByteStream {
        let file = self.clone();
        ByteStream::new(SdkBody::retryable(move || {
            SdkBody::from_body_1_x(FilePart {
                file: file.clone(),
                offset,
                end: offset + length,
                reading: None,
            })
        }))
    }

    /// Reads a range of bytes.
    ///
    /// # Errors
    /// `Conflict` if the file changed since it was opened; the error of the file system.
    pub fn read_range(&self, offset: u64, length: u64) -> Result<Bytes, StepError> {
        read_unchanged(self, offset, length).map_err(|error| {
            if self.has_changed() {
                changed_file_error()
            } else {
                open_file_error("read", &error)
            }
        })
    }

    /// The error of a request whose body was this file.
    #[must_use]
    pub fn request_error(&self, error: impl AwsError<aws_sdk_s3::Error>) -> StepError {
        if self.has_changed() {
            changed_file_error()
        } else {
            s3_error(error)
        }
    }

    fn has_changed(&self) -> bool {
        FileStat::of_open_file(&self.file).ok() != Some(self.stat)
    }
}

fn changed_file_error() -> StepError {
    ErrorName::Conflict.with_message("the file changed while it was read; run the step again")
}

/// Reads a range, and checks that the file did not change since it was opened.
fn read_unchanged(
    OpenFile { file, stat }: &OpenFile,
    offset: u64,
    length: u64,
) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let read = file.read_exact_at(&mut bytes, offset);
    if FileStat::of_open_file(file)? != *stat {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file changed while it was read",
        ));
    }
    read.map(|()| bytes.into())
}

impl Body for FilePart {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.offset == self.end {
            return Poll::Ready(None);
        }
        let (file, offset) = (self.file.clone(), self.offset);
        let length = CHUNK_BYTES.min(self.end - offset);
        let reading = self
            .reading
            .get_or_insert_with(|| spawn_blocking(move || read_unchanged(&file, offset, length)));
        let bytes = ready!(Pin::new(reading).poll(cx))
            .map_err(io::Error::other)
            .flatten();
        self.reading = None;
        self.offset += length;
        if bytes.is_err() {
            self.offset = self.end;
        }
        Poll::Ready(Some(bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.offset == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.offset)
    }
}

/// A checksum of a whole object that can be computed from the checksums of its parts:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html>
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Checksum {
    /// The algorithm.
    pub algorithm: CrcAlgorithm,
    /// The value.
    pub value: u64,
    /// How many bytes it covers.
    pub bytes: u64,
}

impl Checksum {
    /// The checksum of no bytes.
    #[must_use]
    pub fn empty(algorithm: CrcAlgorithm) -> Self {
        Self {
            algorithm,
            value: crc_fast::checksum(algorithm, &[]),
            bytes: 0,
        }
    }

    /// The checksum of these bytes.
    #[must_use]
    pub fn compute(algorithm: CrcAlgorithm, bytes: &[u8]) -> Self {
        Self {
            algorithm,
            value: crc_fast::checksum(algorithm, bytes),
            bytes: bytes.len() as u64,
        }
    }

    /// Parses S3's Base64 form. `None` if the text is not a checksum of this algorithm.
    #[must_use]
    pub fn parse(algorithm: CrcAlgorithm, text: &str, bytes: u64) -> Option<Self> {
        let raw = aws_smithy_types::base64::decode(text).ok()?;
        (raw.len() == width_in_bytes(algorithm)).then_some(())?;
        let value = raw
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte));
        Some(Self {
            algorithm,
            value,
            bytes,
        })
    }

    /// S3's Base64 form.
    #[must_use]
    pub fn to_base64(&self) -> String {
        let raw = self.value.to_be_bytes();
        aws_smithy_types::base64::encode(&raw[raw.len() - width_in_bytes(self.algorithm)..])
    }

    /// The checksum of these bytes followed by those of `next`.
    #[must_use]
    pub fn concat(self, next: Self) -> Self {
        let value = checksum_combine(self.algorithm, self.value, next.value, next.bytes);
        Self {
            value,
            bytes: self.bytes + next.bytes,
            ..self
        }
    }
}

fn width_in_bytes(algorithm: CrcAlgorithm) -> usize {
    if algorithm == CrcAlgorithm::Crc64Nvme {
        8
    } else {
        4
    }
}

/// Runs blocking work on a separate thread.
///
/// # Errors
/// The error of the work; `Internal` if it panicked.
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    spawn_blocking(work).await.map_err(|error| {
        ErrorName::Internal.with_message(format!("a file operation panicked: {error}"))
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_s3s_form_and_can_be_concatenated() {
        // The check values of the CRC catalogue,
        // https://reveng.sourceforge.io/crc-catalogue/all.htm, in Base64.
        for (algorithm, text) in [
            (CrcAlgorithm::Crc64Nvme, "rosUhgp5mIg="),
            (CrcAlgorithm::Crc32IsoHdlc, "y/Q5Jg=="),
            (CrcAlgorithm::Crc32Iscsi, "4waSgw=="),
        ] {
            let whole = Checksum::compute(algorithm, b"123456789");
            assert_eq!(whole.to_base64(), text);
            assert_eq!(Checksum::parse(algorithm, text, 9), Some(whole));
            let joined = Checksum::compute(algorithm, b"1234")
                .concat(Checksum::compute(algorithm, b"56789"));
            assert_eq!(Checksum::empty(algorithm).concat(joined), whole);
            assert_eq!(Checksum::parse(algorithm, "AAAA", 9), None);
        }
    }
}
