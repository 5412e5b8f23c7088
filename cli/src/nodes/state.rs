//! The state of a dispatch, read from the artifacts bucket.

use serde::Deserialize;
use stepward::node::dispatch::{Object, State, Summary};

use crate::cloud::Cloud;
use crate::error::{Context, Result};
use crate::jobs::Finished;

/// What the dispatch wrote into the artifacts bucket; `None` where it did not come so far.
pub async fn dispatched(cloud: &Cloud, finished: &Finished) -> Result<Option<State>> {
    let Ok(Summary { all: Object { bucket, key }, .. }) = Summary::deserialize(&finished.output) else {
        return Ok(None);
    };
    read(cloud, &bucket, &key).await.map(Some)
}

/// Reads the state of a dispatch from the artifacts bucket.
pub(super) async fn read(cloud: &Cloud, bucket: &str, key: &str) -> Result<State> {
    let answer = cloud.s3().get_object().bucket(bucket).key(key).send().await.map_err(|error| cloud.error(error))?;
    let body = answer.body.collect().await.doing(format!("s3://{bucket}/{key}"))?;
    serde_json::from_slice(&body.into_bytes()).doing(format!("s3://{bucket}/{key}"))
}
