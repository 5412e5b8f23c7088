//! Transfers one object: uploads, downloads, and copies between buckets.

mod completed_move;
mod content_type;
mod context;
mod copy;
mod download;
mod partial;
mod receive;
mod upload;

use stepward::{ErrorName, StepError};
use tokio::time::timeout_at;

pub use self::context::{MEMORY_UNITS, TransferContext};
use self::copy::COPY_LIMIT;
pub use self::partial::{PartialDownload, PartialTransfer, StartedUpload, TransferProgress};
pub(crate) use self::receive::scratch_file_name;
use crate::base_location::BaseLocation;
use crate::bucket_name::may_be_same_bucket;
use crate::call_budget::cut_off_error;
use crate::listing::Entry;
use crate::multipart;

impl TransferContext<'_> {
    /// Transfers an entry to its name at the destination. Returns the partial transfer if it did
    /// not finish in this call.
    ///
    /// # Errors
    /// The reason of the failure; the transfer then leaves nothing behind.
    pub async fn transfer_entry(
        &self,
        entry: &Entry,
        name: &str,
        partial: Option<PartialTransfer>,
    ) -> Result<Option<PartialTransfer>, StepError> {
        let progress = TransferProgress::default();
        let work = self.run_transfer(entry, name, partial.clone(), &progress);
        let (error, is_cut_off) = match timeout_at(self.budget.cutoff(), work).await {
            Ok(Ok(partial)) => return Ok(partial),
            Ok(Err(error)) => {
                let may_be_moved = self.is_move && error.name == ErrorName::NotFound;
                if let Some(partial) = partial.as_ref().filter(|_| may_be_moved)
                    && let Some(Ok(true)) = self
                        .budget
                        .run_cleanup(self.was_moved_before(entry, name, partial))
                        .await
                {
                    return Ok(None);
                }
                (error, false)
            }
            Err(_) => match progress.take() {
                None => (cut_off_error(), true),
                partial => return Ok(partial),
            },
        };

        let BaseLocation::S3 { bucket, .. } = &self.destination else {
            return Err(error);
        };
        let key = self.destination.path_of(name);
        let cleanup = self.budget.run_cleanup(async {
            match &partial {
                Some(PartialTransfer::Upload(upload)) => {
                    let error = error.clone();
                    multipart::abort_after_error(error, bucket, &key, &upload.upload_id).await
                }
                None if is_cut_off && self.is_large(entry) => {
                    let (error, session_arn) = (error.clone(), self.ctx.session_arn());
                    multipart::abort_lost_after_error(error, bucket, &key, session_arn).await
                }
                _ => error.clone(),
            }
        });
        Err(cleanup.await.unwrap_or_else(|| StepError {
            message: format!(
                "{}; an unfinished multipart upload may remain, and AWS charges for it until you \
                 abort it",
                error.message
            ),
            ..error
        }))
    }

    /// Aborts a partial transfer that will not continue. Unfinished files are removed with their
    /// directory.
    ///
    /// # Errors
    /// Why it cannot be aborted.
    pub async fn abort_partial(
        &self,
        partial: &PartialTransfer,
        name: &str,
    ) -> Result<(), StepError> {
        match (partial, &self.destination) {
            (PartialTransfer::Upload(upload), BaseLocation::S3 { bucket, .. }) => {
                let key = self.destination.path_of(name);
                multipart::abort_upload(bucket, &key, &upload.upload_id).await
            }
            _ => Ok(()),
        }
    }

    /// Whether an entry takes many requests.
    #[must_use]
    pub fn is_large(&self, entry: &Entry) -> bool {
        let is_copied_by_s3 = !self.has_peer_source
            && matches!(
                (&self.source, &self.destination),
                (BaseLocation::S3 { .. }, BaseLocation::S3 { .. })
            );
        // A move may have to read both objects.
        let limit = if is_copied_by_s3 && !self.is_move {
            COPY_LIMIT
        } else {
            multipart::PART_SIZE
        };
        entry.size >= limit
    }

    /// Checks whether an entry can be transferred to a name.
    ///
    /// # Errors
    /// `InvalidInput` if the name cannot be a file's; `Conflict` if the source is below the
    /// destination and the destination is below the source's prefix, because then the copies would
    /// be copied again.
    pub fn check_transferable(&self, entry: &Entry, name: &str) -> Result<(), StepError> {
        match (&self.source, &self.destination) {
            (_, BaseLocation::Local { root, directory }) => root.check_key(directory, name),
            (
                BaseLocation::S3 {
                    bucket: source_bucket,
                    prefix: source_prefix,
                },
                BaseLocation::S3 { bucket, prefix },
            ) if may_be_same_bucket(&source_bucket.name, &bucket.name) => {
                let would_overwrite_source = self.recursive
                    && !prefix.starts_with(source_prefix.as_str())
                    && self
                        .destination
                        .path_of(name)
                        .starts_with(source_prefix.as_str());
                let is_below_destination = prefix.len() > source_prefix.len()
                    && self.source.path_of(&entry.key).starts_with(prefix.as_str());

                if would_overwrite_source {
                    Err(ErrorName::Conflict.with_message(
                        "its new key is under the prefix of the source, where it could overwrite \
                         objects still to be transferred; transfer it separately",
                    ))
                } else if is_below_destination {
                    Err(ErrorName::Conflict.with_message(
                        "it is below the destination, which is below the source, so it would be \
                         copied into itself repeatedly; exclude the destination with a filter",
                    ))
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        }
    }

    async fn run_transfer(
        &self,
        entry: &Entry,
        name: &str,
        partial: Option<PartialTransfer>,
        progress: &TransferProgress,
    ) -> Result<Option<PartialTransfer>, StepError> {
        let source_path = self.source.path_of(&entry.key);
        let destination_path = self.destination.path_of(name);

        match (&self.source, &self.destination) {
            (BaseLocation::Local { root, .. }, BaseLocation::S3 { bucket, .. }) => {
                Box::pin(self.upload_file(
                    (root, &source_path),
                    (bucket, &destination_path),
                    partial,
                    progress,
                ))
                .await
            }
            (BaseLocation::S3 { bucket, .. }, BaseLocation::Local { root, .. }) => {
                Box::pin(self.download_object(
                    (bucket, &source_path),
                    entry,
                    (root, &destination_path),
                    partial,
                    progress,
                ))
                .await
            }
            (
                BaseLocation::S3 {
                    bucket: source_bucket,
                    ..
                },
                BaseLocation::S3 { bucket, .. },
            ) => {
                Box::pin(self.copy_object(
                    (source_bucket, &source_path),
                    entry,
                    (bucket, &destination_path),
                    partial,
                    progress,
                ))
                .await
            }
            (BaseLocation::Local { .. }, BaseLocation::Local { .. }) => {
                Err(ErrorName::InvalidInput.with_message(
                    "source and destination are both local; at least one must be a URI such as \
                     s3://bucket/key",
                ))
            }
        }
    }
}
