//! `stepward customer add`

use clap::Args;
use stepward::model::customer::Provider;

use crate::arguments::parse_provider;
use crate::commands::help::with_examples;
use crate::commands::records::Records;
use crate::error::Result;
use crate::global::Global;

/// Add a customer
#[derive(Args, Debug)]
#[command(help_template = with_examples(
    "stepward customer add acme
stepward customer add acme --default-region eu-west-1"
))]
pub(crate) struct AddCustomer {
    /// The customer's name: lower-case letters, digits and hyphens
    name: String,
    /// The Region for steps that set no Region
    #[arg(long)]
    default_region: Option<String>,
    /// The source of credentials for the customer's accounts: assume-role (the default), ec2, ecs,
    /// execution-role, access-key
    #[arg(long, value_parser = parse_provider, value_name = "PROVIDER")]
    provider: Option<Provider>,
}

impl AddCustomer {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let added = records
            .store
            .add_customer(
                &records.cloud.caller,
                &self.name,
                self.default_region,
                self.provider,
            )
            .await;
        records.show_customer(&records.map_error(added)?)?;
        Ok(0)
    }
}
