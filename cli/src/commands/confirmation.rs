//! `--yes` of commands that cannot be undone.

use clap::Args;

use crate::error::{Error, Result};

/// What cannot be undone is done only when it is confirmed.
#[derive(Args, Debug)]
pub(crate) struct Confirmation {
    /// Confirm without asking
    #[arg(long)]
    yes: bool,
}

impl Confirmation {
    /// Refuses where `--yes` was not given: `what` says what would be done, `command` what to
    /// repeat with it.
    pub(crate) fn require(&self, what: &str, command: &str) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        Err(Error::not_asked(what).next(format!("if that is meant: `{command} --yes`")))
    }
}
