//! Bringing instances to a state, and seeing why one went back.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Instance, InstanceStateChange, InstanceStateName};
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, Progress, Resume, StepError};

use crate::instances::{Changed, ChangedInstance, LIVE, Selection, changed, first_seen, state};

/// Between two looks at the instances' states, at first. EC2 takes 10 to 90 seconds for most
/// changes.
const POLL: Duration = Duration::from_secs(5);
/// The codes of why an instance is stopped when nothing has failed.
const BY_WISH: [&str; 4] = [
    "",
    "Client.UserInitiatedShutdown",
    "Client.UserInitiatedHibernate",
    "Client.InstanceInitiatedShutdown",
];

/// A state that instances rest in, and those from which EC2 can be asked for it.
#[derive(Clone, Debug)]
pub struct Goal {
    /// Instances in this state are done.
    pub reached: InstanceStateName,
    /// Instances in these states are acted upon; others are waited for.
    pub act_on: Vec<InstanceStateName>,
    /// What the step does to them, for the log: "Starting".
    pub doing: &'static str,
    /// What the log should say of an instance that was brought there, if anything.
    pub remark: fn(&Instance) -> Option<String>,
}

/// What is kept between two calls.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Watch {
    instances: Vec<ChangedInstance>,
    /// Instances that EC2 was asked to change.
    asked: Vec<String>,
    /// Those of them that were seen in another state since.
    #[serde(default)]
    moved: BTreeSet<String>,
    /// Those of them that were seen as before, with a reason that can be that of an earlier
    /// failure.
    #[serde(default)]
    doubtful: BTreeSet<String>,
}

/// Brings the chosen instances to a state: looks, asks EC2 for those that need it, and looks again
/// until all are there.
///
/// Because every call looks before it acts, a repeated one asks for nothing twice, but for what it
/// acts on again.
///
/// # Errors
/// `NotFound` for an unknown ID, `Conflict` for an instance that is terminated and should not be or
/// for tags that too many carry, `StepFailed` with EC2's reason when an instance went back, or why
/// EC2 refused.
pub async fn bring<F, Fut>(
    ctx: &Context,
    selection: Selection<'_>,
    resume: Option<Resume>,
    goal: &Goal,
    act: F,
) -> Result<Progress<Changed>, StepError>
where
    F: Fn(Client, Vec<String>) -> Fut + Send,
    Fut: Future<Output = Result<Vec<InstanceStateChange>, StepError>> + Send,
{
    let ec2 = ctx.client(Client::new);
    let patience = Resume::poll_interval(resume.as_ref(), POLL);
    let (found, mut watch) = match resume {
        None => {
            let found = selection.find(&ec2, &LIVE).await?;
            let instances = found.iter().map(first_seen).collect();
            (
                found,
                Watch {
                    instances,
                    ..Watch::default()
                },
            )
        }
        Some(resume) => {
            let watch: Watch = resume.state()?;
            let ids: Vec<_> = watch
                .instances
                .iter()
                .map(|instance| instance.instance_id.clone())
                .collect();
            (
                Selection {
                    ids: &ids,
                    tags: &BTreeMap::new(),
                }
                .find(&ec2, &LIVE)
                .await?,
                watch,
            )
        }
    };
    if watch.instances.is_empty() {
        ctx.log("No instance carries these tags; there is nothing to do");
        return Ok(Progress::Done(changed(ctx, watch.instances)));
    }
    for instance in &found {
        watch.check(instance, goal)?;
        watch.set_state(instance.instance_id(), &state(instance));
    }
    let to_ask: Vec<_> = watch
        .in_state(&goal.act_on)
        .filter(|id| !watch.asked.contains(id))
        .collect();
    if !to_ask.is_empty() {
        ctx.log(format_args!("{} {}", goal.doing, to_ask.join(", ")));
        for change in act(ec2, to_ask.clone()).await? {
            if let Some(now) = change.current_state.and_then(|state| state.name) {
                watch.set_state(change.instance_id.as_deref(), &now);
            }
        }
        watch.asked.extend(to_ask);
    }
    let (all, there) = (
        watch.instances.len(),
        watch.in_state(std::slice::from_ref(&goal.reached)).count(),
    );
    if there == all {
        for remark in found
            .iter()
            .filter(|one| watch.brought(one, goal))
            .filter_map(goal.remark)
        {
            ctx.log(remark);
        }
        ctx.log(format_args!("{there} of {all} instances {}", goal.reached));
        return Ok(Progress::Done(changed(ctx, watch.instances)));
    }
    Progress::pending(
        &watch,
        patience,
        format!("{there} of {all} instances {}", goal.reached),
    )
}

