//! The progress of an execution, from its history: the steps of every account, with their durations
//! and messages.
//!
//! Each event names the previous event of its own branch, which tells the branches of a Map apart.

use std::collections::HashMap;

use aws_sdk_sfn::types::{
    HistoryEvent, HistoryEventType as E, MapIterationEventDetails, TaskScheduledEventDetails,
};
use serde_json::Value;
use time::OffsetDateTime;

use super::call::{Call, Functions};
use super::finished::message_of;
use super::log::Log;

/// The progress of an execution.
#[derive(Debug)]
pub struct JobProgress {
    /// The job itself, then the items of its Maps in the order of their start.
    pub rows: Vec<Row>,
    /// The customer in the execution's input.
    customer: String,
    functions: Functions,
    /// The position of every event by its ID.
    positions: HashMap<i64, Position>,
    last_event: i64,
    has_ended: bool,
}

/// One item of a Map, which is an account, or the job itself.
#[derive(Debug)]
pub struct Row {
    /// The account's name; empty for the job itself.
    pub label: String,
    /// The steps in the order of their start.
    pub steps: Vec<StepRun>,
    /// The row whose Map contains this item.
    parent: usize,
}

/// One step of one account.
#[derive(Clone, Debug)]
pub struct StepRun {
    /// The state's name.
    pub name: String,
    /// Its state.
    pub state: State,
    /// When it started.
    pub started_at: OffsetDateTime,
    /// When it ended, if it has.
    pub ended_at: Option<OffsetDateTime>,
    /// The progress in its last pending response, or its error.
    pub message: Option<String>,
    /// The called step and its account, if the history or the definition contains them.
    pub(super) call: Call,
}

impl StepRun {
    /// A step that starts now.
    pub(super) fn new(name: &str, now: OffsetDateTime) -> Self {
        let call = Call::default();
        Self {
            name: name.to_owned(),
            state: State::Running,
            started_at: now,
            ended_at: None,
            message: None,
            call,
        }
    }
}

/// The state of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Step Functions calls it.
    Running,
    /// It returned `pending`; Step Functions calls it again later.
    Pending,
    /// It has succeeded.
    Done,
    /// It failed.
    Failed,
}

/// The change of a step by an event.
#[derive(Clone, Debug)]
pub struct Change {
    /// The account's name; empty for the job itself.
    pub label: String,
    /// The step after the change.
    pub step: StepRun,
}

/// The row and the step that an event belongs to.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    row: usize,
    step: Option<usize>,
}

impl Default for JobProgress {
    fn default() -> Self {
        let job = Row {
            label: String::new(),
            steps: Vec::new(),
            parent: 0,
        };
        Self {
            rows: vec![job],
            customer: String::new(),
            functions: Functions::default(),
            positions: HashMap::new(),
            last_event: 0,
            has_ended: false,
        }
    }
}

impl JobProgress {
    /// An execution of the job with this definition, before its first event. The definition is null
    /// if it is not known.
    pub(super) fn from_definition(stack: &str, definition: &Value) -> Self {
        Self {
            functions: Functions::from_definition(stack, definition),
            ..Self::default()
        }
    }

    /// The ID of the last applied event; 0 before the first.
    #[must_use]
    pub fn last_event(&self) -> i64 {
        self.last_event
    }

