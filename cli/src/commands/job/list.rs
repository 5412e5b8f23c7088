//! `stepward job list`

use clap::Args;

use crate::commands::help::with_examples;
use crate::error::Result;
use crate::global::Global;
use crate::jobs::{self, Job};
use crate::output::format_table;

/// List the jobs of the stack
#[derive(Args, Debug)]
#[command(help_template = with_examples("stepward job list"))]
pub(crate) struct ListJobs {}

impl ListJobs {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        let jobs = jobs::list_jobs(&cloud, &deployment).await?;
        let row = |job: &Job| [job.name.clone(), job.state_machine_arn.clone()];
        global.output_format().show(&jobs, || {
            format_table(&["job", "state machine"], jobs.iter().map(row))
        })?;
        Ok(0)
    }
}
