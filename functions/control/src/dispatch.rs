//! The function `dispatch`: chooses the nodes of a job, plans what runs on them next, and collects
//! the outcome on each node.
//!
//! A state machine first calls it with `plan` and runs the planned items in a distributed `Map`. It
//! passes the results to `collect`, which plans the next round, and repeats this until no items are
//! left. Data that grows with the number of nodes is stored in the artifacts bucket, under the
//! execution's own prefix; the state machine only gets counts and keys.
//! [`stepward::node::dispatch`] defines the requests and responses.

mod catalog;
mod items;
mod results;
mod rounds;
mod route;
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

use store::ArtifactStore;

async fn respond(s3: &aws_sdk_s3::Client, bucket: &str, event: &Event) -> Result<Value, StepError> {
    let Request {
        customer,
        execution,
        action,
    } = event.read()?;
    let store = ArtifactStore::new(s3, bucket, &customer, &execution.id)?;

    let response = match action {
        Action::Plan { options, found } => {
            serde_json::to_value(rounds::plan_first_round(&store, *options, found).await?)
        }
        Action::Collect { round, results } => {
            serde_json::to_value(rounds::collect_round(&store, round, &results).await?)
        }
        Action::MayBegin {} => serde_json::to_value(MayBegin {
            may_begin: !store.is_stop_requested().await?,
        }),
        Action::Stop {} => store.request_stop().await.map(|()| Ok(json!({})))?,
    };
    response.map_err(|error| ErrorName::Internal.with_message(error.to_string()))
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
            respond(s3, bucket, &event.payload).await
        },
    )
}
