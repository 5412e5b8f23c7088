//! The step `lambda-invoke`.

use std::time::Duration;

use crate::invoke;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{InvocationType, LogType};
use aws_smithy_types::base64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use stepward::model::input::require;
use stepward::model::permissions::{ArnScope, arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// How long an answer is waited for. The step's own function ends after 60 seconds, starting up
/// included.
const WAIT: Duration = Duration::from_secs(45);
/// In bytes, encoded. <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html>
/// (`X-Amz-Client-Context`)
const CONTEXT_LIMIT: usize = 3_583;
/// The key in the client context's `custom` that the step adds.
const TOKEN: &str = "stepward_token";

/// Invoke a Lambda function.
///
/// `Request` waits for the function and answers what it returned, with the last 4 KB of its log. A
/// function that fails makes the step `StepFailed`, with the error's type and message and the log's
/// last lines.
///
/// The step waits for 45 seconds. A function may run for up to 15 minutes: one that has not
/// answered by then ends the step as `StepFailed`, may still run, and its result is lost. Invoke
/// what takes long as `Event`: Lambda puts the payload into a queue, the step is done at once, and
/// Lambda calls the function, up to two more times if it fails. The step does not hear of the
/// result; give the function a destination for it. Stopping the job stops no function that runs.
///
/// A `Request` whose answer does not come is not sent again, as an invocation can be neither looked
/// up nor taken back: it is `StepFailed`, which state machines do not retry by themselves. A job
/// whose function may well run twice matches `StepFailed` in a `Retry` of its own; that retries a
/// function that failed, too.
///
/// The function may be invoked more than once for one step all the same: when the answer of the
/// step itself is lost, and when Lambda does not confirm an `Event`, which is `TimedOut`, the job
/// calls the step again. So that a function can tell, each `Request` has `custom.stepward_token` in
/// its client context: 64 characters that are the same for every call for the same step of the same
/// execution. An `Event` has no client context; put something into its payload to know a repeated
/// one by. What Lambda refuses because of throttling did not run, and is sent again.
///
/// Lambda takes payloads of up to 6 MB, and of 1 MB for `Event`; a job carries less, 256 KiB in
/// all. Lambda charges for each invocation and its duration.
///
/// Proven on the local cloud with a function in Python. It shows no client context to functions and
/// loses no answers: those rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Invoke {
    /// The function's name, its ARN, or `account:function:name`; each also with `:` and a version
    /// or an alias. An ARN must be in the account and Region that the step works in.
    function_name: String,
    /// What the function gets: any JSON, where text is passed on as a JSON string; an empty object
    /// by default.
    #[serde(default)]
    payload: Option<Value>,
    /// `Request`, the default, to wait for the answer, or `Event` to have it run later.
    #[serde(default)]
    invocation_type: Invocation,
    /// The version or alias; the unpublished version, `$LATEST`, by default.
    qualifier: Option<String>,
    /// A JSON object that the function finds as its client context, 3,583 bytes at most in base64,
    /// which are about 2,600 here. Keys of one's own belong into its object `custom`. Not for
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

/// An invocation that Lambda has answered.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Invoked {
    /// 200 for `Request`, 202 for `Event`.
    status_code: i32,
    /// What the function returned: JSON, or text where it is none; null for `Event`.
    payload: Value,
    /// Always null: a function that fails makes the step fail, and is told in its error.
    function_error: Option<String>,
    /// The last 4 KB of the function's log; empty for `Event`.
    log_tail: String,
    /// The version that ran; `$LATEST` is the unpublished one.
    executed_version: Option<String>,
    /// The function in the AWS console.
    console_url: String,
}

/// A function, as one of the forms of its name has it.
#[derive(Debug, Default, PartialEq)]
struct Function<'a> {
    partition: Option<&'a str>,
    region: Option<&'a str>,
    account: Option<&'a str>,
    name: &'a str,
    qualifier: Option<&'a str>,
}

