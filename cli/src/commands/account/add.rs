//! `stepward account add`

use clap::Args;
use stepward::access::store::NewAccount;
use stepward::model::customer::{AccessKey, Provider};

use crate::arguments::parse_provider;
use crate::commands::help::with_examples;
use crate::commands::mapping::MappingOptions;
use crate::commands::records::{AccountName, Records, onboarding_facts};
use crate::deploy::LINK_DAYS;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::onboarding::{Invitation, create_invitation};

/// Add an account, and print what its owner needs to create the role for Stepward
#[derive(Args, Debug)]
#[command(help_template = with_examples(
    "stepward account add acme prod --account-id 222222222222 --regions eu-west-1
stepward account add acme prod --account-id 222222222222 \\
  --regions eu-west-1,us-east-1 --default-region us-east-1"
))]
pub(crate) struct AddAccount {
    #[command(flatten)]
    name: AccountName,
    /// The 12-digit AWS account ID
    #[arg(long)]
    account_id: String,
    /// The Regions that steps may work in, separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_name = "REGION,…")]
    regions: Vec<String>,
    /// The Region for steps that set no Region; must be one of --regions
    #[arg(long)]
    default_region: Option<String>,
    /// The source of credentials: assume-role (the default), ec2, ecs, execution-role, access-key
    #[arg(long, value_parser = parse_provider, value_name = "PROVIDER")]
    provider: Option<Provider>,
    /// The ID of the access key, with --provider access-key
    #[arg(long, requires = "secret_path")]
    access_key_id: Option<String>,
    /// The key path of the secret, such as keys/acme/prod, with --provider access-key
    #[arg(long, requires = "access_key_id")]
    secret_path: Option<String>,
    #[command(flatten)]
    mapping: MappingOptions,
}

impl AddAccount {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let mapping = self.mapping.record()?;
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
            mapping,
        };
        let account =
            records.map_error(records.store.add_account(&records.cloud.caller, new).await)?;
        let invitation = create_invitation(&records.cloud, &records.deployment, &account)
            .await
            .map_err(Error::into_started)?;
        records.format.show(&invitation, || {
            invitation_text(&invitation, &records.cloud.command())
        })?;
        Ok(0)
    }
}

fn invitation_text(invitation: &Invitation, command: &str) -> String {
    let Invitation {
        customer,
        account,
        account_id,
        launch_link,
        ..
    } = invitation;
    let launch = launch_link.as_ref().map_or_else(
        || {
            "The owner of the account deploys infra/customer-role.yaml there with these two values."
                .to_owned()
        },
        |link| {
            format!(
                "The owner of the account signs in to {account_id}, opens this link and creates \
                 the stack:\n{link}\n\
                 (The link is valid for {LINK_DAYS} days, or until your own credentials expire. \
                 Then `{command} account show {customer} {account}` prints a new one. You can \
                 also send infra/customer-role.yaml to the owner.)"
            )
        },
    );
    format!(
        "Added account {account} of {customer}.\n\n{}\n\n{launch}\n\n\
         Then set the role with the stack's output RoleArn:\n  \
         {command} account set-role {customer} {account} ROLE_ARN",
        onboarding_facts(invitation)
    )
}
