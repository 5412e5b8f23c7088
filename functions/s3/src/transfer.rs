//! Moving one object: up, down, or from bucket to bucket.

mod begin;
mod copy;
mod download;
mod moved;
mod shared;
mod upload;

use stepward::{ErrorName, StepError};
use tokio::time::timeout_at;

pub use self::begin::{Begin, Begun, Partial, Reached};
use self::copy::COPY_LIMIT;
pub(crate) use self::download::scratch_name;
pub use self::shared::{MEMORY, Transfers};
use crate::end::End;
use crate::listing::Entry;
use crate::multipart;
use crate::slice::too_late;

impl Transfers<'_> {
    /// Transfers an entry to its name at the destination. What is not over in time goes on with
    /// what comes back.
    ///
    /// # Errors
    /// Why it failed; nothing is left of it then.
    pub async fn transfer(
        &self,
        entry: &Entry,
        name: &str,
        begun: Option<Begin>,
    ) -> Result<Option<Begin>, StepError> {
        let reached = Reached::default();
        let work = self.transferred(entry, name, begun.clone(), &reached);
        let (error, is_late) = match timeout_at(self.slice.limit(), work).await {
            Ok(Ok(left)) => return Ok(left),
            Ok(Err(error)) => {
                let may_be_moved = self.is_move && error.name == ErrorName::NotFound;
                if let Some(begun) = begun.as_ref().filter(|_| may_be_moved)
                    && let Some(Ok(true)) =
                        self.slice.at_last(self.has_moved(entry, name, begun)).await
                {
                    return Ok(None);
                }
                (error, false)
            }
            Err(_) => match reached.take() {
                None => (too_late(), true),
                left => return Ok(left),
            },
        };
        let End::S3 { bucket, .. } = &self.destination else {
            return Err(error);
        };
        let key = self.destination.path(name);
        let ended = self.slice.at_last(async {
            match &begun {
                Some(Begin::Upload(begun)) => {
                    multipart::abort_after(error.clone(), bucket, &key, &begun.upload_id).await
                }
                None if is_late && self.is_large(entry) => {
                    multipart::abort_lost_after(error.clone(), bucket, &key, self.ctx.session_arn())
                        .await
                }
                _ => error.clone(),
            }
        });
        Err(ended.await.unwrap_or_else(|| {
            let left = "an unfinished multipart upload of it may be left, which is charged for until it is aborted";
            StepError { message: format!("{}; {left}", error.message), ..error }
        }))
    }

    /// Ends what was begun and will not go on: nothing is left of it. Unfinished files go with
    /// their directory.
    ///
    /// # Errors
    /// Why it cannot be ended.
    pub async fn give_up(&self, begun: &Begin, name: &str) -> Result<(), StepError> {
        match (begun, &self.destination) {
            (Begin::Upload(begun), End::S3 { bucket, .. }) => {
                multipart::abort(bucket, &self.destination.path(name), &begun.upload_id).await
            }
            _ => Ok(()),
        }
    }

    /// Whether an entry takes many requests.
    #[must_use]
    pub fn is_large(&self, entry: &Entry) -> bool {
        let by_s3 = !self.two_accounts
            && matches!(
                (&self.source, &self.destination),
                (End::S3 { .. }, End::S3 { .. })
            );
        // A move may have to read what it has copied.
        entry.size
            >= if by_s3 && !self.is_move {
                COPY_LIMIT
            } else {
                multipart::PART
            }
    }

    /// Whether an entry can be transferred to a name at all.
    ///
    /// # Errors
    /// `InvalidInput` when the name can be no file's; `Conflict` when the source lies below a
    /// destination that is itself below the source's prefix: what is copied there would be copied
    /// again.
    pub fn check(&self, entry: &Entry, name: &str) -> Result<(), StepError> {
        match (&self.source, &self.destination) {
            (_, End::Local { root, base }) => root.check_key(base, name),
            (End::S3 { bucket: from, prefix: of }, End::S3 { bucket: to, prefix })
                if self.recursive
                    && from.name == to.name
                    && !prefix.starts_with(of.as_str())
                    && self.destination.path(name).starts_with(of.as_str()) =>
            {
                Err(ErrorName::Conflict.with_message(
                    "its new name is below the source, where it could overwrite what is still to be transferred: \
                     transfer it alone",
                ))
            }
            (End::S3 { bucket: from, prefix: of }, End::S3 { bucket: to, prefix })
                if from.name == to.name
                    && prefix.len() > of.len()
                    && self.source.path(&entry.key).starts_with(prefix.as_str()) =>
            {
                Err(ErrorName::Conflict.with_message(
                    "it is below the destination, which is below the source: exclude the destination, or it would be \
                     copied into itself again and again",
                ))
            }
            _ => Ok(()),
        }
    }

    async fn transferred(
        &self,
        entry: &Entry,
        name: &str,
        begun: Option<Begin>,
        reached: &Reached,
    ) -> Result<Option<Begin>, StepError> {
        match (&self.source, &self.destination) {
            (End::Local { root, .. }, End::S3 { bucket, .. }) => {
                let path = self.source.path(&entry.key);
                Box::pin(self.upload(
                    (root, &path),
                    (bucket, &self.destination.path(name)),
                    begun,
                    reached,
                ))
                .await
            }
            (End::S3 { bucket, .. }, End::Local { root, .. }) => {
                let key = self.source.path(&entry.key);
                Box::pin(self.download(
                    (bucket, &key),
                    entry,
                    (root, &self.destination.path(name)),
                    begun,
                    reached,
                ))
                .await
            }
            (End::S3 { bucket: from, .. }, End::S3 { bucket: to, .. }) => {
                let key = self.source.path(&entry.key);
                Box::pin(self.copy(
                    (from, &key),
                    entry,
                    (to, &self.destination.path(name)),
                    begun,
                    reached,
                ))
                .await
            }
            (End::Local { .. }, End::Local { .. }) => Err(ErrorName::InvalidInput
                .with_message("source and destination are both local: one must be s3://…")),
        }
    }
}
