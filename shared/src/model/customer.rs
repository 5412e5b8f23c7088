//! Customers and their accounts, and the checks of their values.
//!
//! [`Store`](crate::access::store::Store) reads and writes the records.

use std::fmt;

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::digest::hex;
use crate::model::error::{ErrorName, StepError};
use crate::model::partition::Partition;

/// A customer: a company whose AWS accounts Stepward works in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Customer {
    /// The customer's name, such as `acme`.
    pub name: String,
    /// Whether jobs may run for the customer.
    pub status: Status,
    /// The default Region of the customer's accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    /// The default credential provider of the customer's accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// The default mapping of the customer's accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<NodeMapping>,
    /// When the record was created, in RFC 3339 format.
    pub created_at: String,
    /// The number of writes. Every write is conditional on the version that was read.
    pub version: u64,
}

impl Customer {
    /// Checks that the customer is not suspended.
    ///
    /// # Errors
    /// `Conflict` if the customer is suspended.
    pub fn check_active(&self) -> Result<(), StepError> {
        match self.status {
            Status::Active => Ok(()),
            Status::Suspended => Err(ErrorName::Conflict.with_message(format!(
                "customer {0:?} is suspended; \
                 run `stepward customer resume {0}` to let jobs run again",
                self.name
            ))),
        }
    }
}

/// Whether jobs may run for a customer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Jobs can run.
    Active,
    /// Every step fails with `Conflict`. The customer's records are kept.
    Suspended,
}

/// One AWS account of a customer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Account {
    /// The customer's name.
    pub customer: String,
    /// The account's name, which is unique for the customer, such as `prod`.
    pub name: String,
    /// The 12-digit AWS account ID.
    pub account_id: String,
    /// Where credentials come from. The default is the customer's provider, then the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// The role that the customer created for Stepward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_arn: Option<String>,
    /// The external ID that the role's trust policy requires.
    pub external_id: ExternalId,
    /// During a rotation: the new external ID. Both external IDs are valid until the new one is
    /// proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_external_id: Option<ExternalId>,
    /// The Regions that steps may work in: one or more.
    pub regions: Vec<String>,
    /// The Region for steps whose target has no Region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    /// The access key of the `access-key` provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key: Option<AccessKey>,
    /// How EC2 instances become nodes. The default is the customer's mapping, then Rundeck's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<NodeMapping>,
    /// The result of the last trust proof.
    pub trust: Trust,
    /// The number of writes. Every write is conditional on the version that was read.
    pub version: u64,
}

/// The defaults of the whole system. A customer's and an account's values override them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Defaults {
    /// The Region for accounts and customers without a default Region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    /// The credential provider for accounts and customers without a provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
}

/// Where the credentials for an account come from.
///
/// Only `assume-role` supports a session policy. With any other provider, AWS does not limit a step
/// to the permissions that it declares.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// A role in the customer's account, with an external ID.
    #[default]
    AssumeRole,
    /// The instance profile of the EC2 instance that the step runs on, from IMDS.
    Ec2,
    /// The task role of the ECS task that the step runs in.
    Ecs,
    /// The Lambda function's own role, for Stepward's own account.
    ExecutionRole,
    /// A long-lived access key whose secret is in key storage. This is the least secure provider.
    AccessKey,
}

/// A long-lived access key. Steps read the secret from key storage each time they need it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AccessKey {
    /// The access key ID.
    pub id: String,
    /// The key path of the secret, such as `keys/acme/prod`.
    pub secret_path: String,
}

/// A mapping of EC2 instances to nodes, with the meaning of the parameters `mapping` and
/// `use_default_mapping` of the step `ec2-nodes`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeMapping {
    /// The entries of the mapping.
    pub mapping: String,
    /// Whether the mapping extends Rundeck's default mapping instead of replacing it.
    pub use_default_mapping: bool,
}

/// The result of the last trust proof of a role. Steps run only if it is `proven` or `overridden`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// The role was not proven yet, or the last proof did not finish.
    Unproven,
    /// The role accepts the right external ID, and refuses callers with a wrong one or without one.
    Proven,
    /// The role accepts callers without the right external ID.
    Open,
    /// The role is open, and an operator decided to run steps nevertheless. The audit log has the
    /// decision.
    Overridden,
}

