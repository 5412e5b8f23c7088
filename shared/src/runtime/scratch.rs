//! Objects that a customer's machines fetch by a link, and that are removed when all have them.

use std::fmt;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;

use crate::model::error::{ErrorName, StepError};
use crate::model::s3_error::s3_error;

/// One object that a machine fetches by a link, and that is removed when all have it. A call that
/// finds it again removes it too, because its key is made of what every call for the same step
/// knows; the bucket's lifecycle does when none comes.
///
/// In the artifacts bucket, where [`Context::scratch`](crate::Context::scratch) puts it, the broker
/// may write everywhere below `executions/` and read and delete only below a `.scratch/` of it.
#[derive(Clone)]
pub struct TemporaryObject {
    s3: Client,
    bucket: String,
    key: String,
    owner: Option<String>,
}

impl TemporaryObject {
    /// An object at this key, reached by this client.
    #[must_use]
    pub fn new(s3: Client, bucket: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            s3,
            bucket: bucket.into(),
            key: key.into(),
            owner: None,
        }
    }

    /// S3 is to refuse writing and removing it where the bucket is not this account's.
    #[must_use]
    pub fn with_bucket_owner(self, account_id: impl Into<String>) -> Self {
        Self {
            owner: Some(account_id.into()),
            ..self
        }
    }

    /// Writes it; again with each call is all the same.
    ///
    /// # Errors
    /// Why S3 failed.
    pub async fn put(&self, content: Vec<u8>) -> Result<(), StepError> {
        let put = self
            .s3
            .put_object()
            .bucket(&self.bucket)
            .key(&self.key)
            .body(ByteStream::from(content));
        put.set_expected_bucket_owner(self.owner.clone())
            .send()
            .await
            .map_err(s3_error)?;
        Ok(())
    }

    /// A link with which whoever has it can read the object as long as it lives: not for a log, an
    /// answer or a resume.
    ///
    /// # Errors
    /// `Internal` when it cannot be signed.
    pub async fn link(&self, lives: Duration) -> Result<String, StepError> {
        link(&self.s3, &self.bucket, &self.key, lives).await
    }

    /// Removes it; one that is not there is removed.
    ///
    /// # Errors
    /// Why S3 failed.
    pub async fn remove(&self) -> Result<(), StepError> {
        let delete = self.s3.delete_object().bucket(&self.bucket).key(&self.key);
        delete
            .set_expected_bucket_owner(self.owner.clone())
            .send()
            .await
            .map_err(s3_error)?;
        Ok(())
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

/// A link with which whoever has it can read an object as long as it lives: not for a log, an
/// answer or a resume.
///
/// # Errors
/// `Internal` when it cannot be signed.
pub async fn link(
    s3: &Client,
    bucket: &str,
    key: &str,
    lives: Duration,
) -> Result<String, StepError> {
    let lives = PresigningConfig::expires_in(lives)
        .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
    let signed = s3
        .get_object()
        .bucket(bucket)
        .key(key)
        .presigned(lives)
        .await
        .map_err(s3_error)?;
    Ok(signed.uri().to_owned())
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::operation::delete_object::DeleteObjectOutput;
    use aws_sdk_s3::operation::put_object::PutObjectOutput;
    use aws_smithy_mocks::{RuleMode, mock, mock_client};

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_bucket_must_be_its_owners_for_writing_and_removing() {
        let put = mock!(Client::put_object)
            .match_requests(|request| request.expected_bucket_owner() == Some("222222222222"))
            .then_output(|| PutObjectOutput::builder().build());
        let delete = mock!(Client::delete_object)
            .match_requests(|request| request.expected_bucket_owner() == Some("222222222222"))
            .then_output(|| DeleteObjectOutput::builder().build());
        let s3 = mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&put, &delete]);
        let scratch = TemporaryObject::new(s3, "files", "key").with_bucket_owner("222222222222");
        scratch.put(b"x".to_vec()).await.unwrap();
        scratch.remove().await.unwrap();
        assert_eq!((put.num_calls(), delete.num_calls()), (1, 1));
    }

    #[tokio::test]
    async fn a_scratch_object_is_written_and_removed_at_the_same_key_by_every_call() {
        let key = |key: Option<&str>| {
            key.is_some_and(|key| {
                key.starts_with("executions/acme/execution-1/step-1/-/.scratch/")
                    && key.len() == 110
            })
        };
        let put = mock!(Client::put_object)
            .match_requests(move |request| {
                request.bucket() == Some("artifacts") && key(request.key())
            })
            .then_output(|| PutObjectOutput::builder().build());
        let delete = mock!(Client::delete_object)
            .match_requests(move |request| {
                request.bucket() == Some("artifacts") && key(request.key())
            })
            .then_output(|| DeleteObjectOutput::builder().build());
        let s3 = mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&put, &delete]);
        let ctx = testing::with_artifacts(testing::context(()), s3, "artifacts");
        ctx.scratch("file")
            .unwrap()
            .put(b"x".to_vec())
            .await
            .unwrap();
        ctx.scratch("file").unwrap().remove().await.unwrap();
        assert_eq!((put.num_calls(), delete.num_calls()), (1, 1));
        assert_ne!(
            ctx.scratch("file").unwrap().key,
            ctx.scratch("other").unwrap().key
        );
    }
}
