//! Events of an execution's history, for tests.

use aws_sdk_sfn::primitives::DateTime;
use aws_sdk_sfn::types::builders::HistoryEventBuilder;
use aws_sdk_sfn::types::{
    HistoryEvent, HistoryEventType, TaskFailedEventDetails, TaskScheduledEventDetails,
    TaskSucceededEventDetails,
};
use serde_json::{Value, json};

/// The envelope of a call, as in the parameters of a scheduled task.
pub(super) fn envelope(step: &str, account: &str) -> Value {
    json!({
        "target": { "customer": "acme", "account": account },
        "params": { "query": "SELECT 1" },
        "execution": {
            "id": "e1",
            "job": "j",
            "step": step,
            "item": account,
            "started_by": "ann",
        },
    })
}

pub(super) fn event(id: i64, previous: i64, kind: HistoryEventType) -> HistoryEventBuilder {
    HistoryEvent::builder()
        .id(id)
        .previous_event_id(previous)
        .r#type(kind)
        .timestamp(DateTime::from_secs(id))
}

/// A call of a function that is scheduled.
pub(super) fn scheduled(id: i64, function: &str, payload: &Value) -> HistoryEvent {
    event(id, id - 1, HistoryEventType::TaskScheduled)
        .task_scheduled_event_details(scheduled_details(function, payload))
        .build()
        .unwrap()
}

pub(super) fn scheduled_details(function: &str, payload: &Value) -> TaskScheduledEventDetails {
    TaskScheduledEventDetails::builder()
        .resource_type("lambda")
        .resource("invoke")
        .region("eu-west-1")
        .parameters(json!({ "FunctionName": function, "Payload": payload }).to_string())
        .build()
        .unwrap()
}

/// A call that returned this payload.
pub(super) fn succeeded(id: i64, previous: i64, payload: &Value) -> HistoryEvent {
    let details = TaskSucceededEventDetails::builder()
        .resource_type("lambda")
        .resource("invoke")
        .output(json!({ "Payload": payload }).to_string())
        .build()
        .unwrap();
    event(id, previous, HistoryEventType::TaskSucceeded)
        .task_succeeded_event_details(details)
        .build()
        .unwrap()
}

/// A call that failed with this error.
pub(super) fn failed(id: i64, previous: i64, error: &str) -> HistoryEvent {
    let details = TaskFailedEventDetails::builder()
        .resource_type("lambda")
        .resource("invoke")
        .error(error)
        .build()
        .unwrap();
    event(id, previous, HistoryEventType::TaskFailed)
        .task_failed_event_details(details)
        .build()
        .unwrap()
}

/// A call that started.
pub(super) fn started(id: i64, previous: i64) -> HistoryEvent {
    event(id, previous, HistoryEventType::TaskStarted)
        .build()
        .unwrap()
}
