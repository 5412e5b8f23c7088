//! The function `accounts`: which accounts a job over a customer's accounts is to visit.

use std::process::ExitCode;

use aws_sdk_dynamodb::Client;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stepward::access::store::Store;
use stepward::model::error::{ErrorName, StepError};
use stepward::model::input::StringList;
use stepward::runtime::{Event, run};
use stepward::{access::session, settings};

/// What a state machine asks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The customer's name.
    customer: String,
    /// Only these accounts; all when absent or empty.
    #[serde(default)]
    accounts: StringList,
    /// As in a step's envelope; not looked at.
    #[serde(default, rename = "execution")]
    _execution: Value,
}

/// What it gets: names, and nothing that is secret.
#[derive(Debug, Serialize)]
struct Response {
    accounts: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    account: String,
    account_id: String,
    regions: Vec<String>,
}

async fn accounts(store: &Store, event: &Event) -> Result<Response, StepError> {
    let request: Request = event.read()?;
    let customer = store.customer(&request.customer).await?;
    customer.check_active()?;
    let mut accounts = store.accounts(&customer.name).await?;
    for asked in request.accounts.iter() {
        if !accounts.iter().any(|account| account.name == *asked) {
            return Err(ErrorName::NotFound.with_message(format!(
                "customer {0} has no account {asked}; `stepward customer show {0}` shows all",
                customer.name
            )));
        }
    }
    accounts
        .retain(|account| request.accounts.is_empty() || request.accounts.contains(&account.name));
    if accounts.is_empty() {
        return Err(ErrorName::NotFound.with_message(format!(
            "customer {0} has no accounts; `stepward account add {0} …` adds one",
            customer.name
        )));
    }
    let entry = |account: stepward::model::customer::Account| Entry {
        account: account.name,
        account_id: account.account_id,
        regions: account.regions,
    };
    Ok(Response {
        accounts: accounts.into_iter().map(entry).collect(),
    })
}

/// Runs the function on Lambda.
#[must_use]
pub fn serve() -> ExitCode {
    run(
        async || {
            Ok(Store::new(
                Client::new(&session::aws_config(None).await),
                settings::table()?,
            ))
        },
        async |store: &Store, event| accounts(store, &event.payload).await,
    )
}
