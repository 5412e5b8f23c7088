//! Locations of objects and files: `s3://bucket/key`, or a path below the local root.

use stepward::model::input::require;
use stepward::{ErrorName, StepError};

use crate::bucket_name::{is_access_point, split_path, unsupported_kind};

/// S3's limit on the length of a key, in bytes:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>
const MAX_KEY_BYTES: usize = 1024;

/// A bucket, and a key or prefix in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct S3Uri {
    /// The bucket's name, or the alias or ARN of an access point.
    pub bucket: String,
    /// The key or prefix; empty for the whole bucket.
    pub key: String,
}

/// The source or the destination of a transfer, as a parameter gives it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Location {
    /// In S3.
    S3(S3Uri),
    /// An unresolved path; [`crate::local`] resolves it.
    Local(String),
}

impl S3Uri {
    /// Parses `s3://bucket/key`.
    ///
    /// # Errors
    /// `InvalidInput` with the parameter's name.
    pub fn parse(parameter: &str, text: &str) -> Result<Self, StepError> {
        let path = text.strip_prefix("s3://");
        let (bucket, key) = path.and_then(split_path).ok_or_else(|| {
            ErrorName::InvalidInput.with_message(format!(
                "parameter \"{parameter}\": expected a URI such as s3://bucket/key, got {text:?}"
            ))
        })?;
        if let Some(kind) = unsupported_kind(bucket) {
            return Err(ErrorName::InvalidInput.with_message(format!(
                "parameter \"{parameter}\": {bucket:?} is {kind}, which the S3 steps do not \
                 support; name a general purpose bucket, or an access point of one"
            )));
        }
        require(key.len() <= MAX_KEY_BYTES, || {
            format!(
                "parameter \"{parameter}\": expected a key of at most 1,024 bytes, which is S3's \
                 limit, got {} bytes",
                key.len()
            )
        })?;

        Ok(Self {
            bucket: bucket.into(),
            key: key.into(),
        })
    }
}

impl S3Uri {
    /// Checks that the URI names a bucket itself, and no key in it.
    ///
    /// # Errors
    /// `InvalidInput` with the parameter's name and, if the URI has a key, `advice`.
    pub(crate) fn into_bucket_name(
        self,
        parameter: &str,
        advice: &str,
    ) -> Result<String, StepError> {
        let Self { bucket, key } = self;
        require(key.is_empty(), || {
            format!(
                "parameter \"{parameter}\": expected a bucket without a key, got \
                 \"s3://{bucket}/{}\"; {advice}",
                key.escape_debug()
            )
        })?;
        require(!is_access_point(&bucket), || {
            format!(
                "parameter \"{parameter}\": {bucket:?} is an access point; name the bucket itself"
            )
        })?;
        Ok(bucket)
    }
}

impl Location {
    /// Parses a URI or a path.
    ///
    /// # Errors
    /// `InvalidInput` with the parameter's name.
    pub fn parse(parameter: &str, text: &str) -> Result<Self, StepError> {
        if text.starts_with("s3://") {
            return S3Uri::parse(parameter, text).map(Self::S3);
        }
        require(!text.is_empty() && !text.contains('\0'), || {
            format!(
                "parameter \"{parameter}\": expected a URI such as s3://bucket/key or a path, got \
                 {text:?}"
            )
        })?;

        Ok(Self::Local(text.into()))
    }
}
