//! `stepward account override-trust`

use clap::Args;
use stepward::model::customer::Trust;

use crate::commands::confirmation::Confirmation;
use crate::commands::records::{AccountName, AccountView, Records, account_table};
use crate::error::Result;
use crate::global::Global;

/// Run jobs although the role lets strangers in; kept in the audit trail
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  stepward account override-trust acme prod --yes")]
pub(crate) struct OverrideTrust {
    #[command(flatten)]
    name: AccountName,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl OverrideTrust {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let account = records.account(&self.name).await?;
        let name = format!("{} {}", self.name.customer, self.name.account);
        let what = format!(
            "this would run jobs in {name} although its role has not been proven to keep strangers out"
        );
        self.confirmation.require(
            &what,
            &format!("{} account override-trust {name}", records.cloud.command()),
        )?;
        let overridden = records
            .store
            .set_trust(&records.cloud.caller, &account, Trust::Overridden)
            .await;
        let account = records.explained(overridden)?;
        let shown = AccountView::from(&account);
        records
            .format
            .show(&shown, || account_table(std::slice::from_ref(&shown)))?;
        Ok(0)
    }
}
