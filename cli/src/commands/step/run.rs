//! `stepward step run`

use std::io::Read;

use clap::Args;
use serde_json::{Map, Value};
use stepward::model::job::{JobInput, StepRunOptions};

use crate::commands::job::start_and_watch;
use crate::error::{Context, Error, Result};
use crate::global::Global;
use crate::steps::{find, parameters};

/// The job that runs one step.
const JOB: &str = "step/run";

/// Run one step in an account and watch it to its end
///
/// The step runs as in a job of this one step: with the same state machine, waiting, retries, log
/// and cancellation.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward step run rds-status --customer acme --account prod -p instance=orders
  stepward step run ec2-stop --customer acme --account prod -p 'instance_ids=[\"i-0a1b\",\"i-2c3d\"]'
  stepward step run ec2-start --customer acme --account prod --region us-east-1 -p tags.team=web
  stepward step run ssm-run-script --customer acme --account prod --params script.json -p concurrency=5

`stepward steps STEP` shows the step's parameters. Ctrl-C stops the watching, not the step. Exit codes: 0 succeeded;
1 failed, stopped or out of time; 2 nothing was started.")]
pub(crate) struct RunStep {
    /// The step, as in ec2-start; `stepward steps` lists all
    step: String,
    /// The customer
    #[arg(long)]
    customer: String,
    /// The customer's account that the step works in
    #[arg(long)]
    account: String,
    /// The account's Region that the step works in; the account's default Region when absent
    // Behind this command, --region is about the account: without this ID it would be the option of
    // all commands.
    #[arg(id = "account_region", long = "region", value_name = "REGION")]
    account_region: Option<String>,
    /// The Region that Stepward is deployed in; also `stepward --region REGION step run …`
    // By its ID, the value is that of the option of all commands.
    #[arg(id = "region", long = "stack-region", value_name = "REGION")]
    stack_region: Option<String>,
    /// A parameter of the step; may be given several times. Text is taken as it is; other types are
    /// JSON; KEY.NAME=VALUE sets one entry of a map
    #[arg(long = "param", short = 'p', value_name = "KEY=VALUE")]
    params: Vec<String>,
    /// A file with the parameters as a JSON object; - is standard input. -p replaces what the file
    /// has
    #[arg(long = "params", value_name = "FILE")]
    params_file: Option<String>,
    /// Name of the execution; one that has run already is not started twice
    #[arg(long, value_name = "EXECUTION_NAME")]
    name: Option<String>,
    /// Print the execution's ID and leave
    #[arg(long)]
    no_wait: bool,
}

impl RunStep {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let step = find(&self.step)?;
        let file = self
            .params_file
            .as_deref()
            .map(read_object)
            .transpose()?
            .unwrap_or_default();
        let params = parameters::read(&step, file, &self.params)?;
        let (cloud, deployment) = global.deployed().await?;
        if !deployment.has_function(&cloud, &step.name).await? {
            return Err(Error::not_asked(format!(
                "stack {} on {} was deployed without the step {}",
                deployment.stack,
                cloud.name(),
                step.name
            ))
            .next(format!("`{} deploy` deploys all steps", cloud.command())));
        }
        let input = JobInput {
            customer: self.customer,
            accounts: vec![self.account],
            options: StepRunOptions {
                step: step.name,
                params,
                region: self.account_region,
            },
            started_by: cloud.caller.clone(),
        };
        start_and_watch(
            &cloud,
            &deployment,
            JOB,
            &input,
            self.name.as_deref(),
            self.no_wait,
            global.format(),
        )
        .await
    }
}

/// Reads a JSON object from a file, or from standard input.
fn read_object(path: &str) -> Result<Map<String, Value>> {
    let mut text = String::new();
    let read = match path {
        "-" => std::io::stdin().read_to_string(&mut text).map(|_| text),
        path => std::fs::read_to_string(path),
    };
    let text = read
        .doing(format!("--params {path}"))
        .map_err(Error::nothing_done)?;
    serde_json::from_str(&text).map_err(|error| {
        Error::not_asked(format!("--params {path}: {error}"))
            .next("write the parameters as one JSON object")
    })
}

#[cfg(test)]
mod tests {
    use clap::{Parser, Subcommand};
    use serde_json::json;

    use super::*;

    /// A command line with the options of all commands.
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        global: Global,
        #[command(subcommand)]
        noun: Noun,
    }

    #[derive(Subcommand)]
    enum Noun {
        #[command(subcommand)]
        Step(Verb),
    }

    #[derive(Subcommand)]
    enum Verb {
        Run(RunStep),
    }

    /// The Region of the deployment and that of the account in a command line.
    fn regions(line: &str) -> (Option<String>, Option<String>) {
        let line = Line::try_parse_from(line.split(' ')).unwrap();
        let Noun::Step(Verb::Run(run)) = line.noun;
        (line.global.region, run.account_region)
    }

    #[test]
    fn the_region_behind_the_command_is_the_accounts_and_the_one_before_it_the_deployments() {
        let run = "step run ec2-start --customer acme --account prod";
        let text = |region: &str| Some(region.to_owned());
        assert_eq!(
            regions(&format!("stepward {run} --region us-east-1")),
            (None, text("us-east-1"))
        );
        assert_eq!(
            regions(&format!("stepward --region eu-west-1 {run}")),
            (text("eu-west-1"), None)
        );
        assert_eq!(
            regions(&format!(
                "stepward --region eu-west-1 {run} --region us-east-1"
            )),
            (text("eu-west-1"), text("us-east-1"))
        );
        assert_eq!(
            regions(&format!("stepward {run} --stack-region eu-west-1")),
            (text("eu-west-1"), None)
        );
    }

    #[test]
    fn a_file_of_parameters_is_one_json_object() {
        let file =
            std::env::temp_dir().join(format!("stepward-params-{}.json", std::process::id()));
        let path = file.to_str().unwrap();
        std::fs::write(&file, r#"{ "instance": "orders" }"#).unwrap();
        assert_eq!(
            Value::Object(read_object(path).unwrap()),
            json!({ "instance": "orders" })
        );
        std::fs::write(&file, "[1]").unwrap();
        let refused = read_object(path).unwrap_err();
        assert!(
            refused.to_string().contains(path) && refused.code() == crate::error::NOT_ASKED,
            "{refused}"
        );
        std::fs::remove_file(&file).unwrap();
        assert_eq!(
            read_object(path).unwrap_err().code(),
            crate::error::NOT_ASKED
        );
    }

    #[test]
    fn a_line_without_an_account_is_refused() {
        let line = "stepward step run ec2-start --customer acme";
        assert!(Line::try_parse_from(line.split(' ')).is_err());
    }
}
