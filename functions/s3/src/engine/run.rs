//! A run, and how it records the results of its work.

use stepward::StepError;

use super::position::UnfinishedTransfer;
use crate::listing::Entry;
use crate::report::Report;
use crate::transfer::{PartialTransfer, TransferContext};

/// The result of one unit of work.
pub(super) enum WorkResult {
    /// A transfer.
    Transferred {
        entry: Entry,
        /// Whether the transfer counted as a large one.
        is_large: bool,
        result: Result<Option<PartialTransfer>, StepError>,
    },
    /// A batch of deletions.
    Deleted(Vec<(Entry, Result<(), StepError>)>),
}

/// The results of a call that have been recorded so far.
pub(super) struct CallState {
    pub(super) report: Report,
    /// The transfers that continue in the next call.
    pub(super) unfinished: Vec<UnfinishedTransfer>,
    /// How many large transfers are running.
    pub(super) running_large: usize,
}

/// A run of a transfer in one call.
pub struct TransferRun<'a> {
    /// What all transfers of the call share.
    pub transfers: &'a TransferContext<'a>,
    /// The name at the destination of a single entry, if it differs from its key.
    pub rename: Option<String>,
    /// Whether the run only logs what it would do.
    pub dry_run: bool,
    /// The verb of log lines, as in the AWS CLI: `upload`, `move` ….
    pub verb: &'static str,
}

impl TransferRun<'_> {
    pub(super) fn record_result(&self, result: WorkResult, state: &mut CallState) {
        match result {
            WorkResult::Transferred {
                entry,
                is_large,
                result,
            } => {
                state.running_large -= usize::from(is_large);
                match result {
                    Ok(None) => self.record_transfer(&mut state.report, &entry),
                    Ok(Some(partial)) => state.unfinished.push(UnfinishedTransfer {
                        key: entry.key,
                        size: entry.size,
                        etag: entry.etag,
                        partial,
                    }),
                    Err(error) => self.record_failure(&mut state.report, &entry.key, &error),
                }
            }
            WorkResult::Deleted(entries) => {
                for (entry, result) in entries {
                    match result {
                        Ok(()) => self.record_deletion(&mut state.report, &entry),
                        Err(error) => {
                            let name = self.transfers.destination.display(&entry.key);
                            state.report.log_failure(
                                self.transfers.ctx,
                                &format!("delete failed: {name}"),
                                &error,
                            );
                        }
                    }
                }
            }
        }
    }

    pub(super) fn record_failure(&self, report: &mut Report, key: &str, error: &StepError) {
        let name = self.transfers.source.display(key);
        let subject = format!("{} failed: {name}", self.verb);
        report.log_failure(self.transfers.ctx, &subject, error);
    }

    pub(super) fn record_transfer(&self, report: &mut Report, entry: &Entry) {
        let TransferContext {
            ctx,
            source,
            destination,
            ..
        } = self.transfers;
        report.done.transferred += 1;
        report.done.bytes += entry.size;
        report.log_success(ctx, || {
            format!(
                "{}: {} to {}",
                self.verb,
                source.display(&entry.key),
                destination.display(self.destination_name(&entry.key))
            )
        });
    }

    pub(super) fn record_deletion(&self, report: &mut Report, entry: &Entry) {
        report.done.deleted += 1;
        report.log_success(self.transfers.ctx, || {
            format!("delete: {}", self.transfers.destination.display(&entry.key))
        });
    }

    pub(super) fn destination_name<'e>(&'e self, key: &'e str) -> &'e str {
        self.rename.as_deref().unwrap_or(key)
    }
}
