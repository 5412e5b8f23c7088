//! `stepward customer show`

use clap::Args;
use serde_json::json;

use crate::commands::records::{AccountView, Records, account_table, customer_table};
use crate::error::Result;
use crate::global::Global;

/// One customer, with its accounts
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  stepward customer show acme")]
pub(crate) struct ShowCustomer {
    /// The customer
    name: String,
}

impl ShowCustomer {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let customer = records.explained(records.store.customer(&self.name).await)?;
        let accounts = records.explained(records.store.accounts(&self.name).await)?;
        let shown: Vec<_> = accounts.iter().map(AccountView::from).collect();
        records
            .format
            .show(&json!({ "customer": customer, "accounts": shown }), || {
                format!(
                    "{}\n\n{}",
                    customer_table(std::slice::from_ref(&customer)),
                    account_table(&shown)
                )
            })?;
        Ok(0)
    }
}
