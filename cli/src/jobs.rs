//! The jobs of a deployed stack: listed, started, watched and stopped.

mod call;
mod finished;
mod log;
mod names;
mod options;
pub mod progress;
mod summary;
mod view;

use std::time::Duration;

use aws_sdk_sfn::operation::describe_execution::DescribeExecutionError;
use aws_sdk_sfn::operation::start_execution::StartExecutionError;
use aws_sdk_sfn::types::HistoryEvent;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::{Context, Error, Result};
use crate::output::print_error;
use crate::package;
use crate::workspace::Workspace;
pub(crate) use finished::message_of;
pub use finished::{Finished, Outcome, read_result};
pub(crate) use names::new_execution_name;
use names::{check_execution_name, check_input_names, job_slug};
pub(crate) use options::check_options;
use progress::JobProgress;
pub use summary::summary_text;
pub use view::View;

/// How long an execution is watched. Jobs have limits of their own; this one is for a job without a
/// limit.
pub(crate) const WATCH_LIMIT: Duration = Duration::from_hours(72);

/// A job of the stack.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Job {
    /// The name that operators use: `fleet/morning-check`, or `fleet-morning-check` outside a
    /// checkout.
    pub name: String,
    /// The ARN of its state machine.
    pub state_machine_arn: String,
}

/// The jobs of the stack, sorted by name.
pub async fn list_jobs(cloud: &Cloud, deployment: &Deployment) -> Result<Vec<Job>> {
    // Outside a checkout, only the names of the state machines are known.
    let sources = Workspace::find()
        .and_then(|workspace| package::jobs(&workspace))
        .unwrap_or_default();
    let prefix = deployment.output("StateMachinePrefix")?;
    let job = |arn: String| {
        let slug = arn.strip_prefix(prefix).unwrap_or(&arn);
        let source = sources.iter().find(|source| job_slug(&source.name) == slug);
        let name = source.map_or(slug, |source| &source.name).to_owned();
        Job {
            name,
            state_machine_arn: arn,
        }
    };
    let mut jobs: Vec<_> = state_machines(cloud, deployment)
        .await?
        .into_iter()
        .map(job)
        .collect();
    jobs.sort();
    Ok(jobs)
}

/// The ARNs of the stack's state machines.
async fn state_machines(cloud: &Cloud, deployment: &Deployment) -> Result<Vec<String>> {
    let client = cloud.cloudformation();
    let mut pages = client
        .list_stack_resources()
        .stack_name(&deployment.stack)
        .into_paginator()
        .items()
        .send();
    let mut arns = Vec::new();
    while let Some(resource) = pages.next().await {
        let resource = resource.map_err(|error| cloud.error(error))?;
        if resource.resource_type() == Some("AWS::StepFunctions::StateMachine") {
            arns.extend(resource.physical_resource_id);
        }
    }
    Ok(arns)
}

/// Starts a job and returns the execution's ARN. If an execution of this name and input already
/// exists, running or ended, it is the result.
pub async fn start_job(
    cloud: &Cloud,
    deployment: &Deployment,
    job: &str,
    input: &impl Serialize,
    name: Option<&str>,
) -> Result<String> {
    let input = serde_json::to_value(input).context("cannot write the job's input as JSON")?;
    check_input_names(&input)?;
    let name = match name {
        Some(name) => {
            check_execution_name(name)?;
            name.to_owned()
        }
        None => new_execution_name(job)?,
    };
    let state_machine = state_machine_arn(deployment, job)?;
    let started = cloud
        .sfn()
        .start_execution()
        .state_machine_arn(&state_machine)
        .name(&name)
        .input(input.to_string())
        .send()
        .await;
    let error = match started {
        Ok(started) => return Ok(started.execution_arn),
        Err(error) => error,
    };
    match error.as_service_error() {
        // A name that no job can have gives an invalid ARN.
        Some(
            StartExecutionError::StateMachineDoesNotExist(_) | StartExecutionError::InvalidArn(_),
        ) => {
            let jobs = list_jobs(cloud, deployment).await;
            let names: Vec<_> = jobs
                .map_err(Error::into_not_started)?
                .into_iter()
                .map(|job| job.name)
                .collect();
            Err(unknown_job(cloud, deployment, job, &names))
        }
        Some(StartExecutionError::ExecutionAlreadyExists(_)) => {
            let execution = execution_arn(&state_machine, &name);
            if has_input(cloud, &execution, &input).await {
                print_error(&format!(
                    "An execution \"{name}\" with this input already exists; no second one was \
                     started."
                ));
                return Ok(execution);
            }
            Err(existing_execution(job, &name))
        }
        Some(_) => Err(cloud.error(error)),
        // Without a response, it is not known whether the call reached Step Functions.
        None => Err(cloud.error(error).into_started().with_advice(format!(
            "check whether the execution has started: `stepward job watch {name}`"
        ))),
    }
}

