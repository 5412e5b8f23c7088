//! `stepward account set-role`

use clap::Args;

use super::check::show_check;
use crate::commands::help::with_examples;
use crate::commands::records::AccountName;
use crate::error::Result;
use crate::global::Global;
use crate::onboarding::set_role;

/// Set the role that the owner of the account has created, and check it
#[derive(Args, Debug)]
#[command(help_template = with_examples(
    "stepward account set-role acme prod \\
  arn:aws:iam::222222222222:role/stepward/Stepward"
))]
pub(crate) struct SetRole {
    #[command(flatten)]
    name: AccountName,
    /// The ARN of the role; its path must be /stepward/
    role_arn: String,
}

impl SetRole {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        let AccountName { customer, account } = &self.name;
        let checked = set_role(&cloud, &deployment, customer, account, &self.role_arn).await?;
        show_check(&cloud, &checked, global.output_format())
    }
}
