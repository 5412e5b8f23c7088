//! Outputs, logs and states that steps and jobs keep in the artifacts bucket because they are too
//! large for Step Functions.

use serde::de::DeserializeOwned;

use crate::cloud::Cloud;
use crate::error::{Context, Result};

/// Reads a JSON object from the artifacts bucket.
pub(crate) async fn read_artifact<T: DeserializeOwned>(
    cloud: &Cloud,
    bucket: &str,
    key: &str,
) -> Result<T> {
    let uri = format!("s3://{bucket}/{key}");
    let object = cloud
        .s3()
        .get_object()
        .bucket(bucket)
        .key(key)
        .send()
        .await
        .map_err(|error| cloud.error(error))?;
    let body = object.body.collect().await.context(&uri)?;
    serde_json::from_slice(&body.into_bytes()).context(&uri)
}
