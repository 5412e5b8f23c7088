//! The state of a dispatch, read from the artifacts bucket.

use serde::Deserialize;
use stepward::node::dispatch::{Object, State, Summary};

use crate::artifacts::read_artifact;
use crate::cloud::Cloud;
use crate::error::Result;
use crate::jobs::Finished;

/// Reads the state that a dispatch wrote to the artifacts bucket; `None` if the dispatch ended
/// before it wrote one.
pub async fn read_dispatch_state(cloud: &Cloud, finished: &Finished) -> Result<Option<State>> {
    let Ok(Summary {
        all: Object { bucket, key },
        ..
    }) = Summary::deserialize(&finished.output)
    else {
        return Ok(None);
    };
    read_artifact(cloud, &bucket, &key).await.map(Some)
}
