//! The function `accounts`: returns the accounts of a customer that a job visits.

use std::process::ExitCode;

use aws_sdk_dynamodb::Client;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stepward::access::store::Store;
use stepward::model::customer::Account;
use stepward::model::error::{ErrorName, StepError};
use stepward::model::input::StringList;
use stepward::runtime::{Event, run};
use stepward::{access::session, settings};

/// The request of a state machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The customer's name.
    customer: String,
    /// Names of the accounts to return; all accounts if absent or empty.
    #[serde(default)]
    accounts: StringList,
    /// The execution, as in a step's envelope. Ignored.
    #[serde(default, rename = "execution")]
    _execution: Value,
}

/// The response to a state machine. It contains no secrets.
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

async fn list_accounts(store: &Store, event: &Event) -> Result<Response, StepError> {
    let request: Request = event.read()?;
    let customer = store.customer(&request.customer).await?;
    customer.check_active()?;

    let mut accounts = store.accounts(&customer.name).await?;
    for requested in request.accounts.iter() {
        if !accounts.iter().any(|account| account.name == *requested) {
            return Err(ErrorName::NotFound.with_message(format!(
                "account \"{requested}\" of customer \"{0}\" does not exist; run `stepward \
                 customer show {0}` to list the accounts",
                customer.name
            )));
        }
    }
    accounts
        .retain(|account| request.accounts.is_empty() || request.accounts.contains(&account.name));
    if accounts.is_empty() {
        return Err(ErrorName::NotFound.with_message(format!(
            "customer \"{0}\" has no accounts; add one with `stepward account add {0} …`",
            customer.name
        )));
    }

    let to_entry = |account: Account| Entry {
        account: account.name,
        account_id: account.account_id,
        regions: account.regions,
    };
    Ok(Response {
        accounts: accounts.into_iter().map(to_entry).collect(),
    })
}

/// Runs the function on Lambda.
#[must_use]
pub fn serve() -> ExitCode {
    run(
        async || {
            Ok(Store::new(
                Client::new(&session::aws_config(None).await),
                settings::table_name()?,
            ))
        },
        async |store: &Store, event| list_accounts(store, &event.payload).await,
    )
}
