//! Moving one object: up, down, or from bucket to bucket.

mod begin;
mod copy;
mod download;
mod moved;
mod upload;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use stepward::{Context, ErrorName, StepError};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout_at;

use crate::bucket::{Attributes, Bucket};
use crate::keys;
use crate::listing::Entry;
use crate::local::{Root, Scratch};
use crate::multipart::{self, Upload};
use crate::slice::{Slice, too_late};

pub use self::begin::{Begin, Reached};
use self::copy::COPY_LIMIT;
pub use self::download::Partial;
pub(crate) use self::download::scratch_name;

/// Tries of what the SDK cannot send again by itself: a body that broke off on its way.
pub(crate) const TRIES: u32 = 3;

/// One end of a transfer.
#[derive(Clone, Debug)]
pub enum End {
    /// Objects.
    S3 {
        /// Where.
        bucket: Bucket,
        /// What keys begin with; empty, or with a slash at its end.
        prefix: String,
    },
    /// Files.
    Local {
        /// The local root.
        root: Arc<Root>,
        /// The directory, below the root.
        base: String,
    },
}

/// What transfers of one call share.
pub struct Transfers<'a> {
    /// The step's context.
    pub ctx: &'a Context,
    /// From where.
    pub source: End,
    /// To where.
    pub destination: End,
    /// How objects are written.
    pub attributes: Attributes,
    /// Whether sources are deleted once their copies are verified.
    pub is_move: bool,
    /// Whether all below the source is transferred.
    pub recursive: bool,
    /// When to stop for now.
    pub slice: Slice,
    /// Where files are written before they get their names.
    pub scratch: Option<Arc<Scratch>>,
    /// Whether copies go through here, because S3 may not make them itself.
    pub relay: AtomicBool,
    /// Whether the source is read in another account than the destination is written in.
    pub two_accounts: bool,
    /// Memory for parts that are held whole, in units of [`crate::multipart::PART`].
    pub memory: Semaphore,
}

impl End {
    /// A name below it, whole: a key, or a path below the root.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        match self {
            Self::S3 { prefix, .. } => format!("{prefix}{name}"),
            Self::Local { base, .. } if base.is_empty() => name.to_owned(),
            Self::Local { base, .. } => format!("{base}/{name}"),
        }
    }

    /// A name below it as filters see it, and people: `bucket/key`, or an absolute path.
    #[must_use]
    pub fn full_path(&self, name: &str) -> String {
        match self {
            Self::S3 { bucket, .. } => format!("{}/{}", bucket.name, self.path(name)),
            Self::Local { root, .. } => format!("{}/{}", root.path().display(), self.path(name)),
        }
    }

    /// A name below it, for a person: on one line, whatever is in it.
    #[must_use]
    pub fn shown(&self, name: &str) -> String {
        let scheme = if matches!(self, Self::S3 { .. }) { "s3://" } else { "" };
        format!("{scheme}{}", keys::shown(&self.full_path(name)))
    }
}

