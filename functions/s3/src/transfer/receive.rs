//! Receiving the bytes of an object.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm;
use stepward::model::digest::sha256;
use stepward::model::s3_error::s3_error;
use stepward::{AwsError, ErrorName, StepError};

use crate::body::{CHUNK_BYTES, Checksum, run_blocking};
use crate::local::open_file_error;

/// The error of a request, with a better message if the object is not the version that was
/// requested.
pub(super) fn changed_object_error(error: impl AwsError<aws_sdk_s3::Error>) -> StepError {
    match s3_error(error) {
        // Not every conflict: a new run would not help with an archived object.
        error if error.has_code("PreconditionFailed") => StepError {
            message: "the object changed while it was copied; run the step again".into(),
            ..error
        },
        error => error,
    }
}

/// Writes a body to its position in a file, chunk by chunk.
pub(super) async fn write_body(
    mut body: ByteStream,
    file: &Arc<File>,
    offset: u64,
    length: u64,
    algorithm: CrcAlgorithm,
) -> Result<Checksum, StepError> {
    let mut checksum = Checksum::empty(algorithm);
    let mut chunk = BytesMut::new();

    loop {
        let bytes = body
            .next()
            .await
            .transpose()
            .map_err(|error| interrupted_error(&error))?;
        let is_last = bytes.is_none();
        chunk.extend_from_slice(&bytes.unwrap_or_default());
        if chunk.len() as u64 >= CHUNK_BYTES || is_last && !chunk.is_empty() {
            let (file, bytes, place) = (
                Arc::clone(file),
                chunk.split().freeze(),
                offset + checksum.bytes,
            );
            checksum = checksum.concat(
                run_blocking(move || {
                    write_at(&file, &bytes, place)?;
                    Ok(Checksum::compute(algorithm, &bytes))
                })
                .await?,
            );
        }
        if is_last {
            check_length(checksum.bytes, length)?;
            return Ok(checksum);
        }
    }
}

pub(super) fn write_at(file: &File, bytes: &Bytes, offset: u64) -> Result<(), StepError> {
    file.write_all_at(bytes, offset)
        .map_err(|error| open_file_error("write", &error))
}

pub(super) fn check_length(bytes: u64, expected: u64) -> Result<(), StepError> {
    if bytes == expected {
        return Ok(());
    }
    Err(ErrorName::TimedOut.with_message(format!(
        "only {bytes} of {expected} bytes were received; run the step again"
    )))
}

pub(super) fn interrupted_error(error: &dyn std::error::Error) -> StepError {
    let cause = std::iter::successors(Some(error), |error| error.source())
        .last()
        .map(ToString::to_string);
    ErrorName::TimedOut.with_message(format!(
        "the transfer of the object was interrupted: {}; run the step again",
        cause.unwrap_or_default()
    ))
}

/// The name of an unfinished file. A hash, because a key can be longer than a file name.
pub(crate) fn scratch_file_name(key: &str) -> String {
    sha256(key)[..32].to_owned()
}
