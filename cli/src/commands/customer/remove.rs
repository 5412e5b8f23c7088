//! `stepward customer remove`

use clap::Args;
use serde_json::json;

use crate::commands::confirmation::Confirmation;
use crate::commands::help::with_examples;
use crate::commands::records::Records;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::keys::list_keys;
use crate::output::counted;

/// Remove a customer and its accounts from Stepward; the roles in the accounts stay
#[derive(Args, Debug)]
#[command(help_template = with_examples("stepward customer remove acme --yes"))]
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
        let customer = records.map_error(records.store.customer(name).await)?;
        let accounts = records.map_error(records.store.accounts(name).await)?;
        let names: Vec<_> = accounts
            .iter()
            .map(|account| account.name.as_str())
            .collect();
        let effect = if names.is_empty() {
            format!("this would remove customer {name}, which has no accounts")
        } else {
            format!(
                "this would remove customer {name} and its {}: {}",
                counted(names.len(), "account"),
                names.join(", ")
            )
        };
        self.confirmation
            .require(&effect, &format!("customer remove {name}"))?;

        // A later customer of the same name could use the keys.
        let keys = list_keys(cloud, &records.deployment, Some(name)).await?;
        if let Some(first) = keys.first() {
            let paths: Vec<_> = keys.iter().map(|key| key.path.as_str()).collect();
            return Err(Error::usage_error(format!(
                "customer \"{name}\" still has {}: {}",
                counted(keys.len(), "key"),
                paths.join(", ")
            ))
            .with_advice(format!(
                "remove each key, for example with `stepward keys remove {} --yes`",
                first.path
            )));
        }
        records.map_error(
            records
                .store
                .remove_customer(&cloud.caller, &customer)
                .await,
        )?;
        records.format.show(&json!({ "removed": name }), || {
            format!(
                "Removed customer {name}. The customer can now delete the roles of Stepward in its \
                 accounts."
            )
        })?;
        Ok(0)
    }
}