/// The external ID of a role. `Debug` never shows it, and only the table's records contain it.
#[derive(Clone, Debug)]
pub struct ExternalId(SecretString);

impl ExternalId {
    /// Generates an external ID: 160 random bits from the operating system, as 40 hexadecimal
    /// digits.
    ///
    /// # Errors
    /// `Internal` if the operating system provides no random bytes.
    pub fn generate() -> Result<Self, StepError> {
        let mut bytes = [0_u8; 20];
        getrandom::fill(&mut bytes).map_err(|error| {
            ErrorName::Internal.with_message(format!(
                "the operating system provided no random bytes: {error}"
            ))
        })?;
        Ok(Self(hex(&bytes).into()))
    }

    /// The external ID as text, for STS and for the customer.
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

/// An account with its customer and the system's defaults: all records that a step needs.
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
    /// The credential provider: the account's, or else the customer's, or else the system's, or
    /// else `assume-role`.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.account
            .provider
            .or(self.customer.provider)
            .or(self.defaults.provider)
            .unwrap_or_default()
    }

    /// The mapping of EC2 instances to nodes: the account's, or else the customer's.
    #[must_use]
    pub fn mapping(&self) -> Option<&NodeMapping> {
        let account = self.account.mapping.as_ref();
        account.or(self.customer.mapping.as_ref())
    }

    /// The Region to work in.
    ///
    /// This is the requested Region. Without a request, it is the first allowed Region among the
    /// defaults of the account, the customer and the system. Without an allowed default, it is the
    /// account's first Region.
    ///
    /// # Errors
    /// `InvalidInput` if the account does not allow the requested Region.
    pub fn region(&self, requested: Option<&str>) -> Result<String, StepError> {
        let allowed = &self.account.regions;
        let is_allowed = |region: &str| allowed.iter().any(|allowed| allowed == region);
        let defaults = [
            &self.account.default_region,
            &self.customer.default_region,
            &self.defaults.default_region,
        ];
        let region = requested
            .or_else(|| {
                defaults
                    .into_iter()
                    .flatten()
                    .map(String::as_str)
                    .find(|region| is_allowed(region))
            })
            .or_else(|| allowed.first().map(String::as_str))
            .unwrap_or_default();

        if is_allowed(region) {
            return Ok(region.to_owned());
        }
        Err(ErrorName::InvalidInput.with_message(format!(
            "Region {region:?} is not in the account's record; use one that is allowed: {}",
            allowed.join(", ")
        )))
    }

    /// The partition of the account: that of the role ARN, or else that of the Region.
    #[must_use]
    pub fn partition(&self, region: &str) -> String {
        let role_partition = self
            .account
            .role_arn
            .as_deref()
            .and_then(|arn| arn.split(':').nth(1));
        role_partition
            .unwrap_or(Partition::for_region(region).name)
            .to_owned()
    }
}

/// Checks the name of a customer or an account. The name becomes part of keys, session names and
/// log fields.
///
/// # Errors
/// `InvalidInput` if the name is not valid.
pub fn check_name(field: &str, name: &str) -> Result<(), StepError> {
    let is_valid = (1..=30).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if is_valid {
        return Ok(());
    }
    Err(ErrorName::InvalidInput.with_message(format!(
        "{field} {name:?} is not a valid name; \
         use 1 to 30 lower-case letters, digits and inner hyphens"
    )))
}

/// Checks the form of an AWS account ID.
///
/// # Errors
/// `InvalidInput` if the ID does not have 12 digits.
pub fn check_account_id(id: &str) -> Result<(), StepError> {
    if id.len() == 12 && id.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    Err(ErrorName::InvalidInput
        .with_message(format!("{id:?} is not an AWS account ID; pass 12 digits")))
}

