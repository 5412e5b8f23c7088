//! Finds the open calls of steps in the history of an execution.

use std::collections::HashMap;
use std::time::SystemTime;

use aws_sdk_sfn::types::HistoryEvent;
use serde_json::{Value, json};

/// One call of a step, as in the history.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StepCall {
    pub(super) function: String,
    pub(super) payload: Value,
    pub(super) called_at: SystemTime,
    /// Whether the call has returned. Otherwise its function may still be running.
    pub(super) has_returned: bool,
}

/// The last call of one step for one account and item.
struct LastCall {
    /// Function, target, step and item.
    identity: String,
    /// ID of the event that scheduled the call.
    event_id: i64,
    /// Whether the step has ended and left nothing running.
    is_finished: bool,
}

/// The calls that may have left something running. Their payloads are ready to be sent again with
/// `cancel`.
pub(super) fn find_open_calls(history: &[HistoryEvent]) -> Vec<StepCall> {
    // The call that each event belongs to: its own, or the one of the event before it.
    let mut call_of_event: HashMap<i64, i64> = HashMap::new();
    let mut calls: HashMap<i64, StepCall> = HashMap::new();
    let mut last_calls: Vec<LastCall> = Vec::new();
    for event in history {
        let scheduled = event.task_scheduled_event_details.as_ref();
        if let Some(call) = scheduled.and_then(|task| parse_step_call(event, &task.parameters)) {
            let identity = call_identity(&call);
            last_calls.retain(|last| last.identity != identity);
            last_calls.push(LastCall {
                identity,
                event_id: event.id,
                is_finished: false,
            });
            calls.insert(event.id, call);
            call_of_event.insert(event.id, event.id);
        } else if let Some(call_id) = call_of_event.get(&event.previous_event_id).copied() {
            call_of_event.insert(event.id, call_id);
            let Some(call) = calls.get_mut(&call_id) else {
                continue;
            };
            if let Some(is_finished) = apply_result(call, event) {
                last_calls
                    .iter_mut()
                    .filter(|last| last.event_id == call_id)
                    .for_each(|last| last.is_finished = is_finished);
            }
        }
    }

    let open_calls = last_calls
        .into_iter()
        .filter(|last| !last.is_finished)
        .filter_map(|last| calls.remove(&last.event_id));
    open_calls
        .map(|mut call| {
            call.payload["cancel"] = json!(true);
            call
        })
        .collect()
}

/// Updates a call from an event that may be its result. Returns whether the step is finished, or
/// `None` if the event does not show that.
fn apply_result(call: &mut StepCall, event: &HistoryEvent) -> Option<bool> {
    if let Some(success) = &event.task_succeeded_event_details {
        call.has_returned = true;
        let result = parse_result(success.output.as_deref())?;
        let is_pending = result["status"] == "pending";
        if is_pending {
            call.payload["resume"] = result["resume"].clone();
        }
        return Some(!is_pending);
    }

    let failure = event.task_failed_event_details.as_ref()?;
    call.has_returned = true;
    let error_name = failure.error.as_deref().unwrap_or_default();
    let is_resumed = !call.payload["resume"].is_null();
    Some(is_final_error(error_name, is_resumed))
}

/// Whether a call with this error left nothing running. Earlier calls of a resumed step had started
/// something.
fn is_final_error(error_name: &str, is_resumed: bool) -> bool {
    match error_name {
        "StepFailed" | "InvalidInput" => true,
        // The call was rejected before it started anything.
        "AccessDenied" | "TrustBroken" | "NotFound" | "Conflict" => !is_resumed,
        // After a timeout or a crash it is unknown what the call has started.
        _ => false,
    }
}

/// The call of a step: a Lambda task whose payload is an envelope. `None` for other tasks.
fn parse_step_call(event: &HistoryEvent, parameters: &str) -> Option<StepCall> {
    let mut parameters: Value = serde_json::from_str(parameters).ok()?;
    let payload = parameters.get_mut("Payload")?.take();
    payload.get("target")?;
    Some(StepCall {
        function: parameters["FunctionName"].as_str()?.to_owned(),
        payload,
        called_at: SystemTime::try_from(event.timestamp).ok()?,
        has_returned: false,
    })
}

