//! What the Lambda steps share: one invocation, never sent twice unless Lambda has refused it, and
//! what came of it.

pub mod code;
pub mod error;
pub mod own;
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
use stepward::runtime::resend::RetryThrottlingOnly;
use stepward::{ErrorName, StepError};

use error::lambda_error;

/// How much of a function's own error goes into a message, in characters.
const ERROR_LENGTH: usize = 1_000;
/// How many of the log's last lines go into a message.
const LOG_LINES: usize = 10;

/// What Lambda answered to an invocation.
#[derive(Debug)]
pub struct Answer {
    /// 200, or 202 for an event that waits in Lambda's queue.
    pub status_code: i32,
    /// What the function returned, or its error.
    pub payload: String,
    /// The last 4 KB of the log, where it was asked for.
    pub log_tail: String,
    /// The version that ran.
    pub executed_version: Option<String>,
    error: Option<String>,
}

impl Answer {
    /// Why the function failed, if it did: its error's type and message, and the last lines of its
    /// log.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let kind = self.error.as_deref()?;
        // https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html; other languages
        // answer the same fields.
        let error: Value = serde_json::from_str(&self.payload).unwrap_or_default();
        let error = match (error["errorType"].as_str(), error["errorMessage"].as_str()) {
            (None, None) => beginning(&self.payload),
            (name, message) => [name, message]
                .into_iter()
                .flatten()
                .map(beginning)
                .collect::<Vec<_>>()
                .join(": "),
        };
        let lines: Vec<_> = self.log_tail.trim_end().lines().collect();
        let log = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        let log = if log.is_empty() {
            log
        } else {
            format!("\nIts log ends with:\n{log}")
        };
        Some(format!("{error} ({kind}){log}"))
    }
}

/// Sends one invocation and waits for its answer, at most so long.
///
/// # Errors
/// `TimedOut` where nobody knows whether the function ran; with any other name it has not run.
pub async fn invoke(request: InvokeFluentBuilder, wait: Duration) -> Result<Answer, StepError> {
    // The session's own limits are for calls that can be repeated; the function may have run
    // although no answer came.
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(wait)
        .operation_timeout(wait)
        .build();
    let config = Config::builder()
        .retry_classifier(RetryThrottlingOnly::<InvokeError>::default())
        .timeout_config(timeouts);
    let answer = request
        .customize()
        .config_override(config)
        .send()
        .await
        .map_err(unanswered)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let log = answer.log_result.and_then(|log| base64::decode(log).ok());
    Ok(Answer {
        status_code: answer.status_code,
        payload: text(answer.payload.map(Blob::into_inner).unwrap_or_default()),
        log_tail: text(log.unwrap_or_default()),
        executed_version: answer.executed_version,
        error: answer.function_error,
    })
}

fn unanswered(error: SdkError<InvokeError, HttpResponse>) -> StepError {
    let answered = matches!(
        error,
        SdkError::ConstructionFailure(_) | SdkError::ServiceError(_)
    );
    let status = error
        .raw_response()
        .map_or(0, |answer| answer.status().as_u16());
    let set_up = could_not_start(error.code().unwrap_or_default(), status);
    let said = error.message().unwrap_or("AWS gave no reason").to_owned();
    let error = lambda_error(error);
    if set_up && error.name != ErrorName::Throttled {
        let message = format!("Lambda could not start the function: {said}");
        return StepError {
            name: ErrorName::StepFailed,
            message,
            ..error
        };
    }
    if !answered || error.name == ErrorName::Internal {
        let message =
            "no answer came back, so that nobody knows whether the function ran or still runs"
                .into();
        return StepError {
            name: ErrorName::TimedOut,
            message,
            ..error
        };
    }
    error
}

/// Whether the function's own role, network, key, snapshot or file system kept Lambda from starting
/// it: Lambda answers 502 then, and other statuses for file systems. What such a code denies or
/// does not find is nothing of the caller's.
/// <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors>
fn could_not_start(code: &str, status: u16) -> bool {
    let at_lambda = code.starts_with("Service") || code.starts_with("Internal");
    let file_system = code.starts_with("EFS") || code.starts_with("S3Files");
    code.ends_with("Exception") && (file_system || status >= 500 && !at_lambda)
}

