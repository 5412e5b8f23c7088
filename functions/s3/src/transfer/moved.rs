//! Moves that were over in a call whose answer was lost.

use std::sync::Arc;

use stepward::{ErrorName, StepError};

use super::begin::Begin;
use super::download::scratch_name;
use super::shared::Transfers;
use crate::body::blocking;
use crate::end::End;
use crate::listing::Entry;
use crate::multipart::aborted;

impl Transfers<'_> {
    /// Whether an earlier call has moved what this one is to go on with: the source is gone, the
    /// destination is as large as the source was, and what was unfinished is not there any more.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub(super) async fn has_moved(
        &self,
        entry: &Entry,
        name: &str,
        begun: &Begin,
    ) -> Result<bool, StepError> {
        let (from, to) = (self.source.path(&entry.key), self.destination.path(name));
        if self.source.size(&from).await?.is_some()
            || self.destination.size(&to).await? != Some(entry.size)
        {
            return Ok(false);
        }
        match (begun, &self.destination, &self.scratch) {
            (Begin::Upload(begun), End::S3 { bucket, .. }, _) => {
                aborted(bucket, &to, &begun.upload_id)
                    .await
                    .map(|was_there| !was_there)
            }
            (Begin::Download(_), End::Local { .. }, Some(scratch)) => {
                let (scratch, name) = (Arc::clone(scratch), scratch_name(&from));
                blocking(move || Ok(scratch.reopen(&name)?.is_none())).await
            }
            _ => Ok(false),
        }
    }
}

impl End {
    /// The size of what is at a path; `None` where nothing is.
    async fn size(&self, path: &str) -> Result<Option<u64>, StepError> {
        match self {
            Self::S3 { bucket, .. } => match bucket.head(path).await {
                Err(error) if error.name == ErrorName::NotFound => Ok(None),
                head => head.map(|head| Some(head.size)),
            },
            Self::Local { root, .. } => {
                let (root, path) = (Arc::clone(root), path.to_owned());
                blocking(move || Ok(root.stat(&path)?.map(|stat| stat.size))).await
            }
        }
    }
}
