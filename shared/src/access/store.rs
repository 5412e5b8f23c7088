//! Where customers and accounts are kept: one DynamoDB table, every write conditional and audited.
//!
//! | item | `pk` | `sk` |
//! |---|---|---|
//! | customer | `CUSTOMERS` | name |
//! | account | `CUSTOMER#<customer>` | `ACCOUNT#<name>` |
//! | claim of a role | `ROLE#<role ARN>` | `ROLE` |
//! | audit | `AUDIT#<customer>` | time and a random part |
//! | defaults | `SYSTEM` | `DEFAULTS` |
//!
//! The broker may read `CUSTOMERS`, `CUSTOMER#…` and `SYSTEM`, and write nothing:
//! `infra/template.yaml` says so by leading key.

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
    AccessKey, Account, Configuration, Customer, Defaults, ExternalId, Provider, Status, Trust,
    check_account_id, check_name, check_region, check_role_arn,
};
use crate::model::digest::hex;
use crate::model::error::{ErrorName, StepError};

type Item = HashMap<String, AttributeValue>;

/// The table with customers and accounts.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    table: String,
}

/// What an operator says of a new account; the external ID is generated.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// The customer's name.
    pub customer: String,
    /// Name of the account within the customer.
    pub name: String,
    /// The 12-digit AWS account ID.
    pub account_id: String,
    /// Where credentials come from; inherited when absent.
    pub provider: Option<Provider>,
    /// Regions that steps may work in, one or more.
    pub regions: Vec<String>,
    /// One of the Regions; inherited when absent.
    pub default_region: Option<String>,
    /// For the `access-key` provider.
    pub access_key: Option<AccessKey>,
}

