//! The function `cancel`: stops what an execution left running at AWS, however it ended.
//!
//! `EventBridge` calls it with the execution's end. The execution's history tells which steps were
//! called and what they answered: a step whose last answer was `pending`, or that never answered,
//! is called once more with `cancel`. Ending an execution does not end its functions: what never
//! answered is looked for again once it can run no longer. That is up to 15 minutes after its call,
//! as long as this function itself may run, so what does not fit is left to Lambda's retry.

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
use stepward::runtime::{Event, run};
use stepward_lambda::error::lambda_error;
use tokio::time::{Instant, sleep, sleep_until};

use crate::error::states_error;

/// The longest that Lambda lets any function run:
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-timeout.html>
const LONGEST: Duration = Duration::from_mins(15);
/// A function's limit does not count its start:
/// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html>
const START: Duration = Duration::from_secs(10);
/// The longest that one step is waited for while it stops what it has started; a call works for
/// about a minute at most.
const STOP: Duration = Duration::from_mins(2);
/// How long a Map's items may take to end after their execution has; Lambda calls again after that.
const MAP_ENDS: Duration = Duration::from_mins(2);
/// Between two looks at a Map that is ending.
const LOOK: Duration = Duration::from_secs(2);
/// How many steps are stopped at once.
const AT_ONCE: usize = 16;

struct Clients {
    states: aws_sdk_sfn::Client,
    lambda: aws_sdk_lambda::Client,
    /// Calls each function once only, and waits for it.
    steps: aws_sdk_lambda::Client,
}

/// The part of "Step Functions Execution Status Change" that is needed.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html>
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    execution_arn: String,
}

/// One call of a step, as the history has it.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    function: String,
    payload: Value,
    at: SystemTime,
    /// Whether it has answered: otherwise its function may run still.
    answered: bool,
}

async fn cancel(
    clients: &Clients,
    event: &Event,
    deadline: SystemTime,
) -> Result<Value, StepError> {
    let event: EventBridgeEvent<Ended> = event.read()?;
    if event.detail.execution_arn.contains('/') {
        // An item of a distributed Map: its parent's end is the end of all of them.
        return Ok(json!({ "cancelled": 0 }));
    }
    let history = history(clients, &event.detail.execution_arn).await?;
    let mut open = open_calls(&history);
    let mut failed = stop_all(clients, open.iter().map(|call| (call, Duration::ZERO))).await;
    for event in &history {
        let Some(run) = event
            .map_run_started_event_details()
            .and_then(|about| about.map_run_arn())
        else {
            continue;
        };
        let (calls, faults) = calls_of_items(clients, run, deadline).await?;
        failed.extend(faults);
        failed.extend(stop_all(clients, calls.iter().map(|call| (call, Duration::ZERO))).await);
        open.extend(calls);
    }
    let running = running(clients, &open).await;
    // Those that end first come first, so that none that waits keeps another from being stopped.
    let time = until(deadline).saturating_sub(STOP);
    failed.extend(
        stop_all(
            clients,
            running.iter().map(|(call, left)| (*call, *left.min(&time))),
        )
        .await,
    );
    for (call, _) in running.iter().filter(|(_, left)| *left > time) {
        failed.push(format!(
            "{}: may run still, and is stopped again a minute later",
            call.function
        ));
    }
    if failed.is_empty() {
        return Ok(json!({ "cancelled": open.len() }));
    }
    // Lambda calls again, twice, a minute later and two; a step that is stopped already stays so.
    // https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html
    let (count, why) = (failed.len(), failed.join("; "));
    Err(ErrorName::StepFailed.with_message(format!(
        "{count} of {} steps could not be stopped: {why}",
        open.len()
    )))
}

async fn history(clients: &Clients, execution: &str) -> Result<Vec<HistoryEvent>, StepError> {
    let request = clients
        .states
        .get_execution_history()
        .execution_arn(execution)
        .include_execution_data(true);
    let mut pages = request.into_paginator().items().send();
    let mut history = Vec::new();
    while let Some(event) = pages.next().await {
        history.push(event.map_err(states_error)?);
    }
    Ok(history)
}

