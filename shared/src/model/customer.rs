//! Customers and their accounts: what they are and which values they may have. `store` keeps them.

use std::fmt;

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::digest::hex;
use crate::model::error::{ErrorName, StepError};
use crate::model::partition::Partition;

/// Somebody whose accounts Stepward works in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Customer {
    /// Name, as in `acme`.
    pub name: String,
    /// Whether jobs may run.
    pub status: Status,
    /// Default for the customer's accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    /// Default for the customer's accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// When the record was made, RFC 3339.
    pub created_at: String,
    /// Counts writes; every write is conditional on it.
    pub version: u64,
}

impl Customer {
    /// Refuses a suspended customer.
    ///
    /// # Errors
    /// `Conflict`.
    pub fn check_active(&self) -> Result<(), StepError> {
        match self.status {
            Status::Active => Ok(()),
            Status::Suspended => Err(ErrorName::Conflict.with_message(format!(
                "customer {0} is suspended; `stepward customer resume {0}` lets jobs run again",
                self.name
            ))),
        }
    }
}

/// Whether jobs may run for a customer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Jobs run.
    Active,
    /// Every step is refused with `Conflict`; records stay.
    Suspended,
}

/// One AWS account of a customer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Account {
    /// The customer's name.
    pub customer: String,
    /// Name of the account within the customer, as in `prod`.
    pub name: String,
    /// The 12-digit AWS account ID.
    pub account_id: String,
    /// Where credentials come from; the customer's or the system's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// The role that the customer made for Stepward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_arn: Option<String>,
    /// What the role's trust policy asks for.
    pub external_id: ExternalId,
    /// The external ID that a rotation is moving to; both are valid until it has been proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_external_id: Option<ExternalId>,
    /// Regions that steps may work in, one or more.
    pub regions: Vec<String>,
    /// The Region for steps that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    /// For the `access-key` provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key: Option<AccessKey>,
    /// What is known of the role's trust policy.
    pub trust: Trust,
    /// Counts writes; every write is conditional on it.
    pub version: u64,
}

/// System-wide defaults, above those of customers.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Defaults {
    /// The Region where nothing nearer names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    /// The credential provider where nothing nearer names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
}

/// Where the credentials for an account come from.
///
/// Only `assume-role` takes a session policy, so only there is a step held to its declared
/// permissions by AWS itself.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// A role in the account, with an external ID.
    #[default]
    AssumeRole,
    /// The instance profile of the EC2 instance that the step runs on, by IMDS.
    Ec2,
    /// The task role of the ECS task that the step runs in.
    Ecs,
    /// The Lambda function's own role: for Stepward's own account.
    ExecutionRole,
    /// An access key whose secret is in key storage; the least safe.
    AccessKey,
}

/// A long-lived access key. The secret itself is in key storage, read at use.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AccessKey {
    /// The access key ID.
    pub id: String,
    /// Where the secret is, as in `keys/acme/prod`.
    pub secret_path: String,
}

/// What is known of a role's trust policy. Steps run only on `proven` and `overridden`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// No proof yet, or the last one could not be finished.
    Unproven,
    /// Refuses no and wrong external IDs, takes the right one.
    Proven,
    /// Lets somebody in without the right external ID.
    Open,
    /// Open, and an operator decided to run all the same; audited.
    Overridden,
}

/// A role's external ID. It shows itself only on purpose: never in `Debug`, and serialized only
/// into the table.
#[derive(Clone, Debug)]
pub struct ExternalId(SecretString);

impl ExternalId {
    /// 160 random bits from the operating system, as 40 hex digits.
    ///
    /// # Errors
    /// `Internal` when the operating system gives no randomness.
    pub fn generate() -> Result<Self, StepError> {
        let mut bytes = [0_u8; 20];
        getrandom::fill(&mut bytes).map_err(|error| {
            ErrorName::Internal
                .with_message(format!("no randomness from the operating system: {error}"))
        })?;
        Ok(Self(hex(&bytes).into()))
    }

    /// The text itself: for STS, and for the customer.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl Serialize for ExternalId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for ExternalId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AssumeRole => "assume-role",
            Self::Ec2 => "ec2",
            Self::Ecs => "ecs",
            Self::ExecutionRole => "execution-role",
            Self::AccessKey => "access-key",
        })
    }
}

/// An account with what it inherits: all that a step needs to know of a customer.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The customer.
    pub customer: Customer,
    /// The account.
    pub account: Account,
    /// The system's defaults.
    pub defaults: Defaults,
}