impl Store {
    /// A store in this table.
    #[must_use]
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self {
            client,
            table: table.into(),
        }
    }

    /// Everything that a step needs to know of an account, in one call.
    ///
    /// # Errors
    /// `NotFound` for an unknown customer or account, or why DynamoDB failed.
    pub async fn configuration(
        &self,
        customer: &str,
        account: &str,
    ) -> Result<Configuration, StepError> {
        check_name("customer", customer)?;
        check_name("account", account)?;
        let wanted = [
            customer_key(customer),
            account_key(customer, account),
            defaults_key(),
        ];
        let keys = KeysAndAttributes::builder()
            .set_keys(Some(wanted.to_vec()))
            .consistent_read(true)
            .build()
            .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
        let answer = self
            .client
            .batch_get_item()
            .request_items(&self.table, keys)
            .send()
            .await
            .map_err(dynamodb_error)?;
        if answer.unprocessed_keys.is_some_and(|keys| !keys.is_empty()) {
            return Err(
                ErrorName::Throttled.with_message("DynamoDB answered only in part; try again")
            );
        }
        let found = answer
            .responses
            .and_then(|mut tables| tables.remove(&self.table))
            .unwrap_or_default();
        let [found_customer, found_account, defaults] = wanted.map(|key| {
            found.iter().find(|item| {
                key.iter()
                    .all(|(name, value)| item.get(name) == Some(value))
            })
        });
        let customer: Customer =
            parse(found_customer.ok_or_else(|| no_customer(customer))?.clone())?;
        let account = parse(
            found_account
                .ok_or_else(|| no_account(&customer.name, account))?
                .clone(),
        )?;
        let defaults = defaults
            .cloned()
            .map(parse)
            .transpose()?
            .unwrap_or_default();
        Ok(Configuration {
            customer,
            account,
            defaults,
        })
    }

    /// One customer.
    ///
    /// # Errors
    /// `NotFound`, or why DynamoDB failed.
    pub async fn customer(&self, name: &str) -> Result<Customer, StepError> {
        check_name("customer", name)?;
        self.get(customer_key(name))
            .await?
            .ok_or_else(|| no_customer(name))
    }

    /// All customers, by name.
    pub async fn customers(&self) -> Result<Vec<Customer>, StepError> {
        self.query("CUSTOMERS", "").await
    }

    /// One account.
    ///
    /// # Errors
    /// `NotFound`, or why DynamoDB failed.
    pub async fn account(&self, customer: &str, name: &str) -> Result<Account, StepError> {
        check_name("customer", customer)?;
        check_name("account", name)?;
        self.get(account_key(customer, name))
            .await?
            .ok_or_else(|| no_account(customer, name))
    }

    /// All accounts of a customer, by name.
    pub async fn accounts(&self, customer: &str) -> Result<Vec<Account>, StepError> {
        check_name("customer", customer)?;
        self.query(&format!("CUSTOMER#{customer}"), "ACCOUNT#")
            .await
    }

    /// The system's defaults.
    pub async fn defaults(&self) -> Result<Defaults, StepError> {
        Ok(self.get(defaults_key()).await?.unwrap_or_default())
    }

    /// Sets the system's defaults.
    pub async fn set_defaults(&self, who: &str, defaults: &Defaults) -> Result<(), StepError> {
        defaults
            .default_region
            .as_deref()
            .map_or(Ok(()), check_region)?;
        let before = self.defaults().await?;
        let write = self.write(Put::builder().set_item(Some(item(defaults_key(), defaults)?)))?;
        self.commit(
            vec![(write, "")],
            &audit(who, "SYSTEM", "set defaults", &before, defaults),
        )
        .await
    }

    /// Adds a customer.
    ///
    /// # Errors
    /// `Conflict` when there is one of this name.
    pub async fn add_customer(
        &self,
        who: &str,
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
            created_at: now()?,
            version: 1,
        };
        let put = self.write(
            Put::builder()
                .set_item(Some(item(customer_key(name), &customer)?))
                .condition_expression("attribute_not_exists(pk)"),
        )?;
        let exists =
            format!("there is a customer {name} already; `stepward customer show {name}` shows it");
        self.commit(
            vec![(put, &exists)],
            &audit(who, name, "add customer", &(), &customer),
        )
        .await?;
        Ok(customer)
    }

    /// Suspends a customer, or lets its jobs run again.
    ///
    /// # Errors
    /// `Conflict` when the record has changed since it was read.
    pub async fn set_status(
        &self,
        who: &str,
        customer: &Customer,
        status: Status,
    ) -> Result<Customer, StepError> {
        let after = Customer {
            status,
            version: customer.version + 1,
            ..customer.clone()
        };
        let put = self.replace(customer_key(&customer.name), &after, customer.version)?;
        self.commit(
            vec![(put, CHANGED)],
            &audit(who, &customer.name, "set status", customer, &after),
        )
        .await?;
        Ok(after)
    }

    /// Removes a customer with all its accounts. The roles in the customer's accounts stay: they
    /// are the customer's.
    ///
    /// # Errors
    /// `Conflict` when a record has changed meanwhile; what is removed by then stays removed, and a
    /// second call goes on.
    pub async fn remove_customer(&self, who: &str, customer: &Customer) -> Result<(), StepError> {
        // A suspended customer takes no new accounts, so none can appear behind the loop.
        let customer = match customer.status {
            Status::Active => self.set_status(who, customer, Status::Suspended).await?,
            Status::Suspended => customer.clone(),
        };
        for account in self.accounts(&customer.name).await? {
            self.remove_account(who, &account).await?;
        }
        let delete = self.delete(customer_key(&customer.name), customer.version)?;
        self.commit(
            vec![(delete, CHANGED)],
            &audit(who, &customer.name, "remove customer", &customer, &()),
        )
        .await
    }

    /// Adds an account to an active customer, with an external ID generated here.
    ///
    /// # Errors
    /// `InvalidInput` for a malformed value, `NotFound` or `Conflict` for the customer, `Conflict`
    /// for a taken name.
    pub async fn add_account(&self, who: &str, new: NewAccount) -> Result<Account, StepError> {
        check_name("customer", &new.customer)?;
        check_name("account", &new.name)?;
        check_account_id(&new.account_id)?;
        new.regions
            .iter()
            .try_for_each(|region| check_region(region))?;
        if new.regions.is_empty() {
            return Err(
                ErrorName::InvalidInput.with_message("an account needs at least one Region")
            );
        }
        if let Some(region) = new
            .default_region
            .as_ref()
            .filter(|region| !new.regions.contains(region))
        {
            return Err(ErrorName::InvalidInput.with_message(format!(
                "the default Region {region} is not among the Regions"
            )));
        }
        if new.provider == Some(Provider::AccessKey) && new.access_key.is_none() {
            return Err(ErrorName::InvalidInput
                .with_message("the access-key provider needs an access key ID and a key path"));
        }
        if let Some(AccessKey { secret_path, .. }) = &new.access_key {
            check_owner(secret_path, &new.customer)?;
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
            trust: Trust::Unproven,
            version: 1,
        };
        let active = ConditionCheck::builder()
            .table_name(&self.table)
            .set_key(Some(customer_key(&account.customer)))
            .condition_expression("#status = :active")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":active", AttributeValue::S("active".into()))
            .build()
            .map_err(incomplete)?;
        let put = self.write(
            Put::builder()
                .set_item(Some(item(
                    account_key(&account.customer, &account.name),
                    &account,
                )?))
                .condition_expression("attribute_not_exists(pk)"),
        )?;
        let inactive = format!(
            "customer {0} is suspended; `stepward customer resume {0}` first",
            account.customer
        );
        let exists = format!(
            "customer {} has an account {} already",
            account.customer, account.name
        );
        self.commit(
            vec![
                (
                    TransactWriteItem::builder().condition_check(active).build(),
                    &inactive,
                ),
                (put, &exists),
            ],
            &audit(who, &account.customer, "add account", &(), &safe(&account)),
        )
        .await?;
        Ok(account)
    }

    /// Sets an account's role. The role is claimed in the same transaction: a role that another
    /// account has is refused.
    ///
    /// # Errors
    /// `InvalidInput` for an ARN that cannot be used, `Conflict` for a claimed role or a record
    /// changed since it was read.
    pub async fn set_role(
        &self,
        who: &str,
        account: &Account,
        role_arn: &str,
    ) -> Result<Account, StepError> {
        check_role_arn(role_arn, &account.account_id)?;
        let after = Account {
            role_arn: Some(role_arn.to_owned()),
            trust: Trust::Unproven,
            version: account.version + 1,
            ..account.clone()
        };
        let claim = json!({ "customer": account.customer, "account": account.name });
        let claim = self.write(
            ours(Put::builder(), account)
                .set_item(Some(item(role_key(role_arn), &claim)?))
                .condition_expression(
                    "attribute_not_exists(pk) OR (customer = :customer AND account = :account)",
                ),
        )?;
        let mut writes = vec![
            (
                self.replace(
                    account_key(&account.customer, &account.name),
                    &after,
                    account.version,
                )?,
                CHANGED,
            ),
            (
                claim,
                "this role is registered for another account; each account needs a role of its own",
            ),
        ];
        if let Some(old) = account.role_arn.as_deref().filter(|old| *old != role_arn) {
            writes.push((self.release(old)?, CHANGED));
        }
        self.commit(
            writes,
            &audit(
                who,
                &account.customer,
                "set role",
                &safe(account),
                &safe(&after),
            ),
        )
        .await?;
        Ok(after)
    }

    /// Records what a trust proof has found.
    ///
    /// # Errors
    /// `Conflict` when the record has changed since it was read: the proof may be of another role.
    pub async fn set_trust(
        &self,
        who: &str,
        account: &Account,
        trust: Trust,
    ) -> Result<Account, StepError> {
        let after = Account {
            trust,
            ..account.clone()
        };
        self.replace_account(who, "set trust", account, after).await
    }

    /// Begins a rotation: a second external ID, valid beside the first until it has been proven. A
    /// rotation under way is left as it is.
    ///
    /// # Errors
    /// `Conflict` when the record has changed since it was read.
    pub async fn rotate(&self, who: &str, account: &Account) -> Result<Account, StepError> {
        if account.next_external_id.is_some() {
            return Ok(account.clone());
        }
        let after = Account {
            next_external_id: Some(ExternalId::generate()?),
            ..account.clone()
        };
        self.replace_account(who, "rotate external ID", account, after)
            .await
    }

    /// Ends a rotation: the new external ID, proven now, becomes the only one.
    ///
    /// # Errors
    /// `Conflict` when no rotation is under way or the record has changed since it was read.
    pub async fn finish_rotation(
        &self,
        who: &str,
        account: &Account,
    ) -> Result<Account, StepError> {
        let Some(external_id) = account.next_external_id.clone() else {
            return Err(
                ErrorName::Conflict.with_message("no rotation is under way for this account")
            );
        };
        let after = Account {
            external_id,
            next_external_id: None,
            trust: Trust::Proven,
            ..account.clone()
        };
        self.replace_account(who, "finish rotation", account, after)
            .await
    }

    /// Removes an account and its claim on the role. The role itself stays: it is the customer's.
    ///
    /// # Errors
    /// `Conflict` when the record has changed since it was read.
    pub async fn remove_account(&self, who: &str, account: &Account) -> Result<(), StepError> {
        let mut writes = vec![(
            self.delete(
                account_key(&account.customer, &account.name),
                account.version,
            )?,
            CHANGED,
        )];
        if let Some(role) = &account.role_arn {
            writes.push((self.release(role)?, CHANGED));
        }
        self.commit(
            writes,
            &audit(
                who,
                &account.customer,
                "remove account",
                &safe(account),
                &(),
            ),
        )
        .await
    }

    async fn replace_account(
        &self,
        who: &str,
        action: &str,
        before: &Account,
        after: Account,
    ) -> Result<Account, StepError> {
        let after = Account {
            version: before.version + 1,
            ..after
        };
        let put = self.replace(
            account_key(&before.customer, &before.name),
            &after,
            before.version,
        )?;
        self.commit(
            vec![(put, CHANGED)],
            &audit(who, &before.customer, action, &safe(before), &safe(&after)),
        )
        .await?;
        Ok(after)
    }

    async fn get<T: DeserializeOwned>(&self, key: Item) -> Result<Option<T>, StepError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .consistent_read(true)
            .send()
            .await
            .map_err(dynamodb_error)?;
        answer.item.map(parse).transpose()
    }

    async fn query<T: DeserializeOwned>(
        &self,
        pk: &str,
        sk_prefix: &str,
    ) -> Result<Vec<T>, StepError> {
        let mut query = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true);
        query = query.expression_attribute_values(":pk", AttributeValue::S(pk.to_owned()));
        query = if sk_prefix.is_empty() {
            query.key_condition_expression("pk = :pk")
        } else {
            query
                .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
                .expression_attribute_values(":sk", AttributeValue::S(sk_prefix.to_owned()))
        };
        let mut pages = query.into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(item) = pages.next().await {
            found.push(parse(item.map_err(dynamodb_error)?)?);
        }
        Ok(found)
    }

    fn write(
        &self,
        put: aws_sdk_dynamodb::types::builders::PutBuilder,
    ) -> Result<TransactWriteItem, StepError> {
        let put = put.table_name(&self.table).build().map_err(incomplete)?;
        Ok(TransactWriteItem::builder().put(put).build())
    }

    /// Replaces an item that is still at the version read.
    fn replace<T: Serialize>(
        &self,
        key: Item,
        record: &T,
        version: u64,
    ) -> Result<TransactWriteItem, StepError> {
        self.write(
            Put::builder()
                .set_item(Some(item(key, record)?))
                .condition_expression("#version = :version")
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":version", AttributeValue::N(version.to_string())),
        )
    }

    /// Deletes an item that is still at the version read.
    fn delete(&self, key: Item, version: u64) -> Result<TransactWriteItem, StepError> {
        let delete = Delete::builder()
            .table_name(&self.table)
            .set_key(Some(key))
            .condition_expression("#version = :version")
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":version", AttributeValue::N(version.to_string()))
            .build()
            .map_err(incomplete)?;
        Ok(TransactWriteItem::builder().delete(delete).build())
    }

    /// Gives up the claim on a role, in a transaction that also replaces the account at the version
    /// that holds it.
    fn release(&self, role_arn: &str) -> Result<TransactWriteItem, StepError> {
        let delete = Delete::builder()
            .table_name(&self.table)
            .set_key(Some(role_key(role_arn)))
            .build()
            .map_err(incomplete)?;
        Ok(TransactWriteItem::builder().delete(delete).build())
    }

    /// Writes all or nothing, with the audit item. Beside each write stands what to say when its
    /// condition fails.
    async fn commit(
        &self,
        writes: Vec<(TransactWriteItem, &str)>,
        audit: &Audit,
    ) -> Result<(), StepError> {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random)
            .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
        let key = key(
            &format!("AUDIT#{}", audit.subject),
            &format!("{}#{}", now()?, hex(&random)),
        );
        let (mut items, reasons): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
        items.push(self.write(Put::builder().set_item(Some(item(key, audit)?)))?);
        let sent = self
            .client
            .transact_write_items()
            .set_transact_items(Some(items))
            .send()
            .await;
        sent.map(|_| ()).map_err(|error| cancelled(error, &reasons))
    }
}

