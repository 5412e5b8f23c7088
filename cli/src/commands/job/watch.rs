//! `stepward job watch`

use clap::Args;

use crate::cloud::Cloud;
use crate::commands::help::with_examples;
use crate::deploy::Deployment;
use crate::error::{Error, Result, repeat_options};
use crate::global::Global;
use crate::interrupt::{interrupted, listen};
use crate::jobs::{self, View, execution_name, find_execution, summary_text};
use crate::output::{Format, print_error};

/// Watch an execution until it ends
#[derive(Args, Debug)]
#[command(
    after_help = "Ctrl-C stops watching; the job continues.",
    help_template = with_examples(
        "stepward job watch fleet-morning-check-20250301T060000-5f00ba
stepward job watch \\
  arn:aws:states:eu-west-1:111111111111:execution:stepward-fleet-check:nightly"
    )
)]
pub(crate) struct WatchExecution {
    /// The name or the ARN of the execution
    #[arg(value_name = "EXECUTION")]
    id: String,
}

impl WatchExecution {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        let execution = find_execution(&cloud, &deployment, &self.id).await?;
        let advice = format!(
            "`stepward job stop {}` stops it",
            execution_name(&execution)
        );
        watch_to_end(
            &cloud,
            &deployment,
            &execution,
            global.output_format(),
            &advice,
        )
        .await
    }
}

/// Watches an execution and returns the exit code. Ctrl-C stops watching; the job continues, and
/// `advice` says what the operator can do then.
pub(crate) async fn watch_to_end(
    cloud: &Cloud,
    deployment: &Deployment,
    execution: &str,
    format: Format,
    advice: &str,
) -> Result<u8> {
    let view = View::new();
    listen();
    print_error(&format!("Execution {}", execution_name(execution)));
    let finished = tokio::select! {
        // The job has started, so an error must not have the exit code for "nothing was changed".
        finished = jobs::watch_execution(cloud, deployment, execution, &view) => {
            finished.map_err(|error| {
                error
                    .into_started()
                    .with_context("cannot watch the execution any longer, which may still run")
                    .with_advice(advice)
            })?
        }
        () = interrupted() => {
            return Err(Error::new("stopped watching; the job continues").with_advice(advice));
        }
    };
    format.show(&finished, || {
        repeat_options(&format!("\n{}", summary_text(&finished)), &cloud.options)
    })?;
    Ok(finished.outcome.code())
}