/// What the items of a distributed Map may have left running, and which could not be looked into.
/// An item fails when a call of a step does, so that those which succeeded have left nothing.
async fn calls_of_items(
    clients: &Clients,
    run: &str,
    deadline: SystemTime,
) -> Result<(Vec<Call>, Vec<String>), StepError> {
    // Stopping an execution stops its Maps' items a little later.
    let patience = Instant::now() + MAP_ENDS.min(until(deadline));
    let describe = clients.states.describe_map_run().map_run_arn(run);
    while describe.clone().send().await.map_err(states_error)?.status == MapRunStatus::Running {
        if Instant::now() >= patience {
            return Err(ErrorName::TimedOut.with_message(format!(
                "the Map run {run} has not ended; it is looked at again"
            )));
        }
        sleep(LOOK).await;
    }
    // Not by status: the list may be behind, and what it calls running has just been stopped.
    // https://docs.aws.amazon.com/step-functions/latest/apireference/API_ListExecutions.html
    let mut pages = clients
        .states
        .list_executions()
        .map_run_arn(run)
        .into_paginator()
        .items()
        .send();
    let mut items = Vec::new();
    while let Some(item) = pages.next().await {
        let item = item.map_err(states_error)?;
        if item.status != ExecutionStatus::Succeeded {
            items.push(item.execution_arn);
        }
    }
    let look = async |item: String| {
        history(clients, &item)
            .await
            .map_err(|error| format!("{item}: {error}"))
    };
    let looks = items
        .into_iter()
        .map(|item| async { look(item).await.map(|history| open_calls(&history)) });
    let (mut calls, mut faults) = (Vec::new(), Vec::new());
    let mut looks = stream::iter(looks).buffer_unordered(AT_ONCE);
    while let Some(found) = looks.next().await {
        match found {
            Ok(found) => calls.extend(found),
            Err(fault) => faults.push(fault),
        }
    }
    Ok((calls, faults))
}

/// The calls that have never answered, and how long it is until each has ended for certain; the
/// first to end comes first.
async fn running<'a>(clients: &Clients, open: &'a [Call]) -> Vec<(&'a Call, Duration)> {
    let mut limits: HashMap<&str, Duration> = HashMap::new();
    let mut running = Vec::new();
    for call in open.iter().filter(|call| !call.answered) {
        let limit = match limits.get(call.function.as_str()) {
            Some(limit) => *limit,
            None => limit(clients, &call.function).await,
        };
        limits.insert(&call.function, limit);
        running.push((call, until(call.at + limit + START)));
    }
    running.sort_by_key(|(_, left)| *left);
    running
}

/// The longest that a function runs. Where that is not to be learned, the longest that any does.
async fn limit(clients: &Clients, function: &str) -> Duration {
    let seconds = match clients
        .lambda
        .get_function_configuration()
        .function_name(function)
        .send()
        .await
    {
        Ok(function) => function.timeout.and_then(|seconds| seconds.try_into().ok()),
        Err(error) => {
            let error = lambda_error(error);
            tracing::warn!(
                "the limit of {function} is taken for {} s: {error}",
                LONGEST.as_secs()
            );
            None
        }
    };
    seconds.map_or(LONGEST, Duration::from_secs)
}

/// How long it is until then; nothing when that is over.
fn until(then: SystemTime) -> Duration {
    then.duration_since(SystemTime::now()).unwrap_or_default()
}

/// Stops what these calls have started, side by side, each after a while; what went wrong.
async fn stop_all<'a>(
    clients: &Clients,
    calls: impl IntoIterator<Item = (&'a Call, Duration)>,
) -> Vec<String> {
    let began = Instant::now();
    let stops = calls.into_iter().map(async |(call, after)| {
        sleep_until(began + after).await;
        stop(clients, call)
            .await
            .map_err(|error| format!("{}: {error}", call.function))
            .err()
    });
    stream::iter(stops)
        .buffer_unordered(AT_ONCE)
        .filter_map(future::ready)
        .collect()
        .await
}

