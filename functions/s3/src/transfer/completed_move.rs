//! Recognizes moves that an earlier call completed, although its response was lost.

use std::sync::Arc;

use stepward::{ErrorName, StepError};

use super::context::TransferContext;
use super::partial::PartialTransfer;
use super::receive::scratch_file_name;
use crate::base_location::BaseLocation;
use crate::body::run_blocking;
use crate::listing::Entry;
use crate::multipart::abort_if_exists;

impl TransferContext<'_> {
    /// Whether an earlier call completed the move that this call should continue: the source does
    /// not exist, the destination has the source's size, and the partial transfer does not exist.
    ///
    /// # Errors
    /// Why this cannot be determined.
    pub(super) async fn was_moved_before(
        &self,
        entry: &Entry,
        name: &str,
        partial: &PartialTransfer,
    ) -> Result<bool, StepError> {
        let source_path = self.source.path_of(&entry.key);
        let destination_path = self.destination.path_of(name);
        if self.source.size_of(&source_path).await?.is_some()
            || self.destination.size_of(&destination_path).await? != Some(entry.size)
        {
            return Ok(false);
        }

        match (partial, &self.destination, &self.scratch) {
            (PartialTransfer::Upload(upload), BaseLocation::S3 { bucket, .. }, _) => {
                abort_if_exists(bucket, &destination_path, &upload.upload_id)
                    .await
                    .map(|existed| !existed)
            }
            (PartialTransfer::Download(_), BaseLocation::Local { .. }, Some(scratch)) => {
                let scratch = Arc::clone(scratch);
                let file_name = scratch_file_name(&source_path);
                run_blocking(move || Ok(scratch.reopen_file(&file_name)?.is_none())).await
            }
            _ => Ok(false),
        }
    }
}

impl BaseLocation {
    /// The size of the object or file at a path; `None` if it does not exist.
    async fn size_of(&self, path: &str) -> Result<Option<u64>, StepError> {
        match self {
            Self::S3 { bucket, .. } => match bucket.head_object(path).await {
                Err(error) if error.name == ErrorName::NotFound => Ok(None),
                head => head.map(|head| Some(head.size)),
            },
            Self::Local { root, .. } => {
                let (root, path) = (Arc::clone(root), path.to_owned());
                run_blocking(move || Ok(root.stat(&path)?.map(|stat| stat.size))).await
            }
        }
    }
}