/// Checks the form of a Region code, such as `eu-west-1`. AWS itself refuses Regions that do not
/// exist.
///
/// # Errors
/// `InvalidInput` if the form is wrong.
pub fn check_region(region: &str) -> Result<(), StepError> {
    let parts: Vec<_> = region.split('-').collect();
    let is_valid = (3..=5).contains(&parts.len())
        && parts.iter().all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
        && parts
            .last()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if is_valid {
        return Ok(());
    }
    Err(ErrorName::InvalidInput.with_message(format!(
        "{region:?} is not a Region; pass a code such as eu-west-1"
    )))
}

/// The path of the roles that customers create for Stepward. The broker role can assume no other
/// roles: `infra/template.yaml` allows this path, and `infra/customer-role.yaml` uses it.
pub const ROLE_PATH: &str = "role/stepward/";

/// Checks that an ARN belongs to a role of the account, below [`ROLE_PATH`].
///
/// # Errors
/// `InvalidInput` if it does not.
pub fn check_role_arn(arn: &str, account_id: &str, regions: &[String]) -> Result<(), StepError> {
    let parts: Vec<_> = arn.split(':').collect();
    let [prefix, partition, service, region, account, role] = parts[..] else {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "{arn:?} is not a role ARN; \
             expected the form arn:aws:iam::{account_id}:{ROLE_PATH}Stepward"
        )));
    };
    let name = role.strip_prefix(ROLE_PATH).unwrap_or_default();
    // https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateRole.html (RoleName, Path)
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&b);
    if prefix != "arn"
        || Partition::find(partition).is_none()
        || service != "iam"
        || !region.is_empty()
        || name.is_empty()
        || name.ends_with('/')
        || arn.len() > 2048
        || !name.bytes().all(is_allowed)
    {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "{arn:?} is not a role with the path /stepward/; \
             expected the form arn:aws:iam::{account_id}:{ROLE_PATH}Stepward"
        )));
    }
    let other = regions
        .iter()
        .find(|region| Partition::for_region(region).name != partition);
    if let Some(region) = other {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "the role is in the partition \"{partition}\", but the account's Region {region} is in \
             \"{}\"; pass the ARN of a role in that partition",
            Partition::for_region(region).name
        )));
    }
    if account != account_id {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "the role is in account \"{account}\", but the account's record has \"{account_id}\"; \
             pass the ARN of a role in account {account_id}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_must_be_in_the_partition_of_the_regions() {
        let arn = "arn:aws-cn:iam::222222222222:role/stepward/Stepward";
        let check = |region: &str| check_role_arn(arn, "222222222222", &[region.to_owned()]);
        check("cn-north-1").unwrap();
        let error = check("eu-west-1").unwrap_err();
        assert!(error.message.contains("partition \"aws-cn\""), "{error}");
    }

    #[test]
    fn an_external_id_is_random_and_hidden_in_debug() {
        let (first, second) = (
            ExternalId::generate().unwrap(),
            ExternalId::generate().unwrap(),
        );
        assert_eq!(first.expose().len(), 40);
        assert_ne!(first.expose(), second.expose());
        assert!(!format!("{first:?}").contains(first.expose()));
    }

    #[test]
    fn only_roles_of_the_account_below_the_path_are_valid() {
        let is_valid = |arn: &str| check_role_arn(arn, "222222222222", &[]).is_ok();
        assert!(is_valid("arn:aws:iam::222222222222:role/stepward/Stepward"));
        assert!(is_valid(
            "arn:aws-cn:iam::222222222222:role/stepward/team/ops"
        ));
        assert!(!is_valid(
            "arn:aws:iam::333333333333:role/stepward/Stepward"
        ));
        assert!(!is_valid("arn:aws:iam::222222222222:role/Admin"));
        assert!(!is_valid("arn:aws:iam::222222222222:role/stepward/*"));
        assert!(!is_valid("arn:aws:iam::222222222222:user/stepward/x"));
        assert!(!is_valid("stepward"));
    }

    #[test]
    fn names_account_ids_and_regions_are_checked() {
        assert!(check_name("customer", "acme-2").is_ok());
        for invalid in ["", "Acme", "a#b", "-a", "a-", &"a".repeat(31)] {
            assert!(check_name("customer", invalid).is_err(), "{invalid}");
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
