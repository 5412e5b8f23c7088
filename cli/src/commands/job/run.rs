//! `stepward job run`

use clap::Args;
use serde::Serialize;
use serde_json::json;
use stepward::model::job::JobInput;

use super::watch::watch;
use crate::arguments::options;
use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::Result;
use crate::global::Global;
use crate::jobs::{id_of, start};
use crate::output::Format;

/// Start a job and watch it to its end
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward job run fleet/morning-check --customer acme
  stepward job run fleet/morning-check --customer acme --account prod --option database=operations
  stepward job run fleet/morning-check --customer acme --option 'tags={\"team\":\"web\"}' --no-wait

Progress and the lines that the steps log go to standard error, the result to standard output.
Ctrl-C stops the watching, not the job. Exit codes: 0 succeeded; 1 failed, stopped or out of time; 2 could not be asked;
3 failed in some accounts.")]
pub(crate) struct RunJob {
    /// The job, as in fleet/morning-check
    job: String,
    /// The customer whose accounts it runs in
    #[arg(long)]
    customer: String,
    /// One of the customer's accounts; may be given several times; all when absent
    #[arg(long = "account")]
    accounts: Vec<String>,
    /// An option of the job, JSON or text; may be given several times
    #[arg(long = "option", short = 'o', value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// Name of the execution; one that has run already is not started twice
    #[arg(long, value_name = "EXECUTION_NAME")]
    name: Option<String>,
    /// Print the execution's ID and leave
    #[arg(long)]
    no_wait: bool,
}

impl RunJob {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        let input = JobInput {
            customer: self.customer,
            accounts: self.accounts,
            options: options(&self.options)?,
            started_by: cloud.caller.clone(),
        };
        let name = self.name.as_deref();
        start_and_watch(
            &cloud,
            &deployment,
            &self.job,
            &input,
            name,
            self.no_wait,
            global.format(),
        )
        .await
    }
}

/// Starts a job and watches it to its end, or leaves once it has started.
pub(crate) async fn start_and_watch(
    cloud: &Cloud,
    deployment: &Deployment,
    job: &str,
    input: &impl Serialize,
    name: Option<&str>,
    no_wait: bool,
    format: Format,
) -> Result<u8> {
    let execution = start(cloud, deployment, job, input, name).await?;
    if no_wait {
        let id = id_of(&execution);
        let json = json!({ "id": id, "execution_arn": execution });
        let text = || {
            format!(
                "Started {id}.\nWatch it: `{} job watch {id}`",
                cloud.command()
            )
        };
        format.show(&json, text)?;
        return Ok(0);
    }
    watch(cloud, deployment, &execution, format).await
}
