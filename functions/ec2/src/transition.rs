//! Moves instances to a state, and reports why an instance did not reach it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Instance, InstanceStateChange, InstanceStateName};
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, Progress, Resume, StepError};

use crate::batch::{Failures, refused, request_in_parts};
use crate::instances::{
    ChangedInstance, ChangedInstances, LIVE_STATES, Selection, instance_state, unknown_ids,
    with_console_url,
};

/// The shortest time between two polls. EC2 needs 10 to 90 seconds for most state changes.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The reason codes of instances that somebody stopped on purpose. With any other code, EC2 or the
/// instance failed.
const INTENTIONAL_STOP_CODES: [&str; 4] = [
    "",
    "Client.UserInitiatedShutdown",
    "Client.UserInitiatedHibernate",
    "Client.InstanceInitiatedShutdown",
];

/// The state that a step moves instances to.
#[derive(Clone, Debug)]
pub struct StateGoal {
    /// An instance in this state needs no more work.
    pub final_state: InstanceStateName,
    /// The step sends a request for instances in these states. It waits for all others.
    pub act_on: Vec<InstanceStateName>,
    /// The verb that begins the log line about the request, for example "Starting".
    pub action: &'static str,
    /// Whether the step changes no instance if EC2 refuses one of them. Otherwise it changes the
    /// others, waits for them, and then fails and names each instance that could not be changed.
    pub is_all_or_nothing: bool,
    /// The step's time limit.
    pub time_limit: Duration,
    /// Returns an additional log line, or `None`, for an instance that the step moved to the final
    /// state.
    pub log_line: fn(&Instance) -> Option<String>,
}

/// The resume state.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Transition {
    instances: Vec<ChangedInstance>,
    /// Instances for which the step sent a request.
    #[serde(rename = "asked")]
    requested: Vec<String>,
    /// Requested instances that have since been in a state outside of `act_on`.
    #[serde(default)]
    moved: BTreeSet<String>,
    /// Requested instances that were still stopped at one poll, with the reason code of a failure.
    /// EC2 may still report an earlier failure, so the step fails only if a second poll shows the
    /// same.
    #[serde(default, rename = "doubtful")]
    maybe_failed: BTreeSet<String>,
    /// The instances that cannot reach the final state.
    #[serde(default, skip_serializing_if = "Failures::is_empty")]
    failures: Failures,
}

