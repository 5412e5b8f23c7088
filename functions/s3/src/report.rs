//! What a run did, and what failed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, StepError};

/// How many reasons the final error contains; the log has all of them.
const MAX_REASONS: usize = 5;
/// The maximum length of a failure's subject (the object or file that failed) in the final error,
/// and the maximum length of its reason, in characters.
const MAX_REASON_CHARS: usize = 300;
/// How many lines about successes a call logs.
const MAX_SUCCESS_LINES: u64 = 1000;
/// A run stops after this many failures if nothing has succeeded, because every further object
/// would probably fail, too.
const MAX_FAILURES_WITHOUT_SUCCESS: u64 = 1000;

/// What the step did.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
pub struct TransferSummary {
    /// How many objects or files the step copied or moved; with `dry_run`, how many it would
    /// transfer. 0 for `s3-delete`.
    pub transferred: u64,
    /// The total size of the transferred objects or files, in bytes.
    pub bytes: u64,
    /// How many objects or files `s3-delete` deleted, or `s3-sync` deleted at the destination; with
    /// `dry_run`, how many the step would delete. 0 for the other steps.
    pub deleted: u64,
    /// How many objects or files were already up to date at the destination of `s3-sync`. 0 for the
    /// other steps, which do not compare.
    pub unchanged: u64,
    /// Whether the step only logged what it would do.
    pub dry_run: bool,
}

/// The failures of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Failures {
    count: u64,
    /// The messages of the first failures, for the final error.
    first: Vec<String>,
    /// The error name of all failures, if they share one.
    name: Option<ErrorName>,
}

/// The results of a run, over all its calls.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// The successes.
    pub done: TransferSummary,
    failed: Failures,
    /// How many lines about successes this call has logged.
    #[serde(skip)]
    lines: u64,
}

impl Report {
    /// Logs a success.
    pub fn log_success(&mut self, ctx: &Context, line: impl FnOnce() -> String) {
        self.lines += 1;
        if self.lines <= MAX_SUCCESS_LINES {
            let dry = if self.done.dry_run { "(dryrun) " } else { "" };
            ctx.log(format_args!("{dry}{}", line()));
        } else if self.lines == MAX_SUCCESS_LINES + 1 {
            ctx.log("… further successes are only counted; all failures are logged");
        }
    }

    /// Logs and counts a failure of `subject`.
    pub fn log_failure(&mut self, ctx: &Context, subject: &str, error: &StepError) {
        ctx.log(format_args!("{subject}: {error}"));

        let failed = &mut self.failed;
        failed.name = if failed.count == 0 {
            Some(error.name)
        } else {
            failed.name.filter(|name| *name == error.name)
        };
        failed.count += 1;
        if failed.first.len() < MAX_REASONS {
            // A key can have 1,024 bytes. The subject and the reason are cut separately, so that a
            // long key leaves room for the reason.
            let cut = |text: &str| text.chars().take(MAX_REASON_CHARS).collect::<String>();
            failed
                .first
                .push(format!("{}: {}", cut(subject), cut(&error.to_string())));
        }
    }

    /// Whether it is useless to continue: nothing succeeded, and the reason of the failures is not
    /// specific to an object.
    #[must_use]
    pub fn should_stop_early(&self) -> bool {
        let has_common_cause = matches!(
            self.failed.name,
            Some(
                ErrorName::AccessDenied
                    | ErrorName::NotFound
                    | ErrorName::Throttled
                    | ErrorName::TimedOut
            )
        );
        has_common_cause
            && self.failed.count >= MAX_FAILURES_WITHOUT_SUCCESS
            && self.done.transferred + self.done.deleted == 0
    }

    /// The summary of a run that finished or stopped early.
    ///
    /// # Errors
    /// The failures: under their common error name if nothing succeeded, otherwise as `StepFailed`.
    pub fn into_result(self) -> Result<TransferSummary, StepError> {
        let stopped_early = self.should_stop_early();
        let Self {
            done,
            failed: Failures { count, first, name },
            ..
        } = self;
        if count == 0 {
            return Ok(done);
        }

        let succeeded = done.transferred + done.deleted;
        let name = name
            .filter(|_| succeeded + done.unchanged == 0)
            .unwrap_or(ErrorName::StepFailed);
        let more = count.saturating_sub(first.len() as u64);
        let more = if more > 0 {
            format!("; the log has {more} more")
        } else {
            String::new()
        };

        Err(name.with_message(if count == 1 && succeeded + done.unchanged == 0 {
            first.concat()
        } else {
            let stop = if stopped_early {
                ", so the step stopped before the rest"
            } else {
                ""
            };
            format!(
                "objects: {count} failed, {succeeded} succeeded, {} were unchanged{stop}; fix the \
                 causes and run the step again: {}{more}",
                done.unchanged,
                first.join("; ")
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::config::{BehaviorVersion, Config};
    use stepward::testing;

    use super::*;

    fn context() -> Context {
        testing::context(aws_sdk_s3::Client::from_conf(
            Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .build(),
        ))
    }

    #[test]
    fn one_failure_keeps_its_name_and_many_are_counted() {
        let ctx = context();
        let mut report = Report::default();
        report.log_failure(
            &ctx,
            "upload failed: a",
            &ErrorName::NotFound.with_message("gone"),
        );
        assert_eq!(
            report.clone().into_result().unwrap_err(),
            ErrorName::NotFound.with_message("upload failed: a: gone")
        );
        report.done.transferred = 7;
        for n in 0..9 {
            report.log_failure(
                &ctx,
                &format!("upload failed: {n}"),
                &ErrorName::AccessDenied.with_message("no"),
            );
        }
        let error = report.into_result().unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .starts_with("objects: 10 failed, 7 succeeded, 0 were unchanged"),
            "{error}"
        );
        assert!(
            error.message.ends_with("3: no; the log has 5 more"),
            "{error}"
        );
        assert_eq!(
            testing::log_lines(&ctx).len(),
            10,
            "every failure is in the log"
        );
    }

    #[test]
    fn a_run_stops_when_every_object_fails() {
        let ctx = context();
        let mut report = Report::default();
        (0..MAX_FAILURES_WITHOUT_SUCCESS).for_each(|_| {
            report.log_failure(&ctx, "a", &ErrorName::AccessDenied.with_message("no"));
        });
        assert!(report.should_stop_early());
        let error = report.clone().into_result().unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error
                .message
                .contains("so the step stopped before the rest"),
            "{error}"
        );
        report.done.transferred = 1;
        assert!(!report.should_stop_early());
    }

    #[test]
    fn a_run_continues_when_reasons_are_specific_to_objects() {
        let ctx = context();
        let mut report = Report::default();
        (0..MAX_FAILURES_WITHOUT_SUCCESS).for_each(|_| {
            report.log_failure(
                &ctx,
                "a//b",
                &ErrorName::InvalidInput.with_message("not a file name"),
            );
        });
        assert!(!report.should_stop_early());
        let mut report = Report::default();
        (1..MAX_FAILURES_WITHOUT_SUCCESS).for_each(|_| {
            report.log_failure(&ctx, "a", &ErrorName::AccessDenied.with_message("no"));
        });
        report.log_failure(&ctx, "b", &ErrorName::Conflict.with_message("it changed"));
        assert!(!report.should_stop_early());
    }
}