impl Transfers<'_> {
    /// Transfers an entry to its name at the destination. What is not over in time goes on with what comes back.
    ///
    /// # Errors
    /// Why it failed; nothing is left of it then.
    pub async fn transfer(&self, entry: &Entry, name: &str, begun: Option<Begin>) -> Result<Option<Begin>, StepError> {
        let reached = Reached::default();
        let work = self.transferred(entry, name, begun.clone(), &reached);
        let (error, is_late) = match timeout_at(self.slice.limit(), work).await {
            Ok(Ok(left)) => return Ok(left),
            Ok(Err(error)) => {
                let may_be_moved = self.is_move && error.name == ErrorName::NotFound;
                if let Some(begun) = begun.as_ref().filter(|_| may_be_moved)
                    && let Some(Ok(true)) = self.slice.at_last(self.has_moved(entry, name, begun)).await
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
        let End::S3 { bucket, .. } = &self.destination else { return Err(error) };
        let key = self.destination.path(name);
        let ended = self.slice.at_last(async {
            match &begun {
                Some(Begin::Upload(begun)) => {
                    multipart::abort_after(error.clone(), bucket, &key, &begun.upload_id).await
                }
                None if is_late && self.is_large(entry) => {
                    multipart::abort_lost_after(error.clone(), bucket, &key, self.ctx.session_arn()).await
                }
                _ => error.clone(),
            }
        });
        Err(ended.await.unwrap_or_else(|| {
            let left = "an unfinished multipart upload of it may be left, which is charged for until it is aborted";
            StepError { message: format!("{}; {left}", error.message), ..error }
        }))
    }

    /// Ends what was begun and will not go on: nothing is left of it. Unfinished files go with their directory.
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
        let by_s3 = !self.two_accounts && matches!((&self.source, &self.destination), (End::S3 { .. }, End::S3 { .. }));
        // A move may have to read what it has copied.
        entry.size >= if by_s3 && !self.is_move { COPY_LIMIT } else { multipart::PART }
    }

    /// Whether an entry can be transferred to a name at all.
    ///
    /// # Errors
    /// `InvalidInput` when the name can be no file's; `Conflict` when the source lies below a destination that is itself
    /// below the source's prefix: what is copied there would be copied again.
    pub fn check(&self, entry: &Entry, name: &str) -> Result<(), StepError> {
        match (&self.source, &self.destination) {
            (_, End::Local { root, base }) => root.check_key(base, name),
            (End::S3 { bucket: from, prefix: of }, End::S3 { bucket: to, prefix })
                if self.recursive
                    && from.name == to.name
                    && !prefix.starts_with(of.as_str())
                    && self.destination.path(name).starts_with(of.as_str()) =>
            {
                Err(ErrorName::Conflict.because(
                    "its new name is below the source, where it could overwrite what is still to be transferred: \
                     transfer it alone",
                ))
            }
            (End::S3 { bucket: from, prefix: of }, End::S3 { bucket: to, prefix })
                if from.name == to.name
                    && prefix.len() > of.len()
                    && self.source.path(&entry.key).starts_with(prefix.as_str()) =>
            {
                Err(ErrorName::Conflict.because(
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
                Box::pin(self.upload((root, &path), (bucket, &self.destination.path(name)), begun, reached)).await
            }
            (End::S3 { bucket, .. }, End::Local { root, .. }) => {
                let key = self.source.path(&entry.key);
                Box::pin(self.download((bucket, &key), entry, (root, &self.destination.path(name)), begun, reached))
                    .await
            }
            (End::S3 { bucket: from, .. }, End::S3 { bucket: to, .. }) => {
                let key = self.source.path(&entry.key);
                Box::pin(self.copy((from, &key), entry, (to, &self.destination.path(name)), begun, reached)).await
            }
            (End::Local { .. }, End::Local { .. }) => {
                Err(ErrorName::InvalidInput.because("source and destination are both local: one must be s3://…"))
            }
        }
    }

    /// What is made of parts at the destination.
    fn in_parts_to<'b>(&'b self, to: (&'b Bucket, &'b str), size: u64, part_size: u64, of: &'b str) -> Upload<'b> {
        let (bucket, key) = to;
        let (attributes, session_arn, slice) = (&self.attributes, self.ctx.session_arn(), &self.slice);
        Upload { bucket, key, attributes, size, part_size, of, session_arn, slice }
    }

    /// Room for a part that is held in memory whole.
    async fn room(&self, bytes: u64) -> Result<SemaphorePermit<'_>, StepError> {
        let units = bytes.div_ceil(multipart::PART).clamp(1, MEMORY as u64);
        let room = self.memory.acquire_many(u32::try_from(units).unwrap_or(1)).await;
        room.map_err(|_| ErrorName::Internal.because("the memory's semaphore is closed"))
    }
}

/// Units of [`crate::multipart::PART`] that are held in memory at once.
pub const MEMORY: usize = 4;

/// Tries again, a little later each time, what broke off on its way.
async fn tried<T, F: Future<Output = Result<T, StepError>>>(work: impl Fn() -> F) -> Result<T, StepError> {
    let mut tries = 1;
    loop {
        match work().await {
            Err(error) if matches!(error.name, ErrorName::TimedOut | ErrorName::Throttled) && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(jitter(Duration::from_secs(1 << tries))).await;
            }
            answer => return answer,
        }
    }
}

/// Some time up to `most`, so that many who failed together do not come back together.
pub(crate) fn jitter(most: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness the wait is the longest.
    let part = getrandom::fill(&mut random).map_or(1.0, |()| f64::from(u16::from_be_bytes(random)) / 65_536.0);
    most.mul_f64(part)
}
