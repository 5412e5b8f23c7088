//! What all transfers of one call need.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use stepward::{Context, ErrorName, StepError};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::bucket::{Attributes, Bucket};
use crate::end::End;
use crate::local::Scratch;
use crate::multipart::{self, Upload};
use crate::slice::Slice;

/// Units of [`crate::multipart::PART`] that are held in memory at once.
pub const MEMORY: usize = 4;

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

impl Transfers<'_> {
    /// What is made of parts at the destination.
    pub(super) fn in_parts_to<'b>(
        &'b self,
        to: (&'b Bucket, &'b str),
        size: u64,
        part_size: u64,
        of: &'b str,
    ) -> Upload<'b> {
        let (bucket, key) = to;
        let (attributes, session_arn, slice) =
            (&self.attributes, self.ctx.session_arn(), &self.slice);
        Upload {
            bucket,
            key,
            attributes,
            size,
            part_size,
            of,
            session_arn,
            slice,
        }
    }

    /// Room for a part that is held in memory whole.
    pub(super) async fn room(&self, bytes: u64) -> Result<SemaphorePermit<'_>, StepError> {
        let units = bytes.div_ceil(multipart::PART).clamp(1, MEMORY as u64);
        let room = self
            .memory
            .acquire_many(u32::try_from(units).unwrap_or(1))
            .await;
        room.map_err(|_| ErrorName::Internal.with_message("the memory's semaphore is closed"))
    }
}
