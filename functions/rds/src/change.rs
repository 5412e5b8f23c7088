//! Starts or stops a database and waits until it has the new state.

use std::future::Future;

use aws_sdk_rds::Client;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, Progress, Resume, StepError};

use crate::POLL_INTERVAL;
use crate::database::{Database, DatabaseState, Member};
use crate::status::{Goal, conflict_with_advice, is_refused_for_state};

/// An instance or a cluster after the change.
#[derive(Debug, JsonSchema, Serialize)]
pub struct DatabaseChange {
    /// The name of the instance or cluster, in lower case.
    pub name: String,
    /// The status at the step's first poll.
    pub previous_status: String,
    /// The current status.
    pub status: String,
    /// The instances of a cluster. Empty for an instance.
    pub members: Vec<Member>,
    /// When AWS starts a stopped database again. Null if the database is not stopped.
    pub restarts_at: Option<String>,
    /// The instance or cluster in the AWS console.
    pub console_url: String,
}

/// The resume state.
#[derive(Debug, Deserialize, Serialize)]
struct ChangeProgress {
    previous_status: String,
    /// Whether RDS has accepted the request.
    asked: bool,
    /// Whether RDS has refused the request once.
    #[serde(default)]
    refused: bool,
    /// Whether a poll has shown that the change started. A database that later has the old status
    /// again has failed to change.
    begun: bool,
}

/// Changes the state of an instance, or of a cluster with its instances: polls the database, sends
/// the request when RDS can accept it, and polls until all of them have the state.
///
/// Every call polls before it acts, so a repeated call does not send a second request.
///
/// # Errors
/// - `NotFound` if the database does not exist.
/// - `Conflict` if its status cannot lead to the goal, or if RDS refuses the request for good or
///   twice because of a status.
/// - `StepFailed` if the change started and did not reach the goal.
pub async fn drive_to_state<F, Fut>(
    ctx: &Context,
    database: Database<'_>,
    resume: Option<Resume>,
    goal: &Goal,
    send_request: F,
) -> Result<Progress<DatabaseChange>, StepError>
where
    F: FnOnce(Client) -> Fut + Send,
    Fut: Future<Output = Result<(), StepError>> + Send,
{
    let rds = ctx.client(Client::new);
    let name = database.name();
    let poll_interval = Resume::poll_interval(resume.as_ref(), POLL_INTERVAL);

    let mut state = database.describe(&rds).await?;
    let mut change = match resume {
        Some(resume) => resume.state::<ChangeProgress>()?,
        None => ChangeProgress {
            previous_status: state.status.clone(),
            asked: false,
            refused: false,
            begun: false,
        },
    };
    change.begun |= change.asked && !state.has_status_in(goal.accepting);

    if state.has_reached(goal) {
        ctx.log(format_args!("{name} is {}", state.status));
        return Ok(Progress::Done(DatabaseChange {
            name: name.to_owned(),
            previous_status: change.previous_status,
            status: state.status,
            members: state.members,
            restarts_at: state.restarts_at,
            console_url: database.console_url(ctx),
        }));
    }

    if state.accepts_request(goal) {
        if change.begun {
            return Err(ErrorName::StepFailed.with_message(format!(
                "{name} is {} again: RDS started to make it {} and gave up; read its events of the \
                 last hour with rds-status",
                state.status, goal.status
            )));
        }
        if let Some(cluster) = &state.cluster {
            return Err(ErrorName::Conflict.with_message(format!(
                "{name} belongs to cluster \"{cluster}\", and RDS starts and stops the instances \
                 of a cluster together; use rds-start-cluster or rds-stop-cluster"
            )));
        }
        if !change.asked {
            ctx.log(format_args!("{} {name}", goal.activity));
            let response = send_request(rds.clone()).await;
            check_response(ctx, &rds, database, goal, response, &mut change, &mut state).await?;
        }
    } else if let Some((stuck, status, advice)) = state.find_stuck(name) {
        let error = if change.asked {
            ErrorName::StepFailed
        } else {
            ErrorName::Conflict
        };
        return Err(error.with_message(format!(
            "{stuck} is {status} and cannot become {}: {advice}",
            goal.status
        )));
    }

    let progress = progress_message(name, &state, &change, goal);
    Progress::pending(&change, poll_interval, progress)
}

/// Notes in `change` whether RDS accepted the request. Polls the state again if RDS refused the
/// request because of the state.
///
/// The SDK can repeat a request whose response was lost. RDS then refuses the repeated request, and
/// may still show the old status. So only a second refusal is an error.
async fn check_response(
    ctx: &Context,
    rds: &Client,
    database: Database<'_>,
    goal: &Goal,
    response: Result<(), StepError>,
    change: &mut ChangeProgress,
    state: &mut DatabaseState,
) -> Result<(), StepError> {
    let Err(error) = response else {
        change.asked = true;
        return Ok(());
    };
    if !is_refused_for_state(&error) {
        return Err(match database.refusal_advice(&error) {
            Some(advice) => conflict_with_advice(error, advice),
            None => error,
        });
    }

    *state = database.describe(rds).await?;
    if state.accepts_request(goal) {
        if change.refused {
            return Err(conflict_with_advice(error, database.restrictions()));
        }
        ctx.log(format_args!(
            "RDS refused the request; the step will repeat it once: {}",
            error.message
        ));
        change.refused = true;
    }
    Ok(())
}

fn progress_message(
    name: &str,
    state: &DatabaseState,
    change: &ChangeProgress,
    goal: &Goal,
) -> String {
    let finished = state
        .members
        .iter()
        .filter(|member| goal.reached.contains(&member.status.as_str()))
        .count();
    let members = match state.members.len() {
        0 => String::new(),
        total => format!(", {finished} of {total} instances {}", goal.status),
    };

    let is_changing =
        state.has_status_in(goal.reached) || state.status.eq_ignore_ascii_case(goal.activity);
    let request = match change {
        ChangeProgress { asked: true, .. } => "; the change was requested",
        _ if is_changing => "",
        ChangeProgress { refused: true, .. } if state.has_status_in(goal.accepting) => {
            "; RDS refused the request, and the step will repeat it"
        }
        _ => "; the change was not requested yet",
    };
    format!("{name} is {}{members}{request}", state.status)
}
