//! `stepward customer set-mapping`

use clap::Args;

use crate::commands::help::with_examples;
use crate::commands::mapping::MappingOptions;
use crate::commands::records::Records;
use crate::error::Result;
use crate::global::Global;

/// Set or remove the mapping that turns EC2 instances of a customer's accounts into nodes
#[derive(Args, Debug)]
#[command(
    after_help = "An account with a mapping of its own does not use it. The options of \
                  `stepward nodes` override it.",
    help_template = with_examples(
        "stepward customer set-mapping acme --mapping-file mapping.properties
stepward customer set-mapping acme --remove"
    )
)]
pub(crate) struct SetCustomerMapping {
    /// The customer
    name: String,
    #[command(flatten)]
    mapping: MappingOptions,
    /// Remove the customer's mapping
    #[arg(long, conflicts_with_all = ["mapping", "mapping_file", "use_default_mapping"])]
    remove: bool,
}

impl SetCustomerMapping {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let mapping = self.mapping.to_set(self.remove)?;
        let records = Records::open(global).await?;
        let customer = records.map_error(records.store.customer(&self.name).await)?;
        let caller = &records.cloud.caller;
        let written = records
            .store
            .set_customer_mapping(caller, &customer, mapping);
        records.show_customer(&records.map_error(written.await)?)?;
        Ok(0)
    }
}
