//! What dispatch keeps in the artifacts bucket, below the prefix of one execution of one customer.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stepward::model::error::{ErrorName, StepError};
use stepward::model::s3_error::s3_error;
use stepward::node::dispatch::DispatchKeys;

/// The largest object that is read, in bytes. 10,000 nodes with what they said come to some 30 MB.
const LIMIT: i64 = 256 * 1024 * 1024;

/// The objects of one execution.
pub(crate) struct Store<'a> {
    s3: &'a Client,
    pub(crate) bucket: &'a str,
    pub(crate) customer: &'a str,
    pub(crate) keys: DispatchKeys,
}

impl<'a> Store<'a> {
    /// The objects of this customer's execution.
    ///
    /// # Errors
    /// `InvalidInput` for names that would lead elsewhere.
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
    pub(crate) fn of(&self, execution: &str) -> Result<Self, StepError> {
        Self::new(self.s3, self.bucket, self.customer, execution)
    }

    pub(crate) async fn put(&self, key: &str, value: &impl Serialize) -> Result<(), StepError> {
        let body = serde_json::to_vec(value)
            .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
        let put = self
            .s3
            .put_object()
            .bucket(self.bucket)
            .key(key)
            .content_type("application/json");
        put.body(ByteStream::from(body))
            .send()
            .await
            .map_err(s3_error)?;
        Ok(())
    }

    /// Reads an object of this customer's execution: what a state machine hands over as a key must
    /// be its own.
    pub(crate) async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T, StepError> {
        if !self.keys.contain(key) {
            return Err(ErrorName::InvalidInput
                .with_message(format!("{key} is no artifact of this execution")));
        }
        let answer = self
            .s3
            .get_object()
            .bucket(self.bucket)
            .key(key)
            .send()
            .await
            .map_err(s3_error)?;
        if answer.content_length().unwrap_or_default() > LIMIT {
            return Err(ErrorName::StepFailed.with_message(format!(
                "s3://{}/{key} has more than {LIMIT} bytes and is not read",
                self.bucket
            )));
        }
        let body = answer.body.collect().await.map_err(|error| {
            ErrorName::Internal.with_message(format!(
                "s3://{}/{key} could not be read to its end: {error}",
                self.bucket
            ))
        })?;
        serde_json::from_slice(&body.into_bytes()).map_err(|error| {
            ErrorName::Internal.with_message(format!(
                "s3://{}/{key} is not what dispatch writes: {error}",
                self.bucket
            ))
        })
    }

    /// Lets no further item begin.
    pub(crate) async fn stop(&self) -> Result<(), StepError> {
        self.put(&self.keys.stop(), &true).await
    }

    pub(crate) async fn is_stopped(&self) -> Result<bool, StepError> {
        // By listing, because what is not there is told apart from what may not be seen only with
        // s3:ListBucket anyway.
        let list = self
            .s3
            .list_objects_v2()
            .bucket(self.bucket)
            .prefix(self.keys.stop())
            .max_keys(1);
        Ok(list
            .send()
            .await
            .map_err(s3_error)?
            .key_count()
            .unwrap_or_default()
            > 0)
    }
}
