//! `stepward keys list`

use clap::Args;

use crate::error::Result;
use crate::global::Global;
use crate::keys::{self, Key};
use crate::output::table;

/// The keys there are, never their values
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  stepward keys list\n  stepward keys list acme --json")]
pub(crate) struct ListKeys {
    /// Only this customer's
    customer: Option<String>,
}

impl ListKeys {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        let keys = keys::list(&cloud, &deployment, self.customer.as_deref()).await?;
        let shown = |text: &Option<String>| text.clone().unwrap_or_default();
        let row = |key: &Key| {
            [
                key.path.clone(),
                shown(&key.changed_at),
                shown(&key.last_read),
            ]
        };
        global.format().show(&keys, || {
            table(&["key", "changed", "last read"], keys.iter().map(row))
        })?;
        Ok(0)
    }
}
