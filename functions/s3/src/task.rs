//! A transfer or deletion as a step's parameters describe it: validation, permissions and the run.

mod permissions;
mod request;
mod resolve;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aws_sdk_s3::types::{MultipartUpload, StorageClass};
use stepward::{Context, Progress, Resume, StepError};
use tokio::sync::Semaphore;

use crate::base_location::BaseLocation;
use crate::body::run_blocking;
use crate::bucket::Attributes;
use crate::call_budget::CallBudget;
use crate::engine::{self, TransferRun, UnfinishedTransfer};
use crate::filter::{Filters, local_filter_root, s3_filter_root};
use crate::listing::Listing;
use crate::location::S3Uri;
use crate::multipart::{abort_upload, is_started_by, list_unfinished};
use crate::plan::{Direction, Plan};
use crate::report::TransferSummary;
use crate::transfer::{MEMORY_UNITS, TransferContext, scratch_file_name};

pub use self::request::{Operation, Task};
use self::resolve::{ResolvedTransfer, SingleEntry, SourceCheck};

/// How long a transfer may take, over all its calls.
pub const TIMEOUT: Duration = Duration::from_hours(24);
/// How many seconds Lambda's clock may be ahead of S3's.
const CLOCK_SKEW_SECONDS: i64 = 60;

