//! What the Auto Scaling steps share: a group's sizes, and how far it is from them.

mod error;
pub mod steps;

use std::fmt;

use aws_sdk_autoscaling::types::{AutoScalingGroup, Instance, LifecycleState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::{ErrorName, StepError};

/// A group's sizes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Sizes {
    /// The fewest that scaling may leave.
    pub min_size: i32,
    /// How many the group shall have.
    pub desired_capacity: i32,
    /// The most that scaling may reach.
    pub max_size: i32,
}

impl Sizes {
    /// The sizes of a group.
    #[must_use]
    pub fn of(group: &AutoScalingGroup) -> Self {
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

/// What an instance counts of the group's capacity.
fn weight(instance: &Instance) -> i32 {
    instance
        .weighted_capacity()
        .and_then(|weight| weight.parse().ok())
        .unwrap_or(1)
}

/// The instances in service, in what they count.
pub fn in_service(group: &AutoScalingGroup) -> impl Iterator<Item = i32> {
    let serving =
        |instance: &&Instance| instance.lifecycle_state() == Some(&LifecycleState::InService);
    group.instances().iter().filter(serving).map(weight)
}

/// Whether the group has what it wants. With weights it can have more, if it could not do with an
/// instance less.
#[must_use]
pub fn settled(group: &AutoScalingGroup, desired: i32) -> bool {
    let units: i32 = in_service(group).sum();
    let lightest = in_service(group).min().unwrap_or_default();
    units == desired || units > desired && units - lightest < desired
}

fn has_too_few(group: &AutoScalingGroup, desired: i32) -> bool {
    in_service(group).sum::<i32>() < desired
}

/// Whether an instance is on its way that brings the group nearer to this capacity: one that comes
/// when there are too few, else one that goes. An instance that a lifecycle hook keeps from going
/// says nothing of those that are missing, and one that is retained goes nowhere.
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html>
#[must_use]
pub fn in_transit(group: &AutoScalingGroup, desired: i32) -> bool {
    let needed = if has_too_few(group, desired) {
        "Pending"
    } else {
        "Terminating"
    };
    let mut states = group
        .instances()
        .iter()
        .filter_map(Instance::lifecycle_state);
    states.any(|state| {
        state.as_str().starts_with(needed) && *state != LifecycleState::TerminatingRetained
    })
}

/// The process that the group needs to reach this capacity, if it is suspended.
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-suspend-resume-processes.html>
#[must_use]
pub fn suspended(group: &AutoScalingGroup, desired: i32) -> Option<&'static str> {
    if settled(group, desired) {
        return None;
    }
    let needed = if has_too_few(group, desired) {
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

/// The error as it is, but for one that comes as a fault of AWS and is a state of the account.
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/autoscaling-service-linked-role.html>
#[must_use]
pub fn explained(error: StepError) -> StepError {
    if !error.has_code("ServiceLinkedRoleFailure") {
        return error;
    }
    let message = format!(
        "{}; nothing was changed, because Auto Scaling cannot use its service-linked role in the account: it is not \
         ready yet, or was deleted. Run this again in a minute; if it stays so, look for the group's role in IAM \
         (AWSServiceRoleForAutoScaling, unless it has another) and create it anew",
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
    fn weights_count_as_capacity_and_may_exceed_it() {
        let weighing = |weights: &[&str]| {
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
        assert!(settled(&weighing(&["4", "4"]), 8));
        assert!(settled(&weighing(&["4", "4"]), 6));
        assert!(!settled(&weighing(&["4", "4"]), 9));
        assert!(!settled(&weighing(&["4", "4", "2"]), 8));
        assert!(settled(&weighing(&[]), 0));
        assert!(!settled(&weighing(&["1"]), 0));
    }

    #[test]
    fn only_what_brings_the_group_nearer_to_its_capacity_is_on_its_way() {
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
            assert_eq!(in_transit(&group, desired), expected, "{state} {desired}");
        }
    }
}
