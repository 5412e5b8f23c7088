//! Stores customers and accounts in one DynamoDB table. Every write is conditional and audited.
//!
//! | item | `pk` | `sk` |
//! |---|---|---|
//! | customer | `CUSTOMERS` | name |
//! | account | `CUSTOMER#<customer>` | `ACCOUNT#<name>` |
//! | role claim | `ROLE#<role ARN>` | `ROLE` |
//! | audit entry | `AUDIT#<customer>` | time and a random part |
//! | defaults | `SYSTEM` | `DEFAULTS` |
//!
//! The broker role may read `CUSTOMERS`, `CUSTOMER#…` and `SYSTEM`, and is not allowed to write.
//! `infra/template.yaml` defines this with the condition `dynamodb:LeadingKeys`.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConditionCheck, Delete, KeysAndAttributes, Put, TransactWriteItem,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::access::keys::check_owner;
use crate::model::aws_error::{AwsError, Service};
use crate::model::customer::{
    AccessKey, Account, Configuration, Customer, Defaults, ExternalId, NodeMapping, Provider,
    Status, Trust, check_account_id, check_name, check_region, check_role_arn,
};
use crate::model::digest::hex;
use crate::model::error::{ErrorName, StepError};
use crate::node::mapping::ec2::check_mapping;

mod mappings;

type Item = HashMap<String, AttributeValue>;

/// The table with customers and accounts.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    table: String,
}

/// The values of a new account. [`Store::add_account`] generates the external ID.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// The customer's name.
    pub customer: String,
    /// The account's name, which is unique for the customer.
    pub name: String,
    /// The 12-digit AWS account ID.
    pub account_id: String,
    /// Where credentials come from. The default is the customer's provider, then the system's.
    pub provider: Option<Provider>,
    /// The Regions that steps may work in: one or more.
    pub regions: Vec<String>,
    /// One of the Regions. The default is the customer's default Region, then the system's.
    pub default_region: Option<String>,
    /// The access key of the `access-key` provider.
    pub access_key: Option<AccessKey>,
    /// How EC2 instances become nodes. The default is the customer's mapping, then Rundeck's.
    pub mapping: Option<NodeMapping>,
}

