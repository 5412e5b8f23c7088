//! The step `lambda-invoke`.

use std::time::Duration;

use crate::function_reference::FunctionReference;
use crate::invoke_once;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{InvocationType, LogType};
use aws_smithy_types::base64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The maximum time to wait for the function. Lambda stops the step's own function after 60
/// seconds, and its start takes a part of them.
const MAX_WAIT: Duration = Duration::from_secs(45);
/// The maximum length of the encoded client context, in bytes.
/// <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html> (`X-Amz-Client-Context`)
const MAX_CONTEXT_BYTES: usize = 3_583;
/// The key that the step adds to `custom` in the client context.
const TOKEN_KEY: &str = "stepward_token";

/// Invoke a Lambda function and return its result.
///
/// Use this step to run an existing function as a part of a job. With `Request` the step waits for
/// the result, for up to 45 seconds. For longer work use `Event`: Lambda puts the payload into a
/// queue, and the step finishes immediately without a result. To run code that has no function yet,
/// use `lambda-run-code`.
///
/// # Behavior
///
/// `Request` returns what the function returned and the last 4 KB of its log. If the function
/// fails, the step fails with the type and message of its error and the last lines of its log.
///
/// `Event` finishes when Lambda has accepted the payload. Lambda invokes the function later, and up
/// to two more times if it fails. The step does not get the result; give the function a destination
/// for it.
///
/// Lambda has no client token for invocations, so a function can run more than once:
///
/// - If Lambda's response to a `Request` is lost, the step does not repeat the request. It fails
///   with `StepFailed`, which Step Functions does not retry by default. If running twice is safe,
///   add a `Retry` for `StepFailed` to the job. Step Functions then also retries a function that
///   failed.
/// - The step fails with `TimedOut` if Lambda does not confirm an `Event`. Step Functions then
///   retries the step.
/// - Step Functions also retries the step if the response of the step itself is lost.
/// - The step repeats an invocation that Lambda throttled, because the function did not run.
///
/// To detect a repeated `Request`, the function can read `custom.stepward_token` in its client
/// context: 64 characters that are the same for every call of the same step in the same execution.
/// An `Event` has no client context; put your own ID into its payload.
///
/// When the job is stopped, a running function continues.
///
/// # Failures
///
/// If a function does not respond within 45 seconds, the step fails. The function may still run,
/// and its result is lost.
///
/// # Cost
///
/// Lambda charges for each invocation, and for its duration and memory.
///
/// # Limits
///
/// - With `Request` the step waits for the result for up to 45 seconds.
/// - Lambda accepts payloads of up to 6 MB, and of up to 1 MB for `Event`.
/// - Step Functions limits the data that a job passes between states to 256 KiB, so the payload of
///   a job must be smaller.
///
/// # Proof
///
/// Proven on the local cloud with a function in Python. The local cloud does not pass the client
/// context to functions and does not lose responses. Unit tests cover both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InvokeFunction {
    /// The function's name, its ARN, or `account:function:name`, each optionally with `:` and a
    /// version or an alias. An ARN must be in the step's account and Region.
    function_name: String,
    /// The function's payload: any JSON value. Text is passed as a JSON string. An empty object by
    /// default.
    #[serde(default)]
    payload: Option<Value>,
    /// `Request` (the default) to wait for the result, or `Event` to run the function later.
    #[serde(default)]
    invocation_type: Invocation,
    /// The version or alias. Default: the unpublished version, `$LATEST`.
    qualifier: Option<String>,
    /// A JSON object that the function gets as its client context. Put your own keys into its
    /// object `custom`. At most 3,583 bytes in base64, which is about 2,600 bytes of JSON. Not for
    /// `Event`.
    client_context: Option<Map<String, Value>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[schemars(inline)]
enum Invocation {
    #[default]
    Request,
    Event,
}

/// An invocation that Lambda responded to.
#[derive(Debug, JsonSchema, Serialize)]
pub struct InvokedFunction {
    /// 200 for `Request`, 202 for `Event`.
    status_code: i32,
    /// What the function returned: JSON, or text if it is not JSON. Null for `Event`.
    payload: Value,
    /// Always null. If the function fails, the step fails, and its error has the function's error.
    function_error: Option<String>,
    /// The last 4 KB of the function's log. Empty for `Event`.
    log_tail: String,
    /// The version that ran. `$LATEST` is the unpublished version.
    executed_version: Option<String>,
    /// The function in the AWS console.
    console_url: String,
}

