//! `stepward customer …` and `stepward account …`.

use serde::Serialize;
use serde_json::json;
use stepward::access::store::{NewAccount, Store};
use stepward::model::customer::{AccessKey, Account, Customer, Defaults, Provider, Status, Trust};
use stepward::model::error::StepError;

use crate::args;
use crate::cloud::Cloud;
use crate::deploy::{Deployment, LINK_DAYS};
use crate::error::{Error, FAILED, Result};
use crate::keys;
use crate::onboarding::{self, Checked, Invitation, invitation};
use crate::output::{Format, print, table};

/// An account as everybody may see it: without its external ID.
#[derive(Serialize)]
struct Shown<'a> {
    customer: &'a str,
    account: &'a str,
    account_id: &'a str,
    provider: Option<Provider>,
    role_arn: Option<&'a str>,
    regions: &'a [String],
    default_region: Option<&'a str>,
    trust: Trust,
    rotating: bool,
}

impl<'a> From<&'a Account> for Shown<'a> {
    fn from(account: &'a Account) -> Self {
        Self {
            customer: &account.customer,
            account: &account.name,
            account_id: &account.account_id,
            provider: account.provider,
            role_arn: account.role_arn.as_deref(),
            regions: &account.regions,
            default_region: account.default_region.as_deref(),
            trust: account.trust,
            rotating: account.next_external_id.is_some(),
        }
    }
}

/// Where a command works.
pub struct Office<'a> {
    cloud: &'a Cloud,
    deployment: &'a Deployment,
    store: Store,
    format: Format,
}

impl<'a> Office<'a> {
    /// The customers of a deployment.
    pub fn open(cloud: &'a Cloud, deployment: &'a Deployment, format: Format) -> Result<Self> {
        Ok(Self { cloud, deployment, store: onboarding::store(cloud, deployment)?, format })
    }

    /// `stepward customer …`
    pub async fn customer(&self, command: args::Customer) -> Result<u8> {
        use args::Customer as C;
        let who = &self.cloud.caller;
        let customer = match command {
            C::Add { name, default_region, provider } => {
                self.said(self.store.add_customer(who, &name, default_region, provider).await)?
            }
            C::Defaults { default_region, provider } => return self.defaults(default_region, provider).await,
            C::List => {
                let all = self.said(self.store.customers().await)?;
                self.format.show(&all, || customers(&all))?;
                return Ok(0);
            }
            C::Show { name } => return self.show_customer(&name).await,
            C::Suspend { name } => self.set_status(&name, Status::Suspended).await?,
            C::Resume { name } => self.set_status(&name, Status::Active).await?,
            C::Remove { name, yes } => {
                let customer = self.said(self.store.customer(&name).await)?;
                let accounts = self.said(self.store.accounts(&name).await)?;
                let names: Vec<_> = accounts.iter().map(|account| account.name.as_str()).collect();
                let what = format!("this would remove customer {name} and its accounts ({})", names.join(", "));
                really(yes, &what, &format!("{} customer remove {name}", self.cloud.command()))?;
                // A customer of the same name could use them one day.
                let keys = keys::list(self.cloud, self.deployment, Some(&name)).await?;
                if !keys.is_empty() {
                    let paths: Vec<_> = keys.iter().map(|key| key.path.as_str()).collect();
                    return Err(Error::not_asked(format!("{name} has keys: {}", paths.join(", ")))
                        .next(format!("`{} keys remove PATH --yes` removes one", self.cloud.command())));
                }
                self.said(self.store.remove_customer(who, &customer).await)?;
                self.format.show(&json!({ "removed": name }), || {
                    format!("Removed customer {name}. The roles in its accounts are its own to delete.")
                })?;
                return Ok(0);
            }
        };
        self.format.show(&customer, || customers(std::slice::from_ref(&customer)))?;
        Ok(0)
    }