    /// Whether the execution has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Applies an event and returns the step that it has changed.
    pub fn apply_event(&mut self, event: &HistoryEvent) -> Option<Change> {
        self.last_event = self.last_event.max(event.id());
        let mut position = self
            .positions
            .get(&event.previous_event_id())
            .copied()
            .unwrap_or_default();
        let now = OffsetDateTime::from_unix_timestamp_nanos(event.timestamp().as_nanos()).ok()?;
        let mut changed = None;
        match event.r#type() {
            E::ExecutionStarted => {
                let input = event
                    .execution_started_event_details()
                    .and_then(|details| details.input());
                let input = parse_or_null(input);
                let customer = input["customer"].as_str().unwrap_or_default();
                customer.clone_into(&mut self.customer);
            }
            E::MapIterationStarted => {
                let index = event
                    .map_iteration_started_event_details()
                    .map_or(0, MapIterationEventDetails::index);
                let label = format!("#{}", index + 1);
                self.rows.push(Row {
                    label,
                    steps: Vec::new(),
                    parent: position.row,
                });
                position = Position {
                    row: self.rows.len() - 1,
                    step: None,
                };
            }
            E::MapIterationSucceeded | E::MapIterationFailed | E::MapIterationAborted => {
                position = Position {
                    row: self.rows[position.row].parent,
                    step: None,
                };
            }
            E::TaskStateEntered => {
                let details = event.state_entered_event_details()?;
                self.name_row(position.row, details.input());
                position.step = Some(self.start_step(position.row, details.name(), now));
                changed = position.step;
            }
            // The input of an item's first state is the item.
            E::PassStateEntered => {
                self.name_row(
                    position.row,
                    event
                        .state_entered_event_details()
                        .and_then(|details| details.input()),
                );
            }
            E::TaskScheduled => {
                // The parameters of a task are more exact than the definition and the row labels.
                let parameters = event
                    .task_scheduled_event_details()
                    .map_or("", TaskScheduledEventDetails::parameters);
                if let Some(step) = position
                    .step
                    .and_then(|step| self.rows[position.row].steps.get_mut(step))
                {
                    step.call = self.functions.call_with_parameters(parameters, &step.call);
                }
            }
            E::TaskSucceeded => {
                let output = event
                    .task_succeeded_event_details()
                    .and_then(|details| details.output());
                changed = self.apply_response(position, output);
            }
            E::TaskFailed | E::TaskTimedOut => {
                let (error, cause) = error_and_cause(event);
                changed = self.apply_failure(position, error, cause, now);
            }
            E::TaskStateExited => changed = self.end_step(position, now),
            E::ExecutionSucceeded
            | E::ExecutionFailed
            | E::ExecutionAborted
            | E::ExecutionTimedOut => {
                self.has_ended = true;
            }
            _ => {}
        }
        self.positions.insert(event.id(), position);
        let row = &self.rows[position.row];
        changed.map(|step| Change {
            label: row.label.clone(),
            step: row.steps[step].clone(),
        })
    }

    /// The log in the response of an event that has been applied, and its source, for example
    /// `acme/prod ec2-start`.
    pub(super) fn log_of_event(&self, event: &HistoryEvent) -> Option<(String, Log)> {
        let output: Value =
            serde_json::from_str(event.task_succeeded_event_details()?.output()?).ok()?;
        let log = Log::from_response(&output["Payload"])?;
        let position = self.positions.get(&event.id())?;
        let row = self.rows.get(position.row)?;
        let StepRun { name, call, .. } = row.steps.get(position.step?)?;
        let customer = call.customer.as_ref().unwrap_or(&self.customer);
        let account = call.account.as_ref().unwrap_or(&row.label);
        let target: Vec<_> = [customer, account]
            .into_iter()
            .filter(|name| !name.is_empty())
            .cloned()
            .collect();
        let step = call.step.as_ref().unwrap_or(name);
        Some((
            format!("{} {step}", target.join("/"))
                .trim_start()
                .to_owned(),
            log,
        ))
    }

    /// Labels a row with the account in its first input.
    fn name_row(&mut self, row: usize, input: Option<&str>) {
        if row == 0 || !self.rows[row].label.starts_with('#') {
            return;
        }
        let input = parse_or_null(input);
        let candidates = [
            &input["account"],
            &input["target"]["account"],
            &input["item"]["account"],
        ];
        if let Some(name) = candidates.into_iter().find_map(Value::as_str) {
            name.clone_into(&mut self.rows[row].label);
        }
    }

    /// Starts a step and returns its number. Step Functions enters the state of a polling step for
    /// every poll; it is still the same step.
    fn start_step(&mut self, row: usize, name: &str, now: OffsetDateTime) -> usize {
        let steps = &mut self.rows[row].steps;
        if let Some(existing) = steps.iter().position(|step| step.name == name) {
            steps[existing].ended_at = None;
            if steps[existing].state != State::Pending {
                steps[existing].state = State::Running;
            }
            return existing;
        }
        steps.push(StepRun {
            call: self.functions.call_of_state(name),
            ..StepRun::new(name, now)
        });
        steps.len() - 1
    }

    fn apply_response(&mut self, position: Position, output: Option<&str>) -> Option<usize> {
        let step = self.rows[position.row].steps.get_mut(position.step?)?;
        let response = parse_or_null(output);
        let response = &response["Payload"];
        if response["status"] == "pending" {
            step.state = State::Pending;
            step.message = response["progress"].as_str().map(str::to_owned);
            return position.step;
        }
        step.state = State::Running;
        step.message = None;
        None
    }

    fn apply_failure(
        &mut self,
        position: Position,
        error: Option<&str>,
        cause: Option<&str>,
        now: OffsetDateTime,
    ) -> Option<usize> {
        let step = self.rows[position.row].steps.get_mut(position.step?)?;
        let cause = cause
            .map(|cause| message_of(cause).unwrap_or_else(|| cause.to_owned()))
            .unwrap_or_default();
        step.state = State::Failed;
        step.ended_at = Some(now);
        step.message = Some(
            format!("{}: {cause}", error.unwrap_or("failed"))
                .trim_end_matches([':', ' '])
                .to_owned(),
        );
        position.step
    }

    fn end_step(&mut self, position: Position, now: OffsetDateTime) -> Option<usize> {
        let step = self.rows[position.row].steps.get_mut(position.step?)?;
        if step.state != State::Running {
            return None;
        }
        step.state = State::Done;
        step.ended_at = Some(now);
        position.step
    }
}

