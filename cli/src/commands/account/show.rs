//! `stepward account show`

use clap::Args;
use serde_json::json;

use crate::commands::help::with_examples;
use crate::commands::mapping::mapping_text;
use crate::commands::records::{
    AccountName, AccountView, Records, account_table, onboarding_facts,
};
use crate::error::Result;
use crate::global::Global;
use crate::onboarding::create_invitation;

/// Show an account, and the external ID and trust policy that its owner needs
#[derive(Args, Debug)]
#[command(help_template = with_examples("stepward account show acme prod"))]
pub(crate) struct ShowAccount {
    #[command(flatten)]
    name: AccountName,
}

impl ShowAccount {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let account = records.account(&self.name).await?;
        let view = AccountView::from(&account);
        let invitation = create_invitation(&records.cloud, &records.deployment, &account).await?;
        records.format.show(
            &json!({ "account": view, "onboarding": invitation }),
            || {
                format!(
                    "{}{}\n\n{}",
                    account_table(std::slice::from_ref(&view)),
                    mapping_text(
                        &format!("account {}", account.name),
                        account.mapping.as_ref()
                    ),
                    onboarding_facts(&invitation)
                )
            },
        )?;
        Ok(0)
    }
}
