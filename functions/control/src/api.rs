//! The function `api`: starts jobs and returns the status of executions. It is called through API
//! Gateway with IAM authorization.
//!
//! - `POST /jobs/{name}/executions` with `{"customer": …, "accounts": […]?, "options": {…}?}`
//!   starts a job and returns `202` with the execution's ID. `{name}` is `fleet-morning-check` or
//!   `fleet%2Fmorning-check`. Send the header `Idempotency-Key` to make the request safe to repeat.
//! - `GET /executions/{id}` returns `200` with the status, and with the output or the error.
//!
//! A failed request returns `{"error": <name>, "message": …}`, with the names of `ErrorName`.

use std::process::ExitCode;

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use aws_lambda_events::encodings::Body;
use aws_sdk_sfn::Client;
use aws_sdk_sfn::operation::describe_execution::DescribeExecutionOutput;
use aws_sdk_sfn::primitives::{DateTime, DateTimeFormat};
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use stepward::model::digest::sha256;
use stepward::model::error::{ErrorName, StepError};
use stepward::model::job::JobInput;
use stepward::runtime::{Event, run};
use stepward::{access::session, settings};

use crate::error::step_functions_error;

struct Api {
    step_functions: Client,
    /// The common prefix of the state machines' ARNs, `arn:…:stateMachine:stepward-`.
    arn_prefix: String,
}

/// The body of a request that starts a job.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StartRequest {
    customer: String,
    #[serde(default)]
    accounts: Vec<String>,
    #[serde(default)]
    options: Map<String, Value>,
}

/// Handles one request. An invalid request gets an HTTP error; the function itself does not fail.
async fn respond(api: &Api, event: &Event) -> Result<ApiGatewayV2httpResponse, StepError> {
    let request: ApiGatewayV2httpRequest = event.read()?;
    let route = request.route_key.as_deref().unwrap_or_default();
    let path_parameter = |name: &str| {
        request
            .path_parameters
            .get(name)
            .map(String::as_str)
            .unwrap_or_default()
    };

    let result = match route {
        "POST /jobs/{name}/executions" => api
            .start_job(path_parameter("name"), &request)
            .await
            .map(|body| (202, body)),
        "GET /executions/{id}" => api
            .describe_execution(path_parameter("id"))
            .await
            .map(|body| (200, body)),
        _ => Err(ErrorName::NotFound.with_message(format!(
            "route {route:?} does not exist; use POST /jobs/{{name}}/executions or GET \
             /executions/{{id}}"
        ))),
    };
    let (status, body) = result.unwrap_or_else(|error| {
        tracing::warn!(error.name = %error.name, route, "{error}");
        (
            status_code(error.name),
            json!({ "error": error.name, "message": error.to_string() }),
        )
    });

    let mut response = ApiGatewayV2httpResponse::default();
    response.status_code = status;
    response.headers = HeaderMap::from_iter([(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )]);
    response.body = Some(Body::Text(body.to_string()));
    Ok(response)
}

fn status_code(name: ErrorName) -> i64 {
    match name {
        ErrorName::InvalidInput => 400,
        ErrorName::AccessDenied | ErrorName::TrustBroken => 403,
        ErrorName::NotFound => 404,
        ErrorName::Conflict => 409,
        ErrorName::Throttled => 429,
        ErrorName::Internal => 500,
        ErrorName::StepFailed => 502,
        ErrorName::TimedOut => 504,
    }
}

impl Api {
    async fn start_job(
        &self,
        job: &str,
        request: &ApiGatewayV2httpRequest,
    ) -> Result<Value, StepError> {
        let body = request
            .body
            .as_deref()
            .filter(|_| !request.is_base64_encoded)
            .ok_or_else(|| {
                ErrorName::InvalidInput.with_message(
                    "the request has no JSON body; send one with Content-Type: application/json",
                )
            })?;
        let StartRequest {
            customer,
            accounts,
            options,
        } = Event::from_text(body).read()?;
        let job = state_machine_name(job)?;
        let caller_arn = caller_arn(request)?;
        let execution_name = execution_name(request, caller_arn, &job)?;

        let input = JobInput {
            customer,
            accounts,
            options,
            started_by: caller_arn.to_owned(),
        };
        let input_json = serde_json::to_string(&input)
            .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
        let started = self
            .step_functions
            .start_execution()
            .state_machine_arn(format!("{}{job}", self.arn_prefix))
            .name(&execution_name)
            .input(input_json)
            .send()
            .await
            .map_err(step_functions_error);
        match started {
            Ok(_) => {}
            Err(error) if error.has_code("ExecutionAlreadyExists") => {
                self.check_same_input(&job, &execution_name, &input).await?;
            }
            Err(error) if error.name == ErrorName::NotFound => {
                return Err(ErrorName::NotFound.with_message(format!(
                    "job {job:?} does not exist; run `stepward job list` to list the jobs"
                )));
            }
            Err(error) => return Err(error),
        }
        Ok(json!({ "id": format!("{job}:{execution_name}"), "job": job, "status": "RUNNING" }))
    }

