//! What the unit tests of the EC2 steps share: answers of EC2, and what a state machine does with a step's answer.

use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_ec2::operation::describe_instance_status::DescribeInstanceStatusOutput;
use aws_sdk_ec2::operation::describe_instances::DescribeInstancesOutput;
use aws_sdk_ec2::types::{
    Instance, InstanceState, InstanceStateChange, InstanceStateName, InstanceStatus, InstanceStatusSummary,
    Reservation, StateReason, SummaryStatus,
};
use aws_smithy_types::error::ErrorMetadata;
use serde_json::json;
use stepward::{Progress, Resume};

/// An instance in a state.
#[must_use]
pub(crate) fn instance(id: &str, state: InstanceStateName) -> Instance {
    Instance::builder().instance_id(id).state(InstanceState::builder().name(state).build()).build()
}

/// A stopped instance, and why it is.
#[must_use]
pub(crate) fn stopped(id: &str, code: &str, message: &str) -> Instance {
    let reason = StateReason::builder().code(code).message(message).build();
    let mut stopped = instance(id, InstanceStateName::Stopped);
    stopped.state_reason = Some(reason);
    stopped
}

/// What `DescribeInstances` answers.
#[must_use]
pub(crate) fn seen(instances: impl IntoIterator<Item = Instance>) -> DescribeInstancesOutput {
    let reservation = Reservation::builder().set_instances(Some(instances.into_iter().collect())).build();
    DescribeInstancesOutput::builder().reservations(reservation).build()
}

/// How EC2 confirms that it changes an instance's state.
#[must_use]
pub(crate) fn change(id: &str, now: InstanceStateName) -> InstanceStateChange {
    let state = InstanceState::builder().name(now).build();
    InstanceStateChange::builder().instance_id(id).current_state(state).build()
}

/// What `DescribeInstanceStatus` answers of one instance.
#[must_use]
pub(crate) fn status(id: &str, state: InstanceStateName, instance: SummaryStatus) -> DescribeInstanceStatusOutput {
    let check = |status| InstanceStatusSummary::builder().status(status).build();
    let status = InstanceStatus::builder()
        .instance_id(id)
        .instance_state(InstanceState::builder().name(state).build())
        .system_status(check(SummaryStatus::Ok))
        .instance_status(check(instance));
    DescribeInstanceStatusOutput::builder().instance_statuses(status.build()).build()
}

/// A refusal of EC2, for an operation's `Error::generic`.
#[must_use]
pub(crate) fn refusal(code: &str, message: &str) -> ErrorMetadata {
    ErrorMetadata::builder().code(code).message(message).build()
}

/// A resume with this state, of a step that has just begun.
///
/// # Panics
/// When the state is none.
#[must_use]
pub(crate) fn resume(state: &serde_json::Value) -> Resume {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    serde_json::from_value(json!({ "since": since, "state": state })).expect("a resume")
}

/// What a state machine does with a pending answer: it keeps it as JSON, waits, and hands it back.
///
/// # Panics
/// When the answer is not pending.
#[must_use]
pub(crate) fn pending<T: Debug>(answer: Progress<T>) -> (Resume, Duration, String) {
    let Progress::Pending { state, retry_after, progress } = answer else { panic!("not pending: {answer:?}") };
    (resume(&state), retry_after, progress)
}

/// The output of an answer.
///
/// # Panics
/// When the answer is pending.
#[must_use]
pub(crate) fn done<T: Debug>(answer: Progress<T>) -> T {
    let Progress::Done(output) = answer else { panic!("not done: {answer:?}") };
    output
}