impl<'a> Function<'a> {
    /// <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html> (`FunctionName`)
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<_> = text.split(':').collect();
        let (start, name) = match parts[..] {
            [
                "arn",
                partition,
                "lambda",
                region,
                account,
                "function",
                ref name @ ..,
            ] => {
                let (partition, region, account) = (Some(partition), Some(region), Some(account));
                (
                    Self {
                        partition,
                        region,
                        account,
                        ..Self::default()
                    },
                    name,
                )
            }
            [account, "function", ref name @ ..] if !name.is_empty() => (
                Self {
                    account: Some(account),
                    ..Self::default()
                },
                name,
            ),
            _ => (Self::default(), &parts[..]),
        };
        match *name {
            [name] => Some(Self { name, ..start }),
            [name, qualifier] => Some(Self {
                name,
                qualifier: Some(qualifier),
                ..start
            }),
            _ => None,
        }
    }

    fn is_in(&self, place: &ArnScope) -> bool {
        let same = |said: Option<&str>, is: &str| said.is_none_or(|said| said == is);
        same(self.partition, &place.partition)
            && same(self.region, &place.region)
            && same(self.account, &place.account_id)
    }
}

impl Invoke {
    /// The function with the qualifier that is asked for, wherever it stands.
    fn function(&self) -> Option<Function<'_>> {
        let function = Function::parse(&self.function_name)?;
        Some(Function {
            qualifier: function.qualifier.or(self.qualifier.as_deref()),
            ..function
        })
    }

    /// The client context with the token in it, encoded.
    fn client_context(&self, token: &str) -> String {
        let mut context = self.client_context.clone().unwrap_or_default();
        let custom = context.entry("custom").or_insert_with(|| json!({}));
        custom[TOKEN] = token.into();
        base64::encode(Value::Object(context).to_string())
    }
}