fn parse_result(output: Option<&str>) -> Option<Value> {
    serde_json::from_str::<Value>(output?)
        .ok()?
        .get_mut("Payload")
        .map(Value::take)
}

fn call_identity(call: &StepCall) -> String {
    let execution = &call.payload["execution"];
    json!([
        call.function,
        call.payload["target"],
        execution["step"],
        execution["item"]
    ])
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{envelope, failed, scheduled, started, succeeded};
    use super::*;

    #[test]
    fn a_pending_step_is_cancelled_with_its_last_resume_state() {
        let query = envelope("query", "prod");
        let pending =
            |state: &str| json!({ "status": "pending", "resume": { "since": 1, "state": state } });
        let open_calls = find_open_calls(&[
            scheduled(1, "stepward-athena-query", &query),
            started(2, 1),
            succeeded(3, 2, &pending("first")),
            scheduled(4, "stepward-athena-query", &query),
            started(5, 4),
            succeeded(6, 5, &pending("second")),
        ]);

        assert_eq!(open_calls.len(), 1);
        let StepCall {
            function, payload, ..
        } = &open_calls[0];
        assert_eq!(function, "stepward-athena-query");
        assert_eq!(payload["resume"]["state"], "second");
        assert_eq!(
            (&payload["cancel"], &payload["params"]),
            (&json!(true), &query["params"])
        );
    }

    #[test]
    fn running_and_crashed_calls_are_open() {
        let open_calls = find_open_calls(&[
            scheduled(1, "f", &envelope("query", "prod")),
            started(2, 1),
            scheduled(10, "f", &envelope("query", "test")),
            failed(12, 10, "Lambda.Unknown"),
        ]);

        assert_eq!(open_calls.len(), 2);
        assert!(
            open_calls
                .iter()
                .all(|call| call.payload["resume"].is_null())
        );
        // Only the function of the first call may still be running.
        let has_returned: Vec<_> = open_calls.iter().map(|call| call.has_returned).collect();
        assert_eq!(has_returned, [false, true]);
    }

    #[test]
    fn a_failed_poll_leaves_its_step_open() {
        let mut resumed = envelope("query", "prod");
        resumed["resume"] = json!({ "since": 1, "state": "started" });
        let first = envelope("query", "prod");
        for (payload, error, open_count) in [
            (&resumed, "Throttled", 1),
            (&resumed, "AccessDenied", 1),
            (&resumed, "StepFailed", 0),
            (&first, "TimedOut", 1),
            (&first, "AccessDenied", 0),
        ] {
            let history = [
                scheduled(1, "f", payload),
                started(2, 1),
                failed(3, 2, error),
            ];
            assert_eq!(find_open_calls(&history).len(), open_count, "{error}");
        }
    }

    #[test]
    fn finished_steps_and_other_functions_are_not_open() {
        let open_calls = find_open_calls(&[
            scheduled(1, "f", &envelope("query", "prod")),
            succeeded(2, 1, &json!({ "status": "done", "output": {} })),
            scheduled(10, "f", &envelope("query", "test")),
            failed(12, 10, "StepFailed"),
            // One of the runner's own functions, which are not steps.
            scheduled(20, "stepward-accounts", &json!({ "customer": "acme" })),
        ]);
        assert_eq!(open_calls, []);
    }

    #[test]
    fn branches_of_a_map_are_distinguished_by_previous_events() {
        let open_calls = find_open_calls(&[
            scheduled(1, "f", &envelope("query", "prod")),
            scheduled(2, "f", &envelope("query", "test")),
            started(3, 1),
            started(4, 2),
            succeeded(5, 4, &json!({ "status": "done" })),
        ]);
        assert_eq!(open_calls.len(), 1);
        assert_eq!(open_calls[0].payload["target"]["account"], "prod");
    }
}
