//! Athena's `GetQueryExecution` with the SDK's defaults, and no other code.

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
    let client = aws_sdk_athena::Client::new(&config);
    run(service_fn(async |event: LambdaEvent<Value>| {
        let id = event.payload["query_execution_id"]
            .as_str()
            .unwrap_or_default();
        let output = client
            .get_query_execution()
            .query_execution_id(id)
            .send()
            .await?;
        let state = output.query_execution.and_then(|query| query.status?.state);
        Ok::<_, Error>(json!({ "state": state.map(|state| state.to_string()) }))
    }))
    .await
}
