//! `stepward customer role-template`

use clap::Args;

use crate::error::{Context, Result};
use crate::output::print;
use crate::role_template::{manifests, template};

/// Print a CloudFormation template of a role that may do exactly what some steps need
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward customer role-template --steps ec2-start,rds-status > stepward-role.json
  stepward customer role-template --jobs fleet/morning-check > stepward-role.json

The customer launches it in the account, with the broker's ARN and the external ID that `stepward account show` prints, as in
  aws cloudformation deploy --stack-name Stepward --template-file stepward-role.json --capabilities CAPABILITY_NAMED_IAM \\
    --parameter-overrides BrokerRoleArn=… ExternalId=…")]
pub(crate) struct RoleTemplate {
    /// Steps, with commas between them
    #[arg(
        long,
        value_delimiter = ',',
        required_unless_present = "jobs",
        value_name = "STEP,…"
    )]
    steps: Vec<String>,
    /// Jobs whose steps are meant, with commas between them
    #[arg(long, value_delimiter = ',', value_name = "JOB,…")]
    jobs: Vec<String>,
}

impl RoleTemplate {
    pub(crate) fn run(&self) -> Result<u8> {
        let template = template(&manifests(&self.steps, &self.jobs)?)?;
        print(&serde_json::to_string_pretty(&template).doing("the template")?)?;
        Ok(0)
    }
}
