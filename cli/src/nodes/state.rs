//! The state of a dispatch, read from the artifacts bucket.

use serde::Deserialize;
use stepward::node::dispatch::{Object, State, Summary};

use crate::artifacts;
use crate::cloud::Cloud;
use crate::error::Result;
use crate::jobs::Finished;

/// What the dispatch wrote into the artifacts bucket; `None` where it did not come so far.
pub async fn dispatched(cloud: &Cloud, finished: &Finished) -> Result<Option<State>> {
    let Ok(Summary {
        all: Object { bucket, key },
        ..
    }) = Summary::deserialize(&finished.output)
    else {
        return Ok(None);
    };
    artifacts::read(cloud, &bucket, &key).await.map(Some)
}