/// The ARN of a job's state machine.
fn state_machine_arn(deployment: &Deployment, job: &str) -> Result<String> {
    let prefix = deployment.output("StateMachinePrefix")?;
    Ok(format!("{prefix}{}", job_slug(job)))
}

/// The ARN of an execution, from the ARN of its state machine.
fn execution_arn(state_machine: &str, name: &str) -> String {
    let prefix = state_machine.replacen(":stateMachine:", ":execution:", 1);
    format!("{prefix}:{name}")
}

/// Whether an execution has this input. It does not matter who started it: the same person has
/// another ARN in another session.
async fn has_input(cloud: &Cloud, execution: &str, input: &Value) -> bool {
    let described = cloud.describe_execution(execution).await;
    let existing = described.ok().and_then(|described| described.input);
    let existing = existing.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    existing.is_some_and(|existing| without_starter(existing) == without_starter(input.clone()))
}

/// The input of a job without the person who started it.
fn without_starter(mut input: Value) -> Value {
    if let Some(members) = input.as_object_mut() {
        members.remove("started_by");
    }
    input
}

fn unknown_job(cloud: &Cloud, deployment: &Deployment, job: &str, names: &[String]) -> Error {
    Error::usage_error(format!(
        "stack \"{}\" on {} has no job \"{job}\"",
        deployment.stack,
        cloud.name()
    ))
    .with_advice(format!(
        "choose one of {}; `stepward job list` shows them",
        names.join(", ")
    ))
}

/// Step Functions refuses the name of an execution that has ended, and of one with another input.
/// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html>
fn existing_execution(job: &str, name: &str) -> Error {
    Error::usage_error(format!(
        "an execution \"{name}\" of job \"{job}\" already exists with another input"
    ))
    .with_advice(format!(
        "`stepward job watch {name}` shows the existing execution; use another --name to start a \
         new one"
    ))
}

/// The name of an execution, from its ARN.
#[must_use]
pub fn execution_name(execution: &str) -> &str {
    execution.rsplit(':').next().unwrap_or(execution)
}

/// Finds an execution by its ARN or by its name.
pub async fn find_execution(cloud: &Cloud, deployment: &Deployment, id: &str) -> Result<String> {
    if id.starts_with("arn:") {
        return Ok(id.to_owned());
    }
    let mut matching = Vec::new();
    let state_machines = state_machines(cloud, deployment).await;
    for state_machine in state_machines.map_err(Error::into_not_started)? {
        let arn = execution_arn(&state_machine, id);
        match cloud.describe_execution(&arn).await {
            Ok(_) => matching.push(arn),
            Err(error) if is_missing(error.as_service_error()) => {}
            Err(error) => return Err(cloud.error(error).into_not_started()),
        }
    }
    match matching.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::usage_error(format!(
            "no job of stack \"{}\" on {} has an execution \"{id}\"",
            deployment.stack,
            cloud.name()
        ))
        .with_advice("use the execution's name, which `stepward job run` prints, or its ARN")),
        _ => Err(
            Error::usage_error(format!("several jobs have an execution \"{id}\""))
                .with_advice(format!("use the ARN, one of {}", matching.join(", "))),
        ),
    }
}

fn is_missing(error: Option<&DescribeExecutionError>) -> bool {
    matches!(
        error,
        Some(
            DescribeExecutionError::ExecutionDoesNotExist(_)
                | DescribeExecutionError::InvalidArn(_)
        )
    )
}

/// Watches an execution to its end and shows its progress. Dropping the future stops watching; the
/// job continues.
pub async fn watch_execution(
    cloud: &Cloud,
    deployment: &Deployment,
    execution: &str,
    view: &View,
) -> Result<Finished> {
    let end = Instant::now() + WATCH_LIMIT;
    let mut job = if view.is_hidden() {
        JobProgress::default()
    } else {
        JobProgress::from_definition(&deployment.stack, &read_definition(cloud, execution).await)
    };
    while !job.has_ended() {
        for event in events_after(cloud, execution, job.last_event()).await? {
            let change = job.apply_event(&event);
            if let Some((source, log)) = job.log_of_event(&event).filter(|_| !view.is_hidden()) {
                let lines = log
                    .read_lines(cloud, deployment, execution_name(execution))
                    .await;
                view.print_log(&source, &lines);
            }
            if let Some(change) = change {
                view.print_change(&change);
            }
        }
        view.update_rows(&job, OffsetDateTime::now_utc());
        if Instant::now() >= end {
            return Err(still_running(execution));
        }
        if !job.has_ended() {
            sleep(cloud.poll_interval()).await;
        }
    }
    view.stop_spinners();
    read_result(cloud, execution).await
}

