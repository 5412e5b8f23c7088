//! The option `--yes` of commands that cannot be undone.

use clap::Args;

use crate::error::{Error, Result};

/// The operator's confirmation of a command that cannot be undone.
#[derive(Args, Debug)]
pub(crate) struct Confirmation {
    /// Confirm without asking
    #[arg(long)]
    yes: bool,
}

impl Confirmation {
    /// Returns an error without `--yes`. `effect` says what the command would do; `command` is the
    /// command without `stepward` and its global options.
    pub(crate) fn require(&self, effect: &str, command: &str) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        Err(Error::usage_error(effect)
            .with_advice(format!("to confirm, run `stepward {command} --yes`")))
    }
}
