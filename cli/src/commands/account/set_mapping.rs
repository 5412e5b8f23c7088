//! `stepward account set-mapping`

use clap::Args;

use crate::commands::help::with_examples;
use crate::commands::mapping::{MappingOptions, mapping_text};
use crate::commands::records::{AccountName, AccountView, Records, account_table};
use crate::error::Result;
use crate::global::Global;

/// Set or remove the mapping that turns an account's EC2 instances into nodes
#[derive(Args, Debug)]
#[command(
    after_help = "Without a mapping of its own, an account has the customer's mapping, or else \
                  Rundeck's default mapping. The options of `stepward nodes` override it.",
    help_template = with_examples(
        "stepward account set-mapping acme prod --mapping-file mapping.properties
stepward account set-mapping acme prod --use-default-mapping false \\
  --mapping 'nodename.selector=tags/Name;hostname.selector=ipv6Address'
stepward account set-mapping acme prod --remove"
    )
)]
pub(crate) struct SetAccountMapping {
    #[command(flatten)]
    name: AccountName,
    #[command(flatten)]
    mapping: MappingOptions,
    /// Remove the account's mapping
    #[arg(long, conflicts_with_all = ["mapping", "mapping_file", "use_default_mapping"])]
    remove: bool,
}

impl SetAccountMapping {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let mapping = self.mapping.to_set(self.remove)?;
        let records = Records::open(global).await?;
        let account = records.account(&self.name).await?;
        let caller = &records.cloud.caller;
        let written = records.store.set_account_mapping(caller, &account, mapping);
        let account = records.map_error(written.await)?;
        let view = AccountView::from(&account);
        let owner = format!("account {}", account.name);
        records.format.show(&view, || {
            let table = account_table(std::slice::from_ref(&view));
            table + &mapping_text(&owner, account.mapping.as_ref())
        })?;
        Ok(0)
    }
}