/// The error and the cause of a failed task, or of one that timed out.
fn error_and_cause(event: &HistoryEvent) -> (Option<&str>, Option<&str>) {
    if let Some(details) = event.task_failed_event_details() {
        return (details.error(), details.cause());
    }
    event
        .task_timed_out_event_details()
        .map(|details| (details.error(), details.cause()))
        .unwrap_or_default()
}

/// Parses a text as JSON. Returns null if the text is missing or not JSON.
fn parse_or_null(text: Option<&str>) -> Value {
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use aws_sdk_sfn::primitives::DateTime;
    use aws_sdk_sfn::types::builders::HistoryEventBuilder;
    use aws_sdk_sfn::types::{
        ExecutionStartedEventDetails, StateEnteredEventDetails, StateExitedEventDetails,
        TaskFailedEventDetails, TaskSucceededEventDetails,
    };
    use serde_json::json;

    use super::*;

    fn event(id: i64, previous: i64, kind: E) -> HistoryEventBuilder {
        HistoryEvent::builder()
            .id(id)
            .previous_event_id(previous)
            .r#type(kind)
            .timestamp(DateTime::from_secs(1000 + id))
    }

    fn iteration(id: i64, previous: i64, index: i32) -> HistoryEventBuilder {
        let details = MapIterationEventDetails::builder()
            .name("Check accounts")
            .index(index)
            .build();
        event(id, previous, E::MapIterationStarted).map_iteration_started_event_details(details)
    }

    fn entered(id: i64, previous: i64, name: &str, input: &str) -> HistoryEventBuilder {
        let details = StateEnteredEventDetails::builder()
            .name(name)
            .input(input)
            .build()
            .unwrap();
        event(id, previous, E::TaskStateEntered).state_entered_event_details(details)
    }

    fn response_event(id: i64, previous: i64, payload: &str) -> HistoryEventBuilder {
        let details = TaskSucceededEventDetails::builder()
            .resource_type("lambda")
            .resource("invoke");
        let details = details
            .output(format!(r#"{{"Payload":{payload}}}"#))
            .build()
            .unwrap();
        event(id, previous, E::TaskSucceeded).task_succeeded_event_details(details)
    }

    fn exited(id: i64, previous: i64, name: &str) -> HistoryEventBuilder {
        let details = StateExitedEventDetails::builder()
            .name(name)
            .build()
            .unwrap();
        event(id, previous, E::TaskStateExited).state_exited_event_details(details)
    }

    fn job(events: Vec<HistoryEventBuilder>) -> JobProgress {
        let mut job = JobProgress::default();
        for event in events {
            job.apply_event(&event.build().unwrap());
        }
        job
    }

    #[test]
    fn interleaved_accounts_are_separated_by_previous_events() {
        let job = job(vec![
            event(1, 0, E::MapStateEntered),
            iteration(2, 1, 0),
            iteration(3, 1, 1),
            entered(4, 2, "Validate", r#"{"account":"prod"}"#),
            entered(5, 3, "Validate", r#"{"account":"test"}"#),
            response_event(6, 5, r#"{"status":"done"}"#),
            exited(7, 6, "Validate"),
            response_event(8, 4, r#"{"status":"pending","progress":"1 of 2 running"}"#),
        ]);
        let states: Vec<_> = job.rows[1..]
            .iter()
            .map(|row| (row.label.as_str(), row.steps[0].state))
            .collect();
        assert_eq!(states, [("prod", State::Pending), ("test", State::Done)]);
        assert_eq!(
            job.rows[1].steps[0].message.as_deref(),
            Some("1 of 2 running")
        );
    }

    #[test]
    fn a_polling_step_is_one_step() {
        let job = job(vec![
            entered(1, 0, "Start", "{}"),
            response_event(2, 1, r#"{"status":"pending","progress":"waiting"}"#),
            exited(3, 2, "Start"),
            entered(4, 3, "Start", "{}"),
            response_event(5, 4, r#"{"status":"done"}"#),
            exited(6, 5, "Start"),
        ]);
        let step = &job.rows[0].steps[0];
        assert_eq!((job.rows[0].steps.len(), step.state), (1, State::Done));
        assert_eq!(
            step.ended_at.unwrap() - step.started_at,
            time::Duration::seconds(5)
        );
    }

    #[test]
    fn a_failure_shows_its_name_and_message() {
        let details = TaskFailedEventDetails::builder()
            .resource_type("lambda")
            .resource("invoke")
            .error("TrustBroken");
        let details = details
            .cause(r#"{"errorType":"TrustBroken","errorMessage":"the role is open"}"#)
            .build()
            .unwrap();
        let job = job(vec![
            entered(1, 0, "Validate", "{}"),
            event(2, 1, E::TaskFailed).task_failed_event_details(details),
            exited(3, 2, "Validate"),
            event(4, 3, E::ExecutionFailed),
        ]);
        let step = &job.rows[0].steps[0];
        assert_eq!(
            (step.state, step.message.as_deref()),
            (State::Failed, Some("TrustBroken: the role is open"))
        );
        assert!(job.has_ended());
        assert_eq!(job.last_event(), 4);
    }

    #[test]
    fn states_after_a_map_belong_to_the_job() {
        let job = job(vec![
            event(1, 0, E::MapStateEntered),
            iteration(2, 1, 0),
            event(3, 2, E::MapIterationSucceeded),
            event(4, 3, E::MapStateSucceeded),
            entered(5, 4, "Report", "{}"),
        ]);
        assert_eq!(job.rows[0].steps[0].name, "Report");
        assert!(job.rows[1].steps.is_empty());
    }

    fn started(customer: &str) -> HistoryEventBuilder {
        let input = json!({ "customer": customer }).to_string();
        let details = ExecutionStartedEventDetails::builder().input(input).build();
        event(1, 0, E::ExecutionStarted).execution_started_event_details(details)
    }

    fn scheduled(id: i64, previous: i64, parameters: &Value) -> HistoryEventBuilder {
        let details = TaskScheduledEventDetails::builder()
            .resource_type("lambda")
            .resource("invoke")
            .region("eu-west-1");
        let details = details.parameters(parameters.to_string()).build().unwrap();
        event(id, previous, E::TaskScheduled).task_scheduled_event_details(details)
    }

    /// The log lines of the events, each with its source.
    fn logged(mut job: JobProgress, events: Vec<HistoryEventBuilder>) -> Vec<String> {
        let mut logged = Vec::new();
        for event in events {
            let event = event.build().unwrap();
            job.apply_event(&event);
            let Some((source, Log::Lines(lines))) = job.log_of_event(&event) else {
                continue;
            };
            logged.extend(lines.into_iter().map(|line| format!("{source}: {line}")));
        }
        logged
    }

    fn definition() -> Value {
        json!({ "States": {
            "Find": { "Type": "Task", "Arguments": { "FunctionName": "staging-accounts" } },
            "Check accounts": { "Type": "Map", "ItemProcessor": { "States": {
                "Start": { "Type": "Task", "Arguments": { "FunctionName":
                    "arn:aws:lambda:eu-west-1:111111111111:function:staging-ec2-start:live" } },
                "Chosen": { "Type": "Task", "Arguments": { "FunctionName": "{% $step %}" } },
            } } },
        } })
    }

    #[test]
    fn log_lines_name_account_and_step() {
        let events = vec![
            started("acme"),
            event(2, 1, E::MapStateEntered),
            iteration(3, 2, 0),
            iteration(4, 2, 1),
            entered(5, 3, "Start", r#"{"account":"prod"}"#),
            entered(6, 4, "Start", r#"{"account":"test"}"#),
            response_event(7, 6, r#"{"status":"pending","log":["Starting i-2"]}"#),
            response_event(
                8,
                5,
                r#"{"status":"pending","log":["Starting i-1","still pending"]}"#,
            ),
            exited(9, 8, "Start"),
            entered(10, 9, "Start", "{}"),
            response_event(11, 10, r#"{"status":"done","log":["running"]}"#),
            exited(12, 11, "Start"),
            entered(13, 12, "Chosen", "{}"),
            response_event(14, 13, r#"{"status":"done","log":["chosen"]}"#),
        ];
        assert_eq!(
            logged(
                JobProgress::from_definition("staging", &definition()),
                events
            ),
            [
                "acme/test ec2-start: Starting i-2",
                "acme/prod ec2-start: Starting i-1",
                "acme/prod ec2-start: still pending",
                "acme/prod ec2-start: running",
                // Neither the definition nor the history names the function that this state calls.
                "acme/prod Chosen: chosen",
            ]
        );
    }

    #[test]
    fn the_parameters_of_a_call_override_the_definition() {
        let call = json!({
            "FunctionName": "staging-ec2-stop",
            "Payload": { "target": { "customer": "globex", "account": "main" }, "params": {} },
        });
        let events = vec![
            started("acme"),
            entered(2, 1, "Chosen", "{}"),
            scheduled(3, 2, &call),
            event(4, 3, E::TaskStarted),
            response_event(5, 4, r#"{"status":"done","log":["Stopping i-1"]}"#),
        ];
        let job = JobProgress::from_definition("staging", &definition());
        assert_eq!(logged(job, events), ["globex/main ec2-stop: Stopping i-1"]);
    }

    #[test]
    fn a_log_needs_no_other_facts() {
        let events = vec![
            entered(1, 0, "Start", "{}"),
            response_event(2, 1, r#"{"status":"done","log":["Starting i-1"]}"#),
        ];
        assert_eq!(
            logged(JobProgress::from_definition("s", &Value::Null), events),
            ["Start: Starting i-1"]
        );
    }
}
