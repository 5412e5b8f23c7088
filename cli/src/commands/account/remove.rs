//! `stepward account remove`

use clap::Args;
use serde_json::json;

use crate::commands::confirmation::Confirmation;
use crate::commands::records::{AccountName, AccountView, Records};
use crate::error::Result;
use crate::global::Global;

/// Remove an account; the role in it stays
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  stepward account remove acme prod --yes")]
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
        let what = format!("this would remove account {name} ({})", account.account_id);
        self.confirmation.require(
            &what,
            &format!("{} account remove {name}", records.cloud.command()),
        )?;
        records.explained(
            records
                .store
                .remove_account(&records.cloud.caller, &account)
                .await,
        )?;
        records
            .format
            .show(&json!({ "removed": AccountView::from(&account) }), || {
                format!("Removed account {name}. The role in it is its owner's to delete.")
            })?;
        Ok(0)
    }
}