    async fn defaults(&self, default_region: Option<String>, provider: Option<Provider>) -> Result<u8> {
        let mut defaults = self.said(self.store.defaults().await)?;
        if default_region.is_some() || provider.is_some() {
            let Defaults { default_region: region_before, provider: provider_before } = defaults;
            defaults =
                Defaults { default_region: default_region.or(region_before), provider: provider.or(provider_before) };
            self.said(self.store.set_defaults(&self.cloud.caller, &defaults).await)?;
        }
        self.format.show(&defaults, || {
            let region = defaults.default_region.clone().unwrap_or_else(|| "the account's first".into());
            let provider = defaults.provider.unwrap_or_default().to_string();
            table(&["default region", "provider"], [[region, provider]])
        })?;
        Ok(0)
    }

    async fn set_status(&self, name: &str, status: Status) -> Result<Customer> {
        let customer = self.said(self.store.customer(name).await)?;
        if customer.status == status {
            return Ok(customer);
        }
        self.said(self.store.set_status(&self.cloud.caller, &customer, status).await)
    }

    async fn show_customer(&self, name: &str) -> Result<u8> {
        let customer = self.said(self.store.customer(name).await)?;
        let accounts = self.said(self.store.accounts(name).await)?;
        let shown: Vec<_> = accounts.iter().map(Shown::from).collect();
        self.format.show(&json!({ "customer": customer, "accounts": shown }), || {
            format!("{}\n\n{}", customers(std::slice::from_ref(&customer)), account_table(&shown))
        })?;
        Ok(0)
    }

    /// `stepward account …`
    pub async fn account(&self, command: args::Account) -> Result<u8> {
        use args::Account as A;
        let who = &self.cloud.caller;
        match command {
            A::Add(add) => self.add_account(add).await,
            A::SetRole { place, role_arn } => {
                let (customer, account) = (&place.customer, &place.account);
                let checked = onboarding::set_role(self.cloud, self.deployment, customer, account, &role_arn).await?;
                self.show_check(&checked)
            }
            A::Check { place } => {
                let checked = onboarding::check(self.cloud, self.deployment, &place.customer, &place.account).await?;
                self.show_check(&checked)
            }
            A::Rotate { place } => {
                let account = self.find(&place).await?;
                let account = self.said(self.store.rotate(who, &account).await)?;
                let invitation = invitation(self.cloud, self.deployment, &account).await?;
                self.format.show(&invitation, || rotation(&invitation, &self.cloud.command()))?;
                Ok(0)
            }
            A::Show { place } => {
                let account = self.find(&place).await?;
                let (shown, invitation) =
                    (Shown::from(&account), invitation(self.cloud, self.deployment, &account).await?);
                self.format.show(&json!({ "account": shown, "onboarding": invitation }), || {
                    format!("{}\n\n{}", account_table(&[Shown::from(&account)]), facts(&invitation))
                })?;
                Ok(0)
            }
            A::Remove { place, yes } => {
                let account = self.find(&place).await?;
                let name = format!("{} {}", place.customer, place.account);
                let what = format!("this would remove account {name} ({})", account.account_id);
                really(yes, &what, &format!("{} account remove {name}", self.cloud.command()))?;
                self.said(self.store.remove_account(who, &account).await)?;
                self.format.show(&json!({ "removed": Shown::from(&account) }), || {
                    format!("Removed account {name}. The role in it is its owner's to delete.")
                })?;
                Ok(0)
            }
            A::OverrideTrust { place, yes } => {
                let account = self.find(&place).await?;
                let name = format!("{} {}", place.customer, place.account);
                let what = format!(
                    "this would run jobs in {name} although its role has not been proven to keep strangers out"
                );
                really(yes, &what, &format!("{} account override-trust {name}", self.cloud.command()))?;
                let account = self.said(self.store.set_trust(who, &account, Trust::Overridden).await)?;
                self.format.show(&Shown::from(&account), || account_table(&[Shown::from(&account)]))?;
                Ok(0)
            }
        }
    }

    async fn add_account(&self, add: args::AddAccount) -> Result<u8> {
        let new = NewAccount {
            customer: add.place.customer,
            name: add.place.account,
            account_id: add.account_id,
            provider: add.provider,
            regions: add.regions,
            default_region: add.default_region,
            access_key: add.access_key_id.zip(add.secret_path).map(|(id, secret_path)| AccessKey { id, secret_path }),
        };
        let account = self.said(self.store.add_account(&self.cloud.caller, new).await)?;
        let invitation = invitation(self.cloud, self.deployment, &account).await?;
        self.format.show(&invitation, || welcome(&invitation, &self.cloud.command()))?;
        Ok(0)
    }