impl Configuration {
    /// The credential provider: the account's, else the customer's, else the system's, else
    /// `assume-role`.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.account
            .provider
            .or(self.customer.provider)
            .or(self.defaults.provider)
            .unwrap_or_default()
    }

    /// The Region to work in: the one asked for, else the nearest default, else the account's
    /// first.
    ///
    /// # Errors
    /// `InvalidInput` when the account does not allow it.
    pub fn region(&self, asked: Option<&str>) -> Result<String, StepError> {
        let allowed = &self.account.regions;
        let inherited = [
            &self.account.default_region,
            &self.customer.default_region,
            &self.defaults.default_region,
        ];
        let region = asked
            .or_else(|| {
                inherited
                    .into_iter()
                    .flatten()
                    .map(String::as_str)
                    .find(|r| allowed.iter().any(|a| a == r))
            })
            .or_else(|| allowed.first().map(String::as_str))
            .unwrap_or_default();
        if allowed.iter().any(|a| a == region) {
            return Ok(region.to_owned());
        }
        Err(ErrorName::InvalidInput.with_message(format!(
            "Region {region:?} is not allowed for this account; allowed: {}",
            allowed.join(", ")
        )))
    }

    /// The partition of the account: the role ARN's, else the Region's.
    #[must_use]
    pub fn partition(&self, region: &str) -> String {
        let of_role = self
            .account
            .role_arn
            .as_deref()
            .and_then(|arn| arn.split(':').nth(1));
        of_role
            .unwrap_or(Partition::of_region(region).name)
            .to_owned()
    }
}

/// Checks a customer's or account's name: it becomes part of keys, session names and log fields.
///
/// # Errors
/// `InvalidInput`.
pub fn check_name(what: &str, name: &str) -> Result<(), StepError> {
    let fits = (1..=30).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fits {
        return Ok(());
    }
    Err(ErrorName::InvalidInput.with_message(format!(
        "{what} {name:?} is not a name: 1 to 30 lower-case letters, digits and inner hyphens"
    )))
}

/// Checks an AWS account ID.
///
/// # Errors
/// `InvalidInput`.
pub fn check_account_id(id: &str) -> Result<(), StepError> {
    if id.len() == 12 && id.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    Err(ErrorName::InvalidInput.with_message(format!("{id:?} is not an AWS account ID: 12 digits")))
}

/// Checks a Region's form, as in `eu-west-1`; whether AWS has it shows at the first call.
///
/// # Errors
/// `InvalidInput`.
pub fn check_region(region: &str) -> Result<(), StepError> {
    let parts: Vec<_> = region.split('-').collect();
    let fits = (3..=5).contains(&parts.len())
        && parts.iter().all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
        && parts
            .last()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if fits {
        return Ok(());
    }
    Err(ErrorName::InvalidInput
        .with_message(format!("{region:?} is not a Region, as in eu-west-1")))
}

/// The path below which customers make their roles; the broker can assume no other.
/// `infra/template.yaml` grants it, `infra/customer-role.yaml` uses it.
pub const ROLE_PATH: &str = "role/stepward/";

/// Checks that a role ARN is a role of the account, below [`ROLE_PATH`].
///
/// # Errors
/// `InvalidInput`.
pub fn check_role_arn(arn: &str, account_id: &str) -> Result<(), StepError> {
    let parts: Vec<_> = arn.split(':').collect();
    let [prefix, partition, service, region, account, role] = parts[..] else {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "{arn:?} is not a role ARN, as in arn:aws:iam::{account_id}:{ROLE_PATH}Stepward"
        )));
    };
    let name = role.strip_prefix(ROLE_PATH).unwrap_or_default();
    // https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateRole.html (RoleName, Path)
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&b);
    if prefix != "arn"
        || Partition::named(partition).is_none()
        || service != "iam"
        || !region.is_empty()
        || name.is_empty()
        || name.ends_with('/')
        || arn.len() > 2048
        || !name.bytes().all(legal)
    {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "{arn:?} cannot be used: roles for Stepward have the path /stepward/, as in arn:aws:iam::{account_id}:{ROLE_PATH}Stepward"
        )));
    }
    if account != account_id {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "the role is in account {account}, but this account's record says {account_id}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_id_has_160_random_bits_and_hides_itself() {
        let (one, two) = (
            ExternalId::generate().unwrap(),
            ExternalId::generate().unwrap(),
        );
        assert_eq!(one.expose().len(), 40);
        assert_ne!(one.expose(), two.expose());
        assert!(!format!("{one:?}").contains(one.expose()));
    }

    #[test]
    fn only_roles_of_the_account_below_the_path_are_taken() {
        let ok = |arn: &str| check_role_arn(arn, "222222222222").is_ok();
        assert!(ok("arn:aws:iam::222222222222:role/stepward/Stepward"));
        assert!(ok("arn:aws-cn:iam::222222222222:role/stepward/team/ops"));
        assert!(!ok("arn:aws:iam::333333333333:role/stepward/Stepward"));
        assert!(!ok("arn:aws:iam::222222222222:role/Admin"));
        assert!(!ok("arn:aws:iam::222222222222:role/stepward/*"));
        assert!(!ok("arn:aws:iam::222222222222:user/stepward/x"));
        assert!(!ok("stepward"));
    }

    #[test]
    fn names_accounts_and_regions_have_their_forms() {
        assert!(check_name("customer", "acme-2").is_ok());
        for bad in ["", "Acme", "a#b", "-a", "a-", &"a".repeat(31)] {
            assert!(check_name("customer", bad).is_err(), "{bad}");
        }
        assert!(
            check_account_id("222222222222").is_ok() && check_account_id("22222222222a").is_err()
        );
        assert!(
            check_region("us-gov-west-1").is_ok()
                && check_region("eu-west").is_err()
                && check_region("EU-west-1").is_err()
        );
    }
}
