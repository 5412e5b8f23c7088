//! Temporary S3 objects, which a customer's machines download with a presigned URL.

use std::fmt;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;

use crate::model::error::{ErrorName, StepError};
use crate::model::s3_error::s3_error;

/// A temporary S3 object, which a customer's machines download with a presigned URL.
///
/// The step removes the object after all machines have downloaded it. Every call of the step
/// computes the same key, so a later call can remove the object if an earlier call was lost. If no
/// later call follows, the bucket's lifecycle rule removes the object.
///
/// [`Context::temporary_object`](crate::Context::temporary_object) stores the object in the
/// artifacts bucket. There the broker role may write everywhere below `executions/`, but read and
/// delete only below `.scratch/` folders.
#[derive(Clone)]
pub struct TemporaryObject {
    s3: Client,
    bucket: String,
    key: String,
    owner: Option<String>,
}

impl TemporaryObject {
    /// An object with this bucket and key, accessed with this client.
    #[must_use]
    pub fn new(s3: Client, bucket: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            s3,
            bucket: bucket.into(),
            key: key.into(),
            owner: None,
        }
    }

    /// Makes S3 refuse to write or delete the object if the bucket belongs to another account.
    #[must_use]
    pub fn with_bucket_owner(self, account_id: impl Into<String>) -> Self {
        Self {
            owner: Some(account_id.into()),
            ..self
        }
    }

    /// Writes the object, or overwrites it.
    ///
    /// # Errors
    /// The error of the S3 call.
    pub async fn put(&self, content: Vec<u8>) -> Result<(), StepError> {
        self.try_put(content)
            .await
            .map_err(|error| self.error_with_uri(s3_error(error)))
    }

    /// Like [`put`](Self::put), for callers that convert the error themselves.
    ///
    /// # Errors
    /// The error of the S3 call.
    pub async fn try_put(&self, content: Vec<u8>) -> Result<(), SdkError<PutObjectError>> {
        let request = self
            .s3
            .put_object()
            .bucket(&self.bucket)
            .key(&self.key)
            .body(ByteStream::from(content));
        let response = request
            .set_expected_bucket_owner(self.owner.clone())
            .send()
            .await;
        response.map(drop)
    }

    /// Returns a presigned URL, which lets anybody read the object until it expires. Do not put it
    /// into a log, a response or a resume state.
    ///
    /// # Errors
    /// `Internal` if the URL cannot be signed.
    pub async fn presigned_url(&self, expires_in: Duration) -> Result<String, StepError> {
        presigned_url(&self.s3, &self.bucket, &self.key, expires_in).await
    }

    /// Deletes the object. Succeeds if the object does not exist.
    ///
    /// # Errors
    /// The error of the S3 call.
    pub async fn remove(&self) -> Result<(), StepError> {
        let request = self.s3.delete_object().bucket(&self.bucket).key(&self.key);
        let response = request
            .set_expected_bucket_owner(self.owner.clone())
            .send()
            .await;
        response
            .map(drop)
            .map_err(|error| self.error_with_uri(s3_error(error)))
    }

    /// Adds the object's URI to the message of an error.
    fn error_with_uri(&self, error: StepError) -> StepError {
        let message = format!("s3://{}/{}: {}", self.bucket, self.key, error.message);
        StepError { message, ..error }
    }
}

impl fmt::Debug for TemporaryObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TemporaryObject")
            .field("bucket", &self.bucket)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Returns a presigned URL, which lets anybody read an object until it expires. Do not put it into
/// a log, a response or a resume state.
///
/// # Errors
/// `Internal` if the URL cannot be signed.
pub async fn presigned_url(
    s3: &Client,
    bucket: &str,
    key: &str,
    expires_in: Duration,
) -> Result<String, StepError> {
    let presigning = PresigningConfig::expires_in(expires_in)
        .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
    let request = s3
        .get_object()
        .bucket(bucket)
        .key(key)
        .presigned(presigning)
        .await
        .map_err(s3_error)?;
    Ok(request.uri().to_owned())
}

#[cfg(test)]
mod tests {
    use crate::mock_client;
    use aws_sdk_s3::operation::delete_object::DeleteObjectOutput;
    use aws_sdk_s3::operation::put_object::PutObjectOutput;
    use aws_smithy_mocks::{RuleMode, mock};

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn writing_and_removing_check_the_bucket_owner() {
        let put = mock!(Client::put_object)
            .match_requests(|request| request.expected_bucket_owner() == Some("222222222222"))
            .then_output(|| PutObjectOutput::builder().build());
        let delete = mock!(Client::delete_object)
            .match_requests(|request| request.expected_bucket_owner() == Some("222222222222"))
            .then_output(|| DeleteObjectOutput::builder().build());
        let s3 = mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&put, &delete]);
        let object = TemporaryObject::new(s3, "files", "key").with_bucket_owner("222222222222");
        object.put(b"x".to_vec()).await.unwrap();
        object.remove().await.unwrap();
        assert_eq!((put.num_calls(), delete.num_calls()), (1, 1));
    }

    #[tokio::test]
    async fn every_call_writes_and_removes_the_same_key() {
        let is_expected = |key: Option<&str>| {
            key.is_some_and(|key| {
                key.starts_with("executions/acme/execution-1/step-1/-/.scratch/")
                    && key.len() == 110
            })
        };
        let put = mock!(Client::put_object)
            .match_requests(move |request| {
                request.bucket() == Some("artifacts") && is_expected(request.key())
            })
            .then_output(|| PutObjectOutput::builder().build());
        let delete = mock!(Client::delete_object)
            .match_requests(move |request| {
                request.bucket() == Some("artifacts") && is_expected(request.key())
            })
            .then_output(|| DeleteObjectOutput::builder().build());
        let s3 = mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&put, &delete]);
        let ctx = testing::with_artifacts(testing::context(()), s3, "artifacts");
        ctx.temporary_object("file")
            .unwrap()
            .put(b"x".to_vec())
            .await
            .unwrap();
        ctx.temporary_object("file")
            .unwrap()
            .remove()
            .await
            .unwrap();
        assert_eq!((put.num_calls(), delete.num_calls()), (1, 1));
        assert_ne!(
            ctx.temporary_object("file").unwrap().key,
            ctx.temporary_object("other").unwrap().key
        );
    }
}
