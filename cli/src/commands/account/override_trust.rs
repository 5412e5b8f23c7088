//! `stepward account override-trust`

use clap::Args;
use stepward::model::customer::Trust;

use crate::commands::confirmation::Confirmation;
use crate::commands::help::with_examples;
use crate::commands::records::{AccountName, AccountView, Records, account_table};
use crate::error::Result;
use crate::global::Global;

/// Allow jobs although the role does not require the external ID; recorded in the audit trail
#[derive(Args, Debug)]
#[command(help_template = with_examples("stepward account override-trust acme prod --yes"))]
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
        let effect = format!(
            "this would allow jobs in account {name} even if its role accepts callers without \
             the external ID"
        );
        self.confirmation
            .require(&effect, &format!("account override-trust {name}"))?;
        let overridden = records
            .store
            .set_trust(&records.cloud.caller, &account, Trust::Overridden)
            .await;
        let account = records.map_error(overridden)?;
        let view = AccountView::from(&account);
        records
            .format
            .show(&view, || account_table(std::slice::from_ref(&view)))?;
        Ok(0)
    }
}
