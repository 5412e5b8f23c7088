//! The jobs of a deployed stack: listed, started, watched and stopped.

mod call;
mod finished;
mod log;
pub mod progress;
mod summary;
mod view;

use std::time::Duration;

use aws_sdk_sfn::error::SdkError;
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
use crate::package;
use crate::workspace::Workspace;
pub(crate) use finished::message_of;
pub use finished::{Finished, Outcome, read_result};
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

/// The end of the name of a job's state machine, after the stack's prefix.
fn job_slug(job: &str) -> String {
    job.replace('/', "-")
}

/// Starts a job and returns the execution's ARN.
pub async fn start_job(
    cloud: &Cloud,
    deployment: &Deployment,
    job: &str,
    input: &impl Serialize,
    name: Option<&str>,
) -> Result<String> {
    let slug = job_slug(job);
    let state_machine = format!("{}{slug}", deployment.output("StateMachinePrefix")?);
    let name = name.map_or_else(|| new_execution_name(&slug), |name| Ok(name.to_owned()))?;
    let result = cloud
        .sfn()
        .start_execution()
        .state_machine_arn(state_machine)
        .name(&name)
        .input(serde_json::to_string(input).context("cannot write the job's input as JSON")?)
        .send()
        .await;
    let error = match result {
        Ok(started) => return Ok(started.execution_arn),
        Err(error) => error,
    };
    Err(match error.as_service_error() {
        // A name that no job can have gives an invalid ARN.
        Some(
            StartExecutionError::StateMachineDoesNotExist(_) | StartExecutionError::InvalidArn(_),
        ) => {
            let names: Vec<_> = list_jobs(cloud, deployment)
                .await?
                .into_iter()
                .map(|job| job.name)
                .collect();
            unknown_job(cloud, deployment, job, &names)
        }
        Some(StartExecutionError::ExecutionAlreadyExists(_)) => existing_execution(job, &name),
        // The call may have reached Step Functions, so the execution may have started.
        None if !matches!(
            error,
            SdkError::ConstructionFailure(_) | SdkError::DispatchFailure(_)
        ) =>
        {
            cloud.error(error).with_advice(format!(
                "check whether the execution has started: `stepward job watch {name}`"
            ))
        }
        _ => cloud.error(error).into_not_started(),
    })
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

/// Step Functions responds to a repeated name only while the first execution runs with the same
/// input. Afterwards, it refuses the name, even with the same input.
/// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html>
fn existing_execution(job: &str, name: &str) -> Error {
    Error::usage_error(format!(
        "an execution \"{name}\" of job \"{job}\" already exists: it has ended, or it has another \
         input"
    ))
    .with_advice(format!(
        "`stepward job watch {name}` shows the existing execution; use another --name to start a \
         new one"
    ))
}

/// A unique name that people recognize: the job, the time in UTC and a random number.
fn new_execution_name(slug: &str) -> Result<String> {
    let now = OffsetDateTime::now_utc();
    let (hour, minute, second) = now.to_hms();
    let time = format!(
        "{}{:02}{:02}T{hour:02}{minute:02}{second:02}",
        now.year(),
        u8::from(now.month()),
        now.day()
    );
    let mut random = [0_u8; 3];
    getrandom::fill(&mut random).context("cannot read random numbers from the operating system")?;
    // Step Functions accepts 80 characters. The names of existing jobs only contain characters that
    // this filter keeps.
    // https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
    let slug: String = slug
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        .take(50)
        .collect();
    Ok(format!(
        "{slug}-{time}-{}",
        stepward::model::digest::hex(&random)
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
    for state_machine in state_machines(cloud, deployment).await? {
        let arn = format!(
            "{}:{id}",
            state_machine.replacen(":stateMachine:", ":execution:", 1)
        );
        match cloud
            .sfn()
            .describe_execution()
            .execution_arn(&arn)
            .send()
            .await
        {
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

/// Reads the definition of an execution's job; null if it cannot be read. It only gives steps their
/// names: without it, they have the names of states.
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
        let event = event.map_err(|error| cloud.error(error).into_not_started())?;
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
        .map_err(|error| cloud.error(error).into_not_started())
}

#[cfg(test)]
mod tests {
    use aws_sdk_sfn::primitives::DateTime;
    use aws_sdk_sfn::types::HistoryEventType;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_execution_name_is_unique_and_fits_step_functions() {
        let name = new_execution_name(&"x".repeat(70)).unwrap();
        assert!(name.len() <= 80, "{name}");
        assert_ne!(
            new_execution_name("a").unwrap(),
            new_execution_name("a").unwrap()
        );
    }

    #[test]
    fn a_reused_name_is_reported_as_an_existing_execution() {
        let error = existing_execution("fleet/morning-check", "nightly");
        assert_eq!(
            error.to_string(),
            "an execution \"nightly\" of job \"fleet/morning-check\" already exists: it has ended, \
             or it has another input\nNext: `stepward job watch nightly` shows the existing \
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

    proptest! {
        #[test]
        fn any_job_gives_a_valid_execution_name(job in "(?s:.{0,90})") {
            let name = new_execution_name(&job_slug(&job)).unwrap();
            prop_assert!(name.len() <= 80, "{name}");
            let is_valid = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            prop_assert!(name.chars().all(is_valid), "{name}");
        }

        #[test]
        fn any_text_has_an_execution_name(id in "(?s:.{0,40})") {
            prop_assert!(id.ends_with(execution_name(&id)));
        }
    }
}
