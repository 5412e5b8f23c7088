//! The function `cancel`: stops what an ended execution left running at AWS.
//!
//! `EventBridge` calls the function when an execution has ended for any reason. The execution's
//! history shows which steps were called and what they returned. The function calls a step again,
//! with `cancel`, if its last result was `pending` or if it never returned.
//!
//! The end of an execution does not end its functions. A call that never returned can still start
//! work, so its step is cancelled again when the call must have ended, up to 15 minutes after it
//! started. This function has the same time limit, so it leaves the rest to Lambda's retry.

mod history;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use aws_lambda_events::eventbridge::EventBridgeEvent;
use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::timeout::TimeoutConfig;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_sfn::types::{ExecutionStatus, HistoryEvent, MapRunStatus};
use futures_util::{StreamExt, future, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use stepward::access::session;
use stepward::model::error::{ErrorName, StepError};
use stepward::model::text::counted;
use stepward::runtime::{Event, run};
use stepward_lambda::error::lambda_error;
use tokio::time::{Instant, sleep, sleep_until};

use self::history::{StepCall, find_open_calls};
use crate::error::step_functions_error;

/// The longest timeout of a Lambda function:
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-timeout.html>
const MAX_FUNCTION_TIMEOUT: Duration = Duration::from_mins(15);
/// The time for starting a function, which its timeout does not include:
/// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html>
const FUNCTION_START_TIME: Duration = Duration::from_secs(10);
/// How long to wait for one step that cancels its work. A call takes about one minute at most.
const CANCEL_TIMEOUT: Duration = Duration::from_mins(2);
/// How long to wait for a Map run that ends after its execution. Lambda's retry waits again.
const MAP_RUN_TIMEOUT: Duration = Duration::from_mins(2);
/// How often to poll a Map run.
const MAP_RUN_POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How many requests run at the same time.
const MAX_CONCURRENT_REQUESTS: usize = 16;

struct Clients {
    step_functions: aws_sdk_sfn::Client,
    lambda: aws_sdk_lambda::Client,
    /// Calls steps: without retries, and with a timeout that is long enough.
    steps: aws_sdk_lambda::Client,
}

/// The needed part of the event "Step Functions Execution Status Change".
/// <https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html>
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecutionEnded {
    execution_arn: String,
}

async fn cancel(
    clients: &Clients,
    event: &Event,
    deadline: SystemTime,
) -> Result<Value, StepError> {
    let event: EventBridgeEvent<ExecutionEnded> = event.read()?;
    if event.detail.execution_arn.contains('/') {
        // An item of a distributed Map. The end of its parent execution covers all items.
        return Ok(json!({ "cancelled": 0 }));
    }

    let history = read_history(clients, &event.detail.execution_arn).await?;
    let mut open_calls = find_open_calls(&history);
    let mut failures = cancel_now(clients, &open_calls).await;
    for event in &history {
        let Some(map_run_arn) = event
            .map_run_started_event_details()
            .and_then(|details| details.map_run_arn())
        else {
            continue;
        };
        let (item_calls, item_failures) =
            find_open_calls_of_items(clients, map_run_arn, deadline).await?;
        failures.extend(item_failures);
        failures.extend(cancel_now(clients, &item_calls).await);
        open_calls.extend(item_calls);
    }
    failures.extend(cancel_running_calls_again(clients, &open_calls, deadline).await);

    if failures.is_empty() {
        return Ok(json!({ "cancelled": open_calls.len() }));
    }
    // Lambda retries this function after one minute and again after two. Steps that are cancelled
    // already stay cancelled.
    // https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html
    Err(ErrorName::StepFailed.with_message(format!(
        "{} of {} could not be cancelled: {}",
        failures.len(),
        counted(open_calls.len(), "step"),
        failures.join("; ")
    )))
}

/// Cancels the steps of calls that never returned once more, when each call must have ended.
/// Returns the failures.
async fn cancel_running_calls_again(
    clients: &Clients,
    open_calls: &[StepCall],
    deadline: SystemTime,
) -> Vec<String> {
    // Calls that end first come first, so that no waiting call delays another one.
    let running = find_running_calls(clients, open_calls).await;
    let available = time_until(deadline).saturating_sub(CANCEL_TIMEOUT);
    let scheduled = running
        .iter()
        .map(|(call, remaining)| (*call, *remaining.min(&available)));
    let mut failures = cancel_all(clients, scheduled).await;

    let too_long = running
        .iter()
        .filter(|(_, remaining)| *remaining > available);
    failures.extend(too_long.map(|(call, _)| {
        format!(
            "{}: a call may still be running; the next retry cancels the step again",
            call.function
        )
    }));
    failures
}

async fn read_history(
    clients: &Clients,
    execution_arn: &str,
) -> Result<Vec<HistoryEvent>, StepError> {
    let request = clients
        .step_functions
        .get_execution_history()
        .execution_arn(execution_arn)
        .include_execution_data(true);
    let mut events = request.into_paginator().items().send();

    let mut history = Vec::new();
    while let Some(event) = events.next().await {
        history.push(event.map_err(step_functions_error)?);
    }
    Ok(history)
}

/// The open calls of a distributed Map's items, and a failure for each item whose history could not
/// be read. An item fails if one of its step calls fails, so succeeded items left nothing running.
async fn find_open_calls_of_items(
    clients: &Clients,
    map_run_arn: &str,
    deadline: SystemTime,
) -> Result<(Vec<StepCall>, Vec<String>), StepError> {
    wait_for_map_run(clients, map_run_arn, deadline).await?;

    let histories = find_unsuccessful_items(clients, map_run_arn)
        .await?
        .into_iter()
        .map(|item_arn| async move {
            read_history(clients, &item_arn)
                .await
                .map(|history| find_open_calls(&history))
                .map_err(|error| format!("{item_arn}: {error}"))
        });
    let (mut open_calls, mut failures) = (Vec::new(), Vec::new());
    let mut results = stream::iter(histories).buffer_unordered(MAX_CONCURRENT_REQUESTS);
    while let Some(result) = results.next().await {
        match result {
            Ok(calls) => open_calls.extend(calls),
            Err(failure) => failures.push(failure),
        }
    }
    Ok((open_calls, failures))
}

/// Waits until a Map run has ended. When an execution is stopped, its Map runs end a little later.
async fn wait_for_map_run(
    clients: &Clients,
    map_run_arn: &str,
    deadline: SystemTime,
) -> Result<(), StepError> {
    let wait_until = Instant::now() + MAP_RUN_TIMEOUT.min(time_until(deadline));
    let describe = clients
        .step_functions
        .describe_map_run()
        .map_run_arn(map_run_arn);
    loop {
        let map_run = describe
            .clone()
            .send()
            .await
            .map_err(step_functions_error)?;
        if map_run.status != MapRunStatus::Running {
            return Ok(());
        }
        if Instant::now() >= wait_until {
            return Err(ErrorName::TimedOut.with_message(format!(
                "Map run \"{map_run_arn}\" has not ended; the next retry polls it again"
            )));
        }
        sleep(MAP_RUN_POLL_INTERVAL).await;
    }
}

/// The ARNs of the items of a Map run that did not succeed.
async fn find_unsuccessful_items(
    clients: &Clients,
    map_run_arn: &str,
) -> Result<Vec<String>, StepError> {
    // No filter by status, because the list may lag: items that it calls running have just been
    // stopped.
    // https://docs.aws.amazon.com/step-functions/latest/apireference/API_ListExecutions.html
    let request = clients
        .step_functions
        .list_executions()
        .map_run_arn(map_run_arn);
    let mut items = request.into_paginator().items().send();

    let mut unsuccessful = Vec::new();
    while let Some(item) = items.next().await {
        let item = item.map_err(step_functions_error)?;
        if item.status != ExecutionStatus::Succeeded {
            unsuccessful.push(item.execution_arn);
        }
    }
    Ok(unsuccessful)
}

/// The calls that never returned, each with the time until it must have ended. The first to end
/// comes first.
async fn find_running_calls<'a>(
    clients: &Clients,
    open_calls: &'a [StepCall],
) -> Vec<(&'a StepCall, Duration)> {
    let mut timeouts: HashMap<&str, Duration> = HashMap::new();
    let mut running = Vec::new();
    for call in open_calls.iter().filter(|call| !call.has_returned) {
        let timeout = match timeouts.get(call.function.as_str()) {
            Some(timeout) => *timeout,
            None => function_timeout(clients, &call.function).await,
        };
        timeouts.insert(&call.function, timeout);
        let latest_end = call.called_at + timeout + FUNCTION_START_TIME;
        running.push((call, time_until(latest_end)));
    }
    running.sort_by_key(|(_, remaining)| *remaining);
    running
}