async fn stop(clients: &Clients, call: &Call) -> Result<(), StepError> {
    let payload = Blob::new(call.payload.to_string());
    let invoke = clients
        .steps
        .invoke()
        .function_name(&call.function)
        .payload(payload);
    let answer = invoke.send().await.map_err(lambda_error)?;
    if answer.function_error.is_none() {
        return Ok(());
    }
    let said = answer.payload.map(Blob::into_inner).unwrap_or_default();
    let said: Value = serde_json::from_slice(&said).unwrap_or_default();
    let text = |field: &str| said[field].as_str().unwrap_or("unknown").to_owned();
    Err(ErrorName::StepFailed.with_message(format!(
        "{}: {}",
        text("errorType"),
        text("errorMessage")
    )))
}

/// Calls of steps that may have left something running, ready to be sent again with `cancel`.
fn open_calls(history: &[HistoryEvent]) -> Vec<Call> {
    // Which scheduled call an event belongs to: its own, or that of the event before it.
    let mut scheduled_by: HashMap<i64, i64> = HashMap::new();
    let mut calls: HashMap<i64, Call> = HashMap::new();
    // The last call for one step, account and item, and whether it is over.
    let mut last: Vec<(String, i64, bool)> = Vec::new();
    for event in history {
        let scheduled = scheduled_by.get(&event.previous_event_id).copied();
        if let Some(call) = event
            .task_scheduled_event_details
            .as_ref()
            .and_then(|task| call(event, &task.parameters))
        {
            let key = identity(&call);
            last.retain(|(known, ..)| *known != key);
            last.push((key, event.id, false));
            calls.insert(event.id, call);
            scheduled_by.insert(event.id, event.id);
        } else if let Some(scheduled) = scheduled {
            scheduled_by.insert(event.id, scheduled);
            let ended = event.task_succeeded_event_details.is_some()
                || event.task_failed_event_details.is_some();
            if let Some(call) = calls.get_mut(&scheduled) {
                call.answered |= ended;
            }
            let succeeded = event.task_succeeded_event_details.as_ref();
            if let Some(answer) = succeeded.and_then(|task| answer(task.output.as_deref())) {
                let pending = answer["status"] == "pending";
                if let Some(call) = calls.get_mut(&scheduled).filter(|_| pending) {
                    call.payload["resume"] = answer["resume"].clone();
                }
                last.iter_mut()
                    .filter(|(_, id, _)| *id == scheduled)
                    .for_each(|(.., over)| *over = !pending);
            } else if event.task_failed_event_details.is_some() {
                let name = event
                    .task_failed_event_details
                    .as_ref()
                    .and_then(|task| task.error.as_deref());
                let resumed = calls
                    .get(&scheduled)
                    .is_some_and(|call| !call.payload["resume"].is_null());
                let ended = is_over(name.unwrap_or_default(), resumed);
                last.iter_mut()
                    .filter(|(_, id, _)| *id == scheduled)
                    .for_each(|(.., over)| *over = ended);
            }
        }
    }
    let open = last
        .into_iter()
        .filter(|(.., over)| !over)
        .filter_map(|(_, id, _)| calls.remove(&id));
    open.map(|mut call| {
        call.payload["cancel"] = json!(true);
        call
    })
    .collect()
}

/// Whether a call that failed so has left nothing running. `resumed` calls had started something
/// before.
fn is_over(error: &str, resumed: bool) -> bool {
    match error {
        "StepFailed" | "InvalidInput" => true,
        // Refused before it could act, unless an earlier call had acted.
        "AccessDenied" | "TrustBroken" | "NotFound" | "Conflict" => !resumed,
        // A lost answer says nothing of what was started, and a process that died even less.
        _ => false,
    }
}

