//! Tests of the steps with buckets that S3 refuses: in another Region, which S3 names in a header of
//! its response, or with rejected credentials.

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

#[tokio::test]
async fn rejected_credentials_of_a_head_are_explained() {
    let expired =
        "<Error><Code>ExpiredToken</Code><Message>The token has expired</Message></Error>";
    let denied = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    for (status, body, expected) in [
        (
            400,
            expired,
            "AWS rejected the credentials (AWS: The token has expired)",
        ),
        (
            403,
            denied,
            "AWS denied s3:GetObject; allow it in the customer's role",
        ),
    ] {
        let respond = move |body: &'static str| {
            move || HttpResponse::new(status.try_into().unwrap(), body.into())
        };
        let head = mock!(Client::head_object).then_http_response(respond(""));
        let get = mock!(Client::get_object)
            .match_requests(|request| request.range() == Some("bytes=0-0"))
            .then_http_response(respond(body));
        let fake = FakeSsm::default();
        let ctx = fake.context(&[]);
        let s3 = mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&head, &get]);
        ctx.client(|_| s3);
        let source = json!({ "source": "s3://files/a", "destination": "/a" });
        let step: CopyFile = step_with_parameters(json!({ "instance_ids": IDS }), &source);
        let error = run_to_end(&step, &ctx).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        let expected = format!("s3://files/a: {expected}");
        assert!(error.message.contains(&expected), "{error}");
    }
}
