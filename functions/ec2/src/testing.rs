//! Helpers for the unit tests of the EC2 steps: outputs of EC2, and instances on the local cloud.

use std::fmt::Debug;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::describe_instance_status::DescribeInstanceStatusOutput;
use aws_sdk_ec2::operation::describe_instances::{DescribeInstancesError, DescribeInstancesOutput};
use aws_sdk_ec2::types::{
    Instance, InstanceState, InstanceStateChange, InstanceStateName, InstanceStatus,
    InstanceStatusSummary, InstanceType, Reservation, StateReason, SummaryStatus,
};
use aws_smithy_mocks::mock;
use aws_smithy_types::error::ErrorMetadata;
use stepward::mock_client;
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

/// A stopped instance with the reason for its state.
#[must_use]
pub(crate) fn stopped_instance(id: &str, code: &str, message: &str) -> Instance {
    let reason = StateReason::builder().code(code).message(message).build();
    let mut stopped = instance(id, InstanceStateName::Stopped);
    stopped.state_reason = Some(reason);
    stopped
}

/// The output of `DescribeInstances`.
#[must_use]
pub(crate) fn instances_output(
    instances: impl IntoIterator<Item = Instance>,
) -> DescribeInstancesOutput {
    let reservation = Reservation::builder()
        .set_instances(Some(instances.into_iter().collect()))
        .build();
    DescribeInstancesOutput::builder()
        .reservations(reservation)
        .build()
}

/// EC2's confirmation that an instance changes its state.
#[must_use]
pub(crate) fn state_change(id: &str, new_state: InstanceStateName) -> InstanceStateChange {
    let state = InstanceState::builder().name(new_state).build();
    InstanceStateChange::builder()
        .instance_id(id)
        .current_state(state)
        .build()
}

/// The output of `DescribeInstanceStatus` for one instance whose system check passes.
#[must_use]
pub(crate) fn status_output(
    id: &str,
    state: InstanceStateName,
    instance_check: SummaryStatus,
) -> DescribeInstanceStatusOutput {
    let summary = |status| InstanceStatusSummary::builder().status(status).build();
    let status = InstanceStatus::builder()
        .instance_id(id)
        .instance_state(InstanceState::builder().name(state).build())
        .system_status(summary(SummaryStatus::Ok))
        .instance_status(summary(instance_check));
    DescribeInstanceStatusOutput::builder()
        .instance_statuses(status.build())
        .build()
}

/// An error response of EC2, for the `generic` constructor of an operation's error.
#[must_use]
pub(crate) fn error_response(code: &str, message: &str) -> ErrorMetadata {
    ErrorMetadata::builder().code(code).message(message).build()
}

/// Asserts that the step fails with `NotFound` for an instance that does not exist.
pub(crate) async fn assert_not_found<S: Step<Output: Debug>>(step: &S) {
    let describe = mock!(Client::describe_instances).then_error(|| {
        let response = error_response("InvalidInstanceID.NotFound", "does not exist");
        DescribeInstancesError::generic(response)
    });
    let error = step
        .run(&context(mock_client!(aws_sdk_ec2, [&describe])), None)
        .await
        .unwrap_err();
    assert_eq!(error.name, ErrorName::NotFound);
}

/// Launches an instance on the local cloud and returns its ID.
pub(crate) async fn launch_instance(scene: &Scene) -> String {
    let request = scene
        .client(Client::new)
        .run_instances()
        .instance_type(InstanceType::T3Micro);
    let output = request
        .min_count(1)
        .max_count(1)
        .image_id("ami-0abcdef1234567890")
        .send()
        .await
        .unwrap();
    output.instances()[0].instance_id().unwrap().to_owned()
}
