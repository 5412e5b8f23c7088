//! The run of a transfer: decisions on one side, objects on their way on the other, and where it
//! goes on next time.

mod position;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use stepward::{ErrorName, Progress, StepError};

use crate::body::blocking;
use crate::delete::{self, Batch};
use crate::end::End;
use crate::listing::Entry;
use crate::plan::{Decision, Plan};
use crate::report::{Done, Report};
use crate::slice::too_late;
use crate::transfer::{Begin, Transfers};

pub use self::position::{Position, Unfinished, position};

/// Objects that are on their way at once. S3 answers a small one in some 20 to 50 ms, so that this
/// is beyond what one processor sends.
const AT_ONCE: usize = 64;
/// Of those, objects that are moved in parts; each has several on their way.
const LARGE_AT_ONCE: usize = 4;

/// What one piece of work has come to.
enum Came {
    /// And whether it was counted as a large one.
    Transferred(Entry, bool, Result<Option<Begin>, StepError>),
    Deleted(Vec<(Entry, Result<(), StepError>)>),
}

/// A run of transfers.
pub struct Run<'a> {
    /// How objects are moved.
    pub transfers: &'a Transfers<'a>,
    /// What the entry is called at the destination, where that is not its key.
    pub rename: Option<String>,
    /// Whether nothing is changed, only shown.
    pub dry_run: bool,
    /// The verb of a log line, as the AWS CLI has it: `upload`, `move` ….
    pub verb: &'static str,
}