impl InvokeFunction {
    /// Parses `function_name`. If it contains no qualifier, the result has the one of `qualifier`.
    fn function(&self) -> Option<FunctionReference<'_>> {
        let function = FunctionReference::parse(&self.function_name)?;
        Some(function.or_qualifier(self.qualifier.as_deref()))
    }

    /// The client context with the token, in base64.
    fn encoded_context(&self, token: &str) -> String {
        let mut context = self.client_context.clone().unwrap_or_default();
        let custom = context.entry("custom").or_insert_with(|| json!({}));
        custom[TOKEN_KEY] = token.into();
        base64::encode(Value::Object(context).to_string())
    }

    fn check_client_context(&self) -> Result<(), StepError> {
        let Some(context) = &self.client_context else {
            return Ok(());
        };
        require(self.invocation_type == Invocation::Request, || {
            "parameter \"client_context\": Lambda does not pass it to a function with \
             invocation_type Event; use \"payload\""
                .into()
        })?;
        let is_valid = context
            .get("custom")
            .is_none_or(|custom| custom.is_object() && custom.get(TOKEN_KEY).is_none());
        require(is_valid, || {
            format!(
                "parameter \"client_context\": expected \"custom\" to be an object without \
                 \"{TOKEN_KEY}\", which the step adds"
            )
        })?;
        let length = self.encoded_context(&"0".repeat(64)).len();
        require(length <= MAX_CONTEXT_BYTES, || {
            format!(
                "parameter \"client_context\": expected at most {MAX_CONTEXT_BYTES} bytes in \
                 base64, got {length}; use \"payload\" for large values"
            )
        })
    }

    /// Adds the function's name and advice to the error of an invocation.
    fn explain_error(&self, function: &str, mut error: StepError) -> StepError {
        let advice = match (error.name, self.invocation_type) {
            (ErrorName::TimedOut, Invocation::Request) => {
                // Step Functions retries `TimedOut`, which would invoke a slow function twice.
                error.name = ErrorName::StepFailed;
                "; check its log, and use invocation_type Event if it takes longer than 45 seconds"
            }
            (ErrorName::TimedOut, Invocation::Event) => "; the event may be in Lambda's queue",
            _ => "",
        };
        error.message = format!("function {function}: {}{advice}", error.message);
        error
    }
}

