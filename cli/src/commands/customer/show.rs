//! `stepward customer show`

use clap::Args;
use serde_json::json;

use crate::commands::help::with_examples;
use crate::commands::mapping::mapping_text;
use crate::commands::records::{AccountView, Records, account_table, customer_table};
use crate::error::Result;
use crate::global::Global;

/// Show a customer and its accounts
#[derive(Args, Debug)]
#[command(help_template = with_examples("stepward customer show acme"))]
pub(crate) struct ShowCustomer {
    /// The customer
    name: String,
}

impl ShowCustomer {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let customer = records.map_error(records.store.customer(&self.name).await)?;
        let accounts = records.map_error(records.store.accounts(&self.name).await)?;
        let views: Vec<_> = accounts.iter().map(AccountView::from).collect();
        records
            .format
            .show(&json!({ "customer": customer, "accounts": views }), || {
                format!(
                    "{}{}\n\n{}",
                    customer_table(std::slice::from_ref(&customer)),
                    mapping_text(
                        &format!("customer {}", customer.name),
                        customer.mapping.as_ref()
                    ),
                    account_table(&views)
                )
            })?;
        Ok(0)
    }
}
