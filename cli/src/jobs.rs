//! Jobs of a deployed stack: list, start, watch, stop.

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
pub use finished::{Finished, Outcome, result};
use progress::JobProgress;
pub use summary::summary;
pub use view::View;

/// A job limits itself; this is for one that was made without a limit.
pub(crate) const WATCH: Duration = Duration::from_hours(72);

/// A job of the stack.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Job {
    /// As operators call it: `fleet/morning-check`, or `fleet-morning-check` where the source is
    /// not at hand.
    pub name: String,
    /// Its state machine.
    pub state_machine_arn: String,
}

/// The jobs of the stack, by name.
pub async fn list(cloud: &Cloud, deployment: &Deployment) -> Result<Vec<Job>> {
    // Outside a checkout the names of the sources are not at hand; those of the state machines will
    // do.
    let sources = Workspace::find()
        .and_then(|workspace| package::jobs(&workspace))
        .unwrap_or_default();
    let prefix = deployment.output("StateMachinePrefix")?;
    let job = |arn: String| {
        let slug = arn.strip_prefix(prefix).unwrap_or(&arn);
        let source = sources.iter().find(|source| slug_of(&source.name) == slug);
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

/// What the name of a job's state machine ends with.
fn slug_of(job: &str) -> String {
    job.replace('/', "-")
}

/// Starts a job; the execution's ARN.
pub async fn start(
    cloud: &Cloud,
    deployment: &Deployment,
    job: &str,
    input: &impl Serialize,
    name: Option<&str>,
) -> Result<String> {
    let slug = slug_of(job);
    let state_machine = format!("{}{slug}", deployment.output("StateMachinePrefix")?);
    let name = name.map_or_else(|| new_name(&slug), |name| Ok(name.to_owned()))?;
    let sent = cloud
        .sfn()
        .start_execution()
        .state_machine_arn(state_machine)
        .name(&name)
        .input(serde_json::to_string(input).doing("the job's input")?)
        .send()
        .await;
    match sent {
        Ok(started) => Ok(started.execution_arn),
        Err(error) => Err(match error.as_service_error() {
            // No ARN can be made of a name that no job could have.
            Some(
                StartExecutionError::StateMachineDoesNotExist(_)
                | StartExecutionError::InvalidArn(_),
            ) => {
                let known: Vec<_> = list(cloud, deployment)
                    .await?
                    .into_iter()
                    .map(|job| job.name)
                    .collect();
                Error::not_asked(format!(
                    "stack {} on {} has no job {job}",
                    deployment.stack,
                    cloud.name()
                ))
                .next(format!(
                    "it has {}; `{} job list` shows them",
                    known.join(", "),
                    cloud.command()
                ))
            }
            Some(StartExecutionError::ExecutionAlreadyExists(_)) => Error::not_asked(format!(
                "there has been an execution {name} of {job} with another input"
            ))
            .next(format!(
                "give another --name, or look at that one: `{} job watch {name}`",
                cloud.command()
            )),
            // Whether it has begun is not known.
            None if !matches!(
                error,
                SdkError::ConstructionFailure(_) | SdkError::DispatchFailure(_)
            ) =>
            {
                cloud.error(error).next(format!(
                    "it may have begun all the same: `{} job watch {name}` shows it",
                    cloud.command()
                ))
            }
            _ => cloud.error(error).nothing_done(),
        }),
    }
}

/// Job, time and randomness: unique, and found again by eye.
fn new_name(slug: &str) -> Result<String> {
    let now = OffsetDateTime::now_utc();
    let (hour, minute, second) = now.to_hms();
    let time = format!(
        "{}{:02}{:02}T{hour:02}{minute:02}{second:02}",
        now.year(),
        u8::from(now.month()),
        now.day()
    );
    let mut random = [0_u8; 3];
    getrandom::fill(&mut random).doing("randomness from the operating system")?;
    // Step Functions takes 80 characters, and of those that a job's name can have all are among
    // these. https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
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

/// An execution's name, from its ARN.
#[must_use]
pub fn id_of(execution: &str) -> &str {
    execution.rsplit(':').next().unwrap_or(execution)
}

/// Finds an execution by its ARN or by its name.
pub async fn find(cloud: &Cloud, deployment: &Deployment, id: &str) -> Result<String> {
    if id.starts_with("arn:") {
        return Ok(id.to_owned());
    }
    let mut found = Vec::new();
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
            Ok(_) => found.push(arn),
            Err(error) if is_missing(error.as_service_error()) => {}
            Err(error) => return Err(cloud.error(error).nothing_done()),
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::not_asked(format!(
            "no job of stack {} on {} has an execution {id}",
            deployment.stack,
            cloud.name()
        ))
        .next("give the ID that `job run` printed")),
        _ => Err(
            Error::not_asked(format!("several jobs have an execution {id}"))
                .next(format!("give one of these: {}", found.join(", "))),
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

/// Follows an execution to its end, showing what happens. Dropping the future stops the watching,
/// not the job.
pub async fn watch(
    cloud: &Cloud,
    deployment: &Deployment,
    execution: &str,
    view: &View,
) -> Result<Finished> {
    let end = Instant::now() + WATCH;
    let mut job = if view.is_hidden() {
        JobProgress::default()
    } else {
        JobProgress::of_job(&deployment.stack, &definition(cloud, execution).await)
    };
    while !job.has_ended() {
        for event in events_after(cloud, execution, job.last_event()).await? {
            let change = job.apply(&event);
            if let Some((whose, log)) = job.log(&event).filter(|_| !view.is_hidden()) {
                view.log(
                    &whose,
                    &log.lines(cloud, deployment, id_of(execution)).await,
                );
            }
            if let Some(change) = change {
                view.change(&change);
            }
        }
        view.show(&job, OffsetDateTime::now_utc());
        if Instant::now() >= end {
            return Err(Error::not_asked(format!(
                "{execution} still runs after {} h",
                WATCH.as_secs() / 3600
            ))
            .next("watch it again, or stop it with `job stop`"));
        }
        if !job.has_ended() {
            sleep(cloud.pause()).await;
        }
    }
    view.end();
    result(cloud, execution).await
}

/// The definition of an execution's job. It only tells how steps are called: without it they have
/// the names of states.
async fn definition(cloud: &Cloud, execution: &str) -> Value {
    let found = cloud
        .sfn()
        .describe_state_machine_for_execution()
        .execution_arn(execution)
        .send()
        .await;
    found
        .ok()
        .and_then(|found| serde_json::from_str(found.definition()).ok())
        .unwrap_or_default()
}

/// The events behind one that is known, oldest first. Newest are asked for first, so that a long
/// history is not read again at every look.
pub(crate) async fn events_after(
    cloud: &Cloud,
    execution: &str,
    known: i64,
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
        let event = event.map_err(|error| cloud.error(error).nothing_done())?;
        if event.id() <= known {
            break;
        }
        new.push(event);
    }
    Ok(in_order(new))
}

/// Oldest first, each once: pages can overlap when events are added between two of them.
fn in_order(mut events: Vec<HistoryEvent>) -> Vec<HistoryEvent> {
    events.sort_by_key(HistoryEvent::id);
    events.dedup_by_key(|event| event.id());
    events
}

/// Starts a job and waits for its end, showing nothing: for programs.
pub async fn run(
    cloud: &Cloud,
    deployment: &Deployment,
    job: &str,
    input: &impl Serialize,
) -> Result<Finished> {
    let execution = start(cloud, deployment, job, input, None).await?;
    watch(cloud, deployment, &execution, &View::hidden())
        .await
        .map_err(Error::something_done)
}

/// Stops an execution; the `cancel` function then stops what its steps had started.
pub async fn stop(cloud: &Cloud, execution: &str, cause: Option<&str>) -> Result<()> {
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
        .map_err(|error| cloud.error(error).nothing_done())
}

#[cfg(test)]
mod tests {
    use aws_sdk_sfn::primitives::DateTime;
    use aws_sdk_sfn::types::HistoryEventType;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_execution_name_fits_step_functions() {
        let name = new_name(&"x".repeat(70)).unwrap();
        assert!(name.len() <= 80, "{name}");
        assert_ne!(new_name("a").unwrap(), new_name("a").unwrap());
    }

    #[test]
    fn overlapping_pages_give_each_event_once_and_in_order() {
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
        let ids: Vec<_> = in_order([9, 8, 7, 8, 7, 6].map(event).into())
            .iter()
            .map(HistoryEvent::id)
            .collect();
        assert_eq!(ids, [6, 7, 8, 9]);
    }

    proptest! {
        #[test]
        fn any_job_gives_an_execution_name_that_step_functions_takes(job in "(?s:.{0,90})") {
            let name = new_name(&slug_of(&job)).unwrap();
            prop_assert!(name.len() <= 80, "{name}");
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "{name}");
        }

        #[test]
        fn any_text_has_the_name_of_an_execution(id in "(?s:.{0,40})") {
            prop_assert!(id.ends_with(id_of(&id)));
        }
    }
}
