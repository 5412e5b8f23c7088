//! Where objects and files are: `s3://bucket/key`, or a path below the local root.

use stepward::model::bucket;
use stepward::model::input::require;
use stepward::{ErrorName, StepError};

/// A bucket, and a key or the beginning of keys in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Uri {
    /// The bucket's name.
    pub bucket: String,
    /// The key or prefix; empty for the whole bucket.
    pub key: String,
}

/// An end of a transfer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// In S3.
    S3(Uri),
    /// A path as it was given, which [`crate::local`] resolves.
    Local(String),
}

impl Uri {
    /// Reads `s3://bucket/key`.
    ///
    /// # Errors
    /// `InvalidInput` naming the parameter.
    pub fn parse(parameter: &str, text: &str) -> Result<Self, StepError> {
        let no_bucket = || format!("{parameter} {text:?} names no bucket, as in s3://bucket/key");
        let (bucket, key) = bucket::parse_s3_uri(text)
            .ok_or_else(|| ErrorName::InvalidInput.with_message(no_bucket()))?;
        // https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
        require(key.len() <= 1024, || {
            format!(
                "{parameter} has a key of {} bytes, and S3 takes 1,024",
                key.len()
            )
        })?;
        Ok(Self {
            bucket: bucket.into(),
            key: key.into(),
        })
    }
}

impl Place {
    /// Reads a URI, or takes the text for a path.
    ///
    /// # Errors
    /// `InvalidInput` naming the parameter.
    pub fn parse(parameter: &str, text: &str) -> Result<Self, StepError> {
        if text.starts_with("s3://") {
            return Uri::parse(parameter, text).map(Self::S3);
        }
        require(!text.is_empty() && !text.contains('\0'), || {
            format!("{parameter} is neither a URI as in s3://bucket/key nor a path")
        })?;
        Ok(Self::Local(text.into()))
    }
}