/// Moves the selected instances to a state: describes them, sends a request for those that need
/// one, and polls until all instances are in that state or cannot reach it.
///
/// Every call describes the instances before it acts. A retry therefore repeats no request, except
/// for instances that are still in a state of `act_on`.
///
/// # Errors
/// - `NotFound` for an unknown ID, and `Conflict` for tags that too many instances carry. Nothing
///   was changed.
/// - When all other instances have reached the state: an error that names each instance that has
///   not, with the reason. It is `StepFailed`, unless all instances failed with the same error
///   name.
/// - `TimedOut` at the time limit, with the instances that have not reached the state.
pub async fn drive_to_state<F, Fut>(
    ctx: &Context,
    selection: Selection<'_>,
    resume: Option<Resume>,
    goal: &StateGoal,
    request_change: F,
) -> Result<Progress<ChangedInstances>, StepError>
where
    F: Fn(Client, Vec<String>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Vec<InstanceStateChange>, StepError>> + Send,
{
    let ec2 = ctx.client(Client::new);
    let elapsed = resume.as_ref().map_or(Duration::ZERO, Resume::elapsed);
    let time_left = goal.time_limit.saturating_sub(elapsed);
    let retry_after = Resume::poll_interval(resume.as_ref(), POLL_INTERVAL).min(time_left);

    let (described, mut transition) = match resume {
        None => {
            let described = selection.find_instances(&ec2, &LIVE_STATES).await?;
            let transition = Transition {
                instances: described.iter().map(ChangedInstance::from).collect(),
                ..Transition::default()
            };
            (described, transition)
        }
        Some(resume) => {
            let mut transition: Transition = resume.state()?;
            let described = transition.describe_instances(ctx, &ec2, goal).await?;
            (described, transition)
        }
    };
    if transition.instances.is_empty() {
        ctx.log("No instance carries these tags; nothing to do");
        return Ok(Progress::Done(with_console_url(ctx, transition.instances)));
    }

    for instance in &described {
        transition.check_instance(ctx, instance, goal);
        transition.set_state(instance.instance_id(), &instance_state(instance));
    }

    let to_request: Vec<_> = transition
        .ids_in_states(&goal.act_on)
        .filter(|id| !transition.requested.contains(id) && !transition.failures.contains(id))
        .collect();
    if !to_request.is_empty() {
        ctx.log(format_args!("{} {}", goal.action, to_request.join(", ")));
        let is_first = transition.requested.is_empty() && transition.failures.is_empty();
        let request = |ids| request_change(ec2.clone(), ids);
        let (accepted, responses) = if goal.is_all_or_nothing || transition.instances.len() == 1 {
            let response = request(to_request.clone()).await.map_err(refused)?;
            (to_request, vec![response])
        } else {
            let failures = &mut transition.failures;
            let requested = request_in_parts(ctx, to_request, is_first, failures, request).await?;
            (requested.accepted, requested.responses)
        };
        for change in responses.into_iter().flatten() {
            if let Some(new_state) = change.current_state.and_then(|state| state.name) {
                transition.set_state(change.instance_id.as_deref(), &new_state);
            }
        }
        transition.requested.extend(accepted);
    }

    let total = transition.instances.len();
    let failed = transition.failures.len();
    let finished = transition
        .ids_in_states(std::slice::from_ref(&goal.final_state))
        .filter(|id| !transition.failures.contains(id))
        .count();
    let mut progress = format!("{finished} of {total} instances {}", goal.final_state);
    if failed > 0 {
        progress = format!("{progress}, {failed} failed");
    }
    if finished + failed < total {
        if time_left.is_zero() {
            return Err(transition.timed_out(goal, &progress));
        }
        return Progress::pending(&transition, retry_after, progress);
    }

    let moved_instances = described
        .iter()
        .filter(|instance| transition.has_moved_to_goal(instance, goal));
    for line in moved_instances.filter_map(goal.log_line) {
        ctx.log(line);
    }
    ctx.log(progress);
    if failed > 0 {
        return Err(transition.failures.into_error(total));
    }
    Ok(Progress::Done(with_console_url(ctx, transition.instances)))
}

impl Transition {
    /// Describes the instances that the first call selected and that can still change their state.
    /// Instances that EC2 no longer knows were terminated.
    async fn describe_instances(
        &mut self,
        ctx: &Context,
        ec2: &Client,
        goal: &StateGoal,
    ) -> Result<Vec<Instance>, StepError> {
        loop {
            let ids: Vec<_> = self
                .instances
                .iter()
                .filter(|instance| instance.state != InstanceStateName::Terminated.as_str())
                .map(|instance| instance.instance_id.clone())
                .filter(|id| !self.failures.contains(id))
                .collect();
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            let by_id = Selection {
                ids: &ids,
                tags: &BTreeMap::new(),
            };
            let error = match by_id.find_instances(ec2, &LIVE_STATES).await {
                Ok(described) => return Ok(described),
                Err(error) => error,
            };
            let unknown = unknown_ids(&error, &ids);
            if unknown.is_empty() {
                return Err(error);
            }
            for id in unknown {
                self.set_state(Some(&id), &InstanceStateName::Terminated);
                if goal.final_state != InstanceStateName::Terminated {
                    self.failures.add_terminated(ctx, &id);
                }
            }
        }
    }

    /// The error at the time limit.
    fn timed_out(self, goal: &StateGoal, progress: &str) -> StepError {
        let is_waiting = |instance: &&ChangedInstance| {
            instance.state != goal.final_state.as_str()
                && !self.failures.contains(&instance.instance_id)
        };
        let waiting: Vec<_> = self
            .instances
            .iter()
            .filter(is_waiting)
            .map(|instance| format!("{} ({})", instance.instance_id, instance.state))
            .collect();
        self.failures
            .into_timeout(progress, goal.time_limit, &waiting)
    }

    fn set_state(&mut self, id: Option<&str>, state: &InstanceStateName) {
        if let Some(instance) = self
            .instances
            .iter_mut()
            .find(|instance| Some(instance.instance_id.as_str()) == id)
        {
            state.as_str().clone_into(&mut instance.state);
        }
    }

    fn ids_in_states(&self, states: &[InstanceStateName]) -> impl Iterator<Item = String> {
        let is_in_states = move |instance: &&ChangedInstance| {
            states.iter().any(|state| state.as_str() == instance.state)
        };
        self.instances
            .iter()
            .filter(is_in_states)
            .map(|instance| instance.instance_id.clone())
    }

    /// Whether the instance is in the final state and was in another one before the step.
    fn has_moved_to_goal(&self, instance: &Instance, goal: &StateGoal) -> bool {
        let recorded = self
            .instances
            .iter()
            .find(|recorded| instance.instance_id() == Some(&recorded.instance_id));
        instance_state(instance) == goal.final_state
            && recorded.is_some_and(|recorded| recorded.previous_state != goal.final_state.as_str())
    }

    /// Records an instance that can no longer reach the final state as failed.
    fn check_instance(&mut self, ctx: &Context, instance: &Instance, goal: &StateGoal) {
        let id = instance.instance_id().unwrap_or_default();
        if !self.failures.contains(id)
            && let Err(error) = self.check_state(instance, goal)
        {
            self.failures.add_and_log(ctx, id, &error);
        }
    }

    /// Checks that an instance can still reach the final state. For a requested instance, records
    /// whether it has left the states of `act_on`.
    fn check_state(&mut self, instance: &Instance, goal: &StateGoal) -> Result<(), StepError> {
        if goal.final_state == InstanceStateName::Terminated {
            return Ok(());
        }
        let id = instance.instance_id.clone().unwrap_or_default();
        let state = instance_state(instance);
        let is_requested = self.requested.contains(&id);

        if matches!(
            state,
            InstanceStateName::Terminated | InstanceStateName::ShuttingDown
        ) {
            let name = if is_requested {
                ErrorName::StepFailed
            } else {
                ErrorName::Conflict
            };
            return Err(name.with_message(format!(
                "instance {id} is {state} and cannot change its state any more; remove it from \
                 instance_ids"
            )));
        }

        if is_requested && !goal.act_on.contains(&state) {
            self.moved.insert(id);
        } else if is_requested && state == InstanceStateName::Stopped {
            // Until one poll shows the instance in another state, EC2 can still report the state
            // and the reason from before the request. A reason code of an intentional stop is
            // therefore ignored. The code of a failure fails the step only if a second poll shows
            // it, too.
            let has_failed = !INTENTIONAL_STOP_CODES.contains(&state_reason_code(instance))
                && !self.maybe_failed.insert(id.clone());
            if has_failed || self.moved.contains(&id) {
                return Err(ErrorName::StepFailed.with_message(format!(
                    "EC2 accepted the start of instance {id}, but it is {state} again: {}; fix the \
                     cause, then run the step again",
                    state_reason(instance)
                )));
            }
        }
        Ok(())
    }
}

/// The code of the reason for an instance's state, or an empty string.
#[must_use]
pub fn state_reason_code(instance: &Instance) -> &str {
    instance
        .state_reason()
        .and_then(|reason| reason.code())
        .unwrap_or_default()
}

/// The reason for an instance's state. EC2 reports only here why a request did not succeed, for
/// example with `Server.InsufficientInstanceCapacity`.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html>
#[must_use]
pub fn state_reason(instance: &Instance) -> String {
    let reason = instance.state_reason();
    let code = reason
        .and_then(|reason| reason.code())
        .unwrap_or("EC2 gave no reason");
    let message = reason.and_then(|reason| reason.message()).unwrap_or(code);

    // EC2 returns this code, without a reason, when it is not allowed to use the key of an
    // encrypted volume.
    let advice = if code == "Client.InternalError" {
        "; if a volume is encrypted, allow kms:CreateGrant on its key in the customer's role"
    } else {
        ""
    };
    format!("{message}{advice}")
}