    /// Checks that an existing execution has the same input as this request.
    ///
    /// Step Functions rejects a name that an ended execution has used. The name is made from the
    /// caller's key, so the existing execution is the caller's own, unless the input differs.
    async fn check_same_input(
        &self,
        job: &str,
        execution_name: &str,
        input: &JobInput,
    ) -> Result<(), StepError> {
        let existing_input = self.find_execution(job, execution_name).await?.input;
        let existing_input: Option<JobInput> =
            existing_input.and_then(|text| serde_json::from_str(&text).ok());
        // `started_by` may differ in the name of the caller's session.
        let is_same = existing_input.is_some_and(|existing| {
            existing.customer == input.customer
                && existing.accounts == input.accounts
                && existing.options == input.options
        });
        if is_same {
            return Ok(());
        }
        Err(ErrorName::Conflict.with_message(
            "this Idempotency-Key started an execution with different input; use a new key",
        ))
    }

    async fn describe_execution(&self, id: &str) -> Result<Value, StepError> {
        let invalid_id = || {
            ErrorName::InvalidInput.with_message(format!(
                "{id:?} is not the ID of an execution; pass an ID in the form job:name"
            ))
        };
        let (job, name) = id
            .split_once(':')
            .or_else(|| id.split_once("%3A"))
            .ok_or_else(invalid_id)?;
        if !is_valid_name(job) || !is_valid_name(name) {
            return Err(invalid_id());
        }

        let execution = self.find_execution(job, name).await?;
        let mut body = json!({
            "id": format!("{job}:{name}"),
            "job": job,
            "status": execution.status.as_str(),
            "started_at": format_time(&execution.start_date),
        });
        // Step Functions returns an output only for succeeded executions; an emulator may return more.
        let output = execution
            .output
            .filter(|_| execution.status.as_str() == "SUCCEEDED")
            .and_then(|output| serde_json::from_str(&output).ok());
        let stopped_at = execution.stop_date.as_ref();
        let optional_fields = [
            ("stopped_at", stopped_at.map(|at| json!(format_time(at)))),
            ("error", execution.error.map(Value::from)),
            ("message", execution.cause.map(Value::from)),
            ("output", output),
        ];
        for (field, value) in optional_fields {
            if let Some(value) = value {
                body[field] = value;
            }
        }
        Ok(body)
    }

    async fn find_execution(
        &self,
        job: &str,
        name: &str,
    ) -> Result<DescribeExecutionOutput, StepError> {
        let arn_prefix = self.arn_prefix.replacen(":stateMachine:", ":execution:", 1);
        let request = self
            .step_functions
            .describe_execution()
            .execution_arn(format!("{arn_prefix}{job}:{name}"));
        request
            .send()
            .await
            .map_err(|error| match step_functions_error(error) {
                error if error.name == ErrorName::NotFound => {
                    ErrorName::NotFound.with_message(format!(
                        "execution \"{job}:{name}\" does not exist; pass the ID that POST \
                         /jobs/{{name}}/executions returned"
                    ))
                }
                error => error,
            })
    }
}

/// The ARN of the IAM principal that signed the request.
fn caller_arn(request: &ApiGatewayV2httpRequest) -> Result<&str, StepError> {
    request
        .request_context
        .authorizer
        .as_ref()
        .and_then(|authorizer| authorizer.iam.as_ref()?.user_arn.as_deref())
        .ok_or_else(|| {
            ErrorName::AccessDenied
                .with_message("the request is not signed; sign it with Signature Version 4")
        })
}

/// The name of the execution to start: derived from the idempotency key, or else from the request
/// ID.
fn execution_name(
    request: &ApiGatewayV2httpRequest,
    caller_arn: &str,
    job: &str,
) -> Result<String, StepError> {
    let key = request
        .headers
        .get("idempotency-key")
        .map(HeaderValue::to_str);
    match key {
        None => {
            let request_id = request.request_context.request_id.as_deref();
            Ok(format!(
                "api-{}",
                request_id.map(sha256).unwrap_or_default()
            ))
        }
        Some(Ok(key)) if (1..=256).contains(&key.len()) => {
            // The hash includes the caller, so a caller that guesses the key of another caller
            // does not get its execution.
            let scope = json!([strip_session_name(caller_arn), job, key]);
            Ok(format!("api-{}", sha256(&scope.to_string())))
        }
        Some(_) => Err(ErrorName::InvalidInput.with_message(
            "header Idempotency-Key: expected 1 to 256 visible ASCII characters; send another key",
        )),
    }
}