/// The error of an execution that did not end within the limit.
pub(crate) fn still_running(execution: &str) -> Error {
    let name = execution_name(execution);
    Error::new(format!(
        "execution \"{name}\" still runs after {} h",
        WATCH_LIMIT.as_secs() / 3600
    ))
    .with_advice(format!("stop it with `stepward job stop {name}`"))
}

/// Reads the definition of an execution's job; null if it cannot be read. It only provides the names
/// of steps: without it, the names of states are shown.
async fn read_definition(cloud: &Cloud, execution: &str) -> Value {
    let described = cloud
        .sfn()
        .describe_state_machine_for_execution()
        .execution_arn(execution)
        .send()
        .await;
    described
        .ok()
        .and_then(|described| serde_json::from_str(described.definition()).ok())
        .unwrap_or_default()
}

/// The events after `last_known`, oldest first. Step Functions returns the newest first, so that a
/// poll does not read a long history again.
pub(crate) async fn events_after(
    cloud: &Cloud,
    execution: &str,
    last_known: i64,
) -> Result<Vec<HistoryEvent>> {
    let client = cloud.sfn();
    let history = client
        .get_execution_history()
        .execution_arn(execution)
        .reverse_order(true)
        .max_results(200);
    let mut events = history.into_paginator().items().send();
    let mut new = Vec::new();
    while let Some(event) = events.next().await {
        let event = event.map_err(|error| cloud.error(error))?;
        if event.id() <= last_known {
            break;
        }
        new.push(event);
    }
    Ok(sort_events(new))
}

/// Events in their order, each once. Pages can overlap if an event is added between two calls.
fn sort_events(mut events: Vec<HistoryEvent>) -> Vec<HistoryEvent> {
    events.sort_by_key(HistoryEvent::id);
    events.dedup_by_key(|event| event.id());
    events
}

/// Starts a job and waits for its end without showing anything, for programs.
pub async fn run(
    cloud: &Cloud,
    deployment: &Deployment,
    job: &str,
    input: &impl Serialize,
) -> Result<Finished> {
    let execution = start_job(cloud, deployment, job, input, None).await?;
    watch_execution(cloud, deployment, &execution, &View::hidden())
        .await
        .map_err(Error::into_started)
}

/// Stops an execution. The `cancel` function then stops the actions that its steps have started.
pub async fn stop_execution(cloud: &Cloud, execution: &str, cause: Option<&str>) -> Result<()> {
    let cause = cause.map_or_else(|| format!("stopped by {}", cloud.caller), str::to_owned);
    let stop = cloud
        .sfn()
        .stop_execution()
        .execution_arn(execution)
        .error("Stopped")
        .cause(cause);
    stop.send()
        .await
        .map(|_| ())
        .map_err(|error| cloud.error(error))
}

#[cfg(test)]
mod tests {
    use aws_sdk_sfn::primitives::DateTime;
    use aws_sdk_sfn::types::HistoryEventType;

    use super::*;

    #[test]
    fn a_reused_name_is_reported_as_an_existing_execution() {
        let error = existing_execution("fleet/morning-check", "nightly");
        assert_eq!(
            error.to_string(),
            "an execution \"nightly\" of job \"fleet/morning-check\" already exists with \
             another input\nNext: `stepward job watch nightly` shows the existing \
             execution; use another --name to start a new one"
        );
        assert_eq!(error.code(), crate::error::NOT_STARTED);
    }

    #[test]
    fn overlapping_pages_give_each_event_once_in_order() {
        let event = |id| {
            HistoryEvent::builder()
                .id(id)
                .r#type(HistoryEventType::TaskSucceeded)
        };
        let event = |id| {
            event(id)
                .timestamp(DateTime::from_secs(id))
                .build()
                .unwrap()
        };
        let ids: Vec<_> = sort_events([9, 8, 7, 8, 7, 6].map(event).into())
            .iter()
            .map(HistoryEvent::id)
            .collect();
        assert_eq!(ids, [6, 7, 8, 9]);
    }
}
