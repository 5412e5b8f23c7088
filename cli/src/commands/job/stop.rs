//! `stepward job stop`

use clap::Args;
use serde_json::json;

use crate::error::Result;
use crate::global::Global;
use crate::jobs::{self, find, id_of};

/// Stop an execution, and what its steps have started
#[derive(Args, Debug)]
#[command(after_help = "Example:
  stepward job stop fleet-morning-check-20250301T060000-5f00ba --cause 'wrong customer'")]
pub(crate) struct StopExecution {
    /// The execution: its name or its ARN
    id: String,
    /// Why; kept in the execution's history
    #[arg(long)]
    cause: Option<String>,
}

impl StopExecution {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        let execution = find(&cloud, &deployment, &self.id).await?;
        jobs::stop(&cloud, &execution, self.cause.as_deref()).await?;
        let text = || format!("Stopped {}.", id_of(&execution));
        global
            .format()
            .show(&json!({ "stopped": execution }), text)?;
        Ok(0)
    }
}
