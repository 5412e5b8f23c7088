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

/// How many objects are transferred at the same time. S3 responds to a small request in about 20 to
/// 50 ms, so this is more than one processor can send.
const MAX_CONCURRENT: usize = 64;
/// How many of these objects may be transferred in parts. Each of them sends several parts at the
/// same time.
const MAX_CONCURRENT_LARGE: usize = 4;

/// The work of a call.
struct CallWork<'r> {
    running: FuturesUnordered<BoxFuture<'r, WorkResult>>,
    /// Deletions that are not requested yet.
    batch: DeletionBatch,
    state: CallState,
}

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
            report,
        } = position;
        // Unfinished transfers are enough work for a call.
        let mut has_started_work = !unfinished.is_empty();
        let mut work = self.resume_work(unfinished, report);
        let budget = &self.transfers.budget;
        let (mut is_listed, mut has_progress, mut is_stalled) = (false, false, false);

        let listing: Result<(), StepError> = loop {
            let has_time = !has_started_work || !budget.is_spent();
            let decides =
                !is_listed && !is_stalled && has_time && !work.state.report.should_stop_early();
            let has_room = work.running.len() < MAX_CONCURRENT
                && work.state.running_large < MAX_CONCURRENT_LARGE;
            if !decides && work.batch.is_empty() && work.running.is_empty() {
                break Ok(());
            }
            if (!decides || work.batch.is_full())
                && let Some(deletion) = self.start_deletion(&mut work.batch)
            {
                work.running.push(deletion);
                continue;
            }

            let decision = tokio::select! {
                biased;
                Some(result) = work.running.next(), if !work.running.is_empty() => {
                    self.record_result(result, &mut work.state);
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
                Err(error) => {
                    // Let running work finish before the step fails.
                    self.finish_running(&mut work).await;
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
            self.execute_decision(decision, &mut work).await;
        };

        let CallWork { state, .. } = work;
        let position = Position {
            after,
            unfinished: state.unfinished,
            report: state.report,
        };
        self.finish_call(listing, is_listed, position).await
    }

    /// The work at the start of a call: the unfinished transfers of the earlier one.
    fn resume_work(&self, unfinished: Vec<UnfinishedTransfer>, mut report: Report) -> CallWork<'_> {
        report.done.dry_run = self.dry_run;
        let work = CallWork {
            running: FuturesUnordered::new(),
            batch: DeletionBatch::default(),
            state: CallState {
                report,
                unfinished: Vec::new(),
                running_large: unfinished.len(),
            },
        };

        for UnfinishedTransfer {
            key,
            size,
            etag,
            partial,
        } in unfinished
        {
            let entry = Entry {
                key,
                size,
                modified: SystemTime::UNIX_EPOCH,
                etag,
                archived: false,
            };
            work.running
                .push(self.start_transfer(entry, true, Some(partial)));
        }
        work
    }

    /// Waits until no work is running.
    async fn finish_running(&self, work: &mut CallWork<'_>) {
        while let Some(result) = work.running.next().await {
            self.record_result(result, &mut work.state);
        }
    }

    /// Starts or records what a decision requires.
    async fn execute_decision<'r>(&'r self, decision: Decision, work: &mut CallWork<'r>) {
        let report = &mut work.state.report;
        match decision {
            Decision::Skip(_) => {}
            Decision::Unchanged(_) => report.done.unchanged += 1,
            Decision::CannotTransfer { key, reason } => {
                let error = ErrorName::StepFailed.with_message(reason);
                self.record_failure(report, &key, &error);
            }
            Decision::Transfer(entry)
                if let Err(error) = self
                    .transfers
                    .check_transferable(&entry, self.destination_name(&entry.key)) =>
            {
                self.record_failure(report, &entry.key, &error);
            }
            Decision::Transfer(Entry {
                key,
                archived: true,
                ..
            }) if self.dry_run => {
                let error = ErrorName::Conflict
                    .with_message("the object is archived; restore it, then run the step again");
                self.record_failure(report, &key, &error);
            }
            Decision::Transfer(entry) if self.dry_run => self.record_transfer(report, &entry),
            Decision::Delete(entry) if self.dry_run => self.record_deletion(report, &entry),
            Decision::Delete(entry) => work.batch.push(entry),
            Decision::Transfer(entry) => {
                // A file must be deleted before a directory can have its name.
                let is_file = matches!(self.transfers.destination, BaseLocation::Local { .. });
                if is_file && work.batch.has_file_above(&entry.key) {
                    work.running.extend(self.start_deletion(&mut work.batch));
                    self.finish_running(work).await;
                }
                let is_large = self.transfers.is_large(&entry);
                work.state.running_large += usize::from(is_large);
                work.running
                    .push(self.start_transfer(entry, is_large, None));
            }
        }
    }

    /// The response of a call, when no work is running any more.
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
        "the listing of S3 or of the local root made no progress; check the status of S3 and of \
         the file system, then run the step again",
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
