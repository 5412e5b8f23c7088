//! `stepward account rotate`

use clap::Args;

use crate::commands::help::with_examples;
use crate::commands::records::{AccountName, Records, onboarding_facts};
use crate::error::Result;
use crate::global::Global;
use crate::onboarding::{Invitation, create_invitation};

/// Create the next external ID; the current one stays valid until `stepward account check`
#[derive(Args, Debug)]
#[command(
    after_help = "After the command, the owner of the account changes the role's trust policy as \
                  printed. Then `stepward account check` ends the rotation: the new external ID is \
                  the only one.",
    help_template = with_examples(
        "stepward account rotate acme prod
stepward account check acme prod"
    )
)]
pub(crate) struct RotateExternalId {
    #[command(flatten)]
    name: AccountName,
}

impl RotateExternalId {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let account = records.account(&self.name).await?;
        let account = records.map_error(
            records
                .store
                .start_rotation(&records.cloud.caller, &account)
                .await,
        )?;
        let invitation = create_invitation(&records.cloud, &records.deployment, &account).await?;
        records.format.show(&invitation, || {
            rotation_text(&invitation, &records.cloud.command())
        })?;
        Ok(0)
    }
}

fn rotation_text(invitation: &Invitation, command: &str) -> String {
    let Invitation {
        customer, account, ..
    } = invitation;
    format!(
        "The second external ID is the new one. Both are valid until the new one is proven.\n\n\
         {}\n\n\
         After the owner has changed the trust policy, or has updated the stack with both IDs \
         separated by a comma:\n  \
         {command} account check {customer} {account}",
        onboarding_facts(invitation)
    )
}