impl Watch {
    fn set_state(&mut self, id: Option<&str>, state: &InstanceStateName) {
        if let Some(instance) = self
            .instances
            .iter_mut()
            .find(|instance| Some(instance.instance_id.as_str()) == id)
        {
            state.as_str().clone_into(&mut instance.state);
        }
    }

    fn in_state(&self, states: &[InstanceStateName]) -> impl Iterator<Item = String> {
        let fits = move |instance: &&ChangedInstance| {
            states.iter().any(|state| state.as_str() == instance.state)
        };
        self.instances
            .iter()
            .filter(fits)
            .map(|instance| instance.instance_id.clone())
    }

    /// Whether the instance is where it should be, and was not before.
    fn brought(&self, instance: &Instance, goal: &Goal) -> bool {
        let before = self
            .instances
            .iter()
            .find(|one| instance.instance_id() == Some(&one.instance_id));
        state(instance) == goal.reached
            && before.is_some_and(|one| one.previous_state != goal.reached.as_str())
    }

    /// Checks that an instance is on its way.
    fn check(&mut self, instance: &Instance, goal: &Goal) -> Result<(), StepError> {
        let id = instance.instance_id.clone().unwrap_or_default();
        let now = state(instance);
        let asked = self.asked.contains(&id);
        if goal.reached == InstanceStateName::Terminated {
            return Ok(());
        }
        if matches!(
            now,
            InstanceStateName::Terminated | InstanceStateName::ShuttingDown
        ) {
            let name = if asked {
                ErrorName::StepFailed
            } else {
                ErrorName::Conflict
            };
            return Err(name.with_message(format!(
                "{id} is {now}: a terminated instance cannot change; take it out of instance_ids"
            )));
        }
        if asked && !goal.act_on.contains(&now) {
            self.moved.insert(id);
        } else if asked && now == InstanceStateName::Stopped {
            // Until EC2 has shown it in another state, this can be how it was before, with the
            // reason of that time: one that is no failure tells nothing, another counts when the
            // next look finds it too.
            let failed = !BY_WISH.contains(&code(instance)) && !self.doubtful.insert(id.clone());
            if failed || self.moved.contains(&id) {
                return Err(ErrorName::StepFailed
                    .with_message(format!("{id} is {now} again: {}", reason(instance))));
            }
        }
        Ok(())
    }
}

/// The code of why an instance is in its state, or nothing.
#[must_use]
pub fn code(instance: &Instance) -> &str {
    instance
        .state_reason()
        .and_then(|reason| reason.code())
        .unwrap_or_default()
}

/// Why an instance is in its state. EC2 tells only here why it could not do what it was asked, as
/// in `Server.InsufficientInstanceCapacity`.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html>
#[must_use]
pub fn reason(instance: &Instance) -> String {
    let given = instance.state_reason();
    let code = given
        .and_then(|reason| reason.code())
        .unwrap_or("EC2 gave no reason");
    let message = given.and_then(|reason| reason.message()).unwrap_or(code);
    // EC2 says no more than this when it may not use the key of an encrypted volume.
    let advice = if code == "Client.InternalError" {
        "; with an encrypted volume: allow kms:CreateGrant for its key in the customer's role"
    } else {
        ""
    };
    format!("{message}{advice}")
}
