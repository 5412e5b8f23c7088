//! `stepward keys remove`

use clap::Args;
use serde_json::json;

use crate::commands::confirmation::Confirmation;
use crate::error::Result;
use crate::global::Global;
use crate::keys::{parse, remove};

/// Remove a secret; Secrets Manager can bring it back for 30 days
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  stepward keys remove keys/acme/deploy-token --yes")]
pub(crate) struct RemoveKey {
    /// Which: keys/CUSTOMER/NAME
    path: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl RemoveKey {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        let (path, key) = (&self.path, parse(&self.path)?);
        let what = format!("this would remove {path}; steps that use it would fail");
        self.confirmation
            .require(&what, &format!("{} keys remove {path}", cloud.command()))?;
        remove(&cloud, &key.secret_name(&deployment.stack)).await?;
        global.format().show(&json!({ "removed": path }), || {
            format!(
                "Removed {path}. `{} keys set {path}` stores a new value.",
                cloud.command()
            )
        })?;
        Ok(0)
    }
}
