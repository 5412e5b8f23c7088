//! `stepward customer resume`

use clap::Args;
use stepward::model::customer::Status;

use crate::commands::help::with_examples;
use crate::commands::records::Records;
use crate::error::Result;
use crate::global::Global;

/// Resume a suspended customer, so that jobs run again
#[derive(Args, Debug)]
#[command(help_template = with_examples("stepward customer resume acme"))]
pub(crate) struct ResumeCustomer {
    /// The customer
    name: String,
}

impl ResumeCustomer {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        records.show_customer(&records.set_status(&self.name, Status::Active).await?)?;
        Ok(0)
    }
}
