//! `stepward account rotate`

use clap::Args;

use crate::commands::records::{AccountName, Records, facts};
use crate::error::Result;
use crate::global::Global;
use crate::onboarding::{Invitation, invitation};

/// Make the next external ID; both are valid until `account check` has proven the new one
#[derive(Args, Debug)]
#[command(after_help = "Example:
  stepward account rotate acme prod      the customer changes the role's trust policy as printed, then:
  stepward account check acme prod       the new external ID is now the only one")]
pub(crate) struct RotateExternalId {
    #[command(flatten)]
    name: AccountName,
}

impl RotateExternalId {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let account = records.account(&self.name).await?;
        let account =
            records.explained(records.store.rotate(&records.cloud.caller, &account).await)?;
        let invitation = invitation(&records.cloud, &records.deployment, &account).await?;
        records.format.show(&invitation, || {
            rotation(&invitation, &records.cloud.command())
        })?;
        Ok(0)
    }
}

fn rotation(invitation: &Invitation, command: &str) -> String {
    let Invitation {
        customer, account, ..
    } = invitation;
    format!(
        "The second external ID is the new one; until it has been proven, both are valid.\n\n{}\n\nOnce the trust policy \
         is changed (or the stack updated with both IDs, a comma between them):\n  {command} account check {customer} {account}",
        facts(invitation)
    )
}
