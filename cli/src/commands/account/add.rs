//! `stepward account add`

use clap::Args;
use stepward::access::store::NewAccount;
use stepward::model::customer::{AccessKey, Provider};

use crate::arguments::provider;
use crate::commands::records::{AccountName, Records, facts};
use crate::deploy::LINK_DAYS;
use crate::error::Result;
use crate::global::Global;
use crate::onboarding::{Invitation, invitation};

/// Add an account; prints what the customer needs to let Stepward in
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward account add acme prod --account-id 222222222222 --regions eu-west-1
  stepward account add acme prod --account-id 222222222222 --regions eu-west-1,us-east-1 --default-region us-east-1")]
pub(crate) struct AddAccount {
    #[command(flatten)]
    name: AccountName,
    /// The 12-digit AWS account ID
    #[arg(long)]
    account_id: String,
    /// The Regions that steps may work in, with commas between them
    #[arg(long, value_delimiter = ',', required = true, value_name = "REGION,…")]
    regions: Vec<String>,
    /// The Region for steps that name none: one of --regions
    #[arg(long)]
    default_region: Option<String>,
    /// Where credentials come from: assume-role (the default), ec2, ecs, execution-role, access-key
    #[arg(long, value_parser = provider, value_name = "PROVIDER")]
    provider: Option<Provider>,
    /// For access-key: the access key's ID
    #[arg(long, requires = "secret_path")]
    access_key_id: Option<String>,
    /// For access-key: where the secret is stored, as in keys/acme/prod
    #[arg(long, requires = "access_key_id")]
    secret_path: Option<String>,
}

impl AddAccount {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let new = NewAccount {
            customer: self.name.customer,
            name: self.name.account,
            account_id: self.account_id,
            provider: self.provider,
            regions: self.regions,
            default_region: self.default_region,
            access_key: self
                .access_key_id
                .zip(self.secret_path)
                .map(|(id, secret_path)| AccessKey { id, secret_path }),
        };
        let account =
            records.explained(records.store.add_account(&records.cloud.caller, new).await)?;
        let invitation = invitation(&records.cloud, &records.deployment, &account).await?;
        records.format.show(&invitation, || {
            welcome(&invitation, &records.cloud.command())
        })?;
        Ok(0)
    }
}

fn welcome(invitation: &Invitation, command: &str) -> String {
    let Invitation {
        customer,
        account,
        account_id,
        launch_link,
        ..
    } = invitation;
    let launch = launch_link.as_ref().map_or_else(
        || "Whoever owns the account deploys infra/customer-role.yaml there with these two values.".to_owned(),
        |link| {
            format!(
                "Whoever owns the account opens this link while signed in to {account_id}, and creates the stack:\n{link}\n\
                 (It opens for {LINK_DAYS} days, or until your own credentials end. After that `account show` prints a new \
                 one; infra/customer-role.yaml can also be sent and uploaded by hand.)"
            )
        },
    );
    format!(
        "Added account {account} of {customer}.\n\n{}\n\n{launch}\n\nThen, with the stack's output RoleArn:\n  \
         {command} account set-role {customer} {account} ROLE_ARN",
        facts(invitation)
    )
}
