//! `stepward customer role-template`

use clap::Args;

use crate::commands::help::with_examples;
use crate::error::{Context, Result};
use crate::output::print;
use crate::role_template::{find_manifests, role_template};

/// Print a CloudFormation template of a role with only the permissions that the steps need
#[derive(Args, Debug)]
#[command(
    after_help = "The owner of the account deploys the template, as in the last example, with the \
                  ARN of the broker role and the external ID that `stepward account show` \
                  prints.",
    help_template = with_examples(
        "stepward customer role-template --steps ec2-start,rds-status > role.json
stepward customer role-template --jobs fleet/morning-check > role.json
aws cloudformation deploy --stack-name Stepward --template-file role.json \\
  --capabilities CAPABILITY_NAMED_IAM \\
  --parameter-overrides BrokerRoleArn=… ExternalId=…"
    )
)]
pub(crate) struct RoleTemplate {
    /// Steps, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        required_unless_present = "jobs",
        value_name = "STEP,…"
    )]
    steps: Vec<String>,
    /// Jobs whose steps are included, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "JOB,…")]
    jobs: Vec<String>,
}

impl RoleTemplate {
    pub(crate) fn run(&self) -> Result<u8> {
        let template = role_template(&find_manifests(&self.steps, &self.jobs)?)?;
        print(
            &serde_json::to_string_pretty(&template)
                .context("cannot write the template as JSON")?,
        )?;
        Ok(0)
    }
}
