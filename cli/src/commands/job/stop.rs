//! `stepward job stop`

use clap::Args;
use serde_json::json;

use crate::commands::help::with_examples;
use crate::error::Result;
use crate::global::Global;
use crate::jobs::{self, execution_name, find_execution};

/// Stop an execution, and the actions that its steps have started
#[derive(Args, Debug)]
#[command(help_template = with_examples(
    "stepward job stop fleet-morning-check-20250301T060000-5f00ba \\
  --cause 'wrong customer'"
))]
pub(crate) struct StopExecution {
    /// The name or the ARN of the execution
    #[arg(value_name = "EXECUTION")]
    id: String,
    /// The reason, which is recorded in the execution's history
    #[arg(long)]
    cause: Option<String>,
}

impl StopExecution {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        let execution = find_execution(&cloud, &deployment, &self.id).await?;
        jobs::stop_execution(&cloud, &execution, self.cause.as_deref()).await?;
        let text = || format!("Stopped {}.", execution_name(&execution));
        global
            .output_format()
            .show(&json!({ "stopped": execution }), text)?;
        Ok(0)
    }
}
