//! Tests of the whole function with fakes of Step Functions and Lambda.

use std::sync::{Arc, Mutex};

use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationOutput;
use aws_sdk_lambda::operation::invoke::InvokeOutput;
use aws_sdk_sfn::operation::describe_map_run::DescribeMapRunOutput;
use aws_sdk_sfn::operation::get_execution_history::GetExecutionHistoryOutput;
use aws_sdk_sfn::operation::list_executions::ListExecutionsOutput;
use aws_sdk_sfn::primitives::DateTime;
use aws_sdk_sfn::types::{ExecutionListItem, HistoryEventType, MapRunStartedEventDetails};
use aws_smithy_mocks::{Rule, RuleMode, mock};
use stepward::mock_client;

use super::testing::{envelope, event, scheduled, scheduled_details, succeeded};
use super::*;

const MAP_RUN: &str =
    "arn:aws:states:eu-west-1:111111111111:mapRun:stepward-nodes-dispatch/Items:7";
const ITEM: &str =
    "arn:aws:states:eu-west-1:111111111111:execution:stepward-nodes-dispatch/Items:1";

/// The event of an ended execution.
fn ended_event(execution_arn: &str) -> Event {
    let event = json!({
        "version": "0",
        "id": "1",
        "detail-type": "Step Functions Execution Status Change",
        "source": "aws.states",
        "account": "1",
        "time": "2026-01-01T00:00:00Z",
        "region": "eu-west-1",
        "resources": [],
        "detail": { "executionArn": execution_arn },
    });
    Event::from_text(&event.to_string())
}

/// The history of the execution with this ARN.
fn history_rule(execution_arn: &'static str, history: Vec<HistoryEvent>) -> Rule {
    mock!(aws_sdk_sfn::Client::get_execution_history)
        .match_requests(move |request| request.execution_arn() == Some(execution_arn))
        .then_output(move || {
            GetExecutionHistoryOutput::builder()
                .set_events(Some(history.clone()))
                .build()
                .unwrap()
        })
}

/// Runs the function for an execution that has just ended. Its only call was made `seconds_ago` and
/// never returned. Returns the result, and after how many seconds each
/// cancellation was sent. `timeout` is the timeout of the step's function, if Lambda returns it.
async fn cancel_running_call(
    seconds_ago: u64,
    timeout: Option<i32>,
) -> (Result<Value, StepError>, Vec<u64>) {
    let called_at = DateTime::from(SystemTime::now() - Duration::from_secs(seconds_ago));
    let call = event(1, 0, HistoryEventType::TaskScheduled)
        .timestamp(called_at)
        .task_scheduled_event_details(scheduled_details("f", &envelope("copy", "prod")))
        .build()
        .unwrap();
    let history = history_rule("arn:e", vec![call]);
    let config = mock!(aws_sdk_lambda::Client::get_function_configuration).then_output(move || {
        GetFunctionConfigurationOutput::builder()
            .set_timeout(timeout)
            .build()
    });

    let start = Instant::now();
    let cancelled_after = Arc::new(Mutex::new(Vec::new()));
    let recorder = Arc::clone(&cancelled_after);
    let step = mock!(aws_sdk_lambda::Client::invoke)
        .match_requests(|request| {
            let payload: Value =
                serde_json::from_slice(request.payload().unwrap().as_ref()).unwrap();
            payload["cancel"] == true
        })
        .then_output(move || {
            recorder.lock().unwrap().push(start.elapsed().as_secs());
            InvokeOutput::builder().build()
        });
    let clients = Clients {
        step_functions: mock_client!(aws_sdk_sfn, [&history]),
        lambda: mock_client!(aws_sdk_lambda, [&config]),
        steps: mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [&step]),
    };
    let deadline = SystemTime::now() + MAX_FUNCTION_TIMEOUT;
    let result = cancel(&clients, &ended_event("arn:e"), deadline).await;
    let cancelled_after = cancelled_after.lock().unwrap().clone();
    (result, cancelled_after)
}

/// A Map run that ends after the first poll.
fn map_run_rule() -> Rule {
    let map_run = |status: MapRunStatus| {
        DescribeMapRunOutput::builder()
            .map_run_arn(MAP_RUN)
            .execution_arn("arn:parent")
            .status(status)
            .start_date(DateTime::from_secs(1))
            .max_concurrency(1)
            .tolerated_failure_percentage(100.0)
            .tolerated_failure_count(0)
            .build()
            .unwrap()
    };
    mock!(aws_sdk_sfn::Client::describe_map_run)
        .sequence()
        .output(move || map_run(MapRunStatus::Running))
        .output(move || map_run(MapRunStatus::Aborted))
        .build()
}

