//! What an operator is told when a command cannot go on.

use std::fmt;

use stepward::model::error::StepError;

/// Ends most functions here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happened, what to do next, and the exit code.
#[derive(Debug)]
pub struct Error {
    what: String,
    next: Option<String>,
    code: u8,
}

/// The exit code of a command that failed.
pub const FAILED: u8 = 1;
/// The exit code of a command that could not be asked: wrong usage, no credentials, nothing
/// deployed.
pub const NOT_ASKED: u8 = 2;

impl Error {
    /// An error that ends the command with exit code 1.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            next: None,
            code: FAILED,
        }
    }

    /// An error that ends the command with exit code 2: nothing was done.
    pub fn not_asked(what: impl Into<String>) -> Self {
        Self {
            code: NOT_ASKED,
            ..Self::new(what)
        }
    }

    /// Says what to do next. The advice nearest to the cause wins.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next.get_or_insert_with(|| next.into());
        self
    }

    /// Puts before the message what was being done.
    #[must_use]
    pub fn during(mut self, doing: &str) -> Self {
        self.what = format!("{doing}: {}", self.what);
        self
    }

    /// The same error where it means that nothing was done: exit code 2.
    #[must_use]
    pub fn nothing_done(self) -> Self {
        Self {
            code: NOT_ASKED,
            ..self
        }
    }

    /// The same error where something has been begun: never exit code 2, which lets a program try
    /// again.
    #[must_use]
    pub fn something_done(self) -> Self {
        Self {
            code: FAILED,
            ..self
        }
    }

    /// The process's exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.next
            .as_ref()
            .map_or(Ok(()), |next| write!(f, "\nNext: {next}"))
    }
}

impl std::error::Error for Error {}

impl From<StepError> for Error {
    fn from(error: StepError) -> Self {
        Self::new(format!("{}: {error}", error.name))
    }
}

/// Names the file or program behind an `io::Error`.
pub trait Context<T> {
    /// Names what was being done.
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::new(format!("{what}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_nearest_to_the_cause_wins() {
        let error = Error::new("no stack")
            .next("deploy it")
            .next("ask somebody")
            .during("job list");
        assert_eq!(error.to_string(), "job list: no stack\nNext: deploy it");
    }
}
