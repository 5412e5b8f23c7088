//! `stepward job list`

use clap::Args;

use crate::error::Result;
use crate::global::Global;
use crate::jobs::{self, Job};
use crate::output::table;
use crate::package;
use crate::workspace::Workspace;

/// The jobs of the stack
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  stepward job list")]
pub(crate) struct ListJobs {}

impl ListJobs {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        // Outside a checkout the names of the sources are not at hand; those of the state machines will do.
        let sources = Workspace::find().and_then(|workspace| package::jobs(&workspace)).unwrap_or_default();
        let sources: Vec<_> = sources.into_iter().map(|job| job.name).collect();
        let jobs = jobs::list(&cloud, &deployment, &sources).await?;
        let row = |job: &Job| [job.name.clone(), job.state_machine_arn.clone()];
        global.format().show(&jobs, || table(&["job", "state machine"], jobs.iter().map(row)))?;
        Ok(0)
    }
}
