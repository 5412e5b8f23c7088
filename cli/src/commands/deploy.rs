//! `stepward deploy`

use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::help::with_examples;
use crate::arguments::parse_pairs;
use crate::deploy::{LOCAL_FOLDER, deploy, validate_stack_name};
use crate::error::{Error, Result};
use crate::global::Global;
use crate::local::{LocalCloud, check_responds};
use crate::output::{Progress, duration_text, format_table};
use crate::package::{self, Build};
use crate::workspace::Workspace;

/// Build and upload the functions, and deploy the stack with CloudFormation
#[derive(Args, Debug)]
#[command(
    after_help = "Parameters that you omit keep the stack's values. The only exception is Steps, \
                  whose value is always `all` unless you set `Steps=jobs`.",
    help_template = with_examples(
        "stepward deploy
stepward deploy --arm64 --parameter LogRetentionDays=30
stepward deploy -p MorningCheckScheduleState=ENABLED \\
  -p MorningCheckCustomer=acme
stepward deploy -p VpcSubnetIds=subnet-0a1b2c3d,subnet-4e5f6a7b \\
  -p VpcSecurityGroupIds=sg-0a1b2c3d \\
  -p FileSystemAccessPointArn=$ACCESS_POINT_ARN
stepward --local deploy"
    )
)]
pub(crate) struct Deploy {
    /// A parameter of infra/template.yaml; can be repeated
    #[arg(long = "parameter", short = 'p', value_name = "KEY=VALUE")]
    parameters: Vec<String>,
    /// Build for Graviton processors [default: `x86_64`]
    #[arg(long)]
    arm64: bool,
}

impl Deploy {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let mut parameters = parse_pairs("--parameter", &self.parameters)?;
        let workspace = Workspace::find()?;
        // Always set: the demo deploys a stack with only the steps of the jobs, and CloudFormation
        // would keep that value.
        let steps = parameters
            .entry("Steps".into())
            .or_insert_with(|| "all".into());
        let workspace = match steps.as_str() {
            "all" => workspace,
            "jobs" => package::workspace_for_jobs(&workspace)?,
            other => {
                return Err(Error::usage_error(format!(
                    "--parameter Steps: expected \"all\" or \"jobs\", got \"{other}\""
                ))
                .with_advice("set Steps=all, or Steps=jobs for only the steps that jobs call"));
            }
        };
        if global.local
            && let Some(local) = LocalCloud::running(&workspace, global.port)?
        {
            parameters
                .entry(LOCAL_FOLDER.into())
                .or_insert(local.files()?.display().to_string());
        }
        validate_stack_name(&workspace, &global.stack)?;
        // Before the build, so that wrong credentials and a missing local cloud are reported at
        // once.
        let cloud = global.open_cloud().await?;
        if global.local {
            check_responds(global.port)?;
        }
        let build = match (global.local, self.arm64) {
            (true, _) => Build::Local,
            (false, true) => Build::Arm64,
            (false, false) => Build::X86,
        };
        let progress = Progress::new();
        let started = Instant::now();
        let release = package::build_release(&workspace, build, &progress)?;
        let stack = &global.stack;
        let deployed = deploy(&cloud, stack, &release, &parameters, &progress).await;
        progress.clear();
        let deployed = deployed?;
        let json = json!({
            "stack": stack,
            "changed": deployed.changed,
            "release": release.id,
            "outputs": deployed.outputs,
        });
        global.output_format().show(&json, || {
            let result = if deployed.changed {
                "is deployed"
            } else {
                "has not changed"
            };
            let outputs = deployed
                .outputs
                .iter()
                .map(|(key, value)| [key.clone(), value.clone()]);
            format!(
                "Stack {stack} on {} {result} (release {}, {}).\n\n{}",
                cloud.name(),
                release.id,
                duration_text(started.elapsed()),
                format_table(&["output", "value"], outputs)
            )
        })?;
        Ok(0)
    }
}
