//! `stepward account remove`

use clap::Args;
use serde_json::json;

use crate::commands::confirmation::Confirmation;
use crate::commands::help::with_examples;
use crate::commands::records::{AccountName, AccountView, Records};
use crate::error::Result;
use crate::global::Global;

/// Remove an account from Stepward; the role in the account stays
#[derive(Args, Debug)]
#[command(help_template = with_examples("stepward account remove acme prod --yes"))]
pub(crate) struct RemoveAccount {
    #[command(flatten)]
    name: AccountName,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl RemoveAccount {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let account = records.account(&self.name).await?;
        let name = format!("{} {}", self.name.customer, self.name.account);
        let effect = format!("this would remove account {name} ({})", account.account_id);
        self.confirmation
            .require(&effect, &format!("account remove {name}"))?;
        records.map_error(
            records
                .store
                .remove_account(&records.cloud.caller, &account)
                .await,
        )?;
        records
            .format
            .show(&json!({ "removed": AccountView::from(&account) }), || {
                format!("Removed account {name}. Its owner can delete the role in the account.")
            })?;
        Ok(0)
    }
}
