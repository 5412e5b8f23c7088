//! Choosing instances, and telling what became of them.

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Instance, InstanceStateName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::{Context, ErrorName, Permissions, StepError};

use crate::error::ec2_error;
use crate::{filter, require_id};

/// Instances that one call may name. A session policy that names each has room for about 25; beyond
/// that it falls back to the action alone.
pub const MAX_INSTANCES: usize = 50;
/// Instances that tags may choose. What is kept of each between two calls must stay far below the
/// 256 KiB that a state machine passes on.
const MAX_BY_TAGS: usize = 500;
/// The states of instances that have not been terminated.
pub const LIVE: [InstanceStateName; 4] = [
    InstanceStateName::Pending,
    InstanceStateName::Running,
    InstanceStateName::Stopping,
    InstanceStateName::Stopped,
];

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
            require(plain, || {
                format!("tags: {key:?}: {value:?} must be a key and a value without * and ?")
            })?;
        }
        Ok(())
    }

    /// Permission to describe all instances (EC2 knows no narrower one) and to do `actions` to the
    /// chosen ones.
    ///
    /// By tags that is every instance: which ones carry them shows only later, and a condition on
    /// `aws:ResourceTag` in a session policy is something that the local cloud does not evaluate.
    #[must_use]
    pub fn permissions(&self, actions: &[&str]) -> Permissions {
        let all = self.tags.keys().take(1).map(|_| arn("ec2", "instance/*"));
        let chosen = self
            .ids
            .iter()
            .map(|id| arn("ec2", &format!("instance/{}", literal(id))));
        Permissions::default()
            .allow("TODO", &["ec2:DescribeInstances"], ["*"])
            .allow("TODO", actions, chosen.chain(all))
    }

    /// The chosen instances as they are now; by tags, those in one of the states, or in any when
    /// none is given.
    ///
    /// # Errors
    /// `NotFound` for an unknown ID, `Conflict` for tags that too many instances carry.
    pub async fn find(
        &self,
        ec2: &Client,
        states: &[InstanceStateName],
    ) -> Result<Vec<Instance>, StepError> {
        let mut request = ec2.describe_instances();
        if self.tags.is_empty() {
            request = request.set_instance_ids(Some(self.ids.to_vec()));
        } else {
            if !states.is_empty() {
                request = request.filters(filter(
                    "instance-state-name",
                    states.iter().map(InstanceStateName::as_str),
                ));
            }
            for (key, value) in self.tags {
                request = request.filters(filter(&format!("tag:{key}"), [value.as_str()]));
            }
        }
        let mut pages = request.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            found.extend(
                page.map_err(ec2_error)?
                    .reservations
                    .unwrap_or_default()
                    .into_iter()
                    .flat_map(|r| r.instances.unwrap_or_default()),
            );
            if !self.tags.is_empty() && found.len() > MAX_BY_TAGS {
                return Err(ErrorName::Conflict.with_message(format!(
                    "more than {MAX_BY_TAGS} instances carry these tags: nothing was done; narrow the tags"
                )));
            }
        }
        Ok(found)
    }
}

/// An instance as it was found.
#[must_use]
pub fn first_seen(instance: &Instance) -> ChangedInstance {
    let name = instance
        .tags()
        .iter()
        .find(|tag| tag.key() == Some("Name"))
        .and_then(|tag| tag.value.clone());
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
    let ids: Vec<_> = instances
        .iter()
        .map(|instance| instance.instance_id.as_str())
        .collect();
    let console_url = ctx.console(
        "ec2/home",
        &format!("Instances:instanceId={}", ids.join(",")),
    );
    Changed {
        instances,
        console_url,
    }
}
