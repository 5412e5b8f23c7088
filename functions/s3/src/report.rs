//! What was done, and what was not.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, StepError};

/// Failures whose reasons an error's message has; all are in the log.
const SHOWN: usize = 5;
/// Characters of a failure's name, and of its reason, that are kept until the end.
const KEPT: usize = 300;
/// Lines of a call's log that tell of what went well.
const LINES: u64 = 1000;
/// Failures after which it is given up, where nothing went well: it would go on for every object.
const HOPELESS: u64 = 1000;

/// What was done.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
pub struct Done {
    /// Objects or files that were copied or moved; with `dry_run` those that would be.
    pub transferred: u64,
    /// Their size, in bytes.
    pub bytes: u64,
    /// Objects or files that were deleted at the destination.
    pub deleted: u64,
    /// Objects or files that the destination had already, where that was compared.
    pub unchanged: u64,
    /// Whether nothing was changed, only shown.
    pub dry_run: bool,
}

/// What failed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Failed {
    count: u64,
    first: Vec<String>,
    /// The name of all of them, where they share one.
    name: Option<ErrorName>,
}

/// What was done and what failed, over all calls.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// What went well.
    pub done: Done,
    failed: Failed,
    /// Lines that this call has logged.
    #[serde(skip)]
    lines: u64,
}

impl Report {
    /// Notes, and says, what went well.
    pub fn say(&mut self, ctx: &Context, line: impl FnOnce() -> String) {
        self.lines += 1;
        if self.lines <= LINES {
            let dry = if self.done.dry_run { "(dryrun) " } else { "" };
            ctx.log(format_args!("{dry}{}", line()));
        } else if self.lines == LINES + 1 {
            ctx.log("… more, which the counts tell; failures are all shown");
        }
    }

    /// Notes, and says, what failed.
    pub fn fail(&mut self, ctx: &Context, what: &str, error: &StepError) {
        ctx.log(format_args!("{what}: {error}"));
        let failed = &mut self.failed;
        failed.name = if failed.count == 0 {
            Some(error.name)
        } else {
            failed.name.filter(|name| *name == error.name)
        };
        failed.count += 1;
        if failed.first.len() < SHOWN {
            // A key may be longer than all that can be kept; the reason must not go for it.
            let cut = |text: &str| text.chars().take(KEPT).collect::<String>();
            failed
                .first
                .push(format!("{}: {}", cut(what), cut(&error.to_string())));
        }
    }

    /// Whether it is of no use to go on: nothing went well, and what failed did so for a reason
    /// that is no object's own.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        let shared = matches!(
            self.failed.name,
            Some(
                ErrorName::AccessDenied
                    | ErrorName::NotFound
                    | ErrorName::Throttled
                    | ErrorName::TimedOut
            )
        );
        shared && self.failed.count >= HOPELESS && self.done.transferred + self.done.deleted == 0
    }

    /// What was done, once all is over or given up.
    ///
    /// # Errors
    /// What failed, under the name that all failures share where nothing went well, else as
    /// `StepFailed`.
    pub fn end(self) -> Result<Done, StepError> {
        let given_up = self.is_hopeless();
        let Self {
            done,
            failed: Failed { count, first, name },
            ..
        } = self;
        if count == 0 {
            return Ok(done);
        }
        let well = done.transferred + done.deleted;
        let name = name
            .filter(|_| well + done.unchanged == 0)
            .unwrap_or(ErrorName::StepFailed);
        let more = count.saturating_sub(first.len() as u64);
        let more = if more > 0 {
            format!("; and {more} more, which the log names")
        } else {
            String::new()
        };
        Err(name.with_message(if count == 1 && well + done.unchanged == 0 {
            first.concat()
        } else {
            let rest = if given_up { ", so it was given up and the rest not tried" } else { "" };
            format!(
                "{count} failed and {well} went well ({} were there already){rest}; run it again once they are mended: \
                 {}{more}",
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
    fn the_only_failure_keeps_its_name_and_many_are_counted_with_the_first_ones_reasons() {
        let ctx = context();
        let mut report = Report::default();
        report.fail(
            &ctx,
            "upload failed: a",
            &ErrorName::NotFound.with_message("gone"),
        );
        assert_eq!(
            report.clone().end().unwrap_err(),
            ErrorName::NotFound.with_message("upload failed: a: gone")
        );
        report.done.transferred = 7;
        for n in 0..9 {
            report.fail(
                &ctx,
                &format!("upload failed: {n}"),
                &ErrorName::AccessDenied.with_message("no"),
            );
        }
        let error = report.end().unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.starts_with("10 failed and 7 went well"),
            "{error}"
        );
        assert!(
            error
                .message
                .ends_with("3: no; and 5 more, which the log names"),
            "{error}"
        );
        assert_eq!(testing::log(&ctx).len(), 10, "every failure is in the log");
    }

    #[test]
    fn what_fails_for_every_object_is_given_up() {
        let ctx = context();
        let mut report = Report::default();
        (0..HOPELESS)
            .for_each(|_| report.fail(&ctx, "a", &ErrorName::AccessDenied.with_message("no")));
        assert!(report.is_hopeless());
        let error = report.clone().end().unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error.message.contains("given up and the rest not tried"),
            "{error}"
        );
        report.done.transferred = 1;
        assert!(!report.is_hopeless());
    }

    #[test]
    fn what_fails_for_reasons_of_single_objects_is_not_given_up() {
        let ctx = context();
        let mut report = Report::default();
        (0..HOPELESS).for_each(|_| {
            report.fail(
                &ctx,
                "a//b",
                &ErrorName::InvalidInput.with_message("no name of a file"),
            )
        });
        assert!(!report.is_hopeless());
        let mut report = Report::default();
        (1..HOPELESS)
            .for_each(|_| report.fail(&ctx, "a", &ErrorName::AccessDenied.with_message("no")));
        report.fail(
            &ctx,
            "b",
            &ErrorName::Conflict.with_message("it was changed"),
        );
        assert!(!report.is_hopeless());
    }
}
