//! Choosing instances, and bringing them to a state.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Instance, InstanceStateChange, InstanceStateName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::input::require;
use stepward::permissions::{arn, literal};
use stepward::{Context, ErrorName, Permissions, Progress, Resume, StepError};

use crate::{filter, require_id};

/// Instances that one call may name. A session policy that names each has room for about 25; beyond that it falls back
/// to the action alone.
pub const MAX_INSTANCES: usize = 50;
/// Between two looks at the instances' states. EC2 takes 10 to 90 seconds for most changes.
const POLL: Duration = Duration::from_secs(5);
/// The states of instances that have not been terminated.
pub const LIVE: [InstanceStateName; 4] =
    [InstanceStateName::Pending, InstanceStateName::Running, InstanceStateName::Stopping, InstanceStateName::Stopped];

/// Which instances a step is for: by ID, or by tags.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Instance IDs.
    pub ids: &'a [String],
    /// Tags that an instance must carry, all of them.
    pub tags: &'a BTreeMap<String, String>,
}

/// What became of the instances.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
pub struct Changed {
    /// Every instance that the step was for, also those that were right already.
    pub instances: Vec<ChangedInstance>,
    /// The instances in the AWS console.
    pub console_url: String,
}

/// What became of one instance.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
pub struct ChangedInstance {
    /// The instance's ID.
    pub instance_id: String,
    /// Its `Name` tag.
    pub name: Option<String>,
    /// Its state before the step.
    pub previous_state: String,
    /// Its state now.
    pub state: String,
}

/// A state that instances rest in, and those from which EC2 can be asked for it.
#[derive(Clone, Debug)]
pub struct Goal {
    /// Instances in this state are done.
    pub reached: InstanceStateName,
    /// Instances in these states are acted upon; others are waited for.
    pub act_on: Vec<InstanceStateName>,
    /// What the step does to them, for the log: "Starting".
    pub doing: &'static str,
}

/// What is kept between two calls.
#[derive(Debug, Deserialize, Serialize)]
struct Watch {
    instances: Vec<ChangedInstance>,
    /// Instances that EC2 was asked to change.
    asked: Vec<String>,
}

impl Selection<'_> {
    /// Checks IDs and tags.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn validate(&self) -> Result<(), StepError> {
        require(self.ids.is_empty() != self.tags.is_empty(), || {
            "give either instance_ids (1 to 50 instance IDs) or tags (1 or more), not both and not none".into()
        })?;
        require(self.ids.len() <= MAX_INSTANCES, || {
            format!(
                "instance_ids has {} entries and at most {MAX_INSTANCES} are taken; use tags, or a Map",
                self.ids.len()
            )
        })?;
        for id in self.ids {
            require_id("instance_ids", "an instance ID", "i", id)?;
        }
        for (key, value) in self.tags {
            // In an EC2 filter these are wildcards, which would choose more than the tags say.
            let plain = !key.is_empty() && !format!("{key}{value}").contains(['*', '?']);
            require(plain, || format!("tags: {key:?}: {value:?} must be a key and a value without * and ?"))?;
        }
        Ok(())
    }

    /// Permission to describe all instances (EC2 knows no narrower one) and to do `actions` to the chosen ones.
    ///
    /// By tags that is every instance: which ones carry them shows only later, and a condition on `aws:ResourceTag` in
    /// a session policy is something that the local cloud does not evaluate.
    #[must_use]
    pub fn permissions(&self, actions: &[&str]) -> Permissions {
        let all = self.tags.keys().take(1).map(|_| arn("ec2", "instance/*"));
        let chosen = self.ids.iter().map(|id| arn("ec2", &format!("instance/{}", literal(id))));
        Permissions::default().allow(&["ec2:DescribeInstances"], ["*"]).allow(actions, chosen.chain(all))
    }

    /// The chosen instances as they are now; by tags, those in one of the states, or in any when none is given.
    ///
    /// # Errors
    /// `NotFound` for an unknown ID.
    pub async fn find(&self, ec2: &Client, states: &[InstanceStateName]) -> Result<Vec<Instance>, StepError> {
        let mut request = ec2.describe_instances();
        if self.tags.is_empty() {
            request = request.set_instance_ids(Some(self.ids.to_vec()));
        } else {
            if !states.is_empty() {
                request = request.filters(filter("instance-state-name", states.iter().map(InstanceStateName::as_str)));
            }
            for (key, value) in self.tags {
                request = request.filters(filter(&format!("tag:{key}"), [value.as_str()]));
            }
        }
        let mut pages = request.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            found.extend(
                page?.reservations.unwrap_or_default().into_iter().flat_map(|r| r.instances.unwrap_or_default()),
            );
        }
        Ok(found)
    }
}