impl Store {
    /// Creates a store that uses this table.
    #[must_use]
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self {
            client,
            table: table.into(),
        }
    }

    /// Reads an account, its customer and the system's defaults with one call.
    ///
    /// # Errors
    /// `NotFound` if the customer or the account does not exist, or the error of the DynamoDB call.
    pub async fn configuration(
        &self,
        customer: &str,
        account: &str,
    ) -> Result<Configuration, StepError> {
        check_name("customer", customer)?;
        check_name("account", account)?;
        let item_keys = [
            customer_key(customer),
            account_key(customer, account),
            defaults_key(),
        ];
        let keys = KeysAndAttributes::builder()
            .set_keys(Some(item_keys.to_vec()))
            .consistent_read(true)
            .build()
            .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
        let response = self
            .client
            .batch_get_item()
            .request_items(&self.table, keys)
            .send()
            .await
            .map_err(dynamodb_error)?;
        if response
            .unprocessed_keys
            .is_some_and(|keys| !keys.is_empty())
        {
            return Err(ErrorName::Throttled
                .with_message("DynamoDB returned only a part of the records; try again"));
        }

        let items = response
            .responses
            .and_then(|mut tables| tables.remove(&self.table))
            .unwrap_or_default();
        let [customer_item, account_item, defaults_item] = item_keys.map(|key| {
            items
                .iter()
                .find(|item| {
                    key.iter()
                        .all(|(name, value)| item.get(name) == Some(value))
                })
                .cloned()
        });
        let customer_item = customer_item.ok_or_else(|| customer_not_found(customer))?;
        let account_item = account_item.ok_or_else(|| account_not_found(customer, account))?;
        Ok(Configuration {
            customer: from_item(customer_item)?,
            account: from_item(account_item)?,
            defaults: defaults_item
                .map(from_item)
                .transpose()?
                .unwrap_or_default(),
        })
    }

    /// Reads a customer.
    ///
    /// # Errors
    /// `NotFound` if the customer does not exist, or the error of the DynamoDB call.
    pub async fn customer(&self, name: &str) -> Result<Customer, StepError> {
        check_name("customer", name)?;
        self.get_record(customer_key(name))
            .await?
            .ok_or_else(|| customer_not_found(name))
    }

    /// Reads all customers, sorted by name.
    pub async fn customers(&self) -> Result<Vec<Customer>, StepError> {
        self.query_records("CUSTOMERS", "").await
    }

    /// Reads an account.
    ///
    /// # Errors
    /// `NotFound` if the account does not exist, or the error of the DynamoDB call.
    pub async fn account(&self, customer: &str, name: &str) -> Result<Account, StepError> {
        check_name("customer", customer)?;
        check_name("account", name)?;
        self.get_record(account_key(customer, name))
            .await?
            .ok_or_else(|| account_not_found(customer, name))
    }

    /// Reads all accounts of a customer, sorted by name.
    pub async fn accounts(&self, customer: &str) -> Result<Vec<Account>, StepError> {
        check_name("customer", customer)?;
        self.query_records(&format!("CUSTOMER#{customer}"), "ACCOUNT#")
            .await
    }

    /// Reads the system's defaults.
    pub async fn defaults(&self) -> Result<Defaults, StepError> {
        Ok(self.get_record(defaults_key()).await?.unwrap_or_default())
    }

    /// Sets the system's defaults.
    pub async fn set_defaults(&self, operator: &str, defaults: &Defaults) -> Result<(), StepError> {
        defaults
            .default_region
            .as_deref()
            .map_or(Ok(()), check_region)?;
        let before = self.defaults().await?;
        let put = Put::builder().set_item(Some(to_item(defaults_key(), defaults)?));
        let write = self.put_write(put)?;
        self.commit_writes(
            vec![(write, "")],
            &audit_entry(operator, "SYSTEM", "set defaults", &before, defaults),
        )
        .await
    }

    /// Adds a customer.
    ///
    /// # Errors
    /// `Conflict` if a customer with this name exists.
    pub async fn add_customer(
        &self,
        operator: &str,
        name: &str,
        default_region: Option<String>,
        provider: Option<Provider>,
    ) -> Result<Customer, StepError> {
        check_name("customer", name)?;
        default_region.as_deref().map_or(Ok(()), check_region)?;
        let customer = Customer {
            name: name.to_owned(),
            status: Status::Active,
            default_region,
            provider,
            mapping: None,
            created_at: current_time()?,
            version: 1,
        };
        let write = self.put_write(
            Put::builder()
                .set_item(Some(to_item(customer_key(name), &customer)?))
                .condition_expression("attribute_not_exists(pk)"),
        )?;
        let exists = format!(
            "customer {name:?} already exists; run `stepward customer show {name}` to see it"
        );
        self.commit_writes(
            vec![(write, &exists)],
            &audit_entry(operator, name, "add customer", &(), &customer),
        )
        .await?;
        Ok(customer)
    }

    /// Suspends a customer, or lets the customer's jobs run again.
    ///
    /// # Errors
    /// `Conflict` if the record changed since it was read.
    pub async fn set_status(
        &self,
        operator: &str,
        customer: &Customer,
        status: Status,
    ) -> Result<Customer, StepError> {
        let after = Customer {
            status,
            ..customer.clone()
        };
        self.replace_customer(operator, "set status", customer, after)
            .await
    }

    /// Removes a customer with all accounts. The roles in the accounts remain, because they belong
    /// to the customer.
    ///
    /// # Errors
    /// `Conflict` if a record changed in the meantime. Accounts that were removed before remain
    /// removed, and a second call continues.
    pub async fn remove_customer(
        &self,
        operator: &str,
        customer: &Customer,
    ) -> Result<(), StepError> {
        // Nobody can add an account to a suspended customer, so the loop removes all accounts.
        let customer = match customer.status {
            Status::Active => {
                self.set_status(operator, customer, Status::Suspended)
                    .await?
            }
            Status::Suspended => customer.clone(),
        };
        for account in self.accounts(&customer.name).await? {
            self.remove_account(operator, &account).await?;
        }
        let write = self.delete_write(customer_key(&customer.name), customer.version)?;
        self.commit_writes(
            vec![(write, RECORD_CHANGED)],
            &audit_entry(operator, &customer.name, "remove customer", &customer, &()),
        )
        .await
    }

    /// Adds an account to an active customer, and generates its external ID.
    ///
    /// # Errors
    /// `InvalidInput` if a value is not valid, `NotFound` if the customer does not exist,
    /// `Conflict` if the customer is suspended or has an account with this name.
    pub async fn add_account(&self, operator: &str, new: NewAccount) -> Result<Account, StepError> {
        check_name("customer", &new.customer)?;
        check_name("account", &new.name)?;
        check_account_id(&new.account_id)?;
        new.regions
            .iter()
            .try_for_each(|region| check_region(region))?;
        if new.regions.is_empty() {
            return Err(ErrorName::InvalidInput
                .with_message("the account has no Regions; pass at least one Region"));
        }
        if let Some(region) = new
            .default_region
            .as_ref()
            .filter(|region| !new.regions.contains(region))
        {
            return Err(ErrorName::InvalidInput.with_message(format!(
                "default Region {region:?} is not one of the account's Regions; \
                 add it to the Regions or choose one of: {}",
                new.regions.join(", ")
            )));
        }
        if new.provider == Some(Provider::AccessKey) && new.access_key.is_none() {
            return Err(ErrorName::InvalidInput
                .with_message("the access-key provider requires an access key ID and a key path"));
        }
        if let Some(AccessKey { secret_path, .. }) = &new.access_key {
            check_owner(secret_path, &new.customer)?;
        }
        if let Some(mapping) = &new.mapping {
            check_mapping(&mapping.mapping)?;
        }
        self.customer(&new.customer).await?;

        let account = Account {
            customer: new.customer,
            name: new.name,
            account_id: new.account_id,
            provider: new.provider,
            role_arn: None,
            external_id: ExternalId::generate()?,
            next_external_id: None,
            regions: new.regions,
            default_region: new.default_region,
            access_key: new.access_key,
            mapping: new.mapping,
            trust: Trust::Unproven,
            version: 1,
        };
        let is_active = ConditionCheck::builder()
            .table_name(&self.table)
            .set_key(Some(customer_key(&account.customer)))
            .condition_expression("#status = :active")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":active", AttributeValue::S("active".into()))
            .build()
            .map_err(incomplete_request)?;
        let check = TransactWriteItem::builder()
            .condition_check(is_active)
            .build();
        let key = account_key(&account.customer, &account.name);
        let write = self.put_write(
            Put::builder()
                .set_item(Some(to_item(key, &account)?))
                .condition_expression("attribute_not_exists(pk)"),
        )?;

        let suspended = format!(
            "customer {0:?} is suspended; run `stepward customer resume {0}` first",
            account.customer
        );
        let exists = format!(
            "account {:?} already exists for customer {:?}; choose another name",
            account.name, account.customer
        );
        self.commit_writes(
            vec![(check, &suspended), (write, &exists)],
            &audit_entry(
                operator,
                &account.customer,
                "add account",
                &(),
                &redacted_account(&account),
            ),
        )
        .await?;
        Ok(account)
    }

    /// Sets the role of an account, and claims the role in the same transaction. A role can belong
    /// to only one account.
    ///
    /// # Errors
    /// `InvalidInput` if the ARN is not valid, `Conflict` if the role belongs to another account or
    /// the record changed since it was read.
    pub async fn set_role(
        &self,
        operator: &str,
        account: &Account,
        role_arn: &str,
    ) -> Result<Account, StepError> {
        check_role_arn(role_arn, &account.account_id, &account.regions)?;
        let after = Account {
            role_arn: Some(role_arn.to_owned()),
            trust: Trust::Unproven,
            version: account.version + 1,
            ..account.clone()
        };
        let claim = json!({ "customer": account.customer, "account": account.name });
        let [customer_value, account_value] =
            [&account.customer, &account.name].map(|value| AttributeValue::S(value.clone()));
        let claim_write = self.put_write(
            Put::builder()
                .expression_attribute_values(":customer", customer_value)
                .expression_attribute_values(":account", account_value)
                .set_item(Some(to_item(role_claim_key(role_arn), &claim)?))
                .condition_expression(
                    "attribute_not_exists(pk) OR (customer = :customer AND account = :account)",
                ),
        )?;
        let key = account_key(&account.customer, &account.name);
        let account_write = self.replace_write(key, &after, account.version)?;
        let mut writes = vec![
            (account_write, RECORD_CHANGED),
            (
                claim_write,
                "this role is registered for another account; use a separate role for each account",
            ),
        ];
        if let Some(old_role) = account.role_arn.as_deref().filter(|old| *old != role_arn) {
            writes.push((self.release_claim_write(old_role)?, RECORD_CHANGED));
        }
        self.commit_writes(
            writes,
            &audit_entry(
                operator,
                &account.customer,
                "set role",
                &redacted_account(account),
                &redacted_account(&after),
            ),
        )
        .await?;
        Ok(after)
    }

    /// Records the result of a trust proof.
    ///
    /// # Errors
    /// `Conflict` if the record changed since it was read, because the proof may belong to another
    /// role.
    pub async fn set_trust(
        &self,
        operator: &str,
        account: &Account,
        trust: Trust,
    ) -> Result<Account, StepError> {
        let after = Account {
            trust,
            ..account.clone()
        };
        self.replace_account(operator, "set trust", account, after)
            .await
    }

    /// Starts the rotation of the external ID: generates a second one. Both external IDs are valid
    /// until the new one is proven. If a rotation is already in progress, the account is returned
    /// unchanged.
    ///
    /// # Errors
    /// `Conflict` if the record changed since it was read.
    pub async fn start_rotation(
        &self,
        operator: &str,
        account: &Account,
    ) -> Result<Account, StepError> {
        if account.next_external_id.is_some() {
            return Ok(account.clone());
        }
        let after = Account {
            next_external_id: Some(ExternalId::generate()?),
            ..account.clone()
        };
        self.replace_account(operator, "rotate external ID", account, after)
            .await
    }

    /// Ends a rotation after the new external ID was proven. The new external ID replaces the old
    /// one.
    ///
    /// # Errors
    /// `Conflict` if no rotation is in progress or the record changed since it was read.
    pub async fn finish_rotation(
        &self,
        operator: &str,
        account: &Account,
    ) -> Result<Account, StepError> {
        let Some(external_id) = account.next_external_id.clone() else {
            return Err(ErrorName::Conflict.with_message(
                "no rotation is in progress for this account; \
                 start one with `stepward account rotate`",
            ));
        };
        let after = Account {
            external_id,
            next_external_id: None,
            trust: Trust::Proven,
            ..account.clone()
        };
        self.replace_account(operator, "finish rotation", account, after)
            .await
    }

    /// Removes an account and its claim on the role. The role itself remains, because it belongs to
    /// the customer.
    ///
    /// # Errors
    /// `Conflict` if the record changed since it was read.
    pub async fn remove_account(&self, operator: &str, account: &Account) -> Result<(), StepError> {
        let key = account_key(&account.customer, &account.name);
        let account_write = self.delete_write(key, account.version)?;
        let mut writes = vec![(account_write, RECORD_CHANGED)];
        if let Some(role_arn) = &account.role_arn {
            writes.push((self.release_claim_write(role_arn)?, RECORD_CHANGED));
        }
        self.commit_writes(
            writes,
            &audit_entry(
                operator,
                &account.customer,
                "remove account",
                &redacted_account(account),
                &(),
            ),
        )
        .await
    }

    async fn replace_customer(
        &self,
        operator: &str,
        action: &str,
        before: &Customer,
        after: Customer,
    ) -> Result<Customer, StepError> {
        let after = Customer {
            version: before.version + 1,
            ..after
        };
        let write = self.replace_write(customer_key(&before.name), &after, before.version)?;
        self.commit_writes(
            vec![(write, RECORD_CHANGED)],
            &audit_entry(operator, &before.name, action, before, &after),
        )
        .await?;
        Ok(after)
    }

    async fn replace_account(
        &self,
        operator: &str,
        action: &str,
        before: &Account,
        after: Account,
    ) -> Result<Account, StepError> {
        let after = Account {
            version: before.version + 1,
            ..after
        };
        let key = account_key(&before.customer, &before.name);
        let write = self.replace_write(key, &after, before.version)?;
        self.commit_writes(
            vec![(write, RECORD_CHANGED)],
            &audit_entry(
                operator,
                &before.customer,
                action,
                &redacted_account(before),
                &redacted_account(&after),
            ),
        )
        .await?;
        Ok(after)
    }

    async fn get_record<T: DeserializeOwned>(&self, key: Item) -> Result<Option<T>, StepError> {
        let response = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .consistent_read(true)
            .send()
            .await
            .map_err(dynamodb_error)?;
        response.item.map(from_item).transpose()
    }

    async fn query_records<T: DeserializeOwned>(
        &self,
        pk: &str,
        sk_prefix: &str,
    ) -> Result<Vec<T>, StepError> {
        let mut query = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .expression_attribute_values(":pk", AttributeValue::S(pk.to_owned()));
        query = if sk_prefix.is_empty() {
            query.key_condition_expression("pk = :pk")
        } else {
            query
                .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
                .expression_attribute_values(":sk", AttributeValue::S(sk_prefix.to_owned()))
        };
        let mut items = query.into_paginator().items().send();
        let mut records = Vec::new();
        while let Some(item) = items.next().await {
            records.push(from_item(item.map_err(dynamodb_error)?)?);
        }
        Ok(records)
    }

    fn put_write(
        &self,
        put: aws_sdk_dynamodb::types::builders::PutBuilder,
    ) -> Result<TransactWriteItem, StepError> {
        let put = put
            .table_name(&self.table)
            .build()
            .map_err(incomplete_request)?;
        Ok(TransactWriteItem::builder().put(put).build())
    }

    /// A write that replaces an item if it still has the version that was read.
    fn replace_write<T: Serialize>(
        &self,
        key: Item,
        record: &T,
        version: u64,
    ) -> Result<TransactWriteItem, StepError> {
        self.put_write(
            Put::builder()
                .set_item(Some(to_item(key, record)?))
                .condition_expression("#version = :version")
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":version", AttributeValue::N(version.to_string())),
        )
    }

    /// A write that deletes an item if it still has the version that was read.
    fn delete_write(&self, key: Item, version: u64) -> Result<TransactWriteItem, StepError> {
        let delete = Delete::builder()
            .table_name(&self.table)
            .set_key(Some(key))
            .condition_expression("#version = :version")
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":version", AttributeValue::N(version.to_string()))
            .build()
            .map_err(incomplete_request)?;
        Ok(TransactWriteItem::builder().delete(delete).build())
    }

    /// A write that deletes the claim on a role. It has no condition: use it in a transaction that
    /// also replaces or deletes the account at the version that was read.
    fn release_claim_write(&self, role_arn: &str) -> Result<TransactWriteItem, StepError> {
        let delete = Delete::builder()
            .table_name(&self.table)
            .set_key(Some(role_claim_key(role_arn)))
            .build()
            .map_err(incomplete_request)?;
        Ok(TransactWriteItem::builder().delete(delete).build())
    }

    /// Commits all writes and the audit entry in one transaction. Each write has the message of the
    /// error that is returned if its condition fails.
    async fn commit_writes(
        &self,
        writes: Vec<(TransactWriteItem, &str)>,
        entry: &AuditEntry,
    ) -> Result<(), StepError> {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random)
            .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
        let entry_key = item_key(
            &format!("AUDIT#{}", entry.subject),
            &format!("{}#{}", current_time()?, hex(&random)),
        );

        let (mut items, messages): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
        let entry_put = Put::builder().set_item(Some(to_item(entry_key, entry)?));
        items.push(self.put_write(entry_put)?);
        let committed = self
            .client
            .transact_write_items()
            .set_transact_items(Some(items))
            .send()
            .await;
        committed
            .map(|_| ())
            .map_err(|error| transaction_error(error, &messages))
    }
}

