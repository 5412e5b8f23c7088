//! Selects instances, and describes how a step changed them.

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Instance, InstanceStateName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::{Context, ErrorName, Permissions, StepError};

use crate::error::ec2_error;
use crate::{build_filter, require_id};

/// The maximum number of instance IDs in the parameters. A session policy has room for about 25
/// instances; with more, it allows the action on all instances.
pub const MAX_INSTANCE_IDS: usize = 50;
/// The maximum number of instances that tags may select. The resume state must stay far below 256
/// KiB, which is Step Functions' limit for the data between states.
const MAX_TAGGED_INSTANCES: usize = 500;
/// The states of instances that are not terminated.
pub const LIVE_STATES: [InstanceStateName; 4] = [
    InstanceStateName::Pending,
    InstanceStateName::Running,
    InstanceStateName::Stopping,
    InstanceStateName::Stopped,
];

/// The instances that a step works on: by ID, or by tags.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Instance IDs.
    pub ids: &'a [String],
    /// Tags that an instance must carry. It must carry all of them.
    pub tags: &'a BTreeMap<String, String>,
}

/// The instances that the step worked on.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
pub struct ChangedInstances {
    /// Every selected instance, including those that the step did not have to change.
    pub instances: Vec<ChangedInstance>,
    /// Link to the instances in the AWS console.
    pub console_url: String,
}

/// One instance, with its state before and after the step.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
pub struct ChangedInstance {
    /// The instance's ID.
    pub instance_id: String,
    /// Its `Name` tag.
    pub name: Option<String>,
    /// Its state before the step.
    pub previous_state: String,
    /// Its state after the step.
    pub state: String,
}

impl Selection<'_> {
    /// Checks the IDs and the tags.
    ///
    /// # Errors
    /// `InvalidInput` naming the parameter.
    pub fn validate(&self) -> Result<(), StepError> {
        require(self.ids.is_empty() != self.tags.is_empty(), || {
            let given = if self.ids.is_empty() {
                "neither"
            } else {
                "both"
            };
            format!(
                "parameters \"instance_ids\" and \"tags\": expected one of them, got {given}; \
                 give either instance_ids (1 to {MAX_INSTANCE_IDS} IDs) or tags (at least 1)"
            )
        })?;
        require(self.ids.len() <= MAX_INSTANCE_IDS, || {
            format!(
                "parameter \"instance_ids\": expected 1 to {MAX_INSTANCE_IDS} IDs, got {}; \
                 select the instances by tags, or split the list with a Map state",
                self.ids.len()
            )
        })?;
        for id in self.ids {
            require_id("instance_ids", "an instance ID", "i", id)?;
        }
        for (key, value) in self.tags {
            // In an EC2 filter, `*` and `?` are wildcards, which would select more instances.
            let is_literal = !key.is_empty() && !format!("{key}{value}").contains(['*', '?']);
            require(is_literal, || {
                format!(
                    "parameter \"tags\": expected a key and a value without * and ?, got {key:?}: \
                     {value:?}"
                )
            })?;
        }
        Ok(())
    }

    /// Permission to describe all instances (EC2 does not support a narrower one), and for each
    /// action on the selected instances, with its purpose.
    ///
    /// With tags, the actions are allowed on every instance. The matching instances are not known
    /// yet, and the local cloud does not evaluate a condition on `aws:ResourceTag` in a session
    /// policy.
    #[must_use]
    pub fn permissions(&self, actions: &[(&str, &str)]) -> Permissions {
        let every_instance = self.tags.keys().take(1).map(|_| arn("ec2", "instance/*"));
        let resources: Vec<_> = self
            .ids
            .iter()
            .map(|id| arn("ec2", &format!("instance/{}", literal(id))))
            .chain(every_instance)
            .collect();

        let describe = Permissions::default().allow(
            "find the instances and their states",
            &["ec2:DescribeInstances"],
            ["*"],
        );
        actions.iter().fold(describe, |all, (action, purpose)| {
            all.allow(purpose, &[action], resources.clone())
        })
    }

    /// Describes the selected instances. With tags, it returns those in one of `states`, or in any
    /// state if `states` is empty.
    ///
    /// # Errors
    /// `NotFound` for an unknown ID, `Conflict` for tags that too many instances carry.
    pub async fn find_instances(
        &self,
        ec2: &Client,
        states: &[InstanceStateName],
    ) -> Result<Vec<Instance>, StepError> {
        let mut request = ec2.describe_instances();
        if self.tags.is_empty() {
            request = request.set_instance_ids(Some(self.ids.to_vec()));
        } else {
            if !states.is_empty() {
                request = request.filters(build_filter(
                    "instance-state-name",
                    states.iter().map(InstanceStateName::as_str),
                ));
            }
            for (key, value) in self.tags {
                request = request.filters(build_filter(&format!("tag:{key}"), [value.as_str()]));
            }
        }

        let mut pages = request.into_paginator().send();
        let mut instances = Vec::new();
        while let Some(page) = pages.next().await {
            let reservations = page.map_err(ec2_error)?.reservations.unwrap_or_default();
            instances.extend(
                reservations
                    .into_iter()
                    .flat_map(|reservation| reservation.instances.unwrap_or_default()),
            );
            if !self.tags.is_empty() && instances.len() > MAX_TAGGED_INSTANCES {
                return Err(ErrorName::Conflict.with_message(format!(
                    "more than {MAX_TAGGED_INSTANCES} instances carry these tags; nothing was \
                     changed; add tags that select fewer instances"
                )));
            }
        }
        Ok(instances)
    }
}

impl From<&Instance> for ChangedInstance {
    /// The instance before any change: both states are its present one.
    fn from(instance: &Instance) -> Self {
        let name = instance
            .tags()
            .iter()
            .find(|tag| tag.key() == Some("Name"))
            .and_then(|tag| tag.value.clone());
        let state = instance_state(instance).to_string();
        Self {
            instance_id: instance.instance_id.clone().unwrap_or_default(),
            name,
            previous_state: state.clone(),
            state,
        }
    }
}

/// The IDs that EC2 does not know, according to its error, which names all of them. Empty for any
/// other error.
#[must_use]
pub fn unknown_ids(error: &StepError, ids: &[String]) -> Vec<String> {
    if !error.has_code("InvalidInstanceID.NotFound") {
        return Vec::new();
    }
    ids.iter()
        .filter(|id| error.message.contains(id.as_str()))
        .cloned()
        .collect()
}

/// An instance's state.
#[must_use]
pub fn instance_state(instance: &Instance) -> InstanceStateName {
    let name = instance.state.as_ref().and_then(|state| state.name.clone());
    name.unwrap_or(InstanceStateName::Pending)
}

/// The output of a step: the instances with a link to the AWS console.
#[must_use]
pub fn with_console_url(ctx: &Context, instances: Vec<ChangedInstance>) -> ChangedInstances {
    let ids: Vec<_> = instances
        .iter()
        .map(|instance| instance.instance_id.as_str())
        .collect();
    let console_url = ctx.console(
        "ec2/home",
        &format!("Instances:instanceId={}", ids.join(",")),
    );
    ChangedInstances {
        instances,
        console_url,
    }
}
