//! The function `api`: starts jobs and tells how they go, behind API Gateway with IAM
//! authorization.
//!
//! - `POST /jobs/{name}/executions` with `{"customer": …, "accounts": […]?, "options": {…}?}` and,
//!   best, the header `Idempotency-Key`: `202` with the execution's ID; `{name}` is
//!   `fleet-morning-check`, or `fleet%2Fmorning-check`.
//! - `GET /executions/{id}`: `200` with status, output or error.
//!
//! A failure is `{"error": <name>, "message": …}` with the names of `ErrorName`.

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

use crate::error::states_error;

struct Api {
    states: Client,
    /// What the ARN of each state machine begins with, `arn:…:stateMachine:stepward-`.
    state_machines: String,
}

/// What starts a job.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    customer: String,
    #[serde(default)]
    accounts: Vec<String>,
    #[serde(default)]
    options: Map<String, Value>,
}

async fn answer(api: &Api, event: &Event) -> Result<ApiGatewayV2httpResponse, StepError> {
    let request: ApiGatewayV2httpRequest = event.read()?;
    let route = request.route_key.as_deref().unwrap_or_default();
    let parameter = |name: &str| {
        request
            .path_parameters
            .get(name)
            .map(String::as_str)
            .unwrap_or_default()
    };
    let answered = match route {
        "POST /jobs/{name}/executions" => api
            .start(parameter("name"), &request)
            .await
            .map(|body| (202, body)),
        "GET /executions/{id}" => api.describe(parameter("id")).await.map(|body| (200, body)),
        _ => Err(ErrorName::NotFound.with_message(format!("there is no route {route:?}"))),
    };
    let (status, body) = answered.unwrap_or_else(|error| {
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
    async fn start(
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
                    "there is no JSON body; send one with Content-Type: application/json",
                )
            })?;
        let start: Start = Event::from_text(body).read()?;
        let job = state_machine(job)?;
        let caller = request
            .request_context
            .authorizer
            .as_ref()
            .and_then(|a| a.iam.as_ref()?.user_arn.as_deref());
        let caller = caller.ok_or_else(|| {
            ErrorName::AccessDenied
                .with_message("the request is not signed; sign it with Signature Version 4")
        })?;
        let name = match request
            .headers
            .get("idempotency-key")
            .map(HeaderValue::to_str)
        {
            None => format!(
                "api-{}",
                request
                    .request_context
                    .request_id
                    .as_deref()
                    .map(sha256)
                    .unwrap_or_default()
            ),
            Some(Ok(key)) if (1..=256).contains(&key.len()) => {
                // Bound to the caller: one cannot meet another's execution by guessing the key.
                format!(
                    "api-{}",
                    sha256(&json!([principal(caller), job, key]).to_string())
                )
            }
            Some(_) => {
                return Err(ErrorName::InvalidInput
                    .with_message("Idempotency-Key must be 1 to 256 visible ASCII characters"));
            }
        };
        let Start {
            customer,
            accounts,
            options,
        } = start;
        let input = JobInput {
            customer,
            accounts,
            options,
            started_by: caller.to_owned(),
        };
        let text = serde_json::to_string(&input)
            .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
        let started = self
            .states
            .start_execution()
            .state_machine_arn(format!("{}{job}", self.state_machines))
            .name(&name)
            .input(text)
            .send()
            .await
            .map_err(states_error);
        match started {
            Ok(_) => {}
            Err(error) if error.has_code("ExecutionAlreadyExists") => {
                self.check_same(&job, &name, &input).await?
            }
            Err(error) if error.name == ErrorName::NotFound => {
                return Err(ErrorName::NotFound.with_message(format!(
                    "there is no job {job:?}; `stepward job list` shows all"
                )));
            }
            Err(error) => return Err(error),
        }
        Ok(json!({ "id": format!("{job}:{name}"), "job": job, "status": "RUNNING" }))
    }

    /// Step Functions answers a used name with an error once the execution is over; to the caller
    /// that is still the execution that the key has started, unless the request is another.
    async fn check_same(&self, job: &str, name: &str, input: &JobInput) -> Result<(), StepError> {
        let known = self.find(job, name).await?.input;
        let is_same = |known: JobInput| {
            let JobInput {
                customer,
                accounts,
                options,
                ..
            } = known;
            customer == input.customer && accounts == input.accounts && options == input.options
        };
        if known
            .and_then(|text| serde_json::from_str(&text).ok())
            .is_some_and(is_same)
        {
            return Ok(());
        }
        Err(ErrorName::Conflict.with_message(
            "this Idempotency-Key has started an execution with other input; use a new one",
        ))
    }

    async fn describe(&self, id: &str) -> Result<Value, StepError> {
        let malformed = || {
            ErrorName::InvalidInput.with_message(format!(
                "{id:?} is not the ID of an execution, as in job:name"
            ))
        };
        let (job, name) = id
            .split_once(':')
            .or_else(|| id.split_once("%3A"))
            .ok_or_else(malformed)?;
        if !legal(job) || !legal(name) {
            return Err(malformed());
        }
        let found = self.find(job, name).await?;
        let mut body = json!({
            "id": format!("{job}:{name}"),
            "job": job,
            "status": found.status.as_str(),
            "started_at": time(&found.start_date),
        });
        let finished = [
            (
                "stopped_at",
                found.stop_date.as_ref().map(|at| json!(time(at))),
            ),
            ("error", found.error.map(Value::from)),
            ("message", found.cause.map(Value::from)),
            // A failed execution has no output on AWS.
            (
                "output",
                found
                    .output
                    .filter(|_| found.status.as_str() == "SUCCEEDED")
                    .and_then(|o| serde_json::from_str(&o).ok()),
            ),
        ];
        for (field, value) in finished {
            if let Some(value) = value {
                body[field] = value;
            }
        }
        Ok(body)
    }

    async fn find(&self, job: &str, name: &str) -> Result<DescribeExecutionOutput, StepError> {
        let arn = format!(
            "{}{job}:{name}",
            self.state_machines
                .replacen(":stateMachine:", ":execution:", 1)
        );
        self.states
            .describe_execution()
            .execution_arn(arn)
            .send()
            .await
            .map_err(|error| match states_error(error) {
                error if error.name == ErrorName::NotFound => {
                    ErrorName::NotFound.with_message(format!("there is no execution {job}:{name}"))
                }
                error => error,
            })
    }
}