impl Step for Invoke {
    const NAME: &'static str = "lambda-invoke";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "function_name": "rotate-logs", "payload": { "days": 7 } }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "function_name": "rotate-logs", "qualifier": "live", "invocation_type": "Event" }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "The ARN is of another account or Region, or Lambda refuses the parameters.",
        ),
        (
            ErrorName::NotFound,
            "The account has no such function, version or alias in the Region.",
        ),
        (
            ErrorName::Conflict,
            "The function is being created or changed; run the job again later.",
        ),
        (
            ErrorName::StepFailed,
            "The function failed, Lambda could not start it, or no answer came within 45 seconds: then it may have \
             run, or may still run. The message says which.",
        ),
        (
            ErrorName::TimedOut,
            "Lambda did not confirm an `Event`; it may be in the queue all the same.",
        ),
    ];
    type Output = Invoked;

    fn validate(&self) -> Result<(), StepError> {
        let legal = |text: &str, more: &str| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || more.contains(b as char))
        };
        let function = Function::parse(&self.function_name).unwrap_or_default();
        require(
            (1..=64).contains(&function.name.len()) && legal(function.name, "-_"),
            || {
                format!(
                    "function_name `{}` is not the name of a function, nor its ARN",
                    self.function_name
                )
            },
        )?;
        require(
            self.qualifier.is_none() || function.qualifier.is_none(),
            || "give the version or alias in function_name or as qualifier, not both".into(),
        )?;
        let qualifier = function.qualifier.or(self.qualifier.as_deref());
        require(
            qualifier.is_none_or(|text| (1..=128).contains(&text.len()) && legal(text, "-_$.")),
            || {
                format!(
                    "`{}` is not a version or an alias",
                    qualifier.unwrap_or_default()
                )
            },
        )?;
        let Some(context) = &self.client_context else {
            return Ok(());
        };
        require(self.invocation_type == Invocation::Request, || {
            "client_context: Lambda passes none on with an Event; put it into payload".into()
        })?;
        let custom = context.get("custom");
        require(
            custom.is_none_or(|custom| custom.is_object() && custom.get(TOKEN).is_none()),
            || {
                format!(
                    "client_context: `custom` must be an object, without {TOKEN}, which the step puts there"
                )
            },
        )?;
        let length = self.client_context(&"0".repeat(64)).len();
        require(length <= CONTEXT_LIMIT, || {
            format!(
                "client_context has {length} bytes in base64 and at most {CONTEXT_LIMIT} are taken"
            )
        })
    }

    fn permissions(&self) -> Permissions {
        // With a qualifier, AWS asks for the ARN that ends with it.
        // https://docs.aws.amazon.com/lambda/latest/dg/lambda-api-permissions-ref.html
        let Function {
            name, qualifier, ..
        } = self.function().unwrap_or_default();
        let qualifier = qualifier
            .map(|qualifier| format!(":{}", literal(qualifier)))
            .unwrap_or_default();
        let function = arn("lambda", &format!("function:{}{qualifier}", literal(name)));
        Permissions::default().allow("TODO", &["lambda:InvokeFunction"], [function])
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Invoked>, StepError> {
        let function = self
            .function()
            .filter(|function| function.is_in(&ctx.place))
            .ok_or_else(|| {
                ErrorName::InvalidInput.with_message(format!(
                "function_name is an ARN of another place than the step works in: account {} in {}",
                ctx.place.account_id, ctx.place.region
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
            .function_name(
                function
                    .qualifier
                    .map_or_else(|| name.into(), |qualifier| format!("{name}:{qualifier}")),
            )
            .payload(Blob::new(payload));
        let request = match self.invocation_type {
            Invocation::Event => request.invocation_type(InvocationType::Event),
            Invocation::Request => request
                .invocation_type(InvocationType::RequestResponse)
                .log_type(LogType::Tail)
                .client_context(self.client_context(&ctx.client_token("invoke"))),
        };
        let answer = invoke(request, WAIT).await.map_err(|mut error| {
            let advice = match (error.name, self.invocation_type) {
                (ErrorName::TimedOut, Invocation::Request) => {
                    // State machines retry `TimedOut`: a slow function would be invoked twice.
                    error.name = ErrorName::StepFailed;
                    "; look at its log, and invoke it as Event if it takes longer than 45 seconds"
                }
                (ErrorName::TimedOut, Invocation::Event) => {
                    "; the event may be in Lambda's queue all the same"
                }
                _ => "",
            };
            error.message = format!("function {name}: {}{advice}", error.message);
            error
        })?;
        if let Some(failure) = answer.failure() {
            return Err(
                ErrorName::StepFailed.with_message(format!("function {name} failed: {failure}"))
            );
        }
        match self.invocation_type {
            Invocation::Request => ctx.log(format_args!("Function {name} ran")),
            Invocation::Event => ctx.log(format_args!(
                "Function {name} will run: Lambda has taken the event"
            )),
        }
        Ok(Progress::Done(Invoked {
            status_code: answer.status_code,
            payload: match answer.payload {
                empty if empty.is_empty() => Value::Null,
                text => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            },
            function_error: None,
            log_tail: answer.log_tail,
            executed_version: answer.executed_version,
            console_url: ctx.console("lambda/home", &format!("/functions/{name}")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_lambda::config::http::HttpResponse;
    use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeInput, InvokeOutput};
    use aws_sdk_lambda::primitives::SdkBody;
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::testing;
    use stepward_testkit::proof::prove;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    // no proof of already: an invocation leaves no state that could be there already.

    fn step(params: Value) -> Invoke {
        serde_json::from_value(params).unwrap()
    }

    fn context_of(request: &InvokeInput) -> Value {
        serde_json::from_slice(&base64::decode(request.client_context().unwrap()).unwrap()).unwrap()
    }

    fn payload_of(request: &InvokeInput) -> &str {
        std::str::from_utf8(request.payload().unwrap().as_ref()).unwrap()
    }

    fn returns(payload: &str) -> InvokeOutput {
        InvokeOutput::builder()
            .status_code(200)
            .executed_version("7")
            .payload(Blob::new(payload))
            .log_result(base64::encode("START\nhello\nEND\n"))
            .build()
    }

    async fn run(step: &Invoke, rule: &Rule) -> Result<Invoked, StepError> {
        let ctx = testing::context(mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [rule]));
        step.validate()?;
        match step.run(&ctx, None).await? {
            Progress::Done(invoked) => Ok(invoked),
            Progress::Pending { .. } => panic!("an invocation is never pending"),
        }
    }

    #[tokio::test]
    async fn done_with_what_the_function_returned_and_the_end_of_its_log() {
        let rule = mock!(Client::invoke)
            .match_requests(|request| {
                let context = context_of(request);
                request.function_name() == Some("rotate-logs:live")
                    && request.qualifier().is_none()
                    && request.invocation_type() == Some(&InvocationType::RequestResponse)
                    && request.log_type() == Some(&LogType::Tail)
                    && payload_of(request) == r#"{"days":7}"#
                    && context["custom"]["team"] == "ops"
                    && context["custom"][TOKEN]
                        .as_str()
                        .is_some_and(|token| token.len() == 64)
            })
            .then_output(|| returns(r#"{"rotated":3}"#));
        let step = step(json!({
            "function_name": "arn:aws:lambda:eu-west-1:222222222222:function:rotate-logs",
            "qualifier": "live",
            "payload": { "days": 7 },
            "client_context": { "custom": { "team": "ops" } },
        }));
        let invoked = run(&step, &rule).await.unwrap();
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
    async fn done_as_soon_as_lambda_has_taken_an_event() {
        let rule = mock!(Client::invoke)
            .match_requests(|request| {
                request.invocation_type() == Some(&InvocationType::Event)
                    && payload_of(request) == "{}"
                    && request.client_context().is_none()
                    && request.log_type().is_none()
            })
            .then_output(|| InvokeOutput::builder().status_code(202).build());
        let step = step(json!({ "function_name": "rotate-logs", "invocation_type": "Event" }));
        let invoked = run(&step, &rule).await.unwrap();
        assert_eq!((invoked.status_code, invoked.payload), (202, Value::Null));
    }

    #[tokio::test]
    async fn done_with_text_where_the_function_returned_no_json() {
        let rule = mock!(Client::invoke).then_output(|| returns("<ok/>"));
        assert_eq!(
            run(&step(json!({ "function_name": "f" })), &rule)
                .await
                .unwrap()
                .payload,
            "<ok/>"
        );
    }

    #[tokio::test]
    async fn not_found_where_there_is_no_such_function() {
        let rule = mock!(Client::invoke).then_error(|| {
            InvokeError::generic(
                ErrorMetadata::builder()
                    .code("ResourceNotFoundException")
                    .message("none")
                    .build(),
            )
        });
        let error = run(&step(json!({ "function_name": "rotate-logs" })), &rule)
            .await
            .unwrap_err();
        assert_eq!(
            (error.name, error.message.as_str()),
            (ErrorName::NotFound, "function rotate-logs: none")
        );
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
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
            json!({ "function_name": "f", "client_context": { "custom": { TOKEN: "mine" } } }),
            json!({ "function_name": "f", "client_context": { "custom": { "a": "x".repeat(2_600) } } }),
        ] {
            let error = step(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
        }
        step(json!({ "function_name": "f", "client_context": { "custom": { "a": "x".repeat(2_500) } } }))
            .validate()
            .unwrap();
        step(json!({ "function_name": "f", "qualifier": "$LATEST" }))
            .validate()
            .unwrap();
    }

    #[tokio::test]
    async fn invalid_is_an_arn_of_another_account_region_or_partition() {
        let never = mock!(Client::invoke).then_output(|| returns("1"));
        for name in [
            "arn:aws:lambda:eu-west-1:333333333333:function:f",
            "arn:aws:lambda:us-east-1:222222222222:function:f",
            "arn:aws-cn:lambda:eu-west-1:222222222222:function:f",
            "333333333333:function:f",
        ] {
            let error = run(&step(json!({ "function_name": name })), &never)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{name}");
        }
        assert_eq!(never.num_calls(), 0);
        let here = step(json!({ "function_name": "222222222222:function:f:1" }));
        assert_eq!(run(&here, &never).await.unwrap().status_code, 200);
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
            .output(|| returns("1"))
            .build();
        assert_eq!(
            run(&step(json!({ "function_name": "f" })), &rule)
                .await
                .unwrap()
                .payload,
            1
        );
        assert_eq!(rule.num_calls(), 2);
    }

    // An invocation is never pending; a call repeated after a lost answer can only be told by its
    // token.
    #[tokio::test]
    async fn pending_is_unknown_and_a_repeated_call_carries_the_same_token() {
        let tokens = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = tokens.clone();
        let rule = mock!(Client::invoke)
            .match_requests(move |request| {
                seen.lock()
                    .unwrap()
                    .push(context_of(request)["custom"][TOKEN].clone());
                true
            })
            .then_output(|| returns("1"));
        let step = step(json!({ "function_name": "f" }));
        run(&step, &rule).await.unwrap();
        run(&step, &rule).await.unwrap();
        let tokens = tokens.lock().unwrap();
        assert_eq!((tokens.len(), &tokens[0]), (2, &tokens[1]));
    }

    #[tokio::test]
    async fn failed_functions_fail_the_step_with_their_error_and_log() {
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
        let error = run(&step(json!({ "function_name": "f" })), &rule)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert_eq!(
            error.message,
            "function f failed: KeyError: 'days' (Unhandled)\nIts log ends with:\nrotating"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_on_the_way_is_not_sent_again_and_says_what_nobody_knows() {
        let rule = mock!(Client::invoke)
            .sequence()
            .http_response(|| HttpResponse::new(500.try_into().unwrap(), SdkBody::from("{}")))
            .repeatedly()
            .build();
        let error = run(&step(json!({ "function_name": "f" })), &rule)
            .await
            .unwrap_err();
        assert_eq!((error.name, rule.num_calls()), (ErrorName::StepFailed, 1));
        assert!(
            error.message.contains("nobody knows whether") && error.message.contains("as Event"),
            "{error}"
        );

        // Lambda itself may deliver an event twice: a retry changes nothing for its function.
        let error = run(
            &step(json!({ "function_name": "f", "invocation_type": "Event" })),
            &rule,
        )
        .await
        .unwrap_err();
        assert_eq!((error.name, rule.num_calls()), (ErrorName::TimedOut, 2));
        assert!(error.message.contains("in Lambda's queue"), "{error}");
    }

    #[tokio::test]
    async fn failed_by_an_answer_that_does_not_come_is_nothing_that_state_machines_retry() {
        // It takes the request and hangs up.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut asked = 0;
            while let Ok(Ok((stream, _))) = timeout(Duration::from_secs(1), listener.accept()).await
            {
                asked += 1;
                stream.readable().await.unwrap();
            }
            asked
        });
        let config = aws_sdk_lambda::Config::builder()
            .with_test_defaults_v2()
            .endpoint_url(url)
            .build();
        let ctx = testing::context(Client::from_conf(config));
        let error = step(json!({ "function_name": "f" }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(
            (error.name, server.await.unwrap()),
            (ErrorName::StepFailed, 1)
        );
        assert!(error.message.contains("nobody knows whether"), "{error}");
    }

    #[test]
    fn the_session_can_invoke_this_function_only_and_in_its_own_account() {
        let place = ArnScope {
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
            let policy = step(params).permissions().session_policy(&place).unwrap();
            let arn = format!(r#"["arn:aws:lambda:eu-west-1:222222222222:function:{resource}"]"#);
            assert!(policy.contains(&arn), "{policy}");
        }
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Invoke>(&[], async |scene| {
            let name = scene.name("rotate");
            let code =
                "def handler(event, context):\n    print('hello')\n    return event['days'] + 1\n";
            scene
                .make(&json!({ "Resources": {
                    "Role": { "Type": "AWS::IAM::Role", "Properties": { "AssumeRolePolicyDocument": {
                        "Version": "2012-10-17",
                        "Statement": [{
                            "Effect": "Allow",
                            "Principal": { "Service": "lambda.amazonaws.com" },
                            "Action": "sts:AssumeRole",
                        }],
                    } } },
                    "Function": { "Type": "AWS::Lambda::Function", "Properties": {
                        "FunctionName": name,
                        "Runtime": "python3.13",
                        "Handler": "index.handler",
                        "Role": { "Fn::GetAtt": ["Role", "Arn"] },
                        "Code": { "ZipFile": code },
                    } },
                } }))
                .await;
            json!({ "function_name": name, "payload": { "days": 7 } })
        });
    }
}
