//! Helpers for the tests of the steps and of the engine: fakes of SSM and S3, and resources in the
//! local cloud.

mod bucket;
mod command;
mod ssm;

use serde_json::{Value, json};
use stepward::{Context, Progress, Resume, Step, StepError};
use stepward_testkit::proof::Scene;

pub(crate) use bucket::FakeBucket;
pub(crate) use ssm::FakeSsm;

/// Two instances.
pub(crate) const IDS: [&str; 2] = ["i-0123456789abcdef0", "i-0123456789abcdef1"];

/// A step with `defaults`, replaced by `parameters`; a null removes a parameter.
pub(crate) fn step_with_parameters<S: Step>(defaults: Value, parameters: &Value) -> S {
    let mut merged = defaults;
    let members = merged.as_object_mut().unwrap();
    members.extend(parameters.as_object().unwrap().clone());
    members.retain(|_, value| !value.is_null());
    serde_json::from_value(merged).unwrap()
}

/// The resume state of a pending response, as the state machine passes it to the next call.
pub(crate) fn resume_from<T: std::fmt::Debug>(response: Progress<T>) -> Resume {
    let Progress::Pending { state, .. } = response else {
        panic!("not pending: {response:?}")
    };
    stepward::testing::resume_from(&state)
}

/// Calls the step until it is done.
pub(crate) async fn run_to_end<S: Step<Output: std::fmt::Debug>>(
    step: &S,
    ctx: &Context,
) -> Result<S::Output, StepError> {
    let mut resume = None;
    loop {
        match step.run(ctx, resume).await? {
            Progress::Done(output) => return Ok(output),
            pending @ Progress::Pending { .. } => resume = Some(resume_from(pending)),
        }
    }
}

/// Creates two instances in the local cloud: the first is managed by SSM, the second is not.
pub(crate) async fn create_nodes(scene: &Scene) -> Vec<String> {
    let ec2 = scene.client(aws_sdk_ec2::Client::new);
    let profile_name = scene.name("profile");
    let trust_policy = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": { "Service": "ec2.amazonaws.com" },
            "Action": "sts:AssumeRole",
        }],
    });
    let profile = json!({ "InstanceProfileName": profile_name, "Roles": [{ "Ref": "Role" }] });
    let resources = json!({
        "Role": {
            "Type": "AWS::IAM::Role",
            "Properties": { "AssumeRolePolicyDocument": trust_policy },
        },
        "Profile": { "Type": "AWS::IAM::InstanceProfile", "Properties": profile },
    });
    scene.make(&json!({ "Resources": resources })).await;

    let mut ids = Vec::new();
    for is_managed in [true, false] {
        let profile = aws_sdk_ec2::types::IamInstanceProfileSpecification::builder()
            .name(&profile_name)
            .build();
        let request = ec2
            .run_instances()
            .image_id("ami-12345678")
            .min_count(1)
            .max_count(1)
            .set_iam_instance_profile(is_managed.then_some(profile));
        let instances = request.send().await.unwrap().instances.unwrap();
        ids.extend(
            instances
                .into_iter()
                .filter_map(|instance| instance.instance_id),
        );
    }
    ids
}

/// Creates a bucket in the local cloud and returns its name.
pub(crate) async fn create_bucket(scene: &Scene) -> String {
    let name = scene.name("bucket");
    let bucket = json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": name } });
    scene
        .make(&json!({ "Resources": { "Bucket": bucket } }))
        .await;
    name
}