/// Who signs, without the session name, which differs after every restart of a program that assumes
/// a role.
fn principal(arn: &str) -> &str {
    if arn.contains(":assumed-role/") {
        arn.rsplit_once('/').map_or(arn, |(role, _)| role)
    } else {
        arn
    }
}

/// The state machine's name of a job: `fleet/morning-check` → `fleet-morning-check`.
fn state_machine(job: &str) -> Result<String, StepError> {
    let name = job
        .replace("%2F", "/")
        .replace("%2f", "/")
        .replace('/', "-");
    if legal(&name) {
        return Ok(name);
    }
    Err(ErrorName::InvalidInput.with_message(format!(
        "{job:?} is not a job's name, as in fleet-morning-check"
    )))
}

fn legal(name: &str) -> bool {
    (1..=80).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn time(at: &DateTime) -> Option<String> {
    at.fmt(DateTimeFormat::DateTime).ok()
}

/// Runs the function on Lambda.
#[must_use]
pub fn serve() -> ExitCode {
    run(
        async || {
            let states = Client::new(&session::aws_config(None).await);
            Ok(Api {
                states,
                state_machines: settings::state_machines()?,
            })
        },
        async |api: &Api, event| answer(api, &event.payload).await,
    )
}

#[cfg(test)]
mod tests {
    use aws_sdk_sfn::operation::describe_execution::DescribeExecutionError;
    use aws_sdk_sfn::operation::start_execution::{StartExecutionError, StartExecutionOutput};
    use aws_sdk_sfn::types::ExecutionStatus;
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;

    const CALLER: &str = "arn:aws:iam::111111111111:user/ann";

    fn api(rules: &[&Rule]) -> Api {
        let states = mock_client!(aws_sdk_sfn, RuleMode::MatchAny, rules);
        Api {
            states,
            state_machines: "arn:aws:states:eu-west-1:111111111111:stateMachine:stepward-".into(),
        }
    }

    fn post(job: &str, body: &Value, key: Option<&str>) -> Event {
        let mut request = json!({
            "version": "2.0",
            "routeKey": "POST /jobs/{name}/executions",
            "rawPath": format!("/jobs/{job}/executions"),
            "headers": {},
            "pathParameters": { "name": job },
            "requestContext": {
                "requestId": "r-1",
                "authorizer": { "iam": { "userArn": CALLER } },
                "http": { "method": "POST", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "t" },
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

    async fn ask(api: &Api, event: &Event) -> (i64, Value) {
        let response = answer(api, event).await.unwrap();
        let Some(Body::Text(body)) = response.body else {
            panic!("no body")
        };
        (response.status_code, serde_json::from_str(&body).unwrap())
    }

    fn starts() -> Rule {
        mock!(Client::start_execution)
            .match_requests(|request| {
                let input: Value = serde_json::from_str(request.input().unwrap()).unwrap();
                request.state_machine_arn()
                    == Some("arn:aws:states:eu-west-1:111111111111:stateMachine:stepward-fleet-morning-check")
                    && input["customer"] == "acme"
                    && input["started_by"] == CALLER
            })
            .then_output(|| {
                let at = DateTime::from_secs(0);
                StartExecutionOutput::builder().execution_arn("arn").start_date(at).build().unwrap()
            })
    }

    fn exists() -> Rule {
        mock!(Client::start_execution).then_error(|| {
            StartExecutionError::generic(
                ErrorMetadata::builder()
                    .code("ExecutionAlreadyExists")
                    .build(),
            )
        })
    }

    fn known(input: &'static str) -> Rule {
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
    async fn a_job_starts_in_the_name_of_whoever_signed() {
        for job in [
            "fleet-morning-check",
            "fleet%2Fmorning-check",
            "fleet/morning-check",
        ] {
            let (status, body) = ask(
                &api(&[&starts()]),
                &post(job, &json!({ "customer": "acme" }), Some("k")),
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
    async fn the_same_key_is_the_same_execution_and_another_input_a_conflict() {
        let body = json!({ "customer": "acme" });
        let same = r#"{"customer":"acme","accounts":[],"options":{},"started_by":"another session of the same role"}"#;
        let first = ask(
            &api(&[&starts()]),
            &post("fleet-morning-check", &body, Some("k")),
        )
        .await;
        let again = ask(
            &api(&[&exists(), &known(same)]),
            &post("fleet-morning-check", &body, Some("k")),
        )
        .await;
        assert_eq!(first, again);
        let other = ask(
            &api(&[&exists(), &known("{}")]),
            &post("fleet-morning-check", &body, Some("k")),
        )
        .await;
        assert_eq!((other.0, &other.1["error"]), (409, &json!("Conflict")));
    }

    #[tokio::test]
    async fn what_is_wrong_has_its_name_and_status() {
        let gone = mock!(Client::start_execution).then_error(|| {
            StartExecutionError::generic(
                ErrorMetadata::builder()
                    .code("StateMachineDoesNotExist")
                    .build(),
            )
        });
        let good = json!({ "customer": "acme" });
        for (event, status, name) in [
            (post("nothing", &good, None), 404, "NotFound"),
            (post("a b", &good, None), 400, "InvalidInput"),
            (post("nothing", &json!({}), None), 400, "InvalidInput"),
            (
                post(
                    "nothing",
                    &json!({ "customer": "acme", "started_by": "root" }),
                    None,
                ),
                400,
                "InvalidInput",
            ),
            (post("nothing", &json!([]), None), 400, "InvalidInput"),
            (post("nothing", &good, Some("")), 400, "InvalidInput"),
        ] {
            let (seen, body) = ask(&api(&[&gone]), &event).await;
            assert_eq!((seen, &body["error"]), (status, &json!(name)), "{body}");
        }
    }

    fn get(id: &str) -> Event {
        let mut request: Value =
            serde_json::from_str(post("x", &json!({}), None).text().unwrap()).unwrap();
        request["routeKey"] = json!("GET /executions/{id}");
        request["pathParameters"] = json!({ "id": id });
        Event::from_text(&request.to_string())
    }

    #[tokio::test]
    async fn an_execution_is_shown_with_its_output() {
        let (status, body) = ask(&api(&[&known("{}")]), &get("fleet-morning-check:api-1")).await;
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
            ask(&api(&[&missing]), &get("fleet-morning-check:no"))
                .await
                .0,
            404
        );
        assert_eq!(ask(&api(&[]), &get("arn:aws:states:x")).await.0, 400);
    }
}
