//! Errors of commands: what happened, what the operator should do, and the exit code.

use std::fmt;

use stepward::model::error::{ErrorName, StepError};

/// The result of most functions in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happened, what to do next, and the exit code.
#[derive(Debug)]
pub struct Error {
    message: String,
    advice: Option<String>,
    code: u8,
}

/// The exit code of a command that failed.
pub const FAILED: u8 = 1;
/// The exit code of a command that started and changed nothing: wrong usage, a prerequisite is
/// missing, or AWS or a check of Stepward refused the request. A program can correct the cause and
/// run the command again.
pub const NOT_STARTED: u8 = 2;

/// How a proposed command begins in a message.
const PROPOSED_COMMAND: &str = "`stepward ";

impl Error {
    /// An error that ends the command with exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            advice: None,
            code: FAILED,
        }
    }

    /// An error that ends the command with exit code 2: the command changed nothing.
    pub fn usage_error(message: impl Into<String>) -> Self {
        Self {
            code: NOT_STARTED,
            ..Self::new(message)
        }
    }

    /// Adds what to do next. The first advice is kept, because it is nearest to the cause.
    #[must_use]
    pub fn with_advice(mut self, advice: impl Into<String>) -> Self {
        self.advice.get_or_insert_with(|| advice.into());
        self
    }

    /// Puts the failed action before the message.
    #[must_use]
    pub fn with_context(mut self, action: &str) -> Self {
        self.message = format!("{action}: {}", self.message);
        self
    }

    /// Adds global options to every command that the error proposes: see [`repeat_options`].
    #[must_use]
    pub fn with_options(self, options: &str) -> Self {
        Self {
            message: repeat_options(&self.message, options),
            advice: self.advice.map(|advice| repeat_options(&advice, options)),
            code: self.code,
        }
    }

    /// The same error with exit code 2, for a command that has changed nothing.
    #[must_use]
    pub fn into_not_started(self) -> Self {
        Self {
            code: NOT_STARTED,
            ..self
        }
    }

    /// The same error with exit code 1, for a command that has started something. A program that
    /// sees exit code 2 could run the command again.
    #[must_use]
    pub fn into_started(self) -> Self {
        Self {
            code: FAILED,
            ..self
        }
    }

    /// The same error with the exit code that the failed call alone would give: 2 if the call was
    /// refused, 1 if it may have had an effect.
    #[must_use]
    pub(crate) fn with_code_of(self, failed_call: &StepError) -> Self {
        if is_refusal(failed_call.name) {
            self.into_not_started()
        } else {
            self.into_started()
        }
    }

    /// The exit code of the process.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }
}

/// Whether an error of this name is a refusal: AWS or a check responded, and nothing was changed.
/// After `TimedOut` and `Internal` it is not known whether the call had an effect.
fn is_refusal(name: ErrorName) -> bool {
    !matches!(name, ErrorName::TimedOut | ErrorName::Internal)
}

/// Adds global options, for example ` --local --stack staging`, to every command that a text
/// proposes. An operator who pastes the command reaches the same cloud and stack.
#[must_use]
pub fn repeat_options(text: &str, options: &str) -> String {
    text.replace(PROPOSED_COMMAND, &format!("`stepward{options} "))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.advice
            .as_ref()
            .map_or(Ok(()), |advice| write!(f, "\nNext: {advice}"))
    }
}

impl std::error::Error for Error {}

impl From<StepError> for Error {
    fn from(error: StepError) -> Self {
        Self::new(format!("{}: {error}", error.name)).with_code_of(&error)
    }
}

/// Adds the file, program or action to errors that do not name it.
pub trait Context<T> {
    /// Puts the file, program or action before the error's message.
    fn context(self, action: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, action: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::new(format!("{action}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_nearest_to_the_cause_is_kept() {
        let error = Error::new("no stack")
            .with_advice("deploy it")
            .with_advice("ask a colleague")
            .with_context("job list");
        assert_eq!(error.to_string(), "job list: no stack\nNext: deploy it");
    }

    #[test]
    fn only_a_refusal_has_changed_nothing() {
        for (name, code) in [
            (ErrorName::InvalidInput, NOT_STARTED),
            (ErrorName::Conflict, NOT_STARTED),
            (ErrorName::AccessDenied, NOT_STARTED),
            (ErrorName::Throttled, NOT_STARTED),
            (ErrorName::TimedOut, FAILED),
            (ErrorName::Internal, FAILED),
        ] {
            let error = Error::from(name.with_message("no"));
            assert_eq!(error.code(), code, "{name}");
        }
    }

    #[test]
    fn proposed_commands_repeat_the_global_options() {
        let error = Error::new("stack \"staging\" was not deployed by this program")
            .with_advice("run `stepward deploy`, then `stepward account show acme prod`")
            .with_options(" --local --stack staging");
        assert_eq!(
            error.to_string(),
            "stack \"staging\" was not deployed by this program\nNext: run `stepward --local \
             --stack staging deploy`, then `stepward --local --stack staging account show acme \
             prod`"
        );
    }
}
