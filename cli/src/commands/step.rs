//! `stepward step …`

mod run;

use clap::Subcommand;

use crate::error::Result;
use crate::global::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Step {
    Run(run::RunStep),
}

impl Step {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        match self {
            Self::Run(run) => run.run(global).await,
        }
    }
}
