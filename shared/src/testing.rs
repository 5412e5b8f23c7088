//! Contexts and helper functions for the unit tests of steps. A context belongs to a fictitious
//! account, and the test provides its clients.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helper functions fail a test by a panic, as the tests of other crates do"
)]

mod recorded_requests;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::HttpClient;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::error::ErrorMetadata;
use serde_json::Value;
use tokio::time::Instant;

#[cfg(test)]
use crate::access::assume::Attribution;
use crate::access::mask::Secrets;
use crate::access::session::{Broker, Session};
use crate::model::credential_rejection::CREDENTIALS_REJECTED;
use crate::model::customer::{
    Account, Configuration, Customer, Defaults, ExternalId, Status, Trust,
};
use crate::model::envelope::{Execution, Resume, parse_object, unix_now};
use crate::model::error::{ErrorName, StepError};
use crate::model::permissions::ArnScope;
use crate::runtime::context::{Artifacts, Context};
use crate::runtime::manifest::Manifest;
use crate::runtime::serve;
use crate::runtime::step::{Progress, Step};

pub use self::recorded_requests::RequestRecorder;

/// A context for the account `prod` (222222222222) of `acme` in `eu-west-1`, with this client.
/// Create the client with [`mock_client!`](crate::mock_client).
pub fn context<C: Clone + Send + Sync + 'static>(client: C) -> Context {
    let session = Session::new(SdkConfig::builder().build(), Secrets::default());
    session.client(|_| client);
    with_session(session)
}

/// A context in the role session with this ARN, which creates clients from this configuration. Use
/// it for steps that call several services, and for a test's own endpoints.
#[must_use]
pub fn context_with_config(config: SdkConfig, session_arn: &str) -> Context {
    let mut session = Session::new(config, Secrets::default());
    session.arn = Some(session_arn.into());
    with_session(session)
}

/// A context as from [`context`], in the role session with this ARN.
pub fn context_with_session<C: Clone + Send + Sync + 'static>(
    client: C,
    session_arn: &str,
) -> Context {
    let ctx = context_with_config(SdkConfig::builder().build(), session_arn);
    ctx.client(|_| client);
    ctx
}

/// A configuration for clients whose requests this HTTP client responds to, without a network.
pub fn config_with_http_client(http_client: impl HttpClient + 'static) -> SdkConfig {
    let keys = Credentials::new("key", "not-a-secret", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(keys))
        .http_client(http_client)
        .build()
}

/// Adds the context of a second account or Region.
#[must_use]
pub fn with_peer(ctx: Context, peer: Context) -> Context {
    ctx.with_peer(Some(peer))
}

/// Replaces the Regions that the account's record allows.
#[must_use]
pub fn with_regions(ctx: Context, regions: &[&str]) -> Context {
    ctx.with_regions(regions)
}

/// Adds an artifacts bucket.
#[must_use]
pub fn with_artifacts(ctx: Context, s3: aws_sdk_s3::Client, bucket: &str) -> Context {
    ctx.with_artifacts(Artifacts::Explicit(s3, bucket.to_owned()))
}

/// Calls a step's function with an envelope, as in a deployment but without Lambda, and returns its
/// response.
///
/// # Errors
/// The error of the step.
pub async fn call_function<S: Step>(broker: &Broker, envelope: &Value) -> Result<Value, StepError> {
    let deadline = SystemTime::now() + Duration::from_mins(1);
    let response =
        serve::respond_to_envelope::<S>(broker, &envelope.to_string(), deadline, "test").await?;
    serde_json::to_value(response)
        .map_err(|error| ErrorName::Internal.with_message(error.to_string()))
}

/// Creates a step with these parameters.
///
/// # Panics
/// If the parameters are not valid for the step.
#[must_use]
pub fn parse_step<S: Step>(params: Value) -> S {
    match serde_json::from_value(params) {
        Ok(step) => step,
        Err(error) => panic!("invalid parameters of {}: {error}", S::NAME),
    }
}

