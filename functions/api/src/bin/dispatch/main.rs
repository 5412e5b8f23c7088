//! The function `dispatch`: which nodes a job runs on, what it runs there next, and how that ended on each.
//!
//! A state machine asks it to `plan`, runs the items that it answers in a distributed `Map`, hands the results to
//! `collect`, and goes on so until there are no more items. Everything that grows with the number of nodes is in the
//! artifacts bucket, below the execution's own prefix; the state machine sees counts and keys.

mod items;
mod options;
mod results;
mod rounds;
mod shares;
mod store;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};
use stepward::model::error::StepError;
use stepward::runtime::{Event, run};
use stepward::{access::session, settings};

use options::{Found, Options};
use results::Written;
use store::Store;

/// What a state machine asks.
#[derive(Debug, Deserialize)]
struct Request {
    customer: String,
    execution: Execution,
    #[serde(flatten)]
    work: Work,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Work {
    /// Chooses the nodes among those found, and says what to run first.
    Plan {
        options: Box<Options>,
        #[serde(default)]
        found: Vec<Found>,
    },
    /// Takes in how a round has ended, and says what to run next.
    Collect { round: usize, results: Written },
    /// Whether an item may begin, where a failure is to stop those behind it.
    MayBegin {},
    /// Lets no further item begin.
    Stop {},
}

/// The part of a step's envelope that is needed here.
#[derive(Debug, Deserialize)]
struct Execution {
    id: String,
}

async fn answer(s3: &aws_sdk_s3::Client, bucket: &str, event: &Event) -> Result<Value, StepError> {
    let Request { customer, execution, work } = event.read()?;
    let store = Store::new(s3, bucket, &customer, &execution.id)?;
    match work {
        Work::Plan { options, found } => rounds::plan(&store, *options, found).await,
        Work::Collect { round, results } => rounds::collect(&store, round, &results).await,
        Work::MayBegin {} => Ok(json!({ "may_begin": !store.is_stopped().await? })),
        Work::Stop {} => store.stop().await.map(|()| json!({})),
    }
}

fn main() -> ExitCode {
    run(
        async || {
            let s3 = aws_sdk_s3::Client::new(&session::aws_config(None).await);
            Ok((s3, settings::artifacts_bucket()?))
        },
        async |(s3, bucket): &(aws_sdk_s3::Client, String), event| answer(s3, bucket, &event.payload).await,
    )
}
