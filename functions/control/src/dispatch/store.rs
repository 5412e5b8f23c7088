//! The objects of a dispatch in the artifacts bucket, under the prefix of one execution of one
//! customer.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stepward::model::error::{ErrorName, StepError};
use stepward::model::s3_error::s3_error;
use stepward::node::dispatch::DispatchKeys;

/// The largest object that the function reads, in bytes. 10,000 nodes with their outputs need about
/// 30 MB.
const MAX_OBJECT_BYTES: i64 = 256 * 1024 * 1024;

/// The objects of one execution.
pub(crate) struct ArtifactStore<'a> {
    s3: &'a Client,
    pub(crate) bucket: &'a str,
    pub(crate) customer: &'a str,
    pub(crate) keys: DispatchKeys,
}

impl<'a> ArtifactStore<'a> {
    /// The objects of this customer's execution.
    ///
    /// # Errors
    /// `InvalidInput` if a name would lead outside the execution's prefix.
    pub(crate) fn new(
        s3: &'a Client,
        bucket: &'a str,
        customer: &'a str,
        execution: &str,
    ) -> Result<Self, StepError> {
        Ok(Self {
            s3,
            bucket,
            customer,
            keys: DispatchKeys::new(customer, execution)?,
        })
    }

    /// The objects of another execution of the same customer.
    pub(crate) fn for_execution(&self, execution: &str) -> Result<Self, StepError> {
        Self::new(self.s3, self.bucket, self.customer, execution)
    }

    pub(crate) async fn put(&self, key: &str, value: &impl Serialize) -> Result<(), StepError> {
        let body = serde_json::to_vec(value)
            .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
        let request = self
            .s3
            .put_object()
            .bucket(self.bucket)
            .key(key)
            .content_type("application/json")
            .body(ByteStream::from(body));
        request.send().await.map_err(s3_error)?;
        Ok(())
    }

    /// Reads an object of this execution. The state machine passes keys, so the store rejects keys
    /// of other executions and customers.
    pub(crate) async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T, StepError> {
        if !self.keys.contains(key) {
            return Err(ErrorName::InvalidInput.with_message(format!(
                "key \"{key}\" does not belong to this execution; pass the key of one of its \
                 artifacts"
            )));
        }
        let uri = format!("s3://{}/{key}", self.bucket);

        let request = self.s3.get_object().bucket(self.bucket).key(key);
        let response = request.send().await.map_err(s3_error)?;
        let bytes = response.content_length().unwrap_or_default();
        if bytes > MAX_OBJECT_BYTES {
            return Err(ErrorName::StepFailed.with_message(format!(
                "{uri}: expected up to {MAX_OBJECT_BYTES} bytes, got {bytes}; run the job on fewer \
                 nodes"
            )));
        }
        let body = response.body.collect().await.map_err(|error| {
            ErrorName::Internal.with_message(format!("{uri}: reading was interrupted: {error}"))
        })?;
        serde_json::from_slice(&body.into_bytes()).map_err(|error| {
            ErrorName::Internal.with_message(format!(
                "{uri}: the content has an unexpected format: {error}"
            ))
        })
    }

    /// Prevents further items from starting.
    pub(crate) async fn request_stop(&self) -> Result<(), StepError> {
        self.put(&self.keys.stop_key(), &true).await
    }

    pub(crate) async fn is_stop_requested(&self) -> Result<bool, StepError> {
        // List instead of read: S3 distinguishes a missing object from a forbidden one only for
        // callers with s3:ListBucket, so the permission is needed anyway.
        let request = self
            .s3
            .list_objects_v2()
            .bucket(self.bucket)
            .prefix(self.keys.stop_key())
            .max_keys(1);
        let response = request.send().await.map_err(s3_error)?;
        Ok(response.key_count().unwrap_or_default() > 0)
    }
}
