//! What the Lambda steps share: an invocation that is sent again only if Lambda has refused it, and
//! its result.

pub mod code;
pub mod error;
mod execution_role;
mod function_reference;
pub mod single_run;
pub mod steps;

use std::time::Duration;

use aws_sdk_lambda::config::Config;
use aws_sdk_lambda::config::http::HttpResponse;
use aws_sdk_lambda::config::timeout::TimeoutConfig;
use aws_sdk_lambda::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_lambda::operation::invoke::InvokeError;
use aws_sdk_lambda::operation::invoke::builders::InvokeFluentBuilder;
use aws_sdk_lambda::primitives::Blob;
use aws_smithy_types::base64;
use serde_json::Value;
use stepward::runtime::retry_policy::RetryThrottlingOnly;
use stepward::{ErrorName, StepError};

use error::lambda_error;

/// The maximum length of a function's own error in a message, in characters.
const MAX_ERROR_CHARACTERS: usize = 1_000;
/// The maximum number of the log's last lines in a message.
const MAX_LOG_LINES: usize = 10;

/// Lambda's response to an invocation.
#[derive(Debug)]
pub struct InvocationResult {
    /// 200, or 202 for an event in Lambda's queue.
    pub status_code: i32,
    /// What the function returned, or its error.
    pub payload: String,
    /// The last 4 KB of the log, if the request asked for it.
    pub log_tail: String,
    /// The version that ran.
    pub executed_version: Option<String>,
    /// The kind of the function's error: `Handled` or `Unhandled`.
    function_error: Option<String>,
}

impl InvocationResult {
    /// Why the function failed: the type and message of its error, and the last lines of its log.
    /// `None` if it succeeded.
    #[must_use]
    pub fn failure_message(&self) -> Option<String> {
        let kind = self.function_error.as_deref()?;
        // All runtimes return these fields.
        // https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html
        let error: Value = serde_json::from_str(&self.payload).unwrap_or_default();
        let error = match (error["errorType"].as_str(), error["errorMessage"].as_str()) {
            (None, None) => truncate_error(&self.payload),
            (error_type, message) => [error_type, message]
                .into_iter()
                .flatten()
                .map(truncate_error)
                .collect::<Vec<_>>()
                .join(": "),
        };

        let lines: Vec<_> = self.log_tail.trim_end().lines().collect();
        let log = lines[lines.len().saturating_sub(MAX_LOG_LINES)..].join("\n");
        let log = if log.is_empty() {
            log
        } else {
            format!("\nIts log ends with:\n{log}")
        };
        Some(format!("{error} ({kind}){log}"))
    }
}

/// Sends an invocation and waits for the response, for at most `max_wait`. Sends it again only if
/// Lambda throttles it.
///
/// # Errors
/// `TimedOut` if the function may have run. With every other name it has not run.
pub async fn invoke_once(
    request: InvokeFluentBuilder,
    max_wait: Duration,
) -> Result<InvocationResult, StepError> {
    // The session's own timeouts are for calls that are safe to repeat. After this timeout the
    // function may have run.
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(max_wait)
        .operation_timeout(max_wait)
        .build();
    let config = Config::builder()
        .retry_classifier(RetryThrottlingOnly::<InvokeError>::default())
        .timeout_config(timeouts);
    let response = request
        .customize()
        .config_override(config)
        .send()
        .await
        .map_err(invocation_error)?;

    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let log = response
        .log_result
        .and_then(|log| base64::decode(log).ok())
        .unwrap_or_default();
    Ok(InvocationResult {
        status_code: response.status_code,
        payload: text(response.payload.map(Blob::into_inner).unwrap_or_default()),
        log_tail: text(log),
        executed_version: response.executed_version,
        function_error: response.function_error,
    })
}

/// Converts the error of an invocation by whether the function can have run.
fn invocation_error(error: SdkError<InvokeError, HttpResponse>) -> StepError {
    let is_definite = matches!(
        error,
        SdkError::ConstructionFailure(_) | SdkError::ServiceError(_)
    );
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    let is_start_failure = is_start_failure(error.code().unwrap_or_default(), status);
    let reason = error
        .message()
        .unwrap_or("Lambda gave no reason")
        .to_owned();

    let error = lambda_error(error);
    if is_start_failure && error.name != ErrorName::Throttled {
        return StepError {
            name: ErrorName::StepFailed,
            message: format!("Lambda could not start the function: {reason}"),
            ..error
        };
    }
    if !is_definite || error.name == ErrorName::Internal {
        return StepError {
            name: ErrorName::TimedOut,
            message: "Lambda did not respond; the function may have run or may still run".into(),
            ..error
        };
    }
    error
}

/// Whether Lambda could not start the function because of the function's own role, network, key,
/// snapshot or file system. Such an error is not about the caller's permissions or parameters, even
/// if its code says so. Its status is 502, or another one for file systems.
/// <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors>
fn is_start_failure(code: &str, status: u16) -> bool {
    let is_lambda_fault = code.starts_with("Service") || code.starts_with("Internal");
    let is_file_system = code.starts_with("EFS") || code.starts_with("S3Files");
    code.ends_with("Exception") && (is_file_system || status >= 500 && !is_lambda_fault)
}