/// The caller's ARN without the session name of an assumed role. A program gets a new session name
/// whenever it assumes its role again.
fn strip_session_name(arn: &str) -> &str {
    if arn.contains(":assumed-role/") {
        arn.rsplit_once('/').map_or(arn, |(role, _)| role)
    } else {
        arn
    }
}

/// The name of a job's state machine: `fleet/morning-check` → `fleet-morning-check`.
fn state_machine_name(job: &str) -> Result<String, StepError> {
    let name = job
        .replace("%2F", "/")
        .replace("%2f", "/")
        .replace('/', "-");
    if is_valid_name(&name) {
        return Ok(name);
    }
    Err(ErrorName::InvalidInput.with_message(format!(
        "{job:?} is not a job name; pass a name such as fleet-morning-check"
    )))
}

fn is_valid_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=80).contains(&name.len()) && name.bytes().all(is_allowed)
}

fn format_time(at: &DateTime) -> Option<String> {
    at.fmt(DateTimeFormat::DateTime).ok()
}

/// Runs the function on Lambda.
#[must_use]
pub fn serve() -> ExitCode {
    run(
        async || {
            Ok(Api {
                step_functions: Client::new(&session::aws_config(None).await),
                arn_prefix: settings::state_machine_arn_prefix()?,
            })
        },
        async |api: &Api, event| respond(api, &event.payload).await,
    )
}

#[cfg(test)]
mod tests {
    use aws_sdk_sfn::operation::describe_execution::DescribeExecutionError;
    use aws_sdk_sfn::operation::start_execution::{StartExecutionError, StartExecutionOutput};
    use aws_sdk_sfn::types::ExecutionStatus;
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::mock_client;

    use super::*;

    const ARN_PREFIX: &str = "arn:aws:states:eu-west-1:111111111111:stateMachine:stepward-";
    const CALLER: &str = "arn:aws:iam::111111111111:user/ann";

    fn api_with_rules(rules: &[&Rule]) -> Api {
        Api {
            step_functions: mock_client!(aws_sdk_sfn, RuleMode::MatchAny, rules),
            arn_prefix: ARN_PREFIX.into(),
        }
    }

    fn start_event(job: &str, body: &Value, key: Option<&str>) -> Event {
        let mut request = json!({
            "version": "2.0",
            "routeKey": "POST /jobs/{name}/executions",
            "rawPath": format!("/jobs/{job}/executions"),
            "headers": {},
            "pathParameters": { "name": job },
            "requestContext": {
                "requestId": "r-1",
                "authorizer": { "iam": { "userArn": CALLER } },
                "http": {
                    "method": "POST",
                    "path": "/",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "127.0.0.1",
                    "userAgent": "t",
                },
                "timeEpoch": 0,
            },
            "body": body.to_string(),
            "isBase64Encoded": false,
        });
        if let Some(key) = key {
            request["headers"]["idempotency-key"] = json!(key);
        }
        Event::from_text(&request.to_string())
    }

    /// The status code and body of the response.
    async fn call_api(api: &Api, event: &Event) -> (i64, Value) {
        let response = respond(api, event).await.unwrap();
        let Some(Body::Text(body)) = response.body else {
            panic!("no body")
        };
        (response.status_code, serde_json::from_str(&body).unwrap())
    }

    /// Accepts the start of `fleet-morning-check` for customer acme.
    fn start_rule() -> Rule {
        mock!(Client::start_execution)
            .match_requests(|request| {
                let input: Value = serde_json::from_str(request.input().unwrap()).unwrap();
                request.state_machine_arn() == Some(&format!("{ARN_PREFIX}fleet-morning-check"))
                    && input["customer"] == "acme"
                    && input["started_by"] == CALLER
            })
            .then_output(|| {
                let at = DateTime::from_secs(0);
                StartExecutionOutput::builder()
                    .execution_arn("arn")
                    .start_date(at)
                    .build()
                    .unwrap()
            })
    }

    fn already_exists_rule() -> Rule {
        mock!(Client::start_execution).then_error(|| {
            StartExecutionError::generic(
                ErrorMetadata::builder()
                    .code("ExecutionAlreadyExists")
                    .build(),
            )
        })
    }