fn beginning(text: &str) -> String {
    match text.char_indices().nth(ERROR_LENGTH) {
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
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    fn refusal(status: u16, code: &str) -> HttpResponse {
        let mut answer = HttpResponse::new(
            status.try_into().unwrap(),
            SdkBody::from(r#"{ "Message": "no" }"#),
        );
        answer
            .headers_mut()
            .insert("x-amzn-errortype", code.to_owned());
        answer
    }

    async fn once(rule: &Rule) -> Result<Answer, StepError> {
        let client = mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [rule]);
        invoke(client.invoke().function_name("f"), Duration::from_secs(45)).await
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_alone_is_tried_again() {
        let throttled = || refusal(429, "TooManyRequestsException");
        let done = || InvokeOutput::builder().status_code(200).build();
        let rule = mock!(Client::invoke)
            .sequence()
            .http_response(throttled)
            .http_response(throttled)
            .output(done)
            .build();
        assert_eq!(once(&rule).await.unwrap().status_code, 200);
        assert_eq!(rule.num_calls(), 3);

        let rule = mock!(Client::invoke)
            .sequence()
            .http_response(throttled)
            .repeatedly()
            .build();
        assert_eq!(once(&rule).await.unwrap_err().name, ErrorName::Throttled);
        assert_eq!(rule.num_calls(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_after_which_the_function_may_have_run_is_not_tried_again() {
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
                .http_response(move || refusal(status, code))
                .repeatedly()
                .build();
            let error = once(&rule).await.unwrap_err();
            assert_eq!((error.name, rule.num_calls()), (name, 1), "{code}: {error}");
            let says = error.message == "Lambda could not start the function: no";
            assert_eq!(says, name == ErrorName::StepFailed, "{code}: {error}");
        }
    }

    /// What a client whose own limit is a tenth of a second gets from a Lambda that takes so long,
    /// which counts how often it is asked.
    async fn after(delay: Duration) -> (Result<Answer, StepError>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(delay).await;
                let _ = stream
                    .write_all(
                        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n8",
                    )
                    .await;
            }
        });
        let limit = Duration::from_millis(100);
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(limit)
            .operation_timeout(limit)
            .build();
        let config = Config::builder()
            .with_test_defaults_v2()
            .endpoint_url(url)
            .timeout_config(timeouts)
            .build();
        let request = Client::from_conf(config).invoke().function_name("f");
        let answer = invoke(request, Duration::from_secs(1)).await;
        server.abort();
        (answer, asked.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn the_answer_is_waited_for_as_long_as_asked_and_nothing_is_sent_twice() {
        let (answer, asked) = after(Duration::from_millis(400)).await;
        assert_eq!((answer.unwrap().payload.as_str(), asked), ("8", 1));
        let (answer, asked) = after(Duration::from_mins(1)).await;
        assert_eq!((answer.unwrap_err().name, asked), (ErrorName::TimedOut, 1));
    }

    #[test]
    fn a_failure_has_type_message_and_the_end_of_the_log() {
        let answer = |payload: &str| Answer {
            status_code: 200,
            payload: payload.into(),
            log_tail: ["line 1\n", "line 2\n", &"line\n".repeat(9), "line 12\n"].concat(),
            executed_version: None,
            error: Some("Unhandled".into()),
        };
        let said = answer(r#"{ "errorType": "KeyError", "errorMessage": "'id'" }"#)
            .failure()
            .unwrap();
        assert!(
            said.starts_with("KeyError: 'id' (Unhandled)\nIts log ends with:\nline\n"),
            "{said}"
        );
        assert!(said.ends_with("line\nline 12"), "{said}");
        assert!(
            answer("out of memory")
                .failure()
                .unwrap()
                .starts_with("out of memory (Unhandled)")
        );
        assert_eq!(
            answer(&"é".repeat(2_000))
                .failure()
                .unwrap()
                .chars()
                .filter(|c| *c == 'é')
                .count(),
            1_000
        );
        assert_eq!(
            Answer {
                error: None,
                ..answer("1")
            }
            .failure(),
            None
        );
    }
}
