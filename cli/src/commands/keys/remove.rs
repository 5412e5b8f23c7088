//! `stepward keys remove`

use clap::Args;
use serde_json::json;

use crate::commands::confirmation::Confirmation;
use crate::commands::help::with_examples;
use crate::error::Result;
use crate::global::Global;
use crate::keys::{parse_path, remove_key};

/// Remove a secret; Secrets Manager can restore it for 30 days
#[derive(Args, Debug)]
#[command(help_template = with_examples("stepward keys remove keys/acme/deploy-token --yes"))]
pub(crate) struct RemoveKey {
    /// The path of the key: keys/CUSTOMER/NAME
    path: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl RemoveKey {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        let (path, key) = (&self.path, parse_path(&self.path)?);
        let effect = format!("this would remove {path}; steps that use it would fail");
        self.confirmation
            .require(&effect, &format!("keys remove {path}"))?;
        remove_key(&cloud, &key.secret_name(&deployment.stack)).await?;
        global
            .output_format()
            .show(&json!({ "removed": path }), || {
                format!(
                    "Removed {path}. `{} keys set {path}` stores a new value.",
                    cloud.command()
                )
            })?;
        Ok(0)
    }
}
