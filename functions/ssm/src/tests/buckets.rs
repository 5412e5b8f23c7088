//! Tests of the steps with buckets in another Region, which S3 names in a header of its response.

use aws_sdk_s3::Client;
use aws_smithy_mocks::{RuleMode, mock};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use stepward::mock_client;
use stepward::{Step, testing};

use super::*;
use crate::steps::ssm_copy_file::CopyFile;
use crate::steps::ssm_run_command::RunCommand;
use crate::steps::ssm_run_script::RunScript;
use crate::testing::{IDS, run_to_end, step_with_parameters};

/// S3's response to a request for a bucket in eu-central-1 that was sent to eu-west-1. The response
/// to `HeadObject` has no body.
fn redirect(body: &'static str) -> HttpResponse {
    let mut response = HttpResponse::new(301.try_into().unwrap(), body.into());
    response
        .headers_mut()
        .insert("x-amz-bucket-region", "eu-central-1");
    response
}

const PERMANENT_REDIRECT: &str =
    "<Error><Code>PermanentRedirect</Code><Message>use another endpoint</Message></Error>";

/// A context in which all buckets of the account are in eu-central-1.
fn context(fake: &FakeSsm) -> Context {
    let put = mock!(Client::put_object).then_http_response(|| redirect(PERMANENT_REDIRECT));
    let get = mock!(Client::get_object).then_http_response(|| redirect(PERMANENT_REDIRECT));
    let head = mock!(Client::head_object).then_http_response(|| redirect(""));
    let delete = mock!(Client::delete_object).then_http_response(|| redirect(PERMANENT_REDIRECT));
    let s3 = mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&put, &get, &head, &delete]);
    let ctx = fake.context(&[]);
    ctx.client(|_| s3);
    ctx
}

async fn error_of<S: Step<Output = CommandResults>>(parameters: serde_json::Value) -> StepError {
    let fake = FakeSsm::default();
    let step: S = step_with_parameters(json!({ "instance_ids": IDS }), &parameters);
    step.validate().unwrap();
    let error = run_to_end(&step, &context(&fake)).await.unwrap_err();
    assert_eq!(fake.call_count("SendCommand"), 0);
    error
}

#[tokio::test]
async fn a_bucket_elsewhere_is_named_with_region_and_parameter() {
    let expected = |parameter: &str| {
        format!(
            "parameter \"{parameter}\": bucket \"files\" is in Region eu-central-1, and the step \
             works in eu-west-1; pass a bucket in eu-west-1"
        )
    };
    let script = json!({ "script": "id", "bucket": "files" });
    let content = json!({ "content": "a", "destination": "/a", "bucket": "files" });
    let source = json!({ "source": "s3://files/a", "destination": "/a" });
    for (error, parameter) in [
        (error_of::<RunScript>(script).await, "bucket"),
        (error_of::<CopyFile>(content).await, "bucket"),
        (error_of::<CopyFile>(source).await, "source"),
    ] {
        assert_eq!(error.name, ErrorName::InvalidInput, "{error}");
        assert!(error.message.contains(&expected(parameter)), "{error}");
    }
}

#[tokio::test]
async fn an_output_bucket_elsewhere_is_named_in_the_log() {
    let fake = FakeSsm::default();
    fake.lock().output = "x".repeat(30_000);
    let parameters = json!({ "command": "id", "output_bucket": "outputs" });
    let step: RunCommand = step_with_parameters(json!({ "instance_ids": IDS }), &parameters);
    let ctx = context(&fake);
    assert_eq!(run_to_end(&step, &ctx).await.unwrap().succeeded, 2);
    let log = testing::log_lines(&ctx).join("\n");
    let expected = "parameter \"output_bucket\": bucket \"outputs\" is in Region eu-central-1";
    assert!(log.contains(expected), "{log}");
}
