//! `stepward customer suspend`

use clap::Args;
use stepward::model::customer::Status;

use crate::commands::help::with_examples;
use crate::commands::records::Records;
use crate::error::Result;
use crate::global::Global;

/// Suspend a customer: no job runs for it until it is resumed
#[derive(Args, Debug)]
#[command(help_template = with_examples("stepward customer suspend acme"))]
pub(crate) struct SuspendCustomer {
    /// The customer
    name: String,
}

impl SuspendCustomer {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        records.show_customer(&records.set_status(&self.name, Status::Suspended).await?)?;
        Ok(0)
    }
}
