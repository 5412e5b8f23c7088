//! Code that the Auto Scaling steps share: a group's sizes, and whether it has reached them.

mod error;
pub mod steps;
mod update;

use std::fmt;

use aws_sdk_autoscaling::types::{AutoScalingGroup, Instance, LifecycleState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::{ErrorName, StepError};

/// A group's sizes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Sizes {
    /// The minimum size of the group.
    pub min_size: i32,
    /// The number of instances that the group maintains.
    pub desired_capacity: i32,
    /// The maximum size of the group.
    pub max_size: i32,
}

impl From<&AutoScalingGroup> for Sizes {
    fn from(group: &AutoScalingGroup) -> Self {
        Self {
            min_size: group.min_size.unwrap_or_default(),
            desired_capacity: group.desired_capacity.unwrap_or_default(),
            max_size: group.max_size.unwrap_or_default(),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "minimum {}, desired {}, maximum {}",
            self.min_size, self.desired_capacity, self.max_size
        )
    }
}

/// The part of the group's capacity that an instance provides.
fn capacity_units(instance: &Instance) -> i32 {
    instance
        .weighted_capacity()
        .and_then(|weight| weight.parse().ok())
        .unwrap_or(1)
}

/// The capacity units of each instance in service.
pub fn units_in_service(group: &AutoScalingGroup) -> impl Iterator<Item = i32> {
    let is_in_service =
        |instance: &&Instance| instance.lifecycle_state() == Some(&LifecycleState::InService);
    group
        .instances()
        .iter()
        .filter(is_in_service)
        .map(capacity_units)
}

/// Whether the group has its desired capacity. A group with weights may have more, if it would have
/// too little with any one instance fewer.
#[must_use]
pub fn has_capacity(group: &AutoScalingGroup, desired: i32) -> bool {
    let units: i32 = units_in_service(group).sum();
    let lightest = units_in_service(group).min().unwrap_or_default();
    units == desired || units > desired && units - lightest < desired
}

fn has_too_little(group: &AutoScalingGroup, desired: i32) -> bool {
    units_in_service(group).sum::<i32>() < desired
}

/// Whether an instance is changing its state in the direction that the group needs: starting if
/// there is too little capacity, otherwise terminating.
///
/// An instance that a lifecycle hook keeps in a terminating state does not count while capacity is
/// missing. A retained instance never counts, because it stays.
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html>
#[must_use]
pub fn has_instance_in_transition(group: &AutoScalingGroup, desired: i32) -> bool {
    let state_prefix = if has_too_little(group, desired) {
        "Pending"
    } else {
        "Terminating"
    };
    let mut states = group
        .instances()
        .iter()
        .filter_map(Instance::lifecycle_state);
    states.any(|state| {
        state.as_str().starts_with(state_prefix) && *state != LifecycleState::TerminatingRetained
    })
}

/// The process that the group needs to reach this capacity, if that process is suspended.
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-suspend-resume-processes.html>
#[must_use]
pub fn suspended_process(group: &AutoScalingGroup, desired: i32) -> Option<&'static str> {
    if has_capacity(group, desired) {
        return None;
    }
    let needed = if has_too_little(group, desired) {
        "Launch"
    } else {
        "Terminate"
    };
    group
        .suspended_processes()
        .iter()
        .any(|process| process.process_name() == Some(needed))
        .then_some(needed)
}

/// Turns `ServiceLinkedRoleFailure` into a `Conflict` with advice: AWS returns it as an internal
/// error, but it is a problem of the account. All other errors stay unchanged.
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/autoscaling-service-linked-role.html>
#[must_use]
pub fn explain_role_failure(error: StepError) -> StepError {
    if !error.has_code("ServiceLinkedRoleFailure") {
        return error;
    }
    let message = format!(
        "{}; nothing was changed, because Auto Scaling cannot use its service-linked role in the \
         account: the role is not ready yet, or was deleted; run the step again in a minute; if \
         this does not help, create the group's role again in IAM (AWSServiceRoleForAutoScaling, \
         unless the group uses another one)",
        error.message
    );
    StepError {
        name: ErrorName::Conflict,
        message,
        ..error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_counts_weights_and_may_be_exceeded() {
        let group_with_weights = |weights: &[&str]| {
            let instance = |weight: &&str| {
                Instance::builder()
                    .lifecycle_state(LifecycleState::InService)
                    .weighted_capacity(*weight)
                    .build()
            };
            let instances = weights.iter().map(instance).collect();
            AutoScalingGroup::builder()
                .set_instances(Some(instances))
                .build()
        };
        assert!(has_capacity(&group_with_weights(&["4", "4"]), 8));
        assert!(has_capacity(&group_with_weights(&["4", "4"]), 6));
        assert!(!has_capacity(&group_with_weights(&["4", "4"]), 9));
        assert!(!has_capacity(&group_with_weights(&["4", "4", "2"]), 8));
        assert!(has_capacity(&group_with_weights(&[]), 0));
        assert!(!has_capacity(&group_with_weights(&["1"]), 0));
    }

    #[test]
    fn only_transitions_in_the_needed_direction_count() {
        use LifecycleState::{InService, PendingWait, TerminatingRetained, TerminatingWait};
        for (state, desired, expected) in [
            (PendingWait, 2, true),
            (PendingWait, 0, false),
            (TerminatingWait, 2, false),
            (TerminatingWait, 0, true),
            (TerminatingRetained, 0, false),
            (InService, 3, false),
        ] {
            let instances = [InService, state.clone()]
                .map(|state| Instance::builder().lifecycle_state(state).build());
            let group = AutoScalingGroup::builder()
                .set_instances(Some(instances.into()))
                .build();
            assert_eq!(
                has_instance_in_transition(&group, desired),
                expected,
                "{state} {desired}"
            );
        }
    }
}