/// Who changed what, as kept in the table. External IDs are not in it.
#[derive(Serialize)]
struct Audit {
    #[serde(skip)]
    subject: String,
    who: String,
    action: String,
    before: Value,
    after: Value,
}

fn audit(
    who: &str,
    subject: &str,
    action: &str,
    before: &impl Serialize,
    after: &impl Serialize,
) -> Audit {
    let [before, after] = [serde_json::to_value(before), serde_json::to_value(after)]
        .map(|value| value.unwrap_or(Value::Null));
    Audit {
        subject: subject.into(),
        who: who.into(),
        action: action.into(),
        before,
        after,
    }
}

/// An account as the audit keeps it: which external ID it had can be compared, but not learnt.
fn safe(account: &Account) -> Value {
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

const CHANGED: &str = "the record has been changed by somebody else meanwhile; look at it again and repeat the command";

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

fn cancelled(error: SdkError<TransactWriteItemsError>, reasons: &[&str]) -> StepError {
    let failed = error.as_service_error().and_then(|answer| match answer {
        TransactWriteItemsError::TransactionCanceledException(cancelled) => {
            let codes = cancelled
                .cancellation_reasons()
                .iter()
                .map(|reason| reason.code().unwrap_or("None"));
            codes
                .enumerate()
                .find(|(_, code)| *code != "None")
                .map(|(place, code)| (place, code.to_owned()))
        }
        _ => None,
    });
    let said = dynamodb_error(error);
    match failed {
        Some((place, code)) if code == "ConditionalCheckFailed" => StepError {
            name: ErrorName::Conflict,
            message: reasons.get(place).copied().unwrap_or(CHANGED).to_owned(),
            aws: None,
            target: None,
        },
        Some((_, code)) if code == "TransactionConflict" => StepError {
            name: ErrorName::Conflict,
            message: CHANGED.to_owned(),
            ..said
        },
        Some((_, code)) if code.contains("Throttl") || code.contains("Exceeded") => StepError {
            name: ErrorName::Throttled,
            message: "DynamoDB asked to slow down; nothing was written, try again".into(),
            ..said
        },
        _ => said,
    }
}

fn key(pk: &str, sk: &str) -> Item {
    [("pk", pk), ("sk", sk)]
        .map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())))
        .into()
}

