//! The function `dispatch`: which nodes a job runs on, what it runs there next, and how that ended
//! on each.
//!
//! A state machine asks it to `plan`, runs the items that it answers in a distributed `Map`, hands
//! the results to `collect`, and repeats this until no items are left. Everything that grows with
//! the number of nodes is in the artifacts bucket, below the execution's own prefix; the state
//! machine sees counts and keys. What they say to each other is [`stepward::node::dispatch`].

mod items;
mod results;
mod rounds;
mod shares;
mod store;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use serde_json::{Value, json};
use stepward::model::error::{ErrorName, StepError};
use stepward::node::dispatch::{Action, MayBegin, Request};
use stepward::runtime::{Event, run};
use stepward::{access::session, settings};

use store::Store;

async fn answer(s3: &aws_sdk_s3::Client, bucket: &str, event: &Event) -> Result<Value, StepError> {
    let Request {
        customer,
        execution,
        action,
    } = event.read()?;
    let store = Store::new(s3, bucket, &customer, &execution.id)?;
    let answer = match action {
        Action::Plan { options, found } => {
            serde_json::to_value(rounds::plan(&store, *options, found).await?)
        }
        Action::Collect { round, results } => {
            serde_json::to_value(rounds::collect(&store, round, &results).await?)
        }
        Action::MayBegin {} => serde_json::to_value(MayBegin {
            may_begin: !store.is_stopped().await?,
        }),
        Action::Stop {} => store.stop().await.map(|()| Ok(json!({})))?,
    };
    answer.map_err(|error| ErrorName::Internal.with_message(error.to_string()))
}

/// Runs the function on Lambda.
#[must_use]
pub fn serve() -> ExitCode {
    run(
        async || {
            let s3 = aws_sdk_s3::Client::new(&session::aws_config(None).await);
            Ok((s3, settings::artifacts_bucket()?))
        },
        async |(s3, bucket): &(aws_sdk_s3::Client, String), event| {
            answer(s3, bucket, &event.payload).await
        },
    )
}
