//! `stepward customer list`

use clap::Args;

use crate::commands::records::{Records, customer_table};
use crate::error::Result;
use crate::global::Global;

/// All customers
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  stepward customer list --json")]
pub(crate) struct ListCustomers {}

impl ListCustomers {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let customers = records.explained(records.store.customers().await)?;
        records
            .format
            .show(&customers, || customer_table(&customers))?;
        Ok(0)
    }
}