/// An audit entry: the operator who changed a record, and the values before and after. It contains
/// no external IDs.
#[derive(Serialize)]
struct AuditEntry {
    #[serde(skip)]
    subject: String,
    who: String,
    action: String,
    before: Value,
    after: Value,
}

fn audit_entry(
    operator: &str,
    subject: &str,
    action: &str,
    before: &impl Serialize,
    after: &impl Serialize,
) -> AuditEntry {
    let [before, after] = [serde_json::to_value(before), serde_json::to_value(after)]
        .map(|value| value.unwrap_or(Value::Null));
    AuditEntry {
        subject: subject.into(),
        who: operator.into(),
        action: action.into(),
        before,
        after,
    }
}

/// An account for the audit log, with hashes in place of the external IDs. The hashes show whether
/// an external ID changed, but do not reveal it.
fn redacted_account(account: &Account) -> Value {
    let fingerprint = |id: &ExternalId| {
        format!(
            "sha256:{}",
            &crate::model::digest::sha256(id.expose())[..12]
        )
    };
    let mut value = serde_json::to_value(account).unwrap_or(Value::Null);
    value["external_id"] = fingerprint(&account.external_id).into();
    if let Some(next) = &account.next_external_id {
        value["next_external_id"] = fingerprint(next).into();
    }
    value
}