    /// Describes a succeeded execution with this input.
    fn describe_rule(input: &'static str) -> Rule {
        mock!(Client::describe_execution).then_output(move || {
            DescribeExecutionOutput::builder()
                .execution_arn("arn")
                .state_machine_arn("arn")
                .status(ExecutionStatus::Succeeded)
                .start_date(DateTime::from_secs(0))
                .input(input)
                .output(r#"{"failed":0}"#)
                .build()
                .unwrap()
        })
    }

    #[tokio::test]
    async fn a_job_starts_in_the_name_of_the_caller() {
        for job in [
            "fleet-morning-check",
            "fleet%2Fmorning-check",
            "fleet/morning-check",
        ] {
            let (status, body) = call_api(
                &api_with_rules(&[&start_rule()]),
                &start_event(job, &json!({ "customer": "acme" }), Some("k")),
            )
            .await;
            assert_eq!(
                (status, &body["status"]),
                (202, &json!("RUNNING")),
                "{body}"
            );
            assert!(
                body["id"]
                    .as_str()
                    .unwrap()
                    .starts_with("fleet-morning-check:api-"),
                "{body}"
            );
        }
    }

    #[tokio::test]
    async fn the_same_key_with_different_input_is_a_conflict() {
        let body = json!({ "customer": "acme" });
        let same_input = concat!(
            r#"{"customer":"acme","accounts":[],"options":{},"#,
            r#""started_by":"another session of the same role"}"#
        );
        let first = call_api(
            &api_with_rules(&[&start_rule()]),
            &start_event("fleet-morning-check", &body, Some("k")),
        )
        .await;
        let again = call_api(
            &api_with_rules(&[&already_exists_rule(), &describe_rule(same_input)]),
            &start_event("fleet-morning-check", &body, Some("k")),
        )
        .await;
        assert_eq!(first, again);
        let conflict = call_api(
            &api_with_rules(&[&already_exists_rule(), &describe_rule("{}")]),
            &start_event("fleet-morning-check", &body, Some("k")),
        )
        .await;
        assert_eq!(
            (conflict.0, &conflict.1["error"]),
            (409, &json!("Conflict"))
        );
    }

    #[tokio::test]
    async fn invalid_requests_get_their_error_name_and_status() {
        let missing = mock!(Client::start_execution).then_error(|| {
            StartExecutionError::generic(
                ErrorMetadata::builder()
                    .code("StateMachineDoesNotExist")
                    .build(),
            )
        });
        let valid = json!({ "customer": "acme" });
        for (event, status, name) in [
            (start_event("nothing", &valid, None), 404, "NotFound"),
            (start_event("a b", &valid, None), 400, "InvalidInput"),
            (
                start_event("nothing", &json!({}), None),
                400,
                "InvalidInput",
            ),
            (
                start_event(
                    "nothing",
                    &json!({ "customer": "acme", "started_by": "root" }),
                    None,
                ),
                400,
                "InvalidInput",
            ),
            (
                start_event("nothing", &json!([]), None),
                400,
                "InvalidInput",
            ),
            (
                start_event("nothing", &valid, Some("")),
                400,
                "InvalidInput",
            ),
        ] {
            let (actual, body) = call_api(&api_with_rules(&[&missing]), &event).await;
            assert_eq!((actual, &body["error"]), (status, &json!(name)), "{body}");
        }
    }

    fn describe_event(id: &str) -> Event {
        let mut request: Value =
            serde_json::from_str(start_event("x", &json!({}), None).text().unwrap()).unwrap();
        request["routeKey"] = json!("GET /executions/{id}");
        request["pathParameters"] = json!({ "id": id });
        Event::from_text(&request.to_string())
    }

    #[tokio::test]
    async fn an_execution_is_returned_with_its_output() {
        let (status, body) = call_api(
            &api_with_rules(&[&describe_rule("{}")]),
            &describe_event("fleet-morning-check:api-1"),
        )
        .await;
        assert_eq!(
            (status, &body["status"], &body["output"]["failed"]),
            (200, &json!("SUCCEEDED"), &json!(0))
        );
        let missing = mock!(Client::describe_execution).then_error(|| {
            DescribeExecutionError::generic(
                ErrorMetadata::builder()
                    .code("ExecutionDoesNotExist")
                    .build(),
            )
        });
        assert_eq!(
            call_api(
                &api_with_rules(&[&missing]),
                &describe_event("fleet-morning-check:no")
            )
            .await
            .0,
            404
        );
        assert_eq!(
            call_api(&api_with_rules(&[]), &describe_event("arn:aws:states:x"))
                .await
                .0,
            400
        );
    }
}
