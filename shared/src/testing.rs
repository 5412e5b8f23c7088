//! What unit tests of steps need: a context for a made-up account whose clients a test provides.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what the tests share fails a test as the tests do, in other crates too"
)]

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
#[cfg(test)]
use crate::model::customer::{
    Account, Configuration, Customer, Defaults, ExternalId, Status, Trust,
};
use crate::model::envelope::{Execution, Resume, now, read};
use crate::model::error::{ErrorName, StepError};
use crate::model::permissions::ArnScope;
use crate::runtime::context::{Artifacts, Context};
use crate::runtime::manifest::Manifest;
use crate::runtime::serve;
use crate::runtime::step::{Progress, Step};

/// A context for account `prod` (222222222222) of `acme` in `eu-west-1` whose client is the given
/// one, usually made by `aws_smithy_mocks::mock_client!`.
pub fn context<C: Clone + Send + Sync + 'static>(client: C) -> Context {
    let session = Session::new(SdkConfig::builder().build(), Secrets::default());
    session.client(|_| client);
    with_session(session)
}

/// In a role session of this ARN, with all clients made from this configuration: for several
/// services, and endpoints of a test's own.
#[must_use]
pub fn context_of(config: SdkConfig, session_arn: &str) -> Context {
    let mut session = Session::new(config, Secrets::default());
    session.arn = Some(session_arn.into());
    with_session(session)
}

/// As [`context`], in a role session of this ARN.
pub fn context_as<C: Clone + Send + Sync + 'static>(client: C, session_arn: &str) -> Context {
    let ctx = context_of(SdkConfig::builder().build(), session_arn);
    ctx.client(|_| client);
    ctx
}

/// What clients are made from whose requests this one answers, without a network.
pub fn config_over(http_client: impl HttpClient + 'static) -> SdkConfig {
    let keys = Credentials::new("key", "not-a-secret", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(keys))
        .http_client(http_client)
        .build()
}

/// A context whose second place is the other one.
#[must_use]
pub fn with_peer(here: Context, there: Context) -> Context {
    here.with_peer(Some(there))
}

/// A context for an account whose record allows these Regions.
#[must_use]
pub fn with_regions(ctx: Context, regions: &[&str]) -> Context {
    ctx.with_regions(regions)
}

/// A context with this artifacts bucket.
#[must_use]
pub fn with_artifacts(ctx: Context, s3: aws_sdk_s3::Client, bucket: &str) -> Context {
    ctx.with_artifacts(Artifacts::Given(s3, bucket.to_owned()))
}

/// What a deployed step's function answers to an envelope, with everything that it goes through but
/// Lambda itself.
///
/// # Errors
/// What the step fails with.
pub async fn call<S: Step>(broker: &Broker, envelope: &Value) -> Result<Value, StepError> {
    let deadline = SystemTime::now() + Duration::from_mins(1);
    let answer = serve::answer::<S>(broker, &envelope.to_string(), deadline, "test").await?;
    serde_json::to_value(answer)
        .map_err(|error| ErrorName::Internal.with_message(error.to_string()))
}

/// A step with these parameters.
///
/// # Panics
/// Where the parameters are not the step's.
#[must_use]
pub fn step<S: Step>(params: Value) -> S {
    match serde_json::from_value(params) {
        Ok(step) => step,
        Err(error) => panic!("no parameters of {}: {error}", S::NAME),
    }
}

/// A step's state as a state machine hands it back, in the execution's first seconds.
#[must_use]
pub fn resume(state: &Value) -> Resume {
    Resume::new(now(), state.clone())
}

/// What a state machine does with a pending answer: it keeps the state as JSON, waits, and hands it
/// back.
///
/// # Panics
/// When the answer is not pending, or a number of its state would not outlive the state machine.
#[must_use]
pub fn pending<T: Debug>(answer: Result<Progress<T>, StepError>) -> (Resume, Duration, String) {
    let Ok(Progress::Pending {
        state,
        retry_after,
        progress,
    }) = answer
    else {
        panic!("not pending: {answer:?}")
    };
    assert!(
        is_exact(&state),
        "JSONata would round a number of it: {state}"
    );
    (resume(&state), retry_after, progress)
}

/// Whether every number outlives a state machine, which keeps 53 bits of it.
fn is_exact(state: &Value) -> bool {
    match state {
        Value::Number(number) => number
            .as_i64()
            .is_some_and(|number| number.unsigned_abs() < 1 << 53),
        Value::Array(all) => all.iter().all(is_exact),
        Value::Object(all) => all.values().all(is_exact),
        _ => true,
    }
}

/// The output of an answer.
///
/// # Panics
/// When the answer is no output.
#[allow(
    clippy::must_use_candidate,
    reason = "that there is an output is all that some tests ask"
)]
pub fn done<T: Debug>(answer: Result<Progress<T>, StepError>) -> T {
    let Ok(Progress::Done(output)) = answer else {
        panic!("not done: {answer:?}")
    };
    output
}

/// Asserts for every parameter of a step that a value of another type is `InvalidInput` and names
/// the parameter, and so for one that the step does not have. In the words that the step's function
/// answers with.
///
/// # Panics
/// Where a parameter is not named.
pub fn names_invalid_parameters<S: Step>() {
    let manifest = Manifest::of::<S>().unwrap();
    let properties = manifest.parameters["properties"].as_object().unwrap();
    for name in properties
        .keys()
        .map(String::as_str)
        .chain(["no_such_parameter"])
    {
        let mut params = manifest.examples[0].parameters.clone();
        // No parameter is a fraction.
        params[name] = 0.5.into();
        let error = read::<S>("params", &params).map(|_| name).unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput, "{error}");
        let why = if properties.contains_key(name) {
            "invalid type: floating point `0.5`"
        } else {
            "unknown field"
        };
        let begin = format!("params, field `{name}`: {why}");
        assert!(
            error.message.starts_with(&begin),
            "{} does not name {name}: {error}",
            S::NAME
        );
    }
}

/// The error of an SDK call that AWS answered with this error code and HTTP status, as in
/// `service_error(StopInstancesError::generic, "VolumeInUse", 400)`.
pub fn service_error<E>(
    generic: impl FnOnce(ErrorMetadata) -> E,
    code: &str,
    status: u16,
) -> SdkError<E, HttpResponse> {
    let status = StatusCode::try_from(status)
        .unwrap_or_else(|_| unreachable!("a test gives an HTTP status"));
    SdkError::service_error(
        generic(ErrorMetadata::builder().code(code).build()),
        HttpResponse::new(status, "".into()),
    )
}

/// What the step has said so far.
#[must_use]
pub fn log(ctx: &Context) -> Vec<String> {
    ctx.take_log()
}

/// Who acts for `acme` in this execution, started by this person.
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

/// The record of account `prod` (222222222222) of a customer, with a proven role.
#[cfg(test)]
pub(crate) fn record(customer: &str) -> Configuration {
    Configuration {
        customer: Customer {
            name: customer.into(),
            status: Status::Active,
            default_region: None,
            provider: None,
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
            trust: Trust::Proven,
            version: 1,
        },
        defaults: Defaults::default(),
    }
}

fn with_session(session: Session) -> Context {
    let place = ArnScope {
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
        place,
        execution,
        Arc::new(session),
        deadline,
        None,
    )
}