const RECORD_CHANGED: &str = "somebody else changed the record in the meantime; \
    check the record, then make your change again";

/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html>
const DYNAMODB: Service = Service {
    iam_prefix: "dynamodb",
    codes: |code, _| match code {
        "ConditionalCheckFailedException" | "TransactionCanceledException" => {
            Some(ErrorName::Conflict)
        }
        _ => None,
    },
};

fn dynamodb_error(error: impl AwsError<aws_sdk_dynamodb::Error>) -> StepError {
    error.into_step_error(&DYNAMODB)
}

/// Converts the error of a transaction. `messages` has the message for each write whose condition
/// can fail.
fn transaction_error(error: SdkError<TransactWriteItemsError>, messages: &[&str]) -> StepError {
    let failed_write = match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
            let codes = cancelled
                .cancellation_reasons()
                .iter()
                .map(|reason| reason.code().unwrap_or("None"));
            codes
                .enumerate()
                .find(|(_, code)| *code != "None")
                .map(|(index, code)| (index, code.to_owned()))
        }
        _ => None,
    };

    let step_error = dynamodb_error(error);
    match failed_write {
        Some((index, code)) if code == "ConditionalCheckFailed" => StepError {
            name: ErrorName::Conflict,
            message: messages
                .get(index)
                .copied()
                .unwrap_or(RECORD_CHANGED)
                .to_owned(),
            aws: None,
            target: None,
        },
        Some((_, code)) if code == "TransactionConflict" => StepError {
            name: ErrorName::Conflict,
            message: RECORD_CHANGED.to_owned(),
            ..step_error
        },
        Some((_, code)) if code.contains("Throttl") || code.contains("Exceeded") => StepError {
            name: ErrorName::Throttled,
            message: "DynamoDB throttled the request, and nothing was written; try again".into(),
            ..step_error
        },
        _ => step_error,
    }
}

