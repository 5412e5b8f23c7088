//! What an execution has come to, from its history: for every account the steps, how long each
//! took, what it says.
//!
//! Each event names the one before it on its own branch, so that the branches of a Map can be told
//! apart.

use std::collections::HashMap;

use aws_sdk_sfn::types::{
    HistoryEvent, HistoryEventType as E, MapIterationEventDetails, TaskScheduledEventDetails,
};
use serde_json::Value;
use time::OffsetDateTime;

use super::call::{Call, Functions};
use super::finished::message_of;
use super::log::Log;

/// An execution as far as it has come.
#[derive(Debug)]
pub struct JobProgress {
    /// First the job itself, then the items of its Maps in order of their start.
    pub rows: Vec<Row>,
    /// Whose accounts, as the execution's input names it.
    customer: String,
    functions: Functions,
    places: HashMap<i64, Place>,
    last: i64,
    ended: bool,
}

/// One item of a Map, which is an account; or the job itself.
#[derive(Debug)]
pub struct Row {
    /// The account's name; empty for the job itself.
    pub label: String,
    /// The steps, in order of their start.
    pub steps: Vec<StepRun>,
    /// The row whose Map this is an item of.
    parent: usize,
}

/// One step of one account.
#[derive(Clone, Debug)]
pub struct StepRun {
    /// The state's name.
    pub name: String,
    /// How it is.
    pub state: State,
    /// When it began.
    pub began: OffsetDateTime,
    /// When it ended, if it has.
    pub ended: Option<OffsetDateTime>,
    /// What it last said: the progress of a pending answer, or an error.
    pub says: Option<String>,
    /// What it calls, and for which account, where the history or the definition tells.
    pub(super) call: Call,
}

impl StepRun {
    /// One that begins now.
    pub(super) fn new(name: &str, now: OffsetDateTime) -> Self {
        let call = Call::default();
        Self {
            name: name.to_owned(),
            state: State::Running,
            began: now,
            ended: None,
            says: None,
            call,
        }
    }
}

/// How a step is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It is being called.
    Running,
    /// It answered `pending` and is called again later.
    Pending,
    /// It is done.
    Done,
    /// It failed.
    Failed,
}

/// What an event changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// The account's name; empty for the job itself.
    pub label: String,
    /// The step.
    pub step: StepRun,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
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
            places: HashMap::new(),
            last: 0,
            ended: false,
        }
    }
}

impl JobProgress {
    /// An execution of a stack's job, by the job's definition: null where that is not known.
    pub(super) fn of_job(stack: &str, definition: &Value) -> Self {
        Self {
            functions: Functions::of_job(stack, definition),
            ..Self::default()
        }
    }

    /// The ID of the last event taken in; 0 before the first.
    #[must_use]
    pub fn last_event(&self) -> i64 {
        self.last
    }

