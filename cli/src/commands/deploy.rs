//! `stepward deploy`

use std::time::Instant;

use clap::Args;
use serde_json::json;

use crate::arguments::pairs;
use crate::deploy::{LOCAL_FOLDER, deploy};
use crate::error::{Error, Result};
use crate::global::Global;
use crate::local::LocalCloud;
use crate::output::{Progress, span, table};
use crate::package::{self, Build};
use crate::workspace::Workspace;

/// Build, upload and deploy through CloudFormation
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward deploy
  stepward deploy --arm64 --parameter LogRetentionDays=30
  stepward deploy --parameter MorningCheckScheduleState=ENABLED --parameter MorningCheckCustomer=acme
  stepward deploy -p FileSystemAccessPointArn=arn:aws:elasticfilesystem:eu-west-1:111111111111:access-point/fsap-0123456789abcdef0 \\
    -p VpcSubnetIds=subnet-0a1b2c3d,subnet-4e5f6a7b -p VpcSecurityGroupIds=sg-0a1b2c3d
  stepward --local deploy

A parameter that is not given keeps the value that the stack has, but for Steps: all, unless --parameter Steps=jobs is given.")]
pub(crate) struct Deploy {
    /// A parameter of infra/template.yaml; may be given several times
    #[arg(long = "parameter", short = 'p', value_name = "KEY=VALUE")]
    parameters: Vec<String>,
    /// Build for Graviton processors; `x86_64` otherwise
    #[arg(long)]
    arm64: bool,
}

impl Deploy {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let mut parameters = pairs("--parameter", &self.parameters)?;
        let whole = Workspace::find()?;
        // Always given: the demo leaves a stack that has a part of them, and would keep its value.
        let steps = parameters
            .entry("Steps".into())
            .or_insert_with(|| "all".into());
        let workspace = match steps.as_str() {
            "all" => whole,
            "jobs" => package::for_jobs(&whole)?,
            other => {
                return Err(
                    Error::not_asked(format!("--parameter Steps={other} is not a choice"))
                        .next("give `all`, or `jobs` for the steps that the jobs here call"),
                );
            }
        };
        if global.local
            && let Some(local) = LocalCloud::running(&workspace, global.port)?
        {
            parameters
                .entry(LOCAL_FOLDER.into())
                .or_insert(local.files()?.display().to_string());
        }
        // Before anything is built: wrong credentials show at once.
        let cloud = global.cloud().await?;
        let build = match (global.local, self.arm64) {
            (true, _) => Build::Local,
            (false, true) => Build::Arm64,
            (false, false) => Build::X86,
        };
        let progress = Progress::new();
        let began = Instant::now();
        let release = package::release(&workspace, build, &progress)?;
        let stack = &global.stack;
        let deployed = deploy(&cloud, stack, &release, &parameters, &progress).await;
        progress.end();
        let deployed = deployed?;
        let json = json!({
            "stack": stack, "changed": deployed.changed, "release": release.id, "outputs": deployed.outputs });
        global.format().show(&json, || {
            let what = if deployed.changed {
                "is deployed"
            } else {
                "has not changed"
            };
            let outputs = deployed
                .outputs
                .iter()
                .map(|(key, value)| [key.clone(), value.clone()]);
            let (name, id, took) = (cloud.name(), &release.id, span(began.elapsed()));
            let head = format!("Stack {stack} on {name} {what} (release {id}, {took}).");
            format!("{head}\n\n{}", table(&["output", ""], outputs))
        })?;
        Ok(0)
    }
}
