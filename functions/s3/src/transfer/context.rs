//! What all transfers of one call share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use stepward::{Context, ErrorName, StepError};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::base_location::BaseLocation;
use crate::bucket::{Attributes, Bucket};
use crate::call_budget::CallBudget;
use crate::local::Scratch;
use crate::multipart::{self, Upload};

/// How many units of [`crate::multipart::PART_SIZE`] may be held in memory at the same time.
pub const MEMORY_UNITS: usize = 4;

/// What all transfers of one call share.
pub struct TransferContext<'a> {
    /// The step's context.
    pub ctx: &'a Context,
    /// Where objects or files are read.
    pub source: BaseLocation,
    /// Where they are written.
    pub destination: BaseLocation,
    /// How objects are written.
    pub attributes: Attributes,
    /// Whether sources are deleted after their copies are verified.
    pub is_move: bool,
    /// Whether everything below the source is transferred.
    pub recursive: bool,
    /// The time that the call may spend.
    pub budget: CallBudget,
    /// Where files are written before they get their names.
    pub scratch: Option<Arc<Scratch>>,
    /// Whether objects between two buckets pass through this function, because S3 is not allowed to
    /// copy them.
    pub copies_through_function: AtomicBool,
    /// Whether the source is read in another account or Region than the destination is written in.
    pub has_peer_source: bool,
    /// Memory for whole parts, in units of [`crate::multipart::PART_SIZE`].
    pub memory: Semaphore,
}

impl TransferContext<'_> {
    /// A multipart upload to the destination.
    pub(super) fn new_upload<'b>(
        &'b self,
        (bucket, key): (&'b Bucket, &'b str),
        size: u64,
        part_size: u64,
        source_version: &'b str,
    ) -> Upload<'b> {
        Upload {
            bucket,
            key,
            attributes: &self.attributes,
            size,
            part_size,
            source_version,
            session_arn: self.ctx.session_arn(),
            budget: &self.budget,
        }
    }

    /// Reserves memory for a part that is held as a whole.
    pub(super) async fn reserve_memory(
        &self,
        bytes: u64,
    ) -> Result<SemaphorePermit<'_>, StepError> {
        let units = bytes
            .div_ceil(multipart::PART_SIZE)
            .clamp(1, MEMORY_UNITS as u64);
        let permit = self
            .memory
            .acquire_many(u32::try_from(units).unwrap_or(1))
            .await;
        permit.map_err(|_| {
            ErrorName::Internal.with_message("the semaphore that limits memory is closed")
        })
    }
}
