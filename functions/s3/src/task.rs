//! A transfer as a step's parameters ask for it: what they mean, what they need, and the run.

mod ends;
mod permissions;
mod request;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aws_sdk_s3::types::{MultipartUpload, StorageClass};
use stepward::{Context, Progress, Resume, StepError};
use tokio::sync::Semaphore;

use crate::body::blocking;
use crate::bucket::Attributes;
use crate::end::End;
use crate::engine::{self, Run, Unfinished};
use crate::filter::{Filters, root_of_local, root_of_s3};
use crate::listing::Listing;
use crate::multipart::{abort, is_of, unfinished};
use crate::place::Uri;
use crate::plan::{Direction, Plan};
use crate::report::Done;
use crate::slice::Slice;
use crate::transfer::{MEMORY, Transfers, scratch_name};

use self::ends::{Ends, Look};
pub use self::request::{Operation, Task};

/// How long a transfer may take, over all its calls.
pub const TIMEOUT: Duration = Duration::from_hours(24);
/// Seconds by which our clock may be ahead of S3's.
const CLOCKS: i64 = 60;

impl Task<'_> {
    /// Works until all is done or the time for a call is over.
    ///
    /// # Errors
    /// `NotFound` when the source is not there, `InvalidInput` when a path leaves the local root,
    /// or what single objects failed with, once all others are done.
    pub async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Done>, StepError> {
        let slice = Slice::of(ctx);
        let resumed = resume.is_some();
        let position = engine::position(resume.as_ref())?;
        let look = if position.after.is_some() || !position.unfinished.is_empty() {
            Look::No
        } else if resumed {
            Look::MayBeGone
        } else {
            Look::MustBeThere
        };
        let Ends {
            source,
            destination,
            single,
        } = self.ends(ctx, look).await?;
        if self.operation == Operation::Move
            && !self.recursive
            && !resumed
            && !self.selection.dry_run
        {
            // A source that is gone at the next call has been moved by one whose answer was lost.
            return Progress::pending(
                &position,
                Duration::ZERO,
                "the source is there and will be moved",
            );
        }
        let transfers = self.transfers(ctx, (source, destination), slice)?;
        if let Some(scratch) = transfers.scratch.clone() {
            let path = |one: &Unfinished| scratch_name(&transfers.source.path(&one.key));
            let kept: Vec<_> = position.unfinished.iter().map(path).collect();
            blocking(move || {
                scratch.keep_only(&kept.iter().map(String::as_str).collect::<Vec<_>>())
            })
            .await?;
        }
        let (source, destination) = (&transfers.source, &transfers.destination);
        let filters = self.filters(&transfers)?;
        let is_meant = |key: &str| filters.accepts(&source.full_path(key));
        let is_meant_there = |key: &str| filters.accepts(&destination.full_path(key));
        let after = position.after.as_deref();
        let listed = |end: &End, folders, optional| match &single {
            Some((Some(entry), _)) if look != Look::No => Listing::of(entry.clone()),
            Some(_) => Listing::empty(),
            None => Listing::below(end, after, folders, optional),
        };
        let plan = match self.operation {
            Operation::Copy | Operation::Move => Plan::copy(listed(source, false, false), is_meant),
            Operation::Sync(delete) => {
                let to_files = matches!(destination, End::Local { .. });
                let direction = if to_files {
                    Direction::ToFiles
                } else {
                    Direction::ToS3
                };
                let there = (listed(destination, false, true), is_meant_there);
                Plan::sync(
                    (listed(source, false, false), is_meant),
                    there,
                    direction,
                    delete,
                )
            }
            Operation::Delete => {
                let there = (listed(destination, self.recursive, false), is_meant_there);
                Plan::sync(
                    (Listing::empty(), |_: &str| false),
                    there,
                    Direction::ToS3,
                    true,
                )
            }
        };
        let plan = plan.resumed(after);
        let rename = single.map(|(_, name)| name);
        let run = Run {
            transfers: &transfers,
            rename,
            dry_run: self.selection.dry_run,
            verb: self.verb(source, destination),
        };
        Box::pin(run.run(plan, position)).await
    }

    /// Leaves nothing behind of what is under way.
    ///
    /// # Errors
    /// Why it cannot be ended.
    pub async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        if self.operation == Operation::Delete {
            return Ok(());
        }
        let position = engine::position(resume.as_ref())?;
        let Ends {
            source,
            destination,
            single,
        } = self.ends(ctx, Look::No).await?;
        let verb = self.verb(&source, &destination);
        let transfers = self.transfers(ctx, (source, destination), Slice::of(ctx))?;
        let rename = single.map(|(_, name)| name);
        let only = rename
            .as_deref()
            .map(|name| transfers.destination.path(name));
        let run = Run {
            transfers: &transfers,
            rename,
            dry_run: self.selection.dry_run,
            verb,
        };
        run.give_up(&position.unfinished).await?;
        // A call whose answer was lost may have begun others.
        if let (End::S3 { bucket, prefix }, Some(session_arn)) =
            (&transfers.destination, ctx.session_arn())
        {
            // The session is the execution's: other steps and branches of it upload too.
            let since = resume
                .as_ref()
                .map_or(i64::MIN, |resume| resume.since - CLOCKS);
            let is_own = |upload: &MultipartUpload| {
                let is_since = upload
                    .initiated
                    .is_none_or(|initiated| initiated.secs() >= since);
                is_since
                    && is_of(upload, session_arn)
                    && (only.is_none() || only.as_deref() == upload.key.as_deref())
            };
            for (key, upload_id) in
                unfinished(bucket, only.as_deref().unwrap_or(prefix), is_own).await?
            {
                abort(bucket, &key, &upload_id).await?;
            }
        }
        ctx.log("what was transferred stays; unfinished uploads and files are removed");
        Ok(())
    }

    fn transfers<'a>(
        &self,
        ctx: &'a Context,
        (source, destination): (End, End),
        slice: Slice,
    ) -> Result<Transfers<'a>, StepError> {
        let scratch = match (&source, &destination) {
            (End::S3 { .. }, End::Local { root, .. }) => {
                Some(Arc::new(root.scratch(&ctx.client_token("scratch"))?))
            }
            _ => None,
        };
        Ok(Transfers {
            ctx,
            source,
            destination,
            attributes: Attributes {
                storage_class: self
                    .options
                    .storage_class
                    .as_deref()
                    .map(StorageClass::from),
                encryption: self.options.sse.map(Into::into),
                kms_key: self.options.sse_kms_key_id.clone(),
            },
            is_move: self.operation == Operation::Move,
            recursive: self.recursive,
            slice,
            scratch,
            relay: AtomicBool::new(false),
            two_accounts: self.is_elsewhere(),
            memory: Semaphore::new(MEMORY),
        })
    }

    fn verb(&self, source: &End, destination: &End) -> &'static str {
        match (self.operation, source, destination) {
            (Operation::Delete, ..) => "delete",
            (Operation::Move, ..) => "move",
            (_, End::Local { .. }, _) => "upload",
            (_, _, End::Local { .. }) => "download",
            _ => "copy",
        }
    }

    fn filters(&self, transfers: &Transfers<'_>) -> Result<Filters, StepError> {
        let root = |end: &End, given: &str| match end {
            End::S3 { bucket, .. } => {
                let key = Uri::parse("uri", given)
                    .map(|uri| uri.key)
                    .unwrap_or_default();
                root_of_s3(&bucket.name, &key, self.recursive)
            }
            End::Local { root, .. } => root_of_local(root.path(), given, self.recursive),
        };
        Filters::new(
            &self.selection.filters,
            &root(&transfers.source, self.source),
            &root(&transfers.destination, self.destination),
        )
    }
}