/// A function's timeout, or the longest possible timeout if Lambda does not return it.
async fn function_timeout(clients: &Clients, function: &str) -> Duration {
    let response = clients
        .lambda
        .get_function_configuration()
        .function_name(function)
        .send()
        .await;
    let seconds = match response {
        Ok(config) => config.timeout.and_then(|seconds| seconds.try_into().ok()),
        Err(error) => {
            let error = lambda_error(error);
            tracing::warn!(
                "cannot read the timeout of function {function}: {error}; assuming {} s",
                MAX_FUNCTION_TIMEOUT.as_secs()
            );
            None
        }
    };
    seconds.map_or(MAX_FUNCTION_TIMEOUT, Duration::from_secs)
}

/// The time until `time`; zero if it has passed.
fn time_until(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::now()).unwrap_or_default()
}

/// Cancels the steps of these calls immediately. Returns the failures.
async fn cancel_now(clients: &Clients, calls: &[StepCall]) -> Vec<String> {
    cancel_all(clients, calls.iter().map(|call| (call, Duration::ZERO))).await
}

/// Cancels the steps of these calls concurrently, each after its delay. Returns the failures.
async fn cancel_all<'a>(
    clients: &Clients,
    calls: impl IntoIterator<Item = (&'a StepCall, Duration)>,
) -> Vec<String> {
    let start = Instant::now();
    let cancellations = calls.into_iter().map(async |(call, delay)| {
        sleep_until(start + delay).await;
        cancel_step(clients, call)
            .await
            .map_err(|error| format!("{}: {error}", call.function))
            .err()
    });
    stream::iter(cancellations)
        .buffer_unordered(MAX_CONCURRENT_REQUESTS)
        .filter_map(future::ready)
        .collect()
        .await
}

