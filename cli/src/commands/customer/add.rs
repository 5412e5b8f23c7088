//! `stepward customer add`

use clap::Args;
use stepward::model::customer::Provider;

use crate::arguments::provider;
use crate::commands::records::Records;
use crate::error::Result;
use crate::global::Global;

/// Add a customer
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward customer add acme
  stepward customer add acme --default-region eu-west-1")]
pub(crate) struct AddCustomer {
    /// Lower-case letters, digits and hyphens
    name: String,
    /// The Region for steps that name none
    #[arg(long)]
    default_region: Option<String>,
    /// Where credentials for the customer's accounts come from
    #[arg(long, value_parser = provider, value_name = "PROVIDER")]
    provider: Option<Provider>,
}

impl AddCustomer {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let who = &records.cloud.caller;
        let added = records
            .store
            .add_customer(who, &self.name, self.default_region, self.provider)
            .await;
        records.show_customer(&records.explained(added)?)?;
        Ok(0)
    }
}