impl Run<'_> {
    /// Works until all is done, or the time for this call is over.
    ///
    /// # Errors
    /// Why a listing failed; what single objects failed with, once all others are done.
    pub async fn run(
        &self,
        mut plan: Plan<'_>,
        position: Position,
    ) -> Result<Progress<Done>, StepError> {
        let Position {
            mut after,
            unfinished,
            mut report,
        } = position;
        report.done.dry_run = self.dry_run;
        let mut running: FuturesUnordered<BoxFuture<'_, Came>> = FuturesUnordered::new();
        let mut left = Vec::new();
        let mut large = 0;
        let mut batch = Batch::default();
        // What is to go on is enough for a call.
        let mut has_begun = !unfinished.is_empty();
        for Unfinished {
            key,
            size,
            etag,
            begin,
        } in unfinished
        {
            large += 1;
            let modified = std::time::SystemTime::UNIX_EPOCH;
            running.push(self.transfer(
                Entry {
                    key,
                    size,
                    modified,
                    etag,
                    archived: false,
                },
                true,
                Some(begin),
            ));
        }
        let Transfers {
            slice, destination, ..
        } = self.transfers;
        let to_files = matches!(destination, End::Local { .. });
        let (mut listed, mut got_on, mut is_silent) = (false, false, false);
        let listing: Result<(), StepError> = loop {
            let has_time = !has_begun || !slice.is_over();
            let goes_on = !listed && !is_silent && has_time && !report.is_hopeless();
            let has_room = running.len() < AT_ONCE && large < LARGE_AT_ONCE;
            if !goes_on && batch.is_empty() && running.is_empty() {
                break Ok(());
            }
            if (!goes_on || batch.is_full())
                && let Some(work) = self.deletion(&mut batch)
            {
                running.push(work);
                continue;
            }
            let decision = tokio::select! {
                biased;
                Some(came) = running.next(), if !running.is_empty() => {
                    self.note(came, &mut report, &mut left, &mut large);
                    got_on = true;
                    continue;
                }
                decision = plan.next(), if goes_on && has_room => decision,
                () = tokio::time::sleep_until(slice.limit()), if goes_on && has_room => {
                    if got_on {
                        // The next call lists again from here.
                        is_silent = true;
                        continue;
                    }
                    Err(silent())
                }
                else => continue,
            };
            let decision = match decision {
                Ok(decision) => decision,
                // What is under way is brought to its end first.
                Err(error) => {
                    while let Some(came) = running.next().await {
                        self.note(came, &mut report, &mut left, &mut large);
                    }
                    break Err(error);
                }
            };
            if !std::mem::replace(&mut has_begun, true) {
                slice.begin();
            }
            let Some(decision) = decision else {
                listed = true;
                continue;
            };
            got_on = true;
            if let Some(key) = decision.position()
                && after.as_deref().is_none_or(|after| after < key)
            {
                after = Some(key.to_owned());
            }
            match decision {
                Decision::Left(_) => {}
                Decision::Unchanged(_) => report.done.unchanged += 1,
                Decision::Impossible { key, reason } => {
                    self.fail(
                        &mut report,
                        &key,
                        &ErrorName::StepFailed.with_message(reason),
                    );
                }
                Decision::Transfer(entry)
                    if let Err(error) = self.transfers.check(&entry, self.name(&entry.key)) =>
                {
                    self.fail(&mut report, &entry.key, &error);
                }
                Decision::Transfer(Entry {
                    key,
                    archived: true,
                    ..
                }) if self.dry_run => {
                    let reason = "it is archived; unless it has been restored, it cannot be read";
                    self.fail(&mut report, &key, &ErrorName::Conflict.with_message(reason));
                }
                Decision::Transfer(entry) if self.dry_run => self.transferred(&mut report, &entry),
                Decision::Delete(entry) if self.dry_run => self.deleted(&mut report, &entry),
                Decision::Delete(entry) => batch.push(entry),
                Decision::Transfer(entry) => {
                    // A file has to be gone before its name can be a directory's.
                    if to_files && batch.is_above(&entry.key) {
                        running.extend(self.deletion(&mut batch));
                        while let Some(came) = running.next().await {
                            self.note(came, &mut report, &mut left, &mut large);
                        }
                    }
                    let is_large = self.transfers.is_large(&entry);
                    large += usize::from(is_large);
                    running.push(self.transfer(entry, is_large, None));
                }
            }
        };
        drop(running);
        self.end(
            listing,
            listed,
            Position {
                after,
                unfinished: left,
                report,
            },
        )
        .await
    }

    /// What a call answers, once nothing is under way any more.
    async fn end(
        &self,
        listing: Result<(), StepError>,
        listed: bool,
        position: Position,
    ) -> Result<Progress<Done>, StepError> {
        let Position {
            unfinished, report, ..
        } = &position;
        let is_hopeless = report.is_hopeless();
        if let Err(error) = listing.and_then(|()| {
            if is_hopeless {
                report.clone().end().map(drop)
            } else {
                Ok(())
            }
        }) {
            // What ended it, before what could not be ended.
            let ended = self.transfers.slice.at_last(self.give_up(unfinished)).await;
            return Err(match ended.unwrap_or_else(|| Err(too_late())) {
                Ok(()) => error,
                Err(also) => StepError {
                    message: format!("{}; and {also}", error.message),
                    ..error
                },
            });
        }
        if !listed || !unfinished.is_empty() {
            return Progress::pending(
                &position,
                Duration::ZERO,
                progress(report, unfinished.len()),
            );
        }
        self.clean_up().await?;
        position.report.end().map(Progress::Done)
    }

    fn transfer(&self, entry: Entry, is_large: bool, begin: Option<Begin>) -> BoxFuture<'_, Came> {
        Box::pin(async move {
            let worked = self
                .transfers
                .transfer(&entry, self.name(&entry.key), begin)
                .await;
            Came::Transferred(entry, is_large, worked)
        })
    }

    fn deletion(&self, batch: &mut Batch) -> Option<BoxFuture<'_, Came>> {
        let entries = batch.take()?;
        let Transfers {
            destination, slice, ..
        } = self.transfers;
        Some(Box::pin(async move {
            Came::Deleted(delete::all(destination, entries, slice).await)
        }))
    }

    fn note(&self, came: Came, report: &mut Report, left: &mut Vec<Unfinished>, large: &mut usize) {
        match came {
            Came::Transferred(entry, is_large, worked) => {
                *large -= usize::from(is_large);
                match worked {
                    Ok(None) => self.transferred(report, &entry),
                    Ok(Some(begin)) => {
                        let Entry {
                            key, size, etag, ..
                        } = entry;
                        left.push(Unfinished {
                            key,
                            size,
                            etag,
                            begin,
                        });
                    }
                    Err(error) => self.fail(report, &entry.key, &error),
                }
            }
            Came::Deleted(entries) => {
                for (entry, worked) in entries {
                    match worked {
                        Ok(()) => self.deleted(report, &entry),
                        Err(error) => {
                            let shown = self.transfers.destination.shown(&entry.key);
                            report.fail(
                                self.transfers.ctx,
                                &format!("delete failed: {shown}"),
                                &error,
                            );
                        }
                    }
                }
            }
        }
    }

    fn fail(&self, report: &mut Report, key: &str, error: &StepError) {
        let what = format!("{} failed: {}", self.verb, self.transfers.source.shown(key));
        report.fail(self.transfers.ctx, &what, error);
    }

    fn transferred(&self, report: &mut Report, entry: &Entry) {
        let Transfers {
            ctx,
            source,
            destination,
            ..
        } = self.transfers;
        report.done.transferred += 1;
        report.done.bytes += entry.size;
        let line = || {
            format!(
                "{}: {} to {}",
                self.verb,
                source.shown(&entry.key),
                destination.shown(self.name(&entry.key))
            )
        };
        report.say(ctx, line);
    }

    fn deleted(&self, report: &mut Report, entry: &Entry) {
        report.done.deleted += 1;
        report.say(self.transfers.ctx, || {
            format!("delete: {}", self.transfers.destination.shown(&entry.key))
        });
    }

    fn name<'e>(&'e self, key: &'e str) -> &'e str {
        self.rename.as_deref().unwrap_or(key)
    }

    /// Ends what was begun, when it will not go on.
    ///
    /// # Errors
    /// Why it cannot be ended.
    pub async fn give_up(&self, left: &[Unfinished]) -> Result<(), StepError> {
        let mut ended = Ok(());
        for Unfinished { key, begin, .. } in left {
            ended = ended.and(self.transfers.give_up(begin, self.name(key)).await);
        }
        ended.and(self.clean_up().await)
    }

    /// Removes the directory of unfinished files.
    async fn clean_up(&self) -> Result<(), StepError> {
        match self.transfers.scratch.clone() {
            Some(scratch) => blocking(move || scratch.remove()).await,
            None => Ok(()),
        }
    }
}

fn silent() -> StepError {
    ErrorName::TimedOut.with_message(
        "nothing was listed in all of this call's time; look at S3's status, then run it again",
    )
}

fn progress(report: &Report, unfinished: usize) -> String {
    let Done {
        transferred,
        bytes,
        deleted,
        unchanged,
        ..
    } = &report.done;
    let under_way = if unfinished > 0 {
        format!(", {unfinished} large ones under way")
    } else {
        String::new()
    };
    format!(
        "{transferred} transferred ({bytes} bytes), {deleted} deleted, {unchanged} unchanged so far{under_way}"
    )
}
