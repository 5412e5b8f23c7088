//! `stepward account rotate`

use clap::Args;

use crate::commands::help::with_examples;
use crate::commands::records::{AccountName, Records, onboarding_facts};
use crate::error::{Error, Result};
use crate::global::Global;
use crate::onboarding::{Invitation, create_invitation};

/// Create a new external ID; the current one stays valid until `stepward account check` passes
#[derive(Args, Debug)]
#[command(
    after_help = "After this command, the owner of the account replaces the role's trust policy \
                  with the one that the command prints. Then run `stepward account check`. It ends \
                  the rotation: from then on, only the new external ID is valid.",
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
        let invitation = create_invitation(&records.cloud, &records.deployment, &account)
            .await
            .map_err(Error::into_started)?;
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
