//! `stepward step run`

use std::io::Read;

use clap::Args;
use serde_json::{Map, Value};
use stepward::model::customer::check_region;
use stepward::model::job::{JobInput, StepRunOptions};

use crate::commands::help::with_examples;
use crate::commands::job::start_and_watch;
use crate::error::{Context, Error, Result};
use crate::global::{Global, HEADING};
use crate::json::check_numbers;
use crate::steps::{find_step, parameters};

/// The job that runs one step.
const JOB: &str = "step/run";

/// Run one step in an account and watch it until it ends
///
/// The step runs like a job with only this step: Step Functions waits, retries, logs and cancels in
/// the same way.
#[derive(Args, Debug)]
#[command(
    after_help = "`stepward steps STEP` shows the parameters of a step. Ctrl-C stops watching; the \
                  step continues.

Exit codes: 0 succeeded; 1 failed, stopped or timed out; 2 not started.",
    help_template = with_examples(
        "stepward step run rds-status --customer acme --account prod -p instance=orders
stepward step run ec2-stop --customer acme --account prod \\
  -p 'instance_ids=[\"i-0a1b\",\"i-2c3d\"]'
stepward step run ec2-start --customer acme --account prod \\
  --region us-east-1 -p tags.team=web
stepward step run ssm-run-script --customer acme --account prod \\
  --params script.json -p concurrency=5"
    )
)]
pub(crate) struct RunStep {
    /// The step, for example ec2-start; `stepward steps` lists all steps
    step: String,
    /// The customer
    #[arg(long)]
    customer: String,
    /// The customer's account that the step runs in
    #[arg(long)]
    account: String,
    /// The Region that the step works in [default: the account's default Region]
    // After this command, --region means the account's Region. Without this ID it would be the
    // global option.
    #[arg(id = "account_region", long = "region", value_name = "REGION")]
    account_region: Option<String>,
    /// The Region that Stepward is deployed in. `stepward --region REGION step run …` sets it, too
    // The ID makes the value that of the global option.
    #[arg(
        id = "region",
        long = "stack-region",
        value_name = "REGION",
        help_heading = HEADING
    )]
    stack_region: Option<String>,
    /// A parameter of the step; can be repeated. Write text without quotes, and other types as
    /// JSON; KEY.NAME=VALUE sets one entry of a map
    #[arg(long = "param", short = 'p', value_name = "KEY=VALUE")]
    params: Vec<String>,
    /// A file with the parameters as one JSON object, or - for standard input; -p overrides values
    /// of the file
    #[arg(long = "params", value_name = "FILE")]
    params_file: Option<String>,
    /// The name of the execution. Repeating the command with this name starts no second execution,
    /// but shows the first one
    #[arg(long, value_name = "EXECUTION_NAME")]
    name: Option<String>,
    /// Print the execution's name and return without waiting for the result
    #[arg(long)]
    no_wait: bool,
}

impl RunStep {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let step = find_step(&self.step)?;
        let file = self
            .params_file
            .as_deref()
            .map(read_json_object)
            .transpose()?
            .unwrap_or_default();
        let params = parameters::read(&step, file, &self.params)?;
        if let Some(region) = &self.account_region {
            check_region(region)?;
        }
        let (cloud, deployment) = global.open_deployment().await?;
        if !deployment.has_function(&cloud, &step.name).await? {
            return Err(Error::usage_error(format!(
                "stack \"{}\" on {} was deployed without the step \"{}\"",
                deployment.stack,
                cloud.name(),
                step.name
            ))
            .with_advice("`stepward deploy` deploys all steps"));
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
            global.output_format(),
        )
        .await
    }
}

/// Reads a JSON object from a file, or from standard input.
fn read_json_object(path: &str) -> Result<Map<String, Value>> {
    let mut text = String::new();
    let result = match path {
        "-" => std::io::stdin().read_to_string(&mut text).map(|_| text),
        path => std::fs::read_to_string(path),
    };
    let text = result
        .context(format!("--params {path}"))
        .map_err(Error::into_not_started)?;
    let parameters = serde_json::from_str(&text).map_err(|error| {
        Error::usage_error(format!("--params {path}: {error}"))
            .with_advice("write the parameters as one JSON object")
    })?;
    check_numbers(&format!("--params {path}"), &text)?;
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use clap::{Parser, Subcommand};
    use serde_json::json;

    use super::*;

    /// A command line with the global options.
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        global: Global,
        #[command(subcommand)]
        group: Group,
    }

    #[derive(Subcommand)]
    enum Group {
        #[command(subcommand)]
        Step(Action),
    }

    #[derive(Subcommand)]
    enum Action {
        Run(RunStep),
    }

    /// The deployment's Region and the account's Region in a command line.
    fn regions(line: &str) -> (Option<String>, Option<String>) {
        let line = Line::try_parse_from(line.split(' ')).unwrap();
        let Group::Step(Action::Run(run)) = line.group;
        (line.global.region, run.account_region)
    }

    #[test]
    fn the_region_after_the_command_is_the_accounts() {
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
    fn a_parameter_file_is_one_json_object() {
        let file =
            std::env::temp_dir().join(format!("stepward-params-{}.json", std::process::id()));
        let path = file.to_str().unwrap();
        std::fs::write(&file, r#"{ "instance": "orders" }"#).unwrap();
        assert_eq!(
            Value::Object(read_json_object(path).unwrap()),
            json!({ "instance": "orders" })
        );
        std::fs::write(&file, r#"{ "payload": 9007199254740993 }"#).unwrap();
        let rounded = read_json_object(path).unwrap_err();
        assert!(
            rounded.to_string().contains("would be rounded"),
            "{rounded}"
        );
        std::fs::write(&file, "[1]").unwrap();
        let refused = read_json_object(path).unwrap_err();
        assert!(
            refused.to_string().contains(path) && refused.code() == crate::error::NOT_STARTED,
            "{refused}"
        );
        std::fs::remove_file(&file).unwrap();
        assert_eq!(
            read_json_object(path).unwrap_err().code(),
            crate::error::NOT_STARTED
        );
    }

    #[test]
    fn a_line_without_an_account_is_refused() {
        let line = "stepward step run ec2-start --customer acme";
        assert!(Line::try_parse_from(line.split(' ')).is_err());
    }
}
