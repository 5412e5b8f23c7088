//! What the tests of the steps and of the engine share: SSM and S3 in memory, and scenes on the
//! local cloud.

mod bucket;
mod command;
mod ssm;

use serde_json::{Value, json};
use stepward::{Context, Progress, Resume, Step, StepError};
use stepward_testkit::proof::Scene;

pub(crate) use bucket::Bucket;
pub(crate) use ssm::Fake;

/// Two instances.
pub(crate) const IDS: [&str; 2] = ["i-0123456789abcdef0", "i-0123456789abcdef1"];

/// The step with these parameters, over its usual ones.
pub(crate) fn with<S: Step>(usual: Value, more: &Value) -> S {
    let mut params = usual;
    params
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    params
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    serde_json::from_value(params).unwrap()
}

/// What the state machine does with a pending answer: calls again with it.
pub(crate) fn resumed<T: std::fmt::Debug>(answer: Progress<T>) -> Resume {
    let Progress::Pending { state, .. } = answer else {
        panic!("not pending: {answer:?}")
    };
    stepward::testing::resume(&state)
}

/// Calls until it is done.
pub(crate) async fn ran<S: Step<Output: std::fmt::Debug>>(
    step: &S,
    ctx: &Context,
) -> Result<S::Output, StepError> {
    let mut resume = None;
    loop {
        match step.run(ctx, resume).await? {
            Progress::Done(output) => return Ok(output),
            pending @ Progress::Pending { .. } => resume = Some(resumed(pending)),
        }
    }
}

/// On the local cloud: an instance that SSM manages, and one that it does not.
pub(crate) async fn nodes(scene: &Scene) -> Vec<String> {
    let (ec2, name) = (
        scene.client(aws_sdk_ec2::Client::new),
        scene.name("profile"),
    );
    let statement = json!([{ "Effect": "Allow", "Principal": { "Service": "ec2.amazonaws.com" }, "Action": "sts:AssumeRole" }]);
    let trust = json!({ "Version": "2012-10-17", "Statement": statement });
    let profile = json!({ "InstanceProfileName": name, "Roles": [{ "Ref": "Role" }] });
    let resources = json!({
        "Role": { "Type": "AWS::IAM::Role", "Properties": { "AssumeRolePolicyDocument": trust } },
        "Profile": { "Type": "AWS::IAM::InstanceProfile", "Properties": profile },
    });
    scene.make(&json!({ "Resources": resources })).await;
    let mut ids = Vec::new();
    for managed in [true, false] {
        let profile = aws_sdk_ec2::types::IamInstanceProfileSpecification::builder()
            .name(&name)
            .build();
        let run = ec2
            .run_instances()
            .image_id("ami-12345678")
            .min_count(1)
            .max_count(1);
        let instances = run
            .set_iam_instance_profile(managed.then_some(profile))
            .send()
            .await
            .unwrap()
            .instances
            .unwrap();
        ids.extend(
            instances
                .into_iter()
                .filter_map(|instance| instance.instance_id),
        );
    }
    ids
}

/// On the local cloud: a bucket.
pub(crate) async fn bucket(scene: &Scene) -> String {
    let name = scene.name("bucket");
    let bucket = json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": name } });
    scene
        .make(&json!({ "Resources": { "Bucket": bucket } }))
        .await;
    name
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(since.as_secs()).unwrap()
}