fn truncate_error(text: &str) -> String {
    match text.char_indices().nth(MAX_ERROR_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_sdk_lambda::Client;
    use aws_sdk_lambda::operation::invoke::InvokeOutput;
    use aws_sdk_lambda::primitives::SdkBody;
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use stepward::mock_client;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    fn error_response(status: u16, code: &str) -> HttpResponse {
        let mut response = HttpResponse::new(
            status.try_into().unwrap(),
            SdkBody::from(r#"{ "Message": "no" }"#),
        );
        response
            .headers_mut()
            .insert("x-amzn-errortype", code.to_owned());
        response
    }

    async fn invoke_with(rule: &Rule) -> Result<InvocationResult, StepError> {
        let client = mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [rule]);
        invoke_once(client.invoke().function_name("f"), Duration::from_secs(45)).await
    }

    #[tokio::test(start_paused = true)]
    async fn only_throttled_invocations_are_sent_again() {
        let throttled = || error_response(429, "TooManyRequestsException");
        let invoked = || InvokeOutput::builder().status_code(200).build();
        let rule = mock!(Client::invoke)
            .sequence()
            .http_response(throttled)
            .http_response(throttled)
            .output(invoked)
            .build();
        assert_eq!(invoke_with(&rule).await.unwrap().status_code, 200);
        assert_eq!(rule.num_calls(), 3);

        let rule = mock!(Client::invoke)
            .sequence()
            .http_response(throttled)
            .repeatedly()
            .build();
        assert_eq!(
            invoke_with(&rule).await.unwrap_err().name,
            ErrorName::Throttled
        );
        assert_eq!(rule.num_calls(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn invocations_that_may_have_run_are_not_sent_again() {
        for (status, code, name) in [
            (500, "ServiceException", ErrorName::TimedOut),
            (503, "ServiceUnavailable", ErrorName::TimedOut),
            (502, "", ErrorName::TimedOut),
            (502, "KMSDisabledException", ErrorName::StepFailed),
            (502, "EC2AccessDeniedException", ErrorName::StepFailed),
            (502, "KMSAccessDeniedException", ErrorName::StepFailed),
            (502, "KMSNotFoundException", ErrorName::StepFailed),
            (502, "InvalidSubnetIDException", ErrorName::StepFailed),
            (403, "EFSMountFailureException", ErrorName::StepFailed),
            (403, "AccessDeniedException", ErrorName::AccessDenied),
            (404, "ResourceNotFoundException", ErrorName::NotFound),
            (409, "ResourceConflictException", ErrorName::Conflict),
        ] {
            let rule = mock!(Client::invoke)
                .sequence()
                .http_response(move || error_response(status, code))
                .repeatedly()
                .build();
            let error = invoke_with(&rule).await.unwrap_err();
            assert_eq!((error.name, rule.num_calls()), (name, 1), "{code}: {error}");
            let is_start_failure = error.message == "Lambda could not start the function: no";
            assert_eq!(
                is_start_failure,
                name == ErrorName::StepFailed,
                "{code}: {error}"
            );
        }
    }

    /// Invokes a function at a fake Lambda that responds after `delay`. The client's own timeout is
    /// 100 milliseconds. Returns the result and the number of requests.
    async fn invoke_with_delay(delay: Duration) -> (Result<InvocationResult, StepError>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(delay).await;
                let _ = stream
                    .write_all(
                        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n8",
                    )
                    .await;
            }
        });
        let client_timeout = Duration::from_millis(100);
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(client_timeout)
            .operation_timeout(client_timeout)
            .build();
        let config = Config::builder()
            .with_test_defaults_v2()
            .endpoint_url(url)
            .timeout_config(timeouts)
            .build();
        let request = Client::from_conf(config).invoke().function_name("f");
        let result = invoke_once(request, Duration::from_secs(1)).await;
        server.abort();
        (result, requests.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn slow_responses_are_awaited_and_nothing_is_sent_twice() {
        let (result, requests) = invoke_with_delay(Duration::from_millis(400)).await;
        assert_eq!((result.unwrap().payload.as_str(), requests), ("8", 1));
        let (result, requests) = invoke_with_delay(Duration::from_mins(1)).await;
        assert_eq!(
            (result.unwrap_err().name, requests),
            (ErrorName::TimedOut, 1)
        );
    }

    #[test]
    fn failure_messages_have_type_message_and_end_of_log() {
        let failed = |payload: &str| InvocationResult {
            status_code: 200,
            payload: payload.into(),
            log_tail: ["line 1\n", "line 2\n", &"line\n".repeat(9), "line 12\n"].concat(),
            executed_version: None,
            function_error: Some("Unhandled".into()),
        };
        let message = |payload: &str| failed(payload).failure_message().unwrap();

        let typed = message(r#"{ "errorType": "KeyError", "errorMessage": "'id'" }"#);
        assert!(
            typed.starts_with("KeyError: 'id' (Unhandled)\nIts log ends with:\nline\n"),
            "{typed}"
        );
        assert!(typed.ends_with("line\nline 12"), "{typed}");

        let plain = message("out of memory");
        assert!(plain.starts_with("out of memory (Unhandled)"), "{plain}");

        let truncated = message(&"é".repeat(2_000));
        assert_eq!(truncated.chars().filter(|c| *c == 'é').count(), 1_000);

        let succeeded = InvocationResult {
            function_error: None,
            ..failed("1")
        };
        assert_eq!(succeeded.failure_message(), None);
    }
}
