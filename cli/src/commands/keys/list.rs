//! `stepward keys list`

use clap::Args;

use crate::commands::help::with_examples;
use crate::error::Result;
use crate::global::Global;
use crate::keys::{Key, list_keys};
use crate::output::{format_table, utc_time};

/// List the stored keys, without their values
#[derive(Args, Debug)]
#[command(help_template = with_examples(
    "stepward keys list
stepward keys list acme --json"
))]
pub(crate) struct ListKeys {
    /// List only the keys of this customer
    customer: Option<String>,
}

impl ListKeys {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        let keys = list_keys(&cloud, &deployment, self.customer.as_deref()).await?;
        let time = |time: &Option<String>| time.as_deref().map(utc_time).unwrap_or_default();
        let row = |key: &Key| {
            [
                key.path.clone(),
                time(&key.changed_at),
                time(&key.last_read),
            ]
        };
        global.output_format().show(&keys, || {
            format_table(&["key", "changed", "last read"], keys.iter().map(row))
        })?;
        Ok(0)
    }
}