async fn cancel_step(clients: &Clients, call: &StepCall) -> Result<(), StepError> {
    let request = clients
        .steps
        .invoke()
        .function_name(&call.function)
        .payload(Blob::new(call.payload.to_string()));
    let response = request.send().await.map_err(lambda_error)?;
    if response.function_error.is_none() {
        return Ok(());
    }

    let payload = response.payload.map(Blob::into_inner).unwrap_or_default();
    let payload: Value = serde_json::from_slice(&payload).unwrap_or_default();
    let text = |field: &str| payload[field].as_str().unwrap_or("unknown").to_owned();
    Err(ErrorName::StepFailed.with_message(format!(
        "{}: {}",
        text("errorType"),
        text("errorMessage")
    )))
}

/// Runs the function on Lambda.
#[must_use]
pub fn serve() -> ExitCode {
    run(
        async || {
            let config = session::aws_config(None).await;
            // A step needs time to cancel its work and must not be called twice meanwhile. So this
            // client does not retry; Lambda retries this function instead.
            let timeout_config = TimeoutConfig::builder()
                .operation_timeout(CANCEL_TIMEOUT)
                .build();
            let steps_config = aws_sdk_lambda::config::Builder::from(&config)
                .timeout_config(timeout_config)
                .retry_config(RetryConfig::disabled())
                .build();
            Ok(Clients {
                step_functions: aws_sdk_sfn::Client::new(&config),
                lambda: aws_sdk_lambda::Client::new(&config),
                steps: aws_sdk_lambda::Client::from_conf(steps_config),
            })
        },
        async |clients: &Clients, event| {
            cancel(clients, &event.payload, event.context.deadline()).await
        },
    )
}
