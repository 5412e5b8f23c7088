//! What steps and jobs keep in the artifacts bucket because it is too large for Step Functions.

use serde::de::DeserializeOwned;

use crate::cloud::Cloud;
use crate::error::{Context, Result};

/// Reads an object of the artifacts bucket.
pub(crate) async fn read<T: DeserializeOwned>(cloud: &Cloud, bucket: &str, key: &str) -> Result<T> {
    let answer = cloud
        .s3()
        .get_object()
        .bucket(bucket)
        .key(key)
        .send()
        .await
        .map_err(|error| cloud.error(error))?;
    let body = answer
        .body
        .collect()
        .await
        .doing(format!("s3://{bucket}/{key}"))?;
    serde_json::from_slice(&body.into_bytes()).doing(format!("s3://{bucket}/{key}"))
}