fn item_key(pk: &str, sk: &str) -> Item {
    [("pk", pk), ("sk", sk)]
        .map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())))
        .into()
}

fn customer_key(name: &str) -> Item {
    item_key("CUSTOMERS", name)
}

fn account_key(customer: &str, name: &str) -> Item {
    item_key(&format!("CUSTOMER#{customer}"), &format!("ACCOUNT#{name}"))
}

fn role_claim_key(role_arn: &str) -> Item {
    item_key(&format!("ROLE#{role_arn}"), "ROLE")
}

fn defaults_key() -> Item {
    item_key("SYSTEM", "DEFAULTS")
}

fn to_item<T: Serialize>(key: Item, record: &T) -> Result<Item, StepError> {
    let mut item: Item = serde_dynamo::to_item(record).map_err(|error| {
        ErrorName::Internal.with_message(format!("a record could not be serialized: {error}"))
    })?;
    item.extend(key);
    Ok(item)
}

fn from_item<T: DeserializeOwned>(item: Item) -> Result<T, StepError> {
    let key = |name| match item.get(name) {
        Some(AttributeValue::S(value)) => value.clone(),
        _ => String::new(),
    };
    let (partition_key, sort_key) = (key("pk"), key("sk"));
    serde_dynamo::from_item(item).map_err(|error| {
        ErrorName::Internal.with_message(format!(
            "the record with the key {partition_key:?}, {sort_key:?} in the stack's DynamoDB table \
             is not valid: {error}; if you edited the table by hand, restore the record"
        ))
    })
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` passes a value")]
fn incomplete_request(error: aws_sdk_dynamodb::error::BuildError) -> StepError {
    ErrorName::Internal.with_message(error.to_string())
}

fn customer_not_found(name: &str) -> StepError {
    ErrorName::NotFound.with_message(format!(
        "customer {name:?} does not exist; `stepward customer list` lists all customers"
    ))
}

fn account_not_found(customer: &str, name: &str) -> StepError {
    ErrorName::NotFound.with_message(format!(
        "account {name:?} does not exist for customer {customer:?}; \
         `stepward customer show {customer}` lists the accounts"
    ))
}

/// The current time in RFC 3339 format.
fn current_time() -> Result<String, StepError> {
    OffsetDateTime::now_utc()
        .format(&Rfc3339)
        .map_err(|error| ErrorName::Internal.with_message(error.to_string()))
}

#[cfg(test)]
mod tests {
    use crate::mock_client;
    use aws_sdk_dynamodb::operation::batch_get_item::{BatchGetItemError, BatchGetItemOutput};
    use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsOutput;
    use aws_sdk_dynamodb::types::CancellationReason;
    use aws_sdk_dynamodb::types::error::TransactionCanceledException;
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;
    use crate::testing::account_record;

    fn account() -> Account {
        account_record("acme").account
    }

    fn batch_get_rule(items: Vec<Item>) -> Rule {
        let output = move || {
            BatchGetItemOutput::builder()
                .responses("table", items.clone())
                .build()
        };
        mock!(aws_sdk_dynamodb::Client::batch_get_item).then_output(output)
    }

    fn store(rules: &[&Rule]) -> Store {
        Store::new(
            mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, rules),
            "table",
        )
    }

    fn records() -> Vec<Item> {
        let record = account_record("acme");
        vec![
            to_item(account_key("acme", "prod"), &record.account).unwrap(),
            to_item(customer_key("acme"), &record.customer).unwrap(),
        ]
    }

    const ROLE: &str = "arn:aws:iam::222222222222:role/stepward/Stepward";

    #[tokio::test]
    async fn an_invalid_record_is_named_by_its_key() {
        let mut items = records();
        items[0].insert("version".into(), AttributeValue::S("first".into()));
        let error = store(&[&batch_get_rule(items)])
            .configuration("acme", "prod")
            .await
            .unwrap_err();
        let key = "the record with the key \"CUSTOMER#acme\", \"ACCOUNT#prod\"";
        assert!(error.message.starts_with(key), "{error}");
    }

    #[tokio::test]
    async fn one_call_reads_all_records_of_an_account() {
        let batch_get = batch_get_rule(records());
        let record = store(&[&batch_get])
            .configuration("acme", "prod")
            .await
            .unwrap();
        assert_eq!(
            (
                record.customer.name.as_str(),
                record.account.account_id.as_str()
            ),
            ("acme", "222222222222")
        );
        assert_eq!(record.region(None).unwrap(), "eu-west-1");
        assert_eq!(
            record.region(Some("us-east-1")).unwrap_err().name,
            ErrorName::InvalidInput
        );
        assert_eq!(batch_get.num_calls(), 1);
    }

    #[tokio::test]
    async fn missing_customers_and_accounts_are_named() {
        let read_error = async |items| {
            store(&[&batch_get_rule(items)])
                .configuration("acme", "prod")
                .await
                .unwrap_err()
        };
        assert_eq!(read_error(vec![]).await.name, ErrorName::NotFound);
        let error = read_error(records().split_off(1)).await;
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(
            error.message.starts_with("account \"prod\" does not exist"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_throttled_read_is_throttled() {
        let throttled = mock!(aws_sdk_dynamodb::Client::batch_get_item).then_error(|| {
            let meta = ErrorMetadata::builder()
                .code("ProvisionedThroughputExceededException")
                .build();
            BatchGetItemError::generic(meta)
        });
        let error = store(&[&throttled])
            .configuration("acme", "prod")
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Throttled);
    }

    #[tokio::test]
    async fn set_role_updates_claims_and_audits_in_one_transaction() {
        let write = mock!(aws_sdk_dynamodb::Client::transact_write_items)
            .match_requests(|request| {
                let puts: Vec<_> = request
                    .transact_items()
                    .iter()
                    .filter_map(|item| item.put())
                    .collect();
                let [account, claim, audit] = puts[..] else {
                    return false;
                };
                let pk = |put: &Put| put.item()["pk"].as_s().unwrap().clone();
                account.condition_expression() == Some("#version = :version")
                    && account.expression_attribute_values().unwrap()[":version"]
                        .as_n()
                        .unwrap()
                        == "1"
                    && account.item()["version"].as_n().unwrap() == "2"
                    && account.item()["trust"].as_s().unwrap() == "unproven"
                    && pk(claim) == format!("ROLE#{ROLE}")
                    && claim
                        .condition_expression()
                        .unwrap()
                        .contains("attribute_not_exists(pk)")
                    && pk(audit) == "AUDIT#acme"
                    && audit.item()["who"].as_s().unwrap() == "ann"
            })
            .then_output(|| TransactWriteItemsOutput::builder().build());
        let after = store(&[&write])
            .set_role("ann", &account(), ROLE)
            .await
            .unwrap();
        assert_eq!((after.version, after.trust), (2, Trust::Unproven));
    }

    #[tokio::test]
    async fn a_failed_condition_is_a_conflict_with_its_message() {
        for (codes, expected) in [
            (
                ["ConditionalCheckFailed", "None"],
                "somebody else changed the record",
            ),
            (
                ["None", "ConditionalCheckFailed"],
                "registered for another account",
            ),
            (
                ["TransactionConflict", "None"],
                "somebody else changed the record",
            ),
        ] {
            let cancelled =
                mock!(aws_sdk_dynamodb::Client::transact_write_items).then_error(move || {
                    let reasons =
                        codes.map(|code| CancellationReason::builder().code(code).build());
                    let error = TransactionCanceledException::builder()
                        .set_cancellation_reasons(Some(reasons.to_vec()));
                    TransactWriteItemsError::TransactionCanceledException(error.build())
                });
            let error = store(&[&cancelled])
                .set_role("ann", &account(), ROLE)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict);
            assert!(error.message.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_audit_log_contains_hashes_of_external_ids() {
        let account = account();
        let entry = redacted_account(&account).to_string();
        assert!(entry.contains("sha256:"));
        assert!(!entry.contains(account.external_id.expose()));
    }
}