    /// Whether the execution has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes an event in.
    pub fn apply(&mut self, event: &HistoryEvent) -> Option<Change> {
        self.last = self.last.max(event.id());
        let mut place = self
            .places
            .get(&event.previous_event_id())
            .copied()
            .unwrap_or_default();
        let now = OffsetDateTime::from_unix_timestamp_nanos(event.timestamp().as_nanos()).ok()?;
        let mut changed = None;
        match event.r#type() {
            E::ExecutionStarted => {
                let input = event
                    .execution_started_event_details()
                    .and_then(|about| about.input());
                let input: Value = input
                    .and_then(|text| serde_json::from_str(text).ok())
                    .unwrap_or_default();
                input["customer"]
                    .as_str()
                    .unwrap_or_default()
                    .clone_into(&mut self.customer);
            }
            E::MapIterationStarted => {
                let index = event
                    .map_iteration_started_event_details()
                    .map_or(0, MapIterationEventDetails::index);
                let label = format!("#{}", index + 1);
                self.rows.push(Row {
                    label,
                    steps: Vec::new(),
                    parent: place.row,
                });
                place = Place {
                    row: self.rows.len() - 1,
                    step: None,
                };
            }
            E::MapIterationSucceeded | E::MapIterationFailed | E::MapIterationAborted => {
                place = Place {
                    row: self.rows[place.row].parent,
                    step: None,
                };
            }
            E::TaskStateEntered => {
                let about = event.state_entered_event_details()?;
                self.name_row(place.row, about.input());
                place.step = Some(self.enter(place.row, about.name(), now));
                changed = place.step;
            }
            // Whichever state comes first has the item as its input.
            E::PassStateEntered => {
                self.name_row(
                    place.row,
                    event
                        .state_entered_event_details()
                        .and_then(|about| about.input()),
                );
            }
            E::TaskScheduled => {
                // A task's own parameters are more exact than the definition and the names of rows.
                let parameters = event
                    .task_scheduled_event_details()
                    .map_or("", TaskScheduledEventDetails::parameters);
                if let Some(step) = place
                    .step
                    .and_then(|step| self.rows[place.row].steps.get_mut(step))
                {
                    step.call = self.functions.call_with(parameters, &step.call);
                }
            }
            E::TaskSucceeded => {
                let output = event
                    .task_succeeded_event_details()
                    .and_then(|about| about.output());
                changed = self.answered(place, output);
            }
            E::TaskFailed => {
                let about = event.task_failed_event_details();
                changed = self.failed(
                    place,
                    about.and_then(|a| a.error()),
                    about.and_then(|a| a.cause()),
                    now,
                );
            }
            E::TaskTimedOut => {
                let about = event.task_timed_out_event_details();
                changed = self.failed(
                    place,
                    about.and_then(|a| a.error()),
                    about.and_then(|a| a.cause()),
                    now,
                );
            }
            E::TaskStateExited => changed = self.exit(place, now),
            E::ExecutionSucceeded
            | E::ExecutionFailed
            | E::ExecutionAborted
            | E::ExecutionTimedOut => {
                self.ended = true;
            }
            _ => {}
        }
        self.places.insert(event.id(), place);
        let row = &self.rows[place.row];
        changed.map(|step| Change {
            label: row.label.clone(),
            step: row.steps[step].clone(),
        })
    }

    /// The log in the answer that an event brings, and whose it is, as in `acme/prod ec2-start`.
    /// The event has been applied.
    pub(super) fn log(&self, event: &HistoryEvent) -> Option<(String, Log)> {
        let output: Value =
            serde_json::from_str(event.task_succeeded_event_details()?.output()?).ok()?;
        let log = Log::in_answer(&output["Payload"])?;
        let place = self.places.get(&event.id())?;
        let row = self.rows.get(place.row)?;
        let StepRun { name, call, .. } = row.steps.get(place.step?)?;
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

    /// A row is called after the account that its first input names.
    fn name_row(&mut self, row: usize, input: Option<&str>) {
        if row == 0 || !self.rows[row].label.starts_with('#') {
            return;
        }
        let input: Value = input
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let account = [
            &input["account"],
            &input["target"]["account"],
            &input["item"]["account"],
        ];
        if let Some(name) = account.into_iter().find_map(Value::as_str) {
            name.clone_into(&mut self.rows[row].label);
        }
    }

    /// A step that polls is entered again and again: it is still the same step.
    fn enter(&mut self, row: usize, name: &str, now: OffsetDateTime) -> usize {
        let steps = &mut self.rows[row].steps;
        if let Some(known) = steps.iter().position(|step| step.name == name) {
            steps[known].ended = None;
            if steps[known].state != State::Pending {
                steps[known].state = State::Running;
            }
            return known;
        }
        steps.push(StepRun {
            call: self.functions.call_of(name),
            ..StepRun::new(name, now)
        });
        steps.len() - 1
    }

    fn answered(&mut self, place: Place, output: Option<&str>) -> Option<usize> {
        let step = self.rows[place.row].steps.get_mut(place.step?)?;
        let answer: Value = output
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let answer = &answer["Payload"];
        if answer["status"] == "pending" {
            step.state = State::Pending;
            step.says = answer["progress"].as_str().map(str::to_owned);
            return place.step;
        }
        step.state = State::Running;
        step.says = None;
        None
    }

    fn failed(
        &mut self,
        place: Place,
        error: Option<&str>,
        cause: Option<&str>,
        now: OffsetDateTime,
    ) -> Option<usize> {
        let step = self.rows[place.row].steps.get_mut(place.step?)?;
        let cause = cause
            .map(|cause| message_of(cause).unwrap_or_else(|| cause.to_owned()))
            .unwrap_or_default();
        step.state = State::Failed;
        step.ended = Some(now);
        step.says = Some(
            format!("{}: {cause}", error.unwrap_or("failed"))
                .trim_end_matches([':', ' '])
                .to_owned(),
        );
        place.step
    }

    fn exit(&mut self, place: Place, now: OffsetDateTime) -> Option<usize> {
        let step = self.rows[place.row].steps.get_mut(place.step?)?;
        if step.state != State::Running {
            return None;
        }
        step.state = State::Done;
        step.ended = Some(now);
        place.step
    }
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
        let about = MapIterationEventDetails::builder()
            .name("Check accounts")
            .index(index)
            .build();
        event(id, previous, E::MapIterationStarted).map_iteration_started_event_details(about)
    }

    fn entered(id: i64, previous: i64, name: &str, input: &str) -> HistoryEventBuilder {
        let about = StateEnteredEventDetails::builder()
            .name(name)
            .input(input)
            .build()
            .unwrap();
        event(id, previous, E::TaskStateEntered).state_entered_event_details(about)
    }

    fn answered(id: i64, previous: i64, payload: &str) -> HistoryEventBuilder {
        let about = TaskSucceededEventDetails::builder()
            .resource_type("lambda")
            .resource("invoke");
        let about = about
            .output(format!(r#"{{"Payload":{payload}}}"#))
            .build()
            .unwrap();
        event(id, previous, E::TaskSucceeded).task_succeeded_event_details(about)
    }

    fn exited(id: i64, previous: i64, name: &str) -> HistoryEventBuilder {
        let about = StateExitedEventDetails::builder()
            .name(name)
            .build()
            .unwrap();
        event(id, previous, E::TaskStateExited).state_exited_event_details(about)
    }

    fn job(events: Vec<HistoryEventBuilder>) -> JobProgress {
        let mut job = JobProgress::default();
        for event in events {
            job.apply(&event.build().unwrap());
        }
        job
    }

    #[test]
    fn interleaved_accounts_are_told_apart_by_the_event_before() {
        let job = job(vec![
            event(1, 0, E::MapStateEntered),
            iteration(2, 1, 0),
            iteration(3, 1, 1),
            entered(4, 2, "Validate", r#"{"account":"prod"}"#),
            entered(5, 3, "Validate", r#"{"account":"test"}"#),
            answered(6, 5, r#"{"status":"done"}"#),
            exited(7, 6, "Validate"),
            answered(8, 4, r#"{"status":"pending","progress":"1 of 2 running"}"#),
        ]);
        let said: Vec<_> = job.rows[1..]
            .iter()
            .map(|r| (r.label.as_str(), r.steps[0].state))
            .collect();
        assert_eq!(said, [("prod", State::Pending), ("test", State::Done)]);
        assert_eq!(job.rows[1].steps[0].says.as_deref(), Some("1 of 2 running"));
    }

    #[test]
    fn a_step_that_is_called_again_is_one_step_that_began_once() {
        let job = job(vec![
            entered(1, 0, "Start", "{}"),
            answered(2, 1, r#"{"status":"pending","progress":"waiting"}"#),
            exited(3, 2, "Start"),
            entered(4, 3, "Start", "{}"),
            answered(5, 4, r#"{"status":"done"}"#),
            exited(6, 5, "Start"),
        ]);
        let step = &job.rows[0].steps[0];
        assert_eq!((job.rows[0].steps.len(), step.state), (1, State::Done));
        assert_eq!(step.ended.unwrap() - step.began, time::Duration::seconds(5));
    }

    #[test]
    fn a_failure_shows_its_name_and_what_the_function_said() {
        let about = TaskFailedEventDetails::builder()
            .resource_type("lambda")
            .resource("invoke")
            .error("TrustBroken");
        let about = about
            .cause(r#"{"errorType":"TrustBroken","errorMessage":"the role is open"}"#)
            .build()
            .unwrap();
        let job = job(vec![
            entered(1, 0, "Validate", "{}"),
            event(2, 1, E::TaskFailed).task_failed_event_details(about),
            exited(3, 2, "Validate"),
            event(4, 3, E::ExecutionFailed),
        ]);
        let step = &job.rows[0].steps[0];
        assert_eq!(
            (step.state, step.says.as_deref()),
            (State::Failed, Some("TrustBroken: the role is open"))
        );
        assert!(job.has_ended());
        assert_eq!(job.last_event(), 4);
    }

    #[test]
    fn what_follows_a_map_belongs_to_the_job_again() {
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
        let about = ExecutionStartedEventDetails::builder().input(input).build();
        event(1, 0, E::ExecutionStarted).execution_started_event_details(about)
    }

    fn scheduled(id: i64, previous: i64, parameters: &Value) -> HistoryEventBuilder {
        let about = TaskScheduledEventDetails::builder()
            .resource_type("lambda")
            .resource("invoke")
            .region("eu-west-1");
        let about = about.parameters(parameters.to_string()).build().unwrap();
        event(id, previous, E::TaskScheduled).task_scheduled_event_details(about)
    }

    /// What is said, line by line, with whose it is.
    fn said(mut job: JobProgress, events: Vec<HistoryEventBuilder>) -> Vec<String> {
        let mut said = Vec::new();
        for event in events {
            let event = event.build().unwrap();
            job.apply(&event);
            let Some((whose, Log::Lines(lines))) = job.log(&event) else {
                continue;
            };
            said.extend(lines.into_iter().map(|line| format!("{whose}: {line}")));
        }
        said
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
    fn log_lines_are_told_by_account_and_step() {
        let events = vec![
            started("acme"),
            event(2, 1, E::MapStateEntered),
            iteration(3, 2, 0),
            iteration(4, 2, 1),
            entered(5, 3, "Start", r#"{"account":"prod"}"#),
            entered(6, 4, "Start", r#"{"account":"test"}"#),
            answered(7, 6, r#"{"status":"pending","log":["Starting i-2"]}"#),
            answered(
                8,
                5,
                r#"{"status":"pending","log":["Starting i-1","still pending"]}"#,
            ),
            exited(9, 8, "Start"),
            entered(10, 9, "Start", "{}"),
            answered(11, 10, r#"{"status":"done","log":["running"]}"#),
            exited(12, 11, "Start"),
            entered(13, 12, "Chosen", "{}"),
            answered(14, 13, r#"{"status":"done","log":["chosen"]}"#),
        ];
        assert_eq!(
            said(JobProgress::of_job("staging", &definition()), events),
            [
                "acme/test ec2-start: Starting i-2",
                "acme/prod ec2-start: Starting i-1",
                "acme/prod ec2-start: still pending",
                "acme/prod ec2-start: running",
                // The definition does not tell which function this state calls, and the history has
                // no parameters.
                "acme/prod Chosen: chosen",
            ]
        );
    }

    #[test]
    fn the_parameters_of_a_call_tell_more_than_the_definition() {
        let call = json!({
            "FunctionName": "staging-ec2-stop",
            "Payload": { "target": { "customer": "globex", "account": "main" }, "params": {} },
        });
        let events = vec![
            started("acme"),
            entered(2, 1, "Chosen", "{}"),
            scheduled(3, 2, &call),
            event(4, 3, E::TaskStarted),
            answered(5, 4, r#"{"status":"done","log":["Stopping i-1"]}"#),
        ];
        let job = JobProgress::of_job("staging", &definition());
        assert_eq!(said(job, events), ["globex/main ec2-stop: Stopping i-1"]);
    }

    #[test]
    fn a_log_is_told_although_nothing_else_is_known() {
        let events = vec![
            entered(1, 0, "Start", "{}"),
            answered(2, 1, r#"{"status":"done","log":["Starting i-1"]}"#),
        ];
        assert_eq!(
            said(JobProgress::of_job("s", &Value::Null), events),
            ["Start: Starting i-1"]
        );
    }
}
