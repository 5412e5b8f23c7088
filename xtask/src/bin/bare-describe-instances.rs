//! EC2's `DescribeInstances` with the SDK's defaults, and no other code.

use aws_config::BehaviorVersion;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a function without Stepward, to compare with"
    )]
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let client = aws_sdk_ec2::Client::new(&config);
    run(service_fn(async |event: LambdaEvent<Value>| {
        let id = event.payload["instance_id"].as_str().unwrap_or_default();
        let output = client.describe_instances().instance_ids(id).send().await?;
        Ok::<_, Error>(json!({ "reservations": output.reservations().len() }))
    }))
    .await
}
