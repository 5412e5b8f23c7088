//! `stepward customer list`

use clap::Args;

use crate::commands::help::with_examples;
use crate::commands::records::{Records, customer_table};
use crate::error::Result;
use crate::global::Global;

/// List all customers
#[derive(Args, Debug)]
#[command(help_template = with_examples("stepward customer list --json"))]
pub(crate) struct ListCustomers {}

impl ListCustomers {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let customers = records.map_error(records.store.customers().await)?;
        records
            .format
            .show(&customers, || customer_table(&customers))?;
        Ok(0)
    }
}
