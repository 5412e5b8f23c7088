//! `stepward job run`

use clap::Args;
use serde::Serialize;
use serde_json::json;
use stepward::model::job::JobInput;

use super::watch::watch_to_end;
use crate::arguments::parse_options;
use crate::cloud::Cloud;
use crate::commands::help::with_examples;
use crate::deploy::Deployment;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::interrupt::interrupted;
use crate::jobs::{check_options, execution_name, new_execution_name, start_job};
use crate::output::Format;

/// Start a job and watch it until it ends
#[derive(Args, Debug)]
#[command(
    after_help = "Progress and the log lines of the steps go to standard error, the result to \
                  standard output. Ctrl-C stops watching; the job continues.

Exit codes: 0 succeeded; 1 failed, stopped or timed out; 2 not started; 3 failed in some accounts.",
    help_template = with_examples(
        "stepward job run fleet/morning-check --customer acme
stepward job run fleet/morning-check --customer acme --account prod \\
  --option database=operations
stepward job run fleet/morning-check --customer acme --no-wait \\
  --option 'tags={\"team\":\"web\"}'"
    )
)]
pub(crate) struct RunJob {
    /// The job, for example fleet/morning-check
    job: String,
    /// The customer whose accounts the job runs in
    #[arg(long)]
    customer: String,
    /// One of the customer's accounts; can be repeated [default: all accounts]
    #[arg(long = "account")]
    accounts: Vec<String>,
    /// An option of the job, as JSON or text; can be repeated. Write text that begins like JSON as
    /// a JSON string
    #[arg(long = "option", short = 'o', value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// The name of the execution. Repeating the command with this name starts no second execution,
    /// but shows the first one
    #[arg(long, value_name = "EXECUTION_NAME")]
    name: Option<String>,
    /// Print the execution's name and return without waiting for the result
    #[arg(long)]
    no_wait: bool,
}

impl RunJob {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let options = parse_options(&self.options)?;
        let (cloud, deployment) = global.open_deployment().await?;
        check_options(&cloud, &deployment, &self.job, &options).await?;
        let input = JobInput {
            customer: self.customer,
            accounts: self.accounts,
            options,
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
            global.output_format(),
        )
        .await
    }
}

/// Starts a job and watches it to its end, or returns after the start with `no_wait`.
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
    let name = execution_name(&execution);
    let advice = format!(
        "`stepward job watch {name}` watches it again, `stepward job stop {name}` stops it"
    );
    if !no_wait {
        return watch_to_end(cloud, deployment, &execution, format, &advice).await;
    }
    let json = json!({ "id": name, "execution_arn": execution });
    format.show(&json, || {
        format!(
            "Started {name}.\nWatch it with `{} job watch {name}`.",
            cloud.command()
        )
    })?;
    Ok(0)
}

/// Starts a job and returns the execution's ARN. After Ctrl-C, the error names the execution, which
/// may have started.
pub(crate) async fn start(
    cloud: &Cloud,
    deployment: &Deployment,
    job: &str,
    input: &impl Serialize,
    name: Option<&str>,
) -> Result<String> {
    let name = name.map_or_else(|| new_execution_name(job), |name| Ok(name.to_owned()))?;
    tokio::select! {
        started = start_job(cloud, deployment, job, input, Some(&name)) => started,
        () = interrupted() => Err(Error::new(format!(
            "interrupted while execution \"{name}\" was started; it may run"
        ))
        .with_advice(format!(
            "`stepward job watch {name}` shows whether it runs, `stepward job stop {name}` stops it"
        ))),
    }
}