/// Brings the chosen instances to a state: looks, asks EC2 for those that need it, and looks again until all are there.
///
/// Because every call looks before it acts, a repeated one asks for nothing twice.
///
/// # Errors
/// `NotFound` for an unknown ID, `Conflict` for an instance that is terminated and should not be, `StepFailed` with
/// EC2's reason when an instance went back, or why EC2 refused.
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
    let (found, mut watch) = match resume {
        None => {
            let found = selection.find(&ec2, &LIVE).await?;
            let instances = found.iter().map(first_seen).collect();
            (found, Watch { instances, asked: Vec::new() })
        }
        Some(resume) => {
            let watch: Watch = resume.state()?;
            let ids: Vec<_> = watch.instances.iter().map(|instance| instance.instance_id.clone()).collect();
            (Selection { ids: &ids, tags: &BTreeMap::new() }.find(&ec2, &LIVE).await?, watch)
        }
    };
    if watch.instances.is_empty() {
        ctx.log("No instance carries these tags; there is nothing to do");
        return Ok(Progress::Done(changed(ctx, watch.instances)));
    }
    for instance in &found {
        check(instance, &watch, goal)?;
        watch.set_state(instance.instance_id(), &state(instance));
    }
    let to_ask: Vec<_> = watch.in_state(&goal.act_on).filter(|id| !watch.asked.contains(id)).collect();
    if !to_ask.is_empty() {
        ctx.log(format_args!("{} {}", goal.doing, to_ask.join(", ")));
        for change in act(ec2, to_ask.clone()).await? {
            if let Some(now) = change.current_state.and_then(|state| state.name) {
                watch.set_state(change.instance_id.as_deref(), &now);
            }
        }
        watch.asked.extend(to_ask);
    }
    let (all, there) = (watch.instances.len(), watch.in_state(std::slice::from_ref(&goal.reached)).count());
    if there == all {
        ctx.log(format_args!("{there} of {all} instances {}", goal.reached));
        return Ok(Progress::Done(changed(ctx, watch.instances)));
    }
    Progress::pending(&watch, POLL, format!("{there} of {all} instances {}", goal.reached))
}

impl Watch {
    fn set_state(&mut self, id: Option<&str>, state: &InstanceStateName) {
        if let Some(instance) = self.instances.iter_mut().find(|instance| Some(instance.instance_id.as_str()) == id) {
            state.as_str().clone_into(&mut instance.state);
        }
    }

    fn in_state(&self, states: &[InstanceStateName]) -> impl Iterator<Item = String> {
        let fits = move |instance: &&ChangedInstance| states.iter().any(|state| state.as_str() == instance.state);
        self.instances.iter().filter(fits).map(|instance| instance.instance_id.clone())
    }
}

fn check(instance: &Instance, watch: &Watch, goal: &Goal) -> Result<(), StepError> {
    let id = instance.instance_id.clone().unwrap_or_default();
    let now = state(instance);
    let asked = watch.asked.contains(&id);
    if goal.reached == InstanceStateName::Terminated {
        return Ok(());
    }
    if matches!(now, InstanceStateName::Terminated | InstanceStateName::ShuttingDown) {
        let name = if asked { ErrorName::StepFailed } else { ErrorName::Conflict };
        return Err(
            name.because(format!("{id} is {now}: a terminated instance cannot change; take it out of instance_ids"))
        );
    }
    let code = instance.state_reason().and_then(|reason| reason.code()).unwrap_or_default();
    let by_wish =
        ["", "Client.UserInitiatedShutdown", "Client.UserInitiatedHibernate", "Client.InstanceInitiatedShutdown"];
    if asked && now == InstanceStateName::Stopped && goal.act_on.contains(&now) && !by_wish.contains(&code) {
        return Err(ErrorName::StepFailed.because(format!("{id} is {now} again: {}", reason(instance))));
    }
    Ok(())
}

/// Why an instance is in its state. EC2 tells only here why it could not do what it was asked, as in
/// `Server.InsufficientInstanceCapacity`.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html>
#[must_use]
pub fn reason(instance: &Instance) -> String {
    let given = instance.state_reason();
    let code = given.and_then(|reason| reason.code()).unwrap_or("EC2 gave no reason");
    let message = given.and_then(|reason| reason.message()).unwrap_or(code);
    // EC2 says no more than this when it may not use the key of an encrypted volume.
    let advice = if code == "Client.InternalError" {
        "; with an encrypted volume: allow kms:CreateGrant for its key in the customer's role"
    } else {
        ""
    };
    format!("{message}{advice}")
}

/// An instance as it was found.
#[must_use]
pub fn first_seen(instance: &Instance) -> ChangedInstance {
    let name = instance.tags().iter().find(|tag| tag.key() == Some("Name")).and_then(|tag| tag.value.clone());
    let state = state(instance).to_string();
    ChangedInstance {
        instance_id: instance.instance_id.clone().unwrap_or_default(),
        name,
        previous_state: state.clone(),
        state,
    }
}

/// An instance's state.
#[must_use]
pub fn state(instance: &Instance) -> InstanceStateName {
    let name = instance.state.as_ref().and_then(|state| state.name.clone());
    name.unwrap_or(InstanceStateName::Pending)
}

/// What became of the instances, with a link to them.
#[must_use]
pub fn changed(ctx: &Context, instances: Vec<ChangedInstance>) -> Changed {
    let ids: Vec<_> = instances.iter().map(|instance| instance.instance_id.as_str()).collect();
    let console_url = ctx.console("ec2/home", &format!("Instances:instanceId={}", ids.join(",")));
    Changed { instances, console_url }
}