/// A resume state as a state machine returns it, in the first seconds of an execution.
#[must_use]
pub fn resume_from(state: &Value) -> Resume {
    Resume::new(unix_now(), state.clone())
}

/// Treats a pending result as a state machine does: returns its state for the next call, the wait
/// time and the progress text.
///
/// # Panics
/// If the result is not pending, or if a state machine would round a number of the state.
#[must_use]
pub fn expect_pending<T: Debug>(
    response: Result<Progress<T>, StepError>,
) -> (Resume, Duration, String) {
    let Ok(Progress::Pending {
        state,
        retry_after,
        progress,
    }) = response
    else {
        panic!("not pending: {response:?}")
    };
    assert!(
        has_exact_numbers(&state),
        "JSONata would round a number of the state: {state}"
    );
    (resume_from(&state), retry_after, progress)
}

/// Whether a state machine preserves every number. JSONata keeps 53 bits of an integer.
fn has_exact_numbers(state: &Value) -> bool {
    match state {
        Value::Number(number) => number
            .as_i64()
            .is_some_and(|number| number.unsigned_abs() < 1 << 53),
        Value::Array(items) => items.iter().all(has_exact_numbers),
        Value::Object(fields) => fields.values().all(has_exact_numbers),
        _ => true,
    }
}

/// Returns the output of a finished step.
///
/// # Panics
/// If the step failed or is pending.
#[allow(
    clippy::must_use_candidate,
    reason = "some tests check only that the step succeeded"
)]
pub fn expect_done<T: Debug>(response: Result<Progress<T>, StepError>) -> T {
    let Ok(Progress::Done(output)) = response else {
        panic!("not done: {response:?}")
    };
    output
}

/// Asserts that errors name the invalid parameter: for every parameter of the step with a value of
/// a wrong type, and for a parameter that the step does not have.
///
/// # Panics
/// If an error does not name the parameter.
pub fn assert_invalid_parameters_are_named<S: Step>() {
    let manifest = Manifest::for_step::<S>().unwrap();
    let properties = manifest.parameters["properties"].as_object().unwrap();
    for name in properties
        .keys()
        .map(String::as_str)
        .chain(["no_such_parameter"])
    {
        let mut params = manifest.examples[0].parameters.clone();
        // No parameter accepts a fraction.
        params[name] = 0.5.into();
        let error = parse_object::<S>("params", &params)
            .map(|_| name)
            .unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput, "{error}");
        let reason = if properties.contains_key(name) {
            "invalid type: floating point `0.5`"
        } else {
            "unknown field"
        };
        let expected = format!("params, field `{name}`: {reason}");
        assert!(
            error.message.starts_with(&expected),
            "{}: the error does not name {name}: {error}",
            S::NAME
        );
    }
}

/// The error of an SDK call for which AWS returned this error code and HTTP status, for example
/// `service_error(StopInstancesError::generic, "VolumeInUse", 400)`.
pub fn service_error<E>(
    generic: impl FnOnce(ErrorMetadata) -> E,
    code: &str,
    status: u16,
) -> SdkError<E, HttpResponse> {
    let status = StatusCode::try_from(status)
        .unwrap_or_else(|_| unreachable!("tests pass valid HTTP statuses"));
    SdkError::service_error(
        generic(ErrorMetadata::builder().code(code).build()),
        HttpResponse::new(status, "".into()),
    )
}

