//! `stepward job …`

mod list;
mod run;
mod stop;
mod watch;

use clap::Subcommand;

use crate::error::Result;
use crate::global::Global;
pub(crate) use run::{start, start_and_watch};

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    List(list::ListJobs),
    Run(run::RunJob),
    Watch(watch::WatchExecution),
    Stop(stop::StopExecution),
}

impl Job {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        match self {
            Self::List(list) => list.run(global).await,
            Self::Run(run) => run.run(global).await,
            Self::Watch(watch) => watch.run(global).await,
            Self::Stop(stop) => stop.run(global).await,
        }
    }
}
