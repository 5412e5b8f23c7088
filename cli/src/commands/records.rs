//! The records of customers and accounts: the store that commands read and write, and the tables
//! that they print.

use clap::Args;
use serde::Serialize;
use stepward::access::store::Store;
use stepward::model::customer::{Account, Customer, NodeMapping, Provider, Status, Trust};
use stepward::model::error::StepError;

use crate::cloud::Cloud;
use crate::commands::mapping::mapping_text;
use crate::deploy::Deployment;
use crate::error::Result;
use crate::global::Global;
use crate::onboarding::{self, Invitation};
use crate::output::{Format, format_table, utc_time};

/// The account that a command is for.
#[derive(Args, Clone, Debug)]
pub(crate) struct AccountName {
    /// The customer
    pub(crate) customer: String,
    /// The account's name within the customer, for example prod
    pub(crate) account: String,
}

/// The customers and accounts of a deployment.
pub(crate) struct Records {
    pub(crate) cloud: Cloud,
    pub(crate) deployment: Deployment,
    pub(crate) store: Store,
    pub(crate) format: Format,
}

impl Records {
    pub(crate) async fn open(global: &Global) -> Result<Self> {
        let (cloud, deployment) = global.open_deployment().await?;
        let store = onboarding::open_store(&cloud, &deployment)?;
        Ok(Self {
            cloud,
            deployment,
            store,
            format: global.output_format(),
        })
    }

    /// The result of a call of the store. An error also names the cloud, and gives advice.
    pub(crate) fn map_error<T>(&self, result: Result<T, StepError>) -> Result<T> {
        result.map_err(|error| self.cloud.describe_error(&error))
    }

    pub(crate) async fn account(&self, name: &AccountName) -> Result<Account> {
        self.map_error(self.store.account(&name.customer, &name.account).await)
    }

    pub(crate) async fn set_status(&self, name: &str, status: Status) -> Result<Customer> {
        let customer = self.map_error(self.store.customer(name).await)?;
        if customer.status == status {
            return Ok(customer);
        }
        self.map_error(
            self.store
                .set_status(&self.cloud.caller, &customer, status)
                .await,
        )
    }

    pub(crate) fn show_customer(&self, customer: &Customer) -> Result<()> {
        let owner = format!("customer {}", customer.name);
        self.format.show(customer, || {
            let table = customer_table(std::slice::from_ref(customer));
            table + &mapping_text(&owner, customer.mapping.as_ref())
        })
    }
}

/// An account without its external ID, which is safe to print.
#[derive(Serialize)]
pub(crate) struct AccountView<'a> {
    customer: &'a str,
    account: &'a str,
    account_id: &'a str,
    provider: Option<Provider>,
    role_arn: Option<&'a str>,
    regions: &'a [String],
    default_region: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mapping: Option<&'a NodeMapping>,
    trust: Trust,
    rotating: bool,
}

impl<'a> From<&'a Account> for AccountView<'a> {
    fn from(account: &'a Account) -> Self {
        Self {
            customer: &account.customer,
            account: &account.name,
            account_id: &account.account_id,
            provider: account.provider,
            role_arn: account.role_arn.as_deref(),
            regions: &account.regions,
            default_region: account.default_region.as_deref(),
            mapping: account.mapping.as_ref(),
            trust: account.trust,
            rotating: account.next_external_id.is_some(),
        }
    }
}

pub(crate) fn customer_table(customers: &[Customer]) -> String {
    let row = |customer: &Customer| {
        let status = if customer.status == Status::Active {
            "active"
        } else {
            "suspended"
        };
        let region = customer
            .default_region
            .clone()
            .unwrap_or_else(|| "–".into());
        let created = utc_time(&customer.created_at);
        [customer.name.clone(), status.into(), region, created]
    };
    format_table(
        &["customer", "status", "default region", "created"],
        customers.iter().map(row),
    )
}

pub(crate) fn account_table(accounts: &[AccountView]) -> String {
    let row = |account: &AccountView| {
        let trust = match account.trust {
            Trust::Proven => "proven",
            Trust::Open => "open: steps refuse it",
            Trust::Overridden => "open, overridden",
            Trust::Unproven => "unproven",
        };
        let trust = if account.rotating {
            format!("{trust}, rotating")
        } else {
            trust.into()
        };
        let provider = account
            .provider
            .map_or_else(|| "inherited".into(), |provider| provider.to_string());
        let role = account.role_arn.unwrap_or("–").to_owned();
        [
            account.account.into(),
            account.account_id.into(),
            trust,
            provider,
            account.regions.join(" "),
            role,
        ]
    };
    format_table(
        &[
            "account",
            "account id",
            "trust",
            "provider",
            "regions",
            "role",
        ],
        accounts.iter().map(row),
    )
}

/// The three facts that the owner of an account needs to create the role.
pub(crate) fn onboarding_facts(invitation: &Invitation) -> String {
    let policy = serde_json::to_string_pretty(&invitation.trust_policy).unwrap_or_default();
    format!(
        "Broker role   {}\nExternal ID   {}\n\nTrust policy of the role:\n{policy}",
        invitation.broker_role_arn,
        invitation.external_ids.join("  and  ")
    )
}
