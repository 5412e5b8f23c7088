//! `stepward account show`

use clap::Args;
use serde_json::json;

use crate::commands::records::{AccountName, AccountView, Records, account_table, facts};
use crate::error::Result;
use crate::global::Global;
use crate::onboarding::invitation;

/// Show an account, with the external ID that the customer needs
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  stepward account show acme prod")]
pub(crate) struct ShowAccount {
    #[command(flatten)]
    name: AccountName,
}

impl ShowAccount {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let account = records.account(&self.name).await?;
        let shown = AccountView::from(&account);
        let invitation = invitation(&records.cloud, &records.deployment, &account).await?;
        records.format.show(
            &json!({ "account": shown, "onboarding": invitation }),
            || {
                format!(
                    "{}\n\n{}",
                    account_table(std::slice::from_ref(&shown)),
                    facts(&invitation)
                )
            },
        )?;
        Ok(0)
    }
}
