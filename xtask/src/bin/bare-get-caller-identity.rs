//! STS's `GetCallerIdentity` with the SDK's defaults, and no other code.

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
    let client = aws_sdk_sts::Client::new(&config);
    run(service_fn(async |event: LambdaEvent<Value>| {
        let _ = event;
        let output = client.get_caller_identity().send().await?;
        Ok::<_, Error>(json!({ "account": output.account }))
    }))
    .await
}