    async fn find(&self, place: &args::Place) -> Result<Account> {
        self.said(self.store.account(&place.customer, &place.account).await)
    }

    fn show_check(&self, checked: &Checked) -> Result<u8> {
        let (account, finished) = (&checked.account, &checked.finished);
        let name = format!("{} {}", account.customer, account.name);
        let shown = Shown::from(account);
        self.format.show(&json!({ "account": shown, "passed": checked.passed(), "check": finished }), || {
            let mut text = account_table(&[Shown::from(account)]);
            if checked.passed() {
                text.push_str("\n\nThe role lets Stepward in, and nobody without the external ID.");
            }
            if checked.rotated {
                text.push_str("\nThe new external ID is now the only one; the old one can leave the trust policy.");
            } else if checked.passed() && account.next_external_id.is_some() {
                text.push_str(
                    "\nThe role does not take the new external ID yet; `account show` prints what to change.",
                );
            }
            text
        })?;
        if checked.passed() {
            return Ok(0);
        }
        let error = finished.error.as_deref().unwrap_or(&finished.status);
        let cause = finished.cause.as_deref().unwrap_or("no reason was given");
        let advice = format!("have that mended in the account, then `{} account check {name}`", self.cloud.command());
        print("")?;
        eprintln!("{}", Error::new(format!("{error}: {cause}")).next(advice));
        Ok(FAILED)
    }

    fn said<T>(&self, result: Result<T, StepError>) -> Result<T> {
        result.map_err(|error| self.cloud.explain(&error))
    }
}

/// What cannot be undone is done only when asked for twice.
pub(crate) fn really(yes: bool, what: &str, command: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    Err(Error::not_asked(what).next(format!("if that is meant: `{command} --yes`")))
}

fn customers(customers: &[Customer]) -> String {
    let row = |customer: &Customer| {
        let status = if customer.status == Status::Active { "active" } else { "suspended" };
        let region = customer.default_region.clone().unwrap_or_else(|| "–".into());
        let since = customer.created_at.split('.').next().unwrap_or_default().replace('T', " ");
        [customer.name.clone(), status.into(), region, since]
    };
    table(&["customer", "status", "default region", "since"], customers.iter().map(row))
}

fn account_table(accounts: &[Shown]) -> String {
    let row = |account: &Shown| {
        let trust = match account.trust {
            Trust::Proven => "proven",
            Trust::Open => "open: steps refuse it",
            Trust::Overridden => "open, overridden",
            Trust::Unproven => "unproven",
        };
        let trust = if account.rotating { format!("{trust}, rotating") } else { trust.into() };
        let provider = account.provider.map_or_else(|| "inherited".into(), |provider| provider.to_string());
        let role = account.role_arn.unwrap_or("–").to_owned();
        [account.account.into(), account.account_id.into(), trust, provider, account.regions.join(" "), role]
    };
    table(&["account", "account id", "trust", "provider", "regions", "role"], accounts.iter().map(row))
}

/// The three facts that the owner of an account needs.
fn facts(invitation: &Invitation) -> String {
    let policy = serde_json::to_string_pretty(&invitation.trust_policy).unwrap_or_default();
    format!(
        "Broker role   {}\nExternal ID   {}\n\nTrust policy of the role:\n{policy}",
        invitation.broker_role_arn,
        invitation.external_ids.join("  and  ")
    )
}

fn welcome(invitation: &Invitation, command: &str) -> String {
    let Invitation { customer, account, account_id, launch_link, .. } = invitation;
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

fn rotation(invitation: &Invitation, command: &str) -> String {
    let Invitation { customer, account, .. } = invitation;
    format!(
        "The second external ID is the new one; until it has been proven, both are valid.\n\n{}\n\nOnce the trust policy \
         is changed (or the stack updated with both IDs, a comma between them):\n  {command} account check {customer} {account}",
        facts(invitation)
    )
}
