//! `stepward nodes run-again`

use clap::Args;
use serde_json::Value;
use stepward::model::job::JobInput;
use stepward::node::dispatch::{JobOptions, Options};

use super::outcome::dispatch_and_show;
use crate::cloud::Cloud;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::jobs::{find, id_of};

/// Run what an execution ran once more, on those nodes only that it did not succeed on
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  stepward nodes run-again nodes-dispatch-20250301T060000-5f00ba"
)]
pub(crate) struct RunAgain {
    /// The execution: its name or its ARN
    id: String,
}

impl RunAgain {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        let earlier = find(&cloud, &deployment, &self.id).await?;
        let customer = customer_of(&cloud, &earlier).await?;
        let dispatch = Options {
            failed_of: Some(id_of(&earlier).to_owned()),
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
        dispatch_and_show(&cloud, &deployment, &input, global.format()).await
    }
}

/// The customer of an execution, from its input.
async fn customer_of(cloud: &Cloud, execution: &str) -> Result<String> {
    let found = cloud
        .sfn()
        .describe_execution()
        .execution_arn(execution)
        .send()
        .await;
    let found = found.map_err(|error| cloud.error(error).nothing_done())?;
    let input: Value = found
        .input()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let customer = input["customer"].as_str().map(str::to_owned);
    customer.ok_or_else(|| Error::not_asked(format!("{execution} was started without a customer")))
}