fn customer_key(name: &str) -> Item {
    key("CUSTOMERS", name)
}

fn account_key(customer: &str, name: &str) -> Item {
    key(&format!("CUSTOMER#{customer}"), &format!("ACCOUNT#{name}"))
}

fn role_key(role_arn: &str) -> Item {
    key(&format!("ROLE#{role_arn}"), "ROLE")
}

fn defaults_key() -> Item {
    key("SYSTEM", "DEFAULTS")
}

fn ours(
    put: aws_sdk_dynamodb::types::builders::PutBuilder,
    account: &Account,
) -> aws_sdk_dynamodb::types::builders::PutBuilder {
    put.expression_attribute_values(":customer", AttributeValue::S(account.customer.clone()))
        .expression_attribute_values(":account", AttributeValue::S(account.name.clone()))
}

fn item<T: Serialize>(key: Item, record: &T) -> Result<Item, StepError> {
    let mut item: Item = serde_dynamo::to_item(record).map_err(|error| {
        ErrorName::Internal.with_message(format!("a record could not be written: {error}"))
    })?;
    item.extend(key);
    Ok(item)
}

fn parse<T: DeserializeOwned>(item: Item) -> Result<T, StepError> {
    serde_dynamo::from_item(item).map_err(|error| {
        ErrorName::Internal.with_message(format!(
            "a record in the table could not be read ({error}); was it edited by hand?"
        ))
    })
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn incomplete(error: aws_sdk_dynamodb::error::BuildError) -> StepError {
    ErrorName::Internal.with_message(error.to_string())
}

fn no_customer(name: &str) -> StepError {
    ErrorName::NotFound.with_message(format!(
        "no customer {name}; `stepward customer list` shows all"
    ))
}

fn no_account(customer: &str, name: &str) -> StepError {
    ErrorName::NotFound.with_message(format!(
        "customer {customer} has no account {name}; `stepward customer show {customer}` shows all"
    ))
}

fn now() -> Result<String, StepError> {
    OffsetDateTime::now_utc()
        .format(&Rfc3339)
        .map_err(|error| ErrorName::Internal.with_message(error.to_string()))
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::operation::batch_get_item::{BatchGetItemError, BatchGetItemOutput};
    use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsOutput;
    use aws_sdk_dynamodb::types::CancellationReason;
    use aws_sdk_dynamodb::types::error::TransactionCanceledException;
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;
    use crate::testing::record;

    fn account() -> Account {
        record("acme").account
    }

    fn answers(items: Vec<Item>) -> Rule {
        let items = move || {
            BatchGetItemOutput::builder()
                .responses("table", items.clone())
                .build()
        };
        mock!(aws_sdk_dynamodb::Client::batch_get_item).then_output(items)
    }

    fn store(rules: &[&Rule]) -> Store {
        Store::new(
            mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, rules),
            "table",
        )
    }

    fn records() -> Vec<Item> {
        let record = record("acme");
        vec![
            item(account_key("acme", "prod"), &record.account).unwrap(),
            item(customer_key("acme"), &record.customer).unwrap(),
        ]
    }

    const ROLE: &str = "arn:aws:iam::222222222222:role/stepward/Stepward";

    #[tokio::test]
    async fn one_call_reads_all_that_a_step_needs() {
        let answer = answers(records());
        let found = store(&[&answer])
            .configuration("acme", "prod")
            .await
            .unwrap();
        assert_eq!(
            (
                found.customer.name.as_str(),
                found.account.account_id.as_str()
            ),
            ("acme", "222222222222")
        );
        assert_eq!(found.region(None).unwrap(), "eu-west-1");
        assert_eq!(
            found.region(Some("us-east-1")).unwrap_err().name,
            ErrorName::InvalidInput
        );
        assert_eq!(answer.num_calls(), 1);
    }

    #[tokio::test]
    async fn who_is_unknown_is_refused_by_name() {
        let refused = async |items| {
            store(&[&answers(items)])
                .configuration("acme", "prod")
                .await
                .unwrap_err()
        };
        assert_eq!(refused(vec![]).await.name, ErrorName::NotFound);
        let error = refused(records().split_off(1)).await;
        assert_eq!(
            (error.name, error.message.contains("no account prod")),
            (ErrorName::NotFound, true)
        );
    }

    #[tokio::test]
    async fn a_throttled_table_is_throttled_and_not_unknown() {
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
    async fn a_new_role_replaces_the_record_at_its_version_claims_the_role_and_is_audited() {
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
    async fn a_failed_condition_is_a_conflict_that_says_which() {
        for (reasons, says) in [
            (
                ["ConditionalCheckFailed", "None"],
                "changed by somebody else",
            ),
            (
                ["None", "ConditionalCheckFailed"],
                "registered for another account",
            ),
            (["TransactionConflict", "None"], "changed by somebody else"),
        ] {
            let cancelled =
                mock!(aws_sdk_dynamodb::Client::transact_write_items).then_error(move || {
                    let reasons =
                        reasons.map(|code| CancellationReason::builder().code(code).build());
                    let error = TransactionCanceledException::builder()
                        .set_cancellation_reasons(Some(reasons.to_vec()));
                    TransactWriteItemsError::TransactionCanceledException(error.build())
                });
            let error = store(&[&cancelled])
                .set_role("ann", &account(), ROLE)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict);
            assert!(error.message.contains(says), "{error}");
        }
    }

    #[test]
    fn the_audit_tells_external_ids_apart_and_keeps_them() {
        let account = account();
        let kept = safe(&account).to_string();
        assert!(kept.contains("sha256:") && !kept.contains(account.external_id.expose()));
    }
}
