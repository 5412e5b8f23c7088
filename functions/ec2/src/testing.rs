//! What the unit tests of the EC2 steps share: answers of EC2, and instances on the local cloud.

use std::fmt::Debug;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::describe_instance_status::DescribeInstanceStatusOutput;
use aws_sdk_ec2::operation::describe_instances::{DescribeInstancesError, DescribeInstancesOutput};
use aws_sdk_ec2::types::{
    Instance, InstanceState, InstanceStateChange, InstanceStateName, InstanceStatus,
    InstanceStatusSummary, InstanceType, Reservation, StateReason, SummaryStatus,
};
use aws_smithy_mocks::{mock, mock_client};
use aws_smithy_types::error::ErrorMetadata;
use stepward::testing::context;
use stepward::{ErrorName, Step};
use stepward_testkit::proof::Scene;

/// An instance in a state.
#[must_use]
pub(crate) fn instance(id: &str, state: InstanceStateName) -> Instance {
    Instance::builder()
        .instance_id(id)
        .state(InstanceState::builder().name(state).build())
        .build()
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
    let reservation = Reservation::builder()
        .set_instances(Some(instances.into_iter().collect()))
        .build();
    DescribeInstancesOutput::builder()
        .reservations(reservation)
        .build()
}

/// How EC2 confirms that it changes an instance's state.
#[must_use]
pub(crate) fn change(id: &str, now: InstanceStateName) -> InstanceStateChange {
    let state = InstanceState::builder().name(now).build();
    InstanceStateChange::builder()
        .instance_id(id)
        .current_state(state)
        .build()
}

/// What `DescribeInstanceStatus` answers of one instance.
#[must_use]
pub(crate) fn status(
    id: &str,
    state: InstanceStateName,
    instance: SummaryStatus,
) -> DescribeInstanceStatusOutput {
    let check = |status| InstanceStatusSummary::builder().status(status).build();
    let status = InstanceStatus::builder()
        .instance_id(id)
        .instance_state(InstanceState::builder().name(state).build())
        .system_status(check(SummaryStatus::Ok))
        .instance_status(check(instance));
    DescribeInstanceStatusOutput::builder()
        .instance_statuses(status.build())
        .build()
}

/// A refusal of EC2, for an operation's `Error::generic`.
#[must_use]
pub(crate) fn refusal(code: &str, message: &str) -> ErrorMetadata {
    ErrorMetadata::builder().code(code).message(message).build()
}

/// Asserts that a step for an instance that EC2 does not know is `NotFound`.
pub(crate) async fn is_not_found<S: Step<Output: Debug>>(step: &S) {
    let look = mock!(Client::describe_instances).then_error(|| {
        DescribeInstancesError::generic(refusal("InvalidInstanceID.NotFound", "does not exist"))
    });
    let error = step
        .run(&context(mock_client!(aws_sdk_ec2, [&look])), None)
        .await
        .unwrap_err();
    assert_eq!(error.name, ErrorName::NotFound);
}

/// Launches an instance on the local cloud, and answers its ID.
pub(crate) async fn launched(scene: &Scene) -> String {
    let launch = scene
        .client(Client::new)
        .run_instances()
        .instance_type(InstanceType::T3Micro);
    let launched = launch
        .min_count(1)
        .max_count(1)
        .image_id("ami-0abcdef1234567890")
        .send()
        .await
        .unwrap();
    launched.instances()[0].instance_id().unwrap().to_owned()
}
