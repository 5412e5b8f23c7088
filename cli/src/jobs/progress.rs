//! What an execution has come to, from its history: for every account the steps, how long each took, what it says.
//!
//! Each event names the one before it on its own branch, so that the branches of a Map can be told apart.

use std::collections::HashMap;

use aws_sdk_sfn::types::{HistoryEvent, HistoryEventType as E, MapIterationEventDetails};
use serde_json::Value;
use time::OffsetDateTime;

use super::finished::message_of;

/// An execution as far as it has come.
#[derive(Debug)]
pub struct JobProgress {
    /// First the job itself, then the items of its Maps in order of their start.
    pub rows: Vec<Row>,
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
        let job = Row { label: String::new(), steps: Vec::new(), parent: 0 };
        Self { rows: vec![job], places: HashMap::new(), last: 0, ended: false }
    }
}

impl JobProgress {
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
        let mut place = self.places.get(&event.previous_event_id()).copied().unwrap_or_default();
        let now = OffsetDateTime::from_unix_timestamp_nanos(event.timestamp().as_nanos()).ok()?;
        let mut changed = None;
        match event.r#type() {
            E::MapIterationStarted => {
                let index = event.map_iteration_started_event_details().map_or(0, MapIterationEventDetails::index);
                let label = format!("#{}", index + 1);
                self.rows.push(Row { label, steps: Vec::new(), parent: place.row });
                place = Place { row: self.rows.len() - 1, step: None };
            }
            E::MapIterationSucceeded | E::MapIterationFailed | E::MapIterationAborted => {
                place = Place { row: self.rows[place.row].parent, step: None };
            }
            E::TaskStateEntered => {
                let about = event.state_entered_event_details()?;
                self.name_row(place.row, about.input());
                place.step = Some(self.enter(place.row, about.name(), now));
                changed = place.step;
            }
            // Whichever state comes first has the item as its input.
            E::PassStateEntered => {
                self.name_row(place.row, event.state_entered_event_details().and_then(|about| about.input()));
            }
            E::TaskSucceeded => {
                let output = event.task_succeeded_event_details().and_then(|about| about.output());
                changed = self.answered(place, output);
            }
            E::TaskFailed => {
                let about = event.task_failed_event_details();
                changed = self.failed(place, about.and_then(|a| a.error()), about.and_then(|a| a.cause()), now);
            }
            E::TaskTimedOut => {
                let about = event.task_timed_out_event_details();
                changed = self.failed(place, about.and_then(|a| a.error()), about.and_then(|a| a.cause()), now);
            }
            E::TaskStateExited => changed = self.exit(place, now),
            E::ExecutionSucceeded | E::ExecutionFailed | E::ExecutionAborted | E::ExecutionTimedOut => {
                self.ended = true;
            }
            _ => {}
        }
        self.places.insert(event.id(), place);
        let row = &self.rows[place.row];
        changed.map(|step| Change { label: row.label.clone(), step: row.steps[step].clone() })
    }

    /// A row is called after the account that its first input names.
    fn name_row(&mut self, row: usize, input: Option<&str>) {
        if row == 0 || !self.rows[row].label.starts_with('#') {
            return;
        }
        let input: Value = input.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let account = [&input["account"], &input["target"]["account"], &input["item"]["account"]];
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
        steps.push(StepRun { name: name.into(), state: State::Running, began: now, ended: None, says: None });
        steps.len() - 1
    }

    fn answered(&mut self, place: Place, output: Option<&str>) -> Option<usize> {
        let step = self.rows[place.row].steps.get_mut(place.step?)?;
        let answer: Value = output.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
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

    fn failed(&mut self, place: Place, error: Option<&str>, cause: Option<&str>, now: OffsetDateTime) -> Option<usize> {
        let step = self.rows[place.row].steps.get_mut(place.step?)?;
        let cause = cause.map(|cause| message_of(cause).unwrap_or_else(|| cause.to_owned())).unwrap_or_default();
        step.state = State::Failed;
        step.ended = Some(now);
        step.says = Some(format!("{}: {cause}", error.unwrap_or("failed")).trim_end_matches([':', ' ']).to_owned());
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
        StateEnteredEventDetails, StateExitedEventDetails, TaskFailedEventDetails, TaskSucceededEventDetails,
    };

    use super::*;

    fn event(id: i64, previous: i64, kind: E) -> HistoryEventBuilder {
        HistoryEvent::builder()
            .id(id)
            .previous_event_id(previous)
            .r#type(kind)
            .timestamp(DateTime::from_secs(1000 + id))
    }

    fn iteration(id: i64, previous: i64, index: i32) -> HistoryEventBuilder {
        let about = MapIterationEventDetails::builder().name("Check accounts").index(index).build();
        event(id, previous, E::MapIterationStarted).map_iteration_started_event_details(about)
    }

    fn entered(id: i64, previous: i64, name: &str, input: &str) -> HistoryEventBuilder {
        let about = StateEnteredEventDetails::builder().name(name).input(input).build().unwrap();
        event(id, previous, E::TaskStateEntered).state_entered_event_details(about)
    }

    fn answered(id: i64, previous: i64, payload: &str) -> HistoryEventBuilder {
        let about = TaskSucceededEventDetails::builder().resource_type("lambda").resource("invoke");
        let about = about.output(format!(r#"{{"Payload":{payload}}}"#)).build().unwrap();
        event(id, previous, E::TaskSucceeded).task_succeeded_event_details(about)
    }

    fn exited(id: i64, previous: i64, name: &str) -> HistoryEventBuilder {
        let about = StateExitedEventDetails::builder().name(name).build().unwrap();
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
        let said: Vec<_> = job.rows[1..].iter().map(|r| (r.label.as_str(), r.steps[0].state)).collect();
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
        let about = TaskFailedEventDetails::builder().resource_type("lambda").resource("invoke").error("TrustBroken");
        let about = about.cause(r#"{"errorType":"TrustBroken","errorMessage":"the role is open"}"#).build().unwrap();
        let job = job(vec![
            entered(1, 0, "Validate", "{}"),
            event(2, 1, E::TaskFailed).task_failed_event_details(about),
            exited(3, 2, "Validate"),
            event(4, 3, E::ExecutionFailed),
        ]);
        let step = &job.rows[0].steps[0];
        assert_eq!((step.state, step.says.as_deref()), (State::Failed, Some("TrustBroken: the role is open")));
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
}