/// A call of a step: a Lambda task whose payload is an envelope.
fn call(event: &HistoryEvent, parameters: &str) -> Option<Call> {
    let mut parameters: Value = serde_json::from_str(parameters).ok()?;
    let payload = parameters.get_mut("Payload")?.take();
    payload.get("target")?;
    let at = SystemTime::try_from(event.timestamp).ok()?;
    Some(Call {
        function: parameters["FunctionName"].as_str()?.to_owned(),
        payload,
        at,
        answered: false,
    })
}

fn answer(output: Option<&str>) -> Option<Value> {
    serde_json::from_str::<Value>(output?)
        .ok()?
        .get_mut("Payload")
        .map(Value::take)
}

fn identity(call: &Call) -> String {
    let execution = &call.payload["execution"];
    json!([
        call.function,
        call.payload["target"],
        execution["step"],
        execution["item"]
    ])
    .to_string()
}

/// Runs the function on Lambda.
#[must_use]
pub fn serve() -> ExitCode {
    run(
        async || {
            let config = session::aws_config(None).await;
            // A step takes its time to stop, and must not be called twice meanwhile: no retries
            // here, Lambda calls this function again instead.
            let patient = TimeoutConfig::builder().operation_timeout(STOP).build();
            let steps = aws_sdk_lambda::config::Builder::from(&config)
                .timeout_config(patient)
                .retry_config(RetryConfig::disabled())
                .build();
            Ok(Clients {
                states: aws_sdk_sfn::Client::new(&config),
                lambda: aws_sdk_lambda::Client::new(&config),
                steps: aws_sdk_lambda::Client::from_conf(steps),
            })
        },
        async |clients: &Clients, event| {
            cancel(clients, &event.payload, event.context.deadline()).await
        },
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationOutput;
    use aws_sdk_lambda::operation::invoke::InvokeOutput;
    use aws_sdk_sfn::operation::describe_map_run::DescribeMapRunOutput;
    use aws_sdk_sfn::operation::get_execution_history::GetExecutionHistoryOutput;
    use aws_sdk_sfn::operation::list_executions::ListExecutionsOutput;
    use aws_sdk_sfn::primitives::DateTime;
    use aws_sdk_sfn::types::{
        ExecutionListItem, HistoryEventType, MapRunStartedEventDetails, TaskFailedEventDetails,
        TaskScheduledEventDetails, TaskSucceededEventDetails,
    };
    use aws_smithy_mocks::{RuleMode, mock, mock_client};

    use super::*;

    /// The envelope of a call, as Step Functions keeps it among the parameters of a scheduled task.
    fn envelope(step: &str, account: &str) -> Value {
        json!({
            "target": { "customer": "acme", "account": account },
            "params": { "query": "SELECT 1" },
            "execution": { "id": "e1", "job": "j", "step": step, "item": account, "started_by": "ann" },
        })
    }

    fn event(
        id: i64,
        previous: i64,
        kind: HistoryEventType,
    ) -> aws_sdk_sfn::types::builders::HistoryEventBuilder {
        let at = DateTime::from_secs(id);
        HistoryEvent::builder()
            .id(id)
            .previous_event_id(previous)
            .r#type(kind)
            .timestamp(at)
    }

    fn scheduled(id: i64, function: &str, payload: &Value) -> HistoryEvent {
        let parameters = json!({ "FunctionName": function, "Payload": payload }).to_string();
        let task = TaskScheduledEventDetails::builder()
            .resource_type("lambda")
            .resource("invoke")
            .region("eu-west-1");
        let task = task.parameters(parameters).build().unwrap();
        event(id, id - 1, HistoryEventType::TaskScheduled)
            .task_scheduled_event_details(task)
            .build()
            .unwrap()
    }

    fn answered(id: i64, previous: i64, payload: &Value) -> HistoryEvent {
        let task = TaskSucceededEventDetails::builder()
            .resource_type("lambda")
            .resource("invoke");
        let task = task
            .output(json!({ "Payload": payload }).to_string())
            .build()
            .unwrap();
        event(id, previous, HistoryEventType::TaskSucceeded)
            .task_succeeded_event_details(task)
            .build()
            .unwrap()
    }

    fn failed(id: i64, previous: i64, error: &str) -> HistoryEvent {
        let task = TaskFailedEventDetails::builder()
            .resource_type("lambda")
            .resource("invoke")
            .error(error);
        let task = task.build().unwrap();
        event(id, previous, HistoryEventType::TaskFailed)
            .task_failed_event_details(task)
            .build()
            .unwrap()
    }

    fn started(id: i64, previous: i64) -> HistoryEvent {
        event(id, previous, HistoryEventType::TaskStarted)
            .build()
            .unwrap()
    }

    #[test]
    fn a_pending_step_is_cancelled_with_what_it_answered_last() {
        let query = envelope("query", "prod");
        let open = open_calls(&[
            scheduled(1, "stepward-athena-query", &query),
            started(2, 1),
            answered(
                3,
                2,
                &json!({ "status": "pending", "resume": { "since": 1, "state": "first" } }),
            ),
            scheduled(4, "stepward-athena-query", &query),
            started(5, 4),
            answered(
                6,
                5,
                &json!({ "status": "pending", "resume": { "since": 1, "state": "second" } }),
            ),
        ]);
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].function, "stepward-athena-query");
        assert_eq!(open[0].payload["resume"]["state"], "second");
        assert_eq!(
            (&open[0].payload["cancel"], &open[0].payload["params"]),
            (&json!(true), &query["params"])
        );
    }

    #[test]
    fn a_call_without_an_answer_and_one_that_died_are_cancelled_too() {
        let open = open_calls(&[
            scheduled(1, "f", &envelope("query", "prod")),
            started(2, 1),
            scheduled(10, "f", &envelope("query", "test")),
            failed(12, 10, "Lambda.Unknown"),
        ]);
        assert_eq!(open.len(), 2);
        assert!(open.iter().all(|call| call.payload["resume"].is_null()));
        // Only the first one's function may run still.
        assert_eq!(
            open.iter().map(|call| call.answered).collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn a_poll_that_failed_says_nothing_of_the_query() {
        let mut polled = envelope("query", "prod");
        polled["resume"] = json!({ "since": 1, "state": "started" });
        for (payload, error, open) in [
            (&polled, "Throttled", 1),
            (&polled, "AccessDenied", 1),
            (&polled, "StepFailed", 0),
            (&envelope("query", "prod"), "TimedOut", 1),
            (&envelope("query", "prod"), "AccessDenied", 0),
        ] {
            let history = [
                scheduled(1, "f", payload),
                started(2, 1),
                failed(3, 2, error),
            ];
            assert_eq!(open_calls(&history).len(), open, "{error}");
        }
    }

    #[test]
    fn what_is_over_is_left_alone() {
        let open = open_calls(&[
            scheduled(1, "f", &envelope("query", "prod")),
            answered(2, 1, &json!({ "status": "done", "output": {} })),
            scheduled(10, "f", &envelope("query", "test")),
            failed(12, 10, "StepFailed"),
            // The runner's own functions are no steps.
            scheduled(20, "stepward-accounts", &json!({ "customer": "acme" })),
        ]);
        assert_eq!(open, []);
    }

    #[test]
    fn branches_of_a_map_are_told_apart_by_the_events_before() {
        let open = open_calls(&[
            scheduled(1, "f", &envelope("query", "prod")),
            scheduled(2, "f", &envelope("query", "test")),
            started(3, 1),
            started(4, 2),
            answered(5, 4, &json!({ "status": "done" })),
        ]);
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].payload["target"]["account"], "prod");
    }

    /// What becomes of an execution that ended now, when its one call was made so many seconds
    /// before and has never answered: the answer, and after how many seconds the step was told to
    /// stop. `limit` is its function's, if known.
    async fn cancelled(called: u64, limit: Option<i32>) -> (Result<Value, StepError>, Vec<u64>) {
        let task = TaskScheduledEventDetails::builder()
            .resource_type("lambda")
            .resource("invoke")
            .region("eu-west-1");
        let parameters =
            json!({ "FunctionName": "f", "Payload": envelope("copy", "prod") }).to_string();
        let at = DateTime::from(SystemTime::now() - Duration::from_secs(called));
        let call = event(1, 0, HistoryEventType::TaskScheduled).timestamp(at);
        let call = call
            .task_scheduled_event_details(task.parameters(parameters).build().unwrap())
            .build()
            .unwrap();
        let history = mock!(aws_sdk_sfn::Client::get_execution_history).then_output(move || {
            GetExecutionHistoryOutput::builder()
                .events(call.clone())
                .build()
                .unwrap()
        });
        let known =
            mock!(aws_sdk_lambda::Client::get_function_configuration).then_output(move || {
                GetFunctionConfigurationOutput::builder()
                    .set_timeout(limit)
                    .build()
            });
        let (began, stops) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
        let told = Arc::clone(&stops);
        let step = mock!(aws_sdk_lambda::Client::invoke)
            .match_requests(|request| {
                let payload: Value =
                    serde_json::from_slice(request.payload().unwrap().as_ref()).unwrap();
                payload["cancel"] == true
            })
            .then_output(move || {
                told.lock().unwrap().push(began.elapsed().as_secs());
                InvokeOutput::builder().build()
            });
        let clients = Clients {
            states: mock_client!(aws_sdk_sfn, [&history]),
            lambda: mock_client!(aws_sdk_lambda, [&known]),
            steps: mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [&step]),
        };
        let ended = json!({ "source": "aws.states", "detail-type": "Step Functions Execution Status Change",
            "detail": { "executionArn": "arn:e" } });
        let done = cancel(
            &clients,
            &Event::from_text(&ended.to_string()),
            SystemTime::now() + LONGEST,
        )
        .await;
        let stops = stops.lock().unwrap().clone();
        (done, stops)
    }

    #[tokio::test(start_paused = true)]
    async fn items_of_a_distributed_map_that_did_not_succeed_are_looked_into_when_all_have_ended() {
        let run = "arn:aws:states:eu-west-1:111111111111:mapRun:stepward-nodes-dispatch/Items:7";
        let item =
            "arn:aws:states:eu-west-1:111111111111:execution:stepward-nodes-dispatch/Items:1";
        let map = MapRunStartedEventDetails::builder()
            .map_run_arn(run)
            .build();
        let started = event(1, 0, HistoryEventType::MapRunStarted)
            .map_run_started_event_details(map)
            .build()
            .unwrap();
        let parent = mock!(aws_sdk_sfn::Client::get_execution_history)
            .match_requests(|request| request.execution_arn() == Some("arn:parent"))
            .then_output(move || {
                GetExecutionHistoryOutput::builder()
                    .events(started.clone())
                    .build()
                    .unwrap()
            });
        let command = envelope("run", "prod");
        let child = mock!(aws_sdk_sfn::Client::get_execution_history)
            .match_requests(move |request| request.execution_arn() == Some(item))
            .then_output(move || {
                let call = scheduled(1, "stepward-ssm-run-command", &command);
                let answer = answered(
                    2,
                    1,
                    &json!({ "status": "pending", "resume": { "since": 1, "state": "ids" } }),
                );
                GetExecutionHistoryOutput::builder()
                    .events(call)
                    .events(answer)
                    .build()
                    .unwrap()
            });
        let about = move |status: MapRunStatus| {
            let builder = DescribeMapRunOutput::builder()
                .map_run_arn(run)
                .execution_arn("arn:parent")
                .status(status);
            let at = DateTime::from_secs(1);
            let builder = builder
                .start_date(at)
                .max_concurrency(1)
                .tolerated_failure_percentage(100.0);
            builder.tolerated_failure_count(0).build().unwrap()
        };
        let ends = mock!(aws_sdk_sfn::Client::describe_map_run)
            .sequence()
            .output(move || about(MapRunStatus::Running))
            .output(move || about(MapRunStatus::Aborted))
            .build();
        let list = mock!(aws_sdk_sfn::Client::list_executions).then_output(move || {
            let one = |arn: &str, status: ExecutionStatus| {
                let one = ExecutionListItem::builder()
                    .execution_arn(arn)
                    .state_machine_arn("arn:machine")
                    .name("1");
                one.status(status)
                    .start_date(DateTime::from_secs(1))
                    .build()
                    .unwrap()
            };
            // The list is behind: the item has been stopped.
            let stopped = one(item, ExecutionStatus::Running);
            let done = one("arn:done", ExecutionStatus::Succeeded);
            ListExecutionsOutput::builder()
                .executions(stopped)
                .executions(done)
                .build()
                .unwrap()
        });
        let stopped = Arc::new(Mutex::new(Vec::new()));
        let calls = stopped.clone();
        let stop = mock!(aws_sdk_lambda::Client::invoke)
            .match_requests(move |request| {
                calls
                    .lock()
                    .unwrap()
                    .push(request.function_name().unwrap_or_default().to_owned());
                true
            })
            .then_output(|| InvokeOutput::builder().build());
        let lambda = mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [&stop]);
        let states = mock_client!(
            aws_sdk_sfn,
            RuleMode::MatchAny,
            [&parent, &child, &ends, &list]
        );
        let clients = Clients {
            states,
            lambda: lambda.clone(),
            steps: lambda,
        };
        let event = |arn: &str| {
            let event = json!({ "version": "0", "id": "1", "detail-type": "x", "source": "aws.states", "account": "1",
                "time": "2026-01-01T00:00:00Z", "region": "eu-west-1", "resources": [], "detail": { "executionArn": arn } });
            Event::from_text(&event.to_string())
        };
        let deadline = SystemTime::now() + Duration::from_mins(10);
        assert_eq!(
            cancel(&clients, &event("arn:parent"), deadline)
                .await
                .unwrap(),
            json!({ "cancelled": 1 })
        );
        assert_eq!(*stopped.lock().unwrap(), ["stepward-ssm-run-command"]);
        // An item's own end says nothing: it is looked into with all others.
        assert_eq!(
            cancel(&clients, &event(item), deadline).await.unwrap(),
            json!({ "cancelled": 0 })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_answered_is_stopped_again_when_its_function_can_run_no_longer() {
        // Within two seconds, because the history's clock is not the one that stands still here.
        let is_about = |seconds: u64, expected: u64| (expected - 2..=expected).contains(&seconds);
        for (called, limit, second) in [
            (0, Some(60), 70),
            (30, Some(60), 40),
            (300, Some(900), 610),
            (300, None, 610),
        ] {
            let (done, stops) = cancelled(called, limit).await;
            assert_eq!(done.unwrap(), json!({ "cancelled": 1 }));
            assert!(
                stops.len() == 2 && stops[0] == 0 && is_about(stops[1], second),
                "{called} {limit:?}: {stops:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_run_longer_than_there_is_time_is_left_to_the_retry() {
        let (done, stops) = cancelled(5, Some(900)).await;
        let error = done.unwrap_err();
        assert!(
            error.name == ErrorName::StepFailed && error.message.contains("may run still"),
            "{error}"
        );
        assert!(
            stops.len() == 2 && (775..=780).contains(&stops[1]),
            "{stops:?}"
        );
        // As the retry finds it.
        let (done, stops) = cancelled(5 + 840, Some(900)).await;
        assert_eq!(done.unwrap(), json!({ "cancelled": 1 }));
        assert!(stops.len() == 2 && stops[1] <= 65, "{stops:?}");
    }
}
