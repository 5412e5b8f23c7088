//! `stepward nodes …`: a customer's nodes, and commands that the job `nodes/dispatch` runs on them.

mod list;
mod outcome;
pub(crate) mod run;
mod run_again;
mod selection;

use clap::Subcommand;

use crate::error::Result;
use crate::global::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Nodes {
    List(list::ListNodes),
    Run(run::RunOnNodes),
    RunAgain(run_again::RunAgain),
}

impl Nodes {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        match self {
            Self::List(list) => list.run(global).await,
            Self::Run(run) => run.run(global).await,
            Self::RunAgain(run_again) => run_again.run(global).await,
        }
    }
}
