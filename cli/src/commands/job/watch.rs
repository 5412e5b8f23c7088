//! `stepward job watch`

use clap::Args;
use tokio::signal::ctrl_c;

use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::jobs::{self, View, find, id_of, summary};
use crate::output::Format;

/// Watch an execution to its end
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward job watch fleet-morning-check-20250301T060000-5f00ba
  stepward job watch arn:aws:states:eu-west-1:111111111111:execution:stepward-fleet-morning-check:nightly")]
pub(crate) struct WatchExecution {
    /// The execution: its name or its ARN
    id: String,
}

impl WatchExecution {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        let execution = find(&cloud, &deployment, &self.id).await?;
        watch(&cloud, &deployment, &execution, global.format()).await
    }
}

/// Ctrl-C ends the watching, not the job.
pub(crate) async fn watch(
    cloud: &Cloud,
    deployment: &Deployment,
    execution: &str,
    format: Format,
) -> Result<u8> {
    let (view, id) = (View::new(), id_of(execution));
    eprintln!("Execution {id}");
    let finished = tokio::select! {
        // The job has started: no error from here on may say that nothing was done.
        finished = jobs::watch(cloud, deployment, execution, &view) => finished.map_err(|error| {
            error.something_done().next(format!("the job goes on; `{} job watch {id}` watches it again", cloud.command()))
        })?,
        _ = ctrl_c() => {
            let command = cloud.command();
            return Err(Error::new("stopped watching; the job goes on")
                .next(format!("`{command} job watch {id}` watches it again, `{command} job stop {id}` stops it")));
        }
    };
    format.show(&finished, || format!("\n{}", summary(&finished)))?;
    Ok(finished.outcome.code())
}
