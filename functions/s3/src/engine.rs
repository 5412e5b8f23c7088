//! Runs a transfer: decides about names in order, transfers and deletes objects concurrently, and
//! records where the next call continues.

mod position;
mod run;

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use stepward::{ErrorName, Progress, StepError};

use crate::base_location::BaseLocation;
use crate::body::run_blocking;
use crate::call_budget::cut_off_error;
use crate::delete::{self, DeletionBatch};
use crate::listing::Entry;
use crate::plan::{Decision, Plan};
use crate::report::{Report, TransferSummary};
use crate::transfer::{PartialTransfer, TransferContext};

pub use self::position::{Position, UnfinishedTransfer, position_from};
pub use self::run::TransferRun;
use self::run::{CallState, WorkResult};

/// How many objects are transferred at the same time. S3 answers a small request in about 20 to
/// 50 ms, so this is more than one processor can send.
const MAX_CONCURRENT: usize = 64;
/// How many of them may be transferred in parts; each sends several parts at the same time.
const MAX_CONCURRENT_LARGE: usize = 4;

impl TransferRun<'_> {
    /// Works until everything is done or the call's budget is spent.
    ///
    /// # Errors
    /// The error of a listing; the errors of single objects, after all others are done.
    pub async fn run(
        &self,
        mut plan: Plan<'_>,
        position: Position,
    ) -> Result<Progress<TransferSummary>, StepError> {
        let Position {
            mut after,
            unfinished,
            mut report,
        } = position;
        report.done.dry_run = self.dry_run;

        let mut running: FuturesUnordered<BoxFuture<'_, WorkResult>> = FuturesUnordered::new();
        let mut state = CallState {
            report,
            unfinished: Vec::new(),
            running_large: 0,
        };
        let mut batch = DeletionBatch::default();

        // Unfinished transfers are enough work for a call.
        let mut has_started_work = !unfinished.is_empty();
        for UnfinishedTransfer {
            key,
            size,
            etag,
            partial,
        } in unfinished
        {
            state.running_large += 1;
            let entry = Entry {
                key,
                size,
                modified: SystemTime::UNIX_EPOCH,
                etag,
                archived: false,
            };
            running.push(self.start_transfer(entry, true, Some(partial)));
        }

        let TransferContext {
            budget,
            destination,
            ..
        } = self.transfers;
        let to_files = matches!(destination, BaseLocation::Local { .. });
        let (mut is_listed, mut has_progress, mut is_stalled) = (false, false, false);

        let listing: Result<(), StepError> = loop {
            let has_time = !has_started_work || !budget.is_spent();
            let decides =
                !is_listed && !is_stalled && has_time && !state.report.should_stop_early();
            let has_room =
                running.len() < MAX_CONCURRENT && state.running_large < MAX_CONCURRENT_LARGE;
            if !decides && batch.is_empty() && running.is_empty() {
                break Ok(());
            }
            if (!decides || batch.is_full())
                && let Some(work) = self.start_deletion(&mut batch)
            {
                running.push(work);
                continue;
            }

            let decision = tokio::select! {
                biased;
                Some(result) = running.next(), if !running.is_empty() => {
                    self.record_result(result, &mut state);
                    has_progress = true;
                    continue;
                }
                decision = plan.next_decision(), if decides && has_room => decision,
                () = tokio::time::sleep_until(budget.cutoff()), if decides && has_room => {
                    if has_progress {
                        // The next call lists again from here.
                        is_stalled = true;
                        continue;
                    }
                    Err(stalled_listing_error())
                }
                else => continue,
            };
            let decision = match decision {
                Ok(decision) => decision,
                // Let running work finish before the step fails.
                Err(error) => {
                    while let Some(result) = running.next().await {
                        self.record_result(result, &mut state);
                    }
                    break Err(error);
                }
            };
            if !std::mem::replace(&mut has_started_work, true) {
                budget.restart_once();
            }
            let Some(decision) = decision else {
                is_listed = true;
                continue;
            };
            has_progress = true;
            if let Some(key) = decision.position()
                && after.as_deref().is_none_or(|after| after < key)
            {
                after = Some(key.to_owned());
            }

            match decision {
                Decision::Skip(_) => {}
                Decision::Unchanged(_) => state.report.done.unchanged += 1,
                Decision::CannotTransfer { key, reason } => {
                    let error = ErrorName::StepFailed.with_message(reason);
                    self.record_failure(&mut state.report, &key, &error);
                }
                Decision::Transfer(entry)
                    if let Err(error) = self
                        .transfers
                        .check_transferable(&entry, self.destination_name(&entry.key)) =>
                {
                    self.record_failure(&mut state.report, &entry.key, &error);
                }
                Decision::Transfer(Entry {
                    key,
                    archived: true,
                    ..
                }) if self.dry_run => {
                    let error = ErrorName::Conflict.with_message(
                        "the object is archived, so it can be read only after it was restored; \
                         restore it first",
                    );
                    self.record_failure(&mut state.report, &key, &error);
                }
                Decision::Transfer(entry) if self.dry_run => {
                    self.record_transfer(&mut state.report, &entry);
                }
                Decision::Delete(entry) if self.dry_run => {
                    self.record_deletion(&mut state.report, &entry);
                }
                Decision::Delete(entry) => batch.push(entry),
                Decision::Transfer(entry) => {
                    // A file must be deleted before a directory can have its name.
                    if to_files && batch.has_file_above(&entry.key) {
                        running.extend(self.start_deletion(&mut batch));
                        while let Some(result) = running.next().await {
                            self.record_result(result, &mut state);
                        }
                    }
                    let is_large = self.transfers.is_large(&entry);
                    state.running_large += usize::from(is_large);
                    running.push(self.start_transfer(entry, is_large, None));
                }
            }
        };

        drop(running);
        let position = Position {
            after,
            unfinished: state.unfinished,
            report: state.report,
        };
        self.finish_call(listing, is_listed, position).await
    }

    /// The answer of a call, when no work is running any more.
    async fn finish_call(
        &self,
        listing: Result<(), StepError>,
        is_listed: bool,
        position: Position,
    ) -> Result<Progress<TransferSummary>, StepError> {
        let Position {
            unfinished, report, ..
        } = &position;
        let failure = listing.and_then(|()| {
            if report.should_stop_early() {
                report.clone().into_result().map(drop)
            } else {
                Ok(())
            }
        });

        if let Err(error) = failure {
            let cleanup = self
                .transfers
                .budget
                .run_cleanup(self.abort_unfinished(unfinished))
                .await;
            return Err(match cleanup.unwrap_or_else(|| Err(cut_off_error())) {
                Ok(()) => error,
                // The first error is the reason of the failure.
                Err(cleanup_error) => StepError {
                    message: format!("{}; and {cleanup_error}", error.message),
                    ..error
                },
            });
        }

        if !is_listed || !unfinished.is_empty() {
            let text = progress_text(report, unfinished.len());
            return Progress::pending(&position, Duration::ZERO, text);
        }
        self.remove_scratch().await?;
        position.report.into_result().map(Progress::Done)
    }

    fn start_transfer(
        &self,
        entry: Entry,
        is_large: bool,
        partial: Option<PartialTransfer>,
    ) -> BoxFuture<'_, WorkResult> {
        Box::pin(async move {
            let result = self
                .transfers
                .transfer_entry(&entry, self.destination_name(&entry.key), partial)
                .await;
            WorkResult::Transferred {
                entry,
                is_large,
                result,
            }
        })
    }

    fn start_deletion(&self, batch: &mut DeletionBatch) -> Option<BoxFuture<'_, WorkResult>> {
        let entries = batch.take_entries()?;
        let TransferContext {
            destination,
            budget,
            ..
        } = self.transfers;
        Some(Box::pin(async move {
            WorkResult::Deleted(delete::delete_entries(destination, entries, budget).await)
        }))
    }

    /// Aborts transfers that will not continue, and removes unfinished files.
    ///
    /// # Errors
    /// Why a transfer cannot be aborted.
    pub async fn abort_unfinished(
        &self,
        unfinished: &[UnfinishedTransfer],
    ) -> Result<(), StepError> {
        let mut result = Ok(());
        for UnfinishedTransfer { key, partial, .. } in unfinished {
            let name = self.destination_name(key);
            result = result.and(self.transfers.abort_partial(partial, name).await);
        }
        result.and(self.remove_scratch().await)
    }

    /// Removes the directory of unfinished files.
    async fn remove_scratch(&self) -> Result<(), StepError> {
        match self.transfers.scratch.clone() {
            Some(scratch) => run_blocking(move || scratch.remove_directory()).await,
            None => Ok(()),
        }
    }
}

fn stalled_listing_error() -> StepError {
    ErrorName::TimedOut.with_message(
        "S3 or the file system listed nothing during a whole call; check S3's status, then run the \
         step again",
    )
}

fn progress_text(report: &Report, unfinished: usize) -> String {
    let TransferSummary {
        transferred,
        bytes,
        deleted,
        unchanged,
        ..
    } = &report.done;
    let running = if unfinished > 0 {
        format!(", {unfinished} large ones running")
    } else {
        String::new()
    };
    format!(
        "{transferred} transferred ({bytes} bytes), {deleted} deleted, {unchanged} unchanged so \
         far{running}"
    )
}
