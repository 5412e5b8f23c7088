//! `stepward account set-role`

use clap::Args;

use super::check::show_check;
use crate::commands::records::AccountName;
use crate::error::Result;
use crate::global::Global;
use crate::onboarding::set_role;

/// Set the role that the customer has made, and prove it
#[derive(Args, Debug)]
#[command(after_help = "Example:
  stepward account set-role acme prod arn:aws:iam::222222222222:role/stepward/Stepward")]
pub(crate) struct SetRole {
    #[command(flatten)]
    name: AccountName,
    /// The role's ARN, below the path /stepward/
    role_arn: String,
}

impl SetRole {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        let AccountName { customer, account } = &self.name;
        let checked = set_role(&cloud, &deployment, customer, account, &self.role_arn).await?;
        show_check(&cloud, &checked, global.format())
    }
}