/// The items of the Map run. The list lags: it calls a stopped item running.
fn items_rule() -> Rule {
    let item = |arn: &str, status: ExecutionStatus| {
        ExecutionListItem::builder()
            .execution_arn(arn)
            .state_machine_arn("arn:machine")
            .name("1")
            .status(status)
            .start_date(DateTime::from_secs(1))
            .build()
            .unwrap()
    };
    mock!(aws_sdk_sfn::Client::list_executions).then_output(move || {
        ListExecutionsOutput::builder()
            .executions(item(ITEM, ExecutionStatus::Running))
            .executions(item("arn:done", ExecutionStatus::Succeeded))
            .build()
            .unwrap()
    })
}

#[tokio::test(start_paused = true)]
async fn unsuccessful_items_are_cancelled_after_the_map_run_ended() {
    let details = MapRunStartedEventDetails::builder()
        .map_run_arn(MAP_RUN)
        .build();
    let map_run_started = event(1, 0, HistoryEventType::MapRunStarted)
        .map_run_started_event_details(details)
        .build()
        .unwrap();
    let parent_history = history_rule("arn:parent", vec![map_run_started]);
    let pending = json!({ "status": "pending", "resume": { "since": 1, "state": "ids" } });
    let item_history = history_rule(
        ITEM,
        vec![
            scheduled(1, "stepward-ssm-run-command", &envelope("run", "prod")),
            succeeded(2, 1, &pending),
        ],
    );

    let cancelled_functions = Arc::new(Mutex::new(Vec::new()));
    let recorder = cancelled_functions.clone();
    let step = mock!(aws_sdk_lambda::Client::invoke)
        .match_requests(move |request| {
            let function = request.function_name().unwrap_or_default().to_owned();
            recorder.lock().unwrap().push(function);
            true
        })
        .then_output(|| InvokeOutput::builder().build());
    let lambda = mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [&step]);
    let (map_run, items) = (map_run_rule(), items_rule());
    let step_functions = mock_client!(
        aws_sdk_sfn,
        RuleMode::MatchAny,
        [&parent_history, &item_history, &map_run, &items]
    );
    let clients = Clients {
        step_functions,
        lambda: lambda.clone(),
        steps: lambda,
    };

    let deadline = SystemTime::now() + Duration::from_mins(10);
    let result = cancel(&clients, &ended_event("arn:parent"), deadline).await;
    assert_eq!(result.unwrap(), json!({ "cancelled": 1 }));
    assert_eq!(
        *cancelled_functions.lock().unwrap(),
        ["stepward-ssm-run-command"]
    );
    // The function ignores the end of a single item.
    let result = cancel(&clients, &ended_event(ITEM), deadline).await;
    assert_eq!(result.unwrap(), json!({ "cancelled": 0 }));
}

#[tokio::test(start_paused = true)]
async fn running_calls_are_cancelled_again_when_they_must_have_ended() {
    // Allow two seconds, because the history uses the real clock and not the paused one.
    let is_about = |seconds: u64, expected: u64| (expected - 2..=expected).contains(&seconds);
    for (seconds_ago, timeout, expected) in [
        (0, Some(60), 70),
        (30, Some(60), 40),
        (300, Some(900), 610),
        (300, None, 610),
    ] {
        let (result, cancelled_after) = cancel_running_call(seconds_ago, timeout).await;
        assert_eq!(result.unwrap(), json!({ "cancelled": 1 }));
        assert!(
            cancelled_after.len() == 2
                && cancelled_after[0] == 0
                && is_about(cancelled_after[1], expected),
            "{seconds_ago} {timeout:?}: {cancelled_after:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn long_running_calls_are_left_to_the_retry() {
    let (result, cancelled_after) = cancel_running_call(5, Some(900)).await;
    let error = result.unwrap_err();
    assert!(
        error.name == ErrorName::StepFailed && error.message.contains("may still be running"),
        "{error}"
    );
    assert!(
        cancelled_after.len() == 2 && (775..=780).contains(&cancelled_after[1]),
        "{cancelled_after:?}"
    );

    // The retry of Lambda.
    let (result, cancelled_after) = cancel_running_call(5 + 840, Some(900)).await;
    assert_eq!(result.unwrap(), json!({ "cancelled": 1 }));
    assert!(
        cancelled_after.len() == 2 && cancelled_after[1] <= 65,
        "{cancelled_after:?}"
    );
}