/// Asserts that a service's conversion keeps what AWS says about rejected credentials. Each
/// service's `error.rs` calls it: `assert_rejections_are_explained(StopInstancesError::generic,
/// ec2_error)`.
///
/// # Panics
/// If the error of a rejection has another name, lacks AWS's sentence, or names a permission.
pub fn assert_rejections_are_explained<E>(
    generic: impl Fn(ErrorMetadata) -> E,
    convert: impl Fn(SdkError<E, HttpResponse>) -> StepError,
) {
    const SENTENCE: &str = "AWS was not able to validate the provided access credentials";
    for (code, status, advice) in [
        ("AuthFailure", 401, "not enabled the Region"),
        ("InvalidAccessKeyId", 403, "not enabled the Region"),
        ("InvalidClientTokenId", 403, "not enabled the Region"),
        ("InvalidToken", 400, "not enabled the Region"),
        ("RegionDisabledException", 403, "not enabled the Region"),
        ("UnrecognizedClientException", 400, "not enabled the Region"),
        ("OptInRequired", 401, "enable the Region"),
        ("SubscriptionRequiredException", 400, "enable the Region"),
        ("ExpiredToken", 403, "try again with new credentials"),
        (
            "ExpiredTokenException",
            400,
            "try again with new credentials",
        ),
        ("RequestExpired", 400, "the clock"),
        ("RequestTimeTooSkewed", 403, "the clock"),
        ("IncompleteSignature", 400, "the clock"),
        ("InvalidSignatureException", 400, "the clock"),
        ("MissingAuthenticationToken", 403, "the clock"),
        ("SignatureDoesNotMatch", 403, "the clock"),
    ] {
        let status = StatusCode::try_from(status)
            .unwrap_or_else(|_| unreachable!("the statuses above are valid"));
        let metadata = ErrorMetadata::builder()
            .code(code)
            .message(SENTENCE)
            .build();
        let error = convert(SdkError::service_error(
            generic(metadata),
            HttpResponse::new(status, "".into()),
        ));
        assert_eq!(error.name, ErrorName::AccessDenied, "{code}");
        assert!(
            error.rejects_credentials() && error.has_code(code),
            "{code}: {error}"
        );
        assert!(
            error.message.starts_with(CREDENTIALS_REJECTED)
                && error.message.contains(&format!("(AWS: {SENTENCE})"))
                && error.message.contains(advice)
                && !error.message.contains("allow it in the customer's role"),
            "{code}: {error}"
        );
    }
}

/// The log lines that the step wrote so far. Clears the log.
#[must_use]
pub fn log_lines(ctx: &Context) -> Vec<String> {
    ctx.take_log_lines()
}

/// The attribution of an execution for `acme` that this person started.
#[cfg(test)]
pub(crate) fn attribution(execution: &str, started_by: &str) -> Attribution {
    let execution = Execution {
        id: execution.into(),
        job: "j".into(),
        step: "s".into(),
        item: None,
        started_by: started_by.into(),
    };
    Attribution::new("acme", &execution)
}

/// The record of a customer's account `prod` (222222222222), with a proven role.
///
/// # Panics
/// If the operating system provides no random bytes.
#[must_use]
pub fn account_record(customer: &str) -> Configuration {
    Configuration {
        customer: Customer {
            name: customer.into(),
            status: Status::Active,
            default_region: None,
            provider: None,
            mapping: None,
            created_at: "2026-01-01T00:00:00Z".into(),
            version: 1,
        },
        account: Account {
            customer: customer.into(),
            name: "prod".into(),
            account_id: "222222222222".into(),
            provider: None,
            role_arn: Some("arn:aws:iam::222222222222:role/stepward/Stepward".into()),
            external_id: ExternalId::generate().unwrap(),
            next_external_id: None,
            regions: vec!["eu-west-1".into()],
            default_region: None,
            access_key: None,
            mapping: None,
            trust: Trust::Proven,
            version: 1,
        },
        defaults: Defaults::default(),
    }
}

fn with_session(session: Session) -> Context {
    let scope = ArnScope {
        partition: "aws".into(),
        region: "eu-west-1".into(),
        account_id: "222222222222".into(),
    };
    let execution = Execution {
        id: "execution-1".into(),
        job: "fleet/morning-check".into(),
        step: "step-1".into(),
        item: None,
        started_by: "ann".into(),
    };
    let deadline = Instant::now() + Duration::from_mins(1);
    Context::new(
        ("acme", "prod"),
        scope,
        execution,
        Arc::new(session),
        deadline,
        None,
    )
}
