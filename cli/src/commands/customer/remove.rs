//! `stepward customer remove`

use clap::Args;
use serde_json::json;

use crate::commands::confirmation::Confirmation;
use crate::commands::records::Records;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::keys;

/// Remove a customer and all its accounts; the roles in those accounts stay
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  stepward customer remove acme --yes")]
pub(crate) struct RemoveCustomer {
    /// The customer
    name: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl RemoveCustomer {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let (cloud, name) = (&records.cloud, &self.name);
        let customer = records.explained(records.store.customer(name).await)?;
        let accounts = records.explained(records.store.accounts(name).await)?;
        let names: Vec<_> = accounts
            .iter()
            .map(|account| account.name.as_str())
            .collect();
        let what = format!(
            "this would remove customer {name} and its accounts ({})",
            names.join(", ")
        );
        self.confirmation.require(
            &what,
            &format!("{} customer remove {name}", cloud.command()),
        )?;
        // A customer of the same name could use them one day.
        let keys = keys::list(cloud, &records.deployment, Some(name)).await?;
        if !keys.is_empty() {
            let paths: Vec<_> = keys.iter().map(|key| key.path.as_str()).collect();
            return Err(
                Error::not_asked(format!("{name} has keys: {}", paths.join(", "))).next(format!(
                    "`{} keys remove PATH --yes` removes one",
                    cloud.command()
                )),
            );
        }
        records.explained(
            records
                .store
                .remove_customer(&cloud.caller, &customer)
                .await,
        )?;
        records.format.show(&json!({ "removed": name }), || {
            format!("Removed customer {name}. The roles in its accounts are its own to delete.")
        })?;
        Ok(0)
    }
}