impl Task<'_> {
    /// Works until everything is done or the call's budget is spent.
    ///
    /// # Errors
    /// `NotFound` if the source does not exist; `InvalidInput` if a path leaves the local root; the
    /// errors of single objects, after all others are done.
    pub async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<TransferSummary>, StepError> {
        let budget = CallBudget::for_call(ctx);
        let is_resumed = resume.is_some();
        let position = engine::position_from(resume.as_ref())?;
        let check = if position.after.is_some() || !position.unfinished.is_empty() {
            SourceCheck::Skip
        } else if is_resumed {
            SourceCheck::MayBeMoved
        } else {
            SourceCheck::MustExist
        };
        let ResolvedTransfer {
            source,
            destination,
            single,
        } = self.resolve_locations(ctx, check).await?;

        if self.operation == Operation::Move
            && !self.recursive
            && !is_resumed
            && !self.selection.dry_run
        {
            // If the next call does not find the source, a call whose response was lost has moved
            // it.
            return Progress::pending(
                &position,
                Duration::ZERO,
                "the source exists; moving it next",
            );
        }

        let transfers = self.build_context(ctx, (source, destination), budget)?;

        if let Some(scratch) = transfers.scratch.clone() {
            let file_name = |unfinished: &UnfinishedTransfer| {
                scratch_file_name(&transfers.source.path_of(&unfinished.key))
            };
            let kept: Vec<_> = position.unfinished.iter().map(file_name).collect();
            run_blocking(move || {
                let kept: Vec<_> = kept.iter().map(String::as_str).collect();
                scratch.remove_all_except(&kept)
            })
            .await?;
        }

        let (source, destination) = (&transfers.source, &transfers.destination);
        let filters = self.build_filters(&transfers)?;
        let is_selected = |key: &str| filters.accepts(&source.full_path_of(key));
        let is_selected_at_destination =
            |key: &str| filters.accepts(&destination.full_path_of(key));
        let after = position.after.as_deref();
        let list = |base: &BaseLocation, with_folders, is_optional| match &single {
            Some(SingleEntry {
                entry: Some(entry), ..
            }) if check != SourceCheck::Skip => Listing::single(entry.clone()),
            Some(_) => Listing::empty(),
            None => Listing::start(base, after, with_folders, is_optional),
        };
        let plan = match self.operation {
            Operation::Copy | Operation::Move => {
                Plan::copy(list(source, false, false), is_selected)
            }
            Operation::Sync(delete) => {
                let direction = if matches!(destination, BaseLocation::Local { .. }) {
                    Direction::ToFiles
                } else {
                    Direction::ToS3
                };
                Plan::sync(
                    (list(source, false, false), is_selected),
                    (list(destination, false, true), is_selected_at_destination),
                    direction,
                    delete,
                )
            }
            // A deletion is a sync with an empty source.
            Operation::Delete => Plan::sync(
                (Listing::empty(), |_: &str| false),
                (
                    list(destination, self.recursive, false),
                    is_selected_at_destination,
                ),
                Direction::ToS3,
                true,
            ),
        };
        let plan = plan.resume_after(after);

        let run = TransferRun {
            transfers: &transfers,
            rename: single.map(|single| single.name),
            dry_run: self.selection.dry_run,
            verb: self.log_verb(source, destination),
        };
        Box::pin(run.run(plan, position)).await
    }

    /// Aborts running uploads and removes unfinished files.
    ///
    /// # Errors
    /// Why an upload cannot be aborted.
    pub async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        if self.operation == Operation::Delete {
            return Ok(());
        }

        let position = engine::position_from(resume.as_ref())?;
        let ResolvedTransfer {
            source,
            destination,
            single,
        } = self.resolve_locations(ctx, SourceCheck::Skip).await?;
        let verb = self.log_verb(&source, &destination);
        let budget = CallBudget::for_call(ctx);
        let transfers = self.build_context(ctx, (source, destination), budget)?;
        let rename = single.map(|single| single.name);
        let single_key = rename
            .as_deref()
            .map(|name| transfers.destination.path_of(name));
        let run = TransferRun {
            transfers: &transfers,
            rename,
            dry_run: self.selection.dry_run,
            verb,
        };
        run.abort_unfinished(&position.unfinished).await?;

        // A call whose response was lost may have started other uploads.
        if let (BaseLocation::S3 { bucket, prefix }, Some(session_arn)) =
            (&transfers.destination, ctx.session_arn())
        {
            // All steps and branches of the execution upload with the same session, so only uploads
            // since the start of this step are aborted.
            let since = resume
                .as_ref()
                .map_or(i64::MIN, |resume| resume.since - CLOCK_SKEW_SECONDS);
            let is_own_upload = |upload: &MultipartUpload| {
                let is_since = upload
                    .initiated
                    .is_none_or(|initiated| initiated.secs() >= since);
                is_since
                    && is_started_by(upload, session_arn)
                    && (single_key.is_none() || single_key.as_deref() == upload.key.as_deref())
            };
            let prefix = single_key.as_deref().unwrap_or(prefix);
            for (key, upload_id) in list_unfinished(bucket, prefix, is_own_upload).await? {
                abort_upload(bucket, &key, &upload_id).await?;
            }
        }
        ctx.log("Transferred objects and files stay; unfinished uploads and files are removed");
        Ok(())
    }

    fn build_context<'a>(
        &self,
        ctx: &'a Context,
        (source, destination): (BaseLocation, BaseLocation),
        budget: CallBudget,
    ) -> Result<TransferContext<'a>, StepError> {
        let scratch = match (&source, &destination) {
            (BaseLocation::S3 { .. }, BaseLocation::Local { root, .. }) => {
                Some(Arc::new(root.scratch(&ctx.client_token("scratch"))?))
            }
            _ => None,
        };
        let storage_class = self.options.storage_class.as_deref();

        Ok(TransferContext {
            ctx,
            source,
            destination,
            attributes: Attributes {
                storage_class: storage_class.map(StorageClass::from),
                encryption: self.options.sse.map(Into::into),
                kms_key: self.options.sse_kms_key_id.clone(),
            },
            is_move: self.operation == Operation::Move,
            recursive: self.recursive,
            budget,
            scratch,
            copies_through_function: AtomicBool::new(false),
            has_peer_source: self.has_peer_source(),
            memory: Semaphore::new(MEMORY_UNITS),
        })
    }

    fn log_verb(&self, source: &BaseLocation, destination: &BaseLocation) -> &'static str {
        match (self.operation, source, destination) {
            (Operation::Delete, ..) => "delete",
            (Operation::Move, ..) => "move",
            (_, BaseLocation::Local { .. }, _) => "upload",
            (_, _, BaseLocation::Local { .. }) => "download",
            _ => "copy",
        }
    }

    fn build_filters(&self, transfers: &TransferContext<'_>) -> Result<Filters, StepError> {
        let filter_root = |base: &BaseLocation, parameter: &str| match base {
            BaseLocation::S3 { bucket, .. } => {
                let key = S3Uri::parse("uri", parameter)
                    .map(|uri| uri.key)
                    .unwrap_or_default();
                s3_filter_root(&bucket.name, &key, self.recursive)
            }
            BaseLocation::Local { root, .. } => {
                local_filter_root(root.path(), parameter, self.recursive)
            }
        };
        Filters::new(
            &self.selection.filters,
            &filter_root(&transfers.source, self.source),
            &filter_root(&transfers.destination, self.destination),
        )
    }
}