impl Step for InvokeFunction {
    const NAME: &'static str = "lambda-invoke";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Invoke a function and wait for its result",
            parameters: r#"{ "function_name": "rotate-logs", "payload": { "days": 7 } }"#,
            output: r#"{
                "status_code": 200,
                "payload": { "rotated": 3 },
                "function_error": null,
                "log_tail": "START RequestId: 5c1f0a7e-9b2d-4c38-a83e-6d4b1f0c2975 Version: $LATEST\nrotated 3 logs\nEND RequestId: 5c1f0a7e-9b2d-4c38-a83e-6d4b1f0c2975\n",
                "executed_version": "$LATEST",
                "console_url": "https://eu-west-1.console.aws.amazon.com/lambda/home?region=eu-west-1#/functions/rotate-logs"
            }"#,
        },
        Example {
            title: "Invoke an alias asynchronously",
            parameters: r#"{
                "function_name": "rotate-logs",
                "qualifier": "live",
                "invocation_type": "Event"
            }"#,
            output: r#"{
                "status_code": 202,
                "payload": null,
                "function_error": null,
                "log_tail": "",
                "executed_version": null,
                "console_url": "https://eu-west-1.console.aws.amazon.com/lambda/home?region=eu-west-1#/functions/rotate-logs"
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "The ARN is in another account or Region, or Lambda refused the parameters. Correct \
             them.",
        ),
        (
            ErrorName::NotFound,
            "The account has no such function, version or alias in the Region. Correct the name.",
        ),
        (
            ErrorName::Conflict,
            "The function is being created or changed. Run the job again later.",
        ),
        (
            ErrorName::StepFailed,
            "The function failed, Lambda could not start it, or it did not respond within 45 \
             seconds. In the last case it may have run or may still run; check its log. The \
             message says which case it is.",
        ),
        (
            ErrorName::TimedOut,
            "Lambda did not confirm an invocation of the type `Event`, which may be in the queue. A \
             retry can invoke the function twice.",
        ),
    ];
    type Output = InvokedFunction;

    fn validate(&self) -> Result<(), StepError> {
        let has_only = |text: &str, punctuation: &str| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || punctuation.contains(b as char))
        };
        let function = FunctionReference::parse(&self.function_name).unwrap_or_default();
        require(
            (1..=64).contains(&function.name.len()) && has_only(function.name, "-_"),
            || {
                format!(
                    "parameter \"function_name\": expected the name or the ARN of a function, got \
                     \"{}\"",
                    self.function_name
                )
            },
        )?;
        require(
            self.qualifier.is_none() || function.qualifier.is_none(),
            || {
                "both \"function_name\" and \"qualifier\" have a version or alias; remove one of \
                 them"
                    .into()
            },
        )?;
        let qualifier = function
            .qualifier
            .or(self.qualifier.as_deref())
            .unwrap_or("$LATEST");
        require(
            (1..=128).contains(&qualifier.len()) && has_only(qualifier, "-_$."),
            || {
                format!(
                    "parameter \"qualifier\": expected a version or an alias, got \"{qualifier}\""
                )
            },
        )?;
        self.check_client_context()
    }

    fn permissions(&self) -> Permissions {
        // For a request with a qualifier, IAM checks the ARN with that qualifier at its end.
        // https://docs.aws.amazon.com/lambda/latest/dg/lambda-api-permissions-ref.html
        let FunctionReference {
            name, qualifier, ..
        } = self.function().unwrap_or_default();
        let qualifier = qualifier
            .map(|qualifier| format!(":{}", literal(qualifier)))
            .unwrap_or_default();
        let function = arn("lambda", &format!("function:{}{qualifier}", literal(name)));
        let purpose = if qualifier.is_empty() {
            "invoke the function"
        } else {
            "invoke a version or an alias of the function, if one is set"
        };
        Permissions::default().allow(purpose, &["lambda:InvokeFunction"], [function])
    }

    async fn run(
        &self,
        ctx: &Context,
        _: Option<Resume>,
    ) -> Result<Progress<InvokedFunction>, StepError> {
        let function = self
            .function()
            .filter(|function| function.is_in_scope(&ctx.scope))
            .ok_or_else(|| {
                ErrorName::InvalidInput.with_message(format!(
                    "parameter \"function_name\": expected a function in account {} in {}, got \
                     \"{}\"; correct the ARN or the target",
                    ctx.scope.account_id, ctx.scope.region, self.function_name
                ))
            })?;
        let name = function.name;
        let payload = self
            .payload
            .as_ref()
            .map_or_else(|| "{}".into(), Value::to_string);

        let request = ctx
            .client(Client::new)
            .invoke()
            .function_name(function.qualified_name())
            .payload(Blob::new(payload));
        let request = match self.invocation_type {
            Invocation::Event => request.invocation_type(InvocationType::Event),
            Invocation::Request => request
                .invocation_type(InvocationType::RequestResponse)
                .log_type(LogType::Tail)
                .client_context(self.encoded_context(&ctx.client_token("invoke"))),
        };
        let result = invoke_once(request, MAX_WAIT)
            .await
            .map_err(|error| self.explain_error(name, error))?;

        if let Some(failure) = result.failure_message() {
            return Err(
                ErrorName::StepFailed.with_message(format!("function {name} failed: {failure}"))
            );
        }
        match self.invocation_type {
            Invocation::Request => ctx.log(format_args!("Function {name} succeeded")),
            Invocation::Event => ctx.log(format_args!(
                "Lambda accepted the event and will run function {name}"
            )),
        }
        let payload = match result.payload {
            text if text.is_empty() => Value::Null,
            text => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        };
        Ok(Progress::Done(InvokedFunction {
            status_code: result.status_code,
            payload,
            function_error: None,
            log_tail: result.log_tail,
            executed_version: result.executed_version,
            console_url: ctx.console("lambda/home", &format!("/functions/{name}")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_lambda::config::http::HttpResponse;
    use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeInput, InvokeOutput};
    use aws_sdk_lambda::primitives::SdkBody;
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::mock_client;
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, RequestRecorder};
    use stepward_testkit::proof::prove_permissions;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    // no proof of already: an invocation leaves no state that a later one could find.

    fn step_with(params: Value) -> InvokeFunction {
        serde_json::from_value(params).unwrap()
    }

    fn with_context_value(value: &str) -> Value {
        json!({ "function_name": "f", "client_context": { "custom": { "a": value } } })
    }

    fn decoded_context(request: &InvokeInput) -> Value {
        serde_json::from_slice(&base64::decode(request.client_context().unwrap()).unwrap()).unwrap()
    }

    fn payload_text(request: &InvokeInput) -> &str {
        std::str::from_utf8(request.payload().unwrap().as_ref()).unwrap()
    }

    fn succeeded_output(payload: &str) -> InvokeOutput {
        InvokeOutput::builder()
            .status_code(200)
            .executed_version("7")
            .payload(Blob::new(payload))
            .log_result(base64::encode("START\nhello\nEND\n"))
            .build()
    }

    async fn run_step(step: &InvokeFunction, rule: &Rule) -> Result<InvokedFunction, StepError> {
        let ctx = testing::context(mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [rule]));
        step.validate()?;
        match step.run(&ctx, None).await? {
            Progress::Done(invoked) => Ok(invoked),
            Progress::Pending { .. } => panic!("an invocation is never pending"),
        }
    }

    #[tokio::test]
    async fn done_returns_the_payload_and_the_end_of_the_log() {
        let rule = mock!(Client::invoke)
            .match_requests(|request| {
                let context = decoded_context(request);
                request.function_name() == Some("rotate-logs:live")
                    && request.qualifier().is_none()
                    && request.invocation_type() == Some(&InvocationType::RequestResponse)
                    && request.log_type() == Some(&LogType::Tail)
                    && payload_text(request) == r#"{"days":7}"#
                    && context["custom"]["team"] == "ops"
                    && context["custom"][TOKEN_KEY]
                        .as_str()
                        .is_some_and(|token| token.len() == 64)
            })
            .then_output(|| succeeded_output(r#"{"rotated":3}"#));
        let step = step_with(json!({
            "function_name": "arn:aws:lambda:eu-west-1:222222222222:function:rotate-logs",
            "qualifier": "live",
            "payload": { "days": 7 },
            "client_context": { "custom": { "team": "ops" } },
        }));
        let invoked = run_step(&step, &rule).await.unwrap();
        assert_eq!(
            json!(invoked),
            json!({
                "status_code": 200,
                "payload": { "rotated": 3 },
                "function_error": null,
                "log_tail": "START\nhello\nEND\n",
                "executed_version": "7",
                "console_url":
                    "https://eu-west-1.console.aws.amazon.com/lambda/home?region=eu-west-1#/functions/rotate-logs",
            })
        );
    }

    #[tokio::test]
    async fn done_when_lambda_has_accepted_an_event() {
        let rule = mock!(Client::invoke)
            .match_requests(|request| {
                request.invocation_type() == Some(&InvocationType::Event)
                    && payload_text(request) == "{}"
                    && request.client_context().is_none()
                    && request.log_type().is_none()
            })
            .then_output(|| InvokeOutput::builder().status_code(202).build());
        let step = step_with(json!({ "function_name": "rotate-logs", "invocation_type": "Event" }));
        let invoked = run_step(&step, &rule).await.unwrap();
        assert_eq!((invoked.status_code, invoked.payload), (202, Value::Null));
    }

    #[tokio::test]
    async fn done_returns_text_if_the_payload_is_not_json() {
        let rule = mock!(Client::invoke).then_output(|| succeeded_output("<ok/>"));
        assert_eq!(
            run_step(&step_with(json!({ "function_name": "f" })), &rule)
                .await
                .unwrap()
                .payload,
            "<ok/>"
        );
    }

    #[tokio::test]
    async fn not_found_is_a_function_that_does_not_exist() {
        let rule = mock!(Client::invoke).then_error(|| {
            InvokeError::generic(
                ErrorMetadata::builder()
                    .code("ResourceNotFoundException")
                    .message("Function not found")
                    .build(),
            )
        });
        let error = run_step(&step_with(json!({ "function_name": "rotate-logs" })), &rule)
            .await
            .unwrap_err();
        assert_eq!(
            (error.name, error.message.as_str()),
            (
                ErrorName::NotFound,
                "function rotate-logs: Function not found"
            )
        );
    }

    #[test]
    fn invalid_parameters_are_rejected_before_any_call() {
        for params in [
            json!({ "function_name": "" }),
            json!({ "function_name": "a b" }),
            json!({ "function_name": "x".repeat(65) }),
            json!({ "function_name": "*" }),
            json!({ "function_name": "f:1:2" }),
            json!({ "function_name": "f:" }),
            json!({ "function_name": "arn:aws:lambda:eu-west-1:222222222222:layer:f" }),
            json!({ "function_name": "f:1", "qualifier": "2" }),
            json!({ "function_name": "f", "qualifier": "*" }),
            json!({ "function_name": "f", "invocation_type": "Event", "client_context": {} }),
            json!({ "function_name": "f", "client_context": { "custom": 1 } }),
            json!({ "function_name": "f", "client_context": { "custom": { TOKEN_KEY: "mine" } } }),
            with_context_value(&"x".repeat(2_600)),
        ] {
            let error = step_with(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
        }
        step_with(with_context_value(&"x".repeat(2_500)))
            .validate()
            .unwrap();
        step_with(json!({ "function_name": "f", "qualifier": "$LATEST" }))
            .validate()
            .unwrap();
    }

    #[tokio::test]
    async fn invalid_is_an_arn_of_another_account_or_region() {
        let invoke = mock!(Client::invoke).then_output(|| succeeded_output("1"));
        for name in [
            "arn:aws:lambda:eu-west-1:333333333333:function:f",
            "arn:aws:lambda:us-east-1:222222222222:function:f",
            "arn:aws-cn:lambda:eu-west-1:222222222222:function:f",
            "333333333333:function:f",
        ] {
            let error = run_step(&step_with(json!({ "function_name": name })), &invoke)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{name}");
        }
        assert_eq!(invoke.num_calls(), 0);
        let local = step_with(json!({ "function_name": "222222222222:function:f:1" }));
        assert_eq!(run_step(&local, &invoke).await.unwrap().status_code, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_invocations_are_sent_again() {
        let rule = mock!(Client::invoke)
            .sequence()
            .error(|| {
                InvokeError::generic(
                    ErrorMetadata::builder()
                        .code("TooManyRequestsException")
                        .message("Rate")
                        .build(),
                )
            })
            .output(|| succeeded_output("1"))
            .build();
        assert_eq!(
            run_step(&step_with(json!({ "function_name": "f" })), &rule)
                .await
                .unwrap()
                .payload,
            1
        );
        assert_eq!(rule.num_calls(), 2);
    }

    // An invocation is never pending. The token is the only sign of a call that is repeated after a
    // lost response.
    #[tokio::test]
    async fn pending_is_impossible_and_repeated_calls_send_the_same_token() {
        let tokens = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sent = tokens.clone();
        let rule = mock!(Client::invoke)
            .match_requests(move |request| {
                sent.lock()
                    .unwrap()
                    .push(decoded_context(request)["custom"][TOKEN_KEY].clone());
                true
            })
            .then_output(|| succeeded_output("1"));
        let step = step_with(json!({ "function_name": "f" }));
        run_step(&step, &rule).await.unwrap();
        run_step(&step, &rule).await.unwrap();
        let tokens = tokens.lock().unwrap();
        assert_eq!((tokens.len(), &tokens[0]), (2, &tokens[1]));
    }

    #[tokio::test]
    async fn failed_functions_fail_the_step_with_error_and_log() {
        let rule = mock!(Client::invoke).then_output(|| {
            let error =
                r#"{ "errorType": "KeyError", "errorMessage": "'days'", "stackTrace": [] }"#;
            InvokeOutput::builder()
                .status_code(200)
                .function_error("Unhandled")
                .payload(Blob::new(error))
                .log_result(base64::encode("rotating\n"))
                .build()
        });
        let error = run_step(&step_with(json!({ "function_name": "f" })), &rule)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert_eq!(
            error.message,
            "function f failed: KeyError: 'days' (Unhandled)\nIts log ends with:\nrotating"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_without_a_response_is_not_sent_again() {
        let rule = mock!(Client::invoke)
            .sequence()
            .http_response(|| HttpResponse::new(500.try_into().unwrap(), SdkBody::from("{}")))
            .repeatedly()
            .build();
        let error = run_step(&step_with(json!({ "function_name": "f" })), &rule)
            .await
            .unwrap_err();
        assert_eq!((error.name, rule.num_calls()), (ErrorName::StepFailed, 1));
        assert!(
            error.message.contains("may have run") && error.message.contains("Event"),
            "{error}"
        );

        // Lambda itself may deliver an event twice, so a retry is not worse.
        let error = run_step(
            &step_with(json!({ "function_name": "f", "invocation_type": "Event" })),
            &rule,
        )
        .await
        .unwrap_err();
        assert_eq!((error.name, rule.num_calls()), (ErrorName::TimedOut, 2));
        assert!(error.message.contains("in Lambda's queue"), "{error}");
    }

    #[tokio::test]
    async fn failed_by_a_lost_response_is_not_a_retryable_error() {
        // The fake Lambda accepts the request and closes the connection.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut requests = 0;
            while let Ok(Ok((stream, _))) = timeout(Duration::from_secs(1), listener.accept()).await
            {
                requests += 1;
                stream.readable().await.unwrap();
            }
            requests
        });
        let config = aws_sdk_lambda::Config::builder()
            .with_test_defaults_v2()
            .endpoint_url(url)
            .interceptor(RequestRecorder)
            .build();
        let ctx = testing::context(Client::from_conf(config));
        let error = step_with(json!({ "function_name": "f" }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(
            (error.name, server.await.unwrap()),
            (ErrorName::StepFailed, 1)
        );
        assert!(error.message.contains("may have run"), "{error}");
    }

    #[test]
    fn the_session_policy_allows_only_this_function() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        for (params, resource) in [
            (json!({ "function_name": "f" }), "f"),
            (json!({ "function_name": "f:1" }), "f:1"),
            (
                json!({ "function_name": "f", "qualifier": "$LATEST" }),
                "f:${$}LATEST",
            ),
            (
                json!({ "function_name": "arn:aws:lambda:us-east-1:333333333333:function:f" }),
                "f",
            ),
        ] {
            let policy = step_with(params)
                .permissions()
                .session_policy(&scope)
                .unwrap();
            let arn = format!(r#"["arn:aws:lambda:eu-west-1:222222222222:function:{resource}"]"#);
            assert!(policy.contains(&arn), "{policy}");
        }
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        prove_permissions::<InvokeFunction>(&[], async |scene| {
            let name = scene.name("rotate");
            let code =
                "def handler(event, context):\n    print('hello')\n    return event['days'] + 1\n";
            let trust_policy = json!({
                "Version": "2012-10-17",
                "Statement": [{
                    "Effect": "Allow",
                    "Principal": { "Service": "lambda.amazonaws.com" },
                    "Action": "sts:AssumeRole",
                }],
            });
            let role = json!({
                "Type": "AWS::IAM::Role",
                "Properties": { "AssumeRolePolicyDocument": trust_policy },
            });
            let function = json!({
                "Type": "AWS::Lambda::Function",
                "Properties": {
                    "FunctionName": name,
                    "Runtime": "python3.13",
                    "Handler": "index.handler",
                    "Role": { "Fn::GetAtt": ["Role", "Arn"] },
                    "Code": { "ZipFile": code },
                },
            });
            let template = json!({ "Resources": { "Role": role, "Function": function } });
            scene.make(&template).await;
            json!({ "function_name": name, "payload": { "days": 7 } })
        });
    }
}
