//! `stepward nodes run-again`

use clap::Args;
use serde_json::Value;
use stepward::model::job::JobInput;
use stepward::node::dispatch::{JobOptions, Options};

use super::outcome::dispatch_and_show;
use crate::cloud::Cloud;
use crate::commands::help::with_examples;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::jobs::{execution_name, find_execution};

/// Run the command or script of an execution again, on the nodes where it did not succeed
#[derive(Args, Debug)]
#[command(help_template = with_examples(
    "stepward nodes run-again nodes-dispatch-20250301T060000-5f00ba"
))]
pub(crate) struct RunAgain {
    /// The name or the ARN of the execution
    #[arg(value_name = "EXECUTION")]
    id: String,
}

impl RunAgain {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        let earlier = find_execution(&cloud, &deployment, &self.id).await?;
        let customer = read_customer(&cloud, &earlier).await?;
        let dispatch = Options {
            failed_of: Some(execution_name(&earlier).to_owned()),
            ..Options::default()
        };
        let options = JobOptions {
            dispatch,
            ..JobOptions::default()
        };
        let input = JobInput {
            customer,
            accounts: Vec::new(),
            options,
            started_by: cloud.caller.clone(),
        };
        dispatch_and_show(&cloud, &deployment, &input, global.output_format()).await
    }
}

/// Reads the customer of an execution from its input.
async fn read_customer(cloud: &Cloud, execution: &str) -> Result<String> {
    let described = cloud.describe_execution(execution).await;
    let described = described.map_err(|error| cloud.error(error).into_not_started())?;
    let input: Value = described
        .input()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let customer = input["customer"].as_str().map(str::to_owned);
    customer.ok_or_else(|| {
        Error::usage_error(format!(
            "execution \"{}\" has no customer in its input",
            execution_name(execution)
        ))
        .with_advice("give an execution that `stepward nodes run` started")
    })
}
