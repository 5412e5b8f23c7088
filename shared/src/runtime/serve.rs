//! Receives Lambda's events, runs the step and returns its response.

use std::fmt::Display;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::Instrument;

use crate::access::assume::{Attribution, check_trust};
use crate::access::keys;
use crate::access::mask::Secrets;
use crate::access::session::Broker;
use crate::model::envelope::{Envelope, Response, Resume, Target, parse_object, unix_now};
use crate::model::error::{ErrorName, StepError, redact_role_arns};
use crate::model::permissions::{ArnScope, Permissions};
use crate::runtime::artifact::{self, INLINE_LIMIT, store_if_large};
use crate::runtime::context::{Artifacts, Context, Prober};
use crate::runtime::logging;
use crate::runtime::manifest::Manifest;
use crate::runtime::step::{Peer, Progress, Step};

/// The time reserved before Lambda's limit, to return a `TimedOut` error before Lambda kills the
/// process.
const RESPONSE_MARGIN: Duration = Duration::from_secs(2);

/// The text of an event, or the reason why it is not JSON. With another type, `lambda_runtime`
/// would respond to invalid JSON with the name of a Rust type.
#[derive(Debug)]
pub struct Event(Result<Box<RawValue>, String>);

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(
            Box::<RawValue>::deserialize(deserializer).map_err(|error| error.to_string()),
        ))
    }
}

impl Event {
    /// Creates an event with this text.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(RawValue::from_string(text.to_owned()).map_err(|error| error.to_string()))
    }

    /// The text of the event.
    ///
    /// # Errors
    /// `InvalidInput` if the text is not JSON.
    pub fn text(&self) -> Result<&str, StepError> {
        match &self.0 {
            Ok(raw) => Ok(raw.get()),
            Err(error) => Err(invalid_json(error)),
        }
    }

    /// Deserializes the event of one of Stepward's own functions. Steps parse an [`Envelope`]
    /// instead.
    ///
    /// # Errors
    /// `InvalidInput`, with the name of the invalid field.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        let value = serde_json::from_str(self.text()?).map_err(|error| invalid_json(&error))?;
        parse_object("the input", &value)
    }
}

fn invalid_json(error: &dyn Display) -> StepError {
    ErrorName::InvalidInput.with_message(format!("the input is not JSON: {error}"))
}

/// The `main` function of a step's binary. It serves Lambda, or prints the step's manifest if the
/// binary is called as `<step> describe`.
#[must_use]
pub fn serve<S: Step>() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("describe") {
        return print_manifest::<S>();
    }
    run(Broker::load, async |broker: &Broker, event| {
        respond_to_event::<S>(broker, &event).await
    })
}

fn print_manifest<S: Step>() -> ExitCode {
    match Manifest::for_step::<S>().map(|manifest| json!(manifest)) {
        Ok(manifest) => match writeln!(std::io::stdout(), "{manifest:#}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves Lambda until Lambda ends the process.
///
/// `load` runs once, when the process starts. `handler` gets the result of `load` with each event.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the `main` function of a binary has no other use for its handler"
)]
pub fn run<T, A: Serialize>(
    load: impl AsyncFnOnce() -> Result<T, StepError>,
    handler: impl AsyncFn(&T, LambdaEvent<Event>) -> Result<A, StepError>,
) -> ExitCode {
    logging::init();

    // A Lambda process handles one event at a time. One thread starts faster than several.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let served = runtime.map(|runtime| {
        runtime.block_on(async {
            let loaded = load().await;
            lambda_runtime::run(service_fn(async |event: LambdaEvent<Event>| {
                let response = match &loaded {
                    Ok(loaded) => AssertUnwindSafe(handler(loaded, event).boxed_local())
                        .catch_unwind()
                        .await
                        .unwrap_or_else(|_| Err(panic_error())),
                    Err(error) => Err(error.clone()),
                };
                response.map_err(|error| {
                    // An error with a target comes from a step, which logged it with its fields.
                    if error.target.is_none() {
                        tracing::error!(error.name = %error.name, "{error}");
                    }
                    Diagnostic::from(error)
                })
            }))
            .await
        })
    });

    match served {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            tracing::error!("the Lambda Runtime API failed: {error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("the Tokio runtime could not be created: {error}");
            ExitCode::FAILURE
        }
    }
}

fn panic_error() -> StepError {
    ErrorName::Internal.with_message(
        "internal error (panic); the source location is in the log of this request, \
         please report it",
    )
}

async fn respond_to_event<S: Step>(
    broker: &Broker,
    event: &LambdaEvent<Event>,
) -> Result<Response, StepError> {
    respond_to_envelope::<S>(
        broker,
        event.payload.text()?,
        event.context.deadline(),
        &event.context.request_id,
    )
    .await
}

/// Parses an envelope and runs the step within the time limit. This is everything that a step's
/// function does, except the communication with Lambda.
pub(crate) async fn respond_to_envelope<S: Step>(
    broker: &Broker,
    event: &str,
    deadline: SystemTime,
    request_id: &str,
) -> Result<Response, StepError> {
    let envelope = Envelope::parse(event)?;
    let target = &envelope.target;
    let span = tracing::info_span!(
        "step",
        step = S::NAME,
        customer = target.customer,
        account = target.account,
        execution = envelope.execution.id,
        job = envelope.execution.job,
        request_id,
    );

    let time_left = deadline
        .duration_since(SystemTime::now())
        .unwrap_or_default()
        .saturating_sub(RESPONSE_MARGIN);
    let limit = Instant::now() + time_left;
    let processing =
        process_with_masked_errors::<S>(broker, &envelope, limit).instrument(span.clone());
    let response = tokio::time::timeout_at(limit, processing)
        .await
        .unwrap_or_else(|_| {
            Err(ErrorName::TimedOut.with_message(
                "the step did not finish within its function's time limit; actions that it started \
                 may continue; see the step's page for the effect of a retry, then run the step \
                 again",
            ))
        });

    response.map_err(|error| {
        let error = error.with_target(target_label(target));
        span.in_scope(|| tracing::error!(error.name = %error.name, "{error}"));
        error
    })
}

/// Processes an envelope. Errors can quote parameters and AWS's messages, so secrets and role ARNs
/// in them are masked.
async fn process_with_masked_errors<S: Step>(
    broker: &Broker,
    envelope: &Envelope,
    limit: Instant,
) -> Result<Response, StepError> {
    let mut secrets = Secrets::default();
    let response = process_envelope::<S>(broker, envelope, limit, &mut secrets).await;
    response.map_err(|error| StepError {
        message: redact_role_arns(&secrets.mask(&error.message)),
        target: error.target.map(|target| secrets.mask(&target)),
        ..error
    })
}

/// Runs or cancels the step, and stores large outputs. Adds all values that errors must not contain
/// to `secrets`.
async fn process_envelope<S: Step>(
    broker: &Broker,
    envelope: &Envelope,
    limit: Instant,
    secrets: &mut Secrets,
) -> Result<Response, StepError> {
    let customer = &envelope.target.customer;
    if S::PROVES_TRUST || S::USES_RECORDS {
        // These steps must use the current records.
        broker.remove_cached_records(customer);
    }
    let has_cached_record = broker.has_cached_records(customer);
    let (step, ctx) = match prepare_step::<S>(broker, envelope, limit, secrets).await {
        // The cached record may be outdated. Try again with the current one.
        Err(error) if has_cached_record && depends_on_record(error.name) => {
            broker.remove_cached_records(customer);
            prepare_step(broker, envelope, limit, secrets).await
        }
        prepared => prepared,
    }?;
    secrets.add_all(&ctx.secrets);

    let progress = if envelope.cancel {
        let cancelled = step.cancel(&ctx, envelope.resume.clone()).boxed().await;
        cancelled.map(|()| Progress::Done(json!({ "cancelled": true })))
    } else {
        let inline_limit = limit.min(Instant::now() + broker.inline_wait);
        run_with_inline_wait(&step, &ctx, envelope.resume.clone(), inline_limit).await
    }?;

    let prefix = artifact::step_prefix(customer, &envelope.execution)?;
    let log_lines = json!(ctx.take_log_lines());
    let log = store_if_large(&broker.config, &prefix, "log", log_lines, INLINE_LIMIT).await?;
    Ok(match progress {
        Progress::Done(output) => {
            let size_limit = if envelope.store { 0 } else { INLINE_LIMIT };
            let output =
                store_if_large(&broker.config, &prefix, "output", output, size_limit).await?;
            Response::Done { output, log }
        }
        Progress::Pending {
            state,
            retry_after,
            progress,
        } => {
            if ctx.mask_json(state.clone()) != state {
                return Err(ErrorName::Internal.with_message(
                    "the step's resume state contains a secret, which execution histories would \
                     show; report this bug in the step",
                ));
            }
            let since = envelope
                .resume
                .as_ref()
                .map_or_else(unix_now, |resume| resume.since);
            Response::Pending {
                resume: Resume::new(since, state),
                retry_after: retry_after.as_secs().max(1),
                progress: ctx.mask(&progress),
                log,
            }
        }
    })
}

/// Whether an outdated record can be the cause of an error. Throttling, for example, does not
/// depend on the record.
fn depends_on_record(name: ErrorName) -> bool {
    matches!(
        name,
        ErrorName::AccessDenied
            | ErrorName::Conflict
            | ErrorName::InvalidInput
            | ErrorName::TrustBroken
    )
}

fn target_label(target: &Target) -> String {
    format!("{}/{}", target.customer, target.account)
}

/// The target of a peer. It always belongs to the same customer, with any parameters.
fn peer_target(peer: &Peer, target: &Target) -> Target {
    let Peer {
        account, region, ..
    } = peer.clone();
    // In another account, the default is that account's own default Region.
    let region = if account.is_none() {
        region.or_else(|| target.region.clone())
    } else {
        region
    };
    Target {
        customer: target.customer.clone(),
        account: account.unwrap_or_else(|| target.account.clone()),
        region,
    }
}

/// Deserializes and validates the step's parameters, with secrets in place of their key paths.
async fn parse_parameters<S: Step>(
    broker: &Broker,
    envelope: &Envelope,
    secrets: &mut Secrets,
) -> Result<S, StepError> {
    let target = &envelope.target;
    let no_params = json!({});
    let params = if envelope.params.is_null() {
        &no_params
    } else {
        &envelope.params
    };
    if !keys::contains_key_path(params) {
        let step: S = parse_object("params", params)?;
        step.validate()?;
        return Ok(step);
    }

    // Do not read secrets for a customer who does not exist or is suspended.
    let record = broker
        .cached_configuration(&target.customer, &target.account)
        .await?;
    if !envelope.cancel {
        record.customer.check_active()?;
    }
    let mut resolved_params = params.clone();
    let resolved = keys::resolve_key_paths(
        &broker.config,
        &broker.stack,
        &target.customer,
        &mut resolved_params,
        secrets,
    )
    .await;
    match resolved {
        // A step must be able to stop what it started, even if the key was removed.
        Err(error) if envelope.cancel && error.name != ErrorName::AccessDenied => {
            return parse_object("params", params);
        }
        resolved => resolved?,
    }
    let step: S = parse_object("params", &resolved_params)?;
    step.validate()?;

    // Execution histories, logs and CloudTrail show names and IDs, so a secret must not be one. The
    // step must therefore have the same permissions and peer with the key paths as with the
    // secrets.
    let key_in_identifier = || {
        ErrorName::InvalidInput.with_message(
            "params: a parameter that identifies a resource is visible in CloudTrail, so its value \
             cannot come from key storage; replace its `keys/…` path with the value itself",
        )
    };
    let step_with_paths: S = parse_object("params", params).map_err(|_| key_in_identifier())?;
    if step_with_paths.permissions() != step.permissions() || step_with_paths.peer() != step.peer()
    {
        return Err(key_in_identifier());
    }
    Ok(step)
}

/// Parses the parameters and opens sessions for the target and the peer.
async fn prepare_step<S: Step>(
    broker: &Broker,
    envelope: &Envelope,
    limit: Instant,
    secrets: &mut Secrets,
) -> Result<(S, Context), StepError> {
    let mut step: S = parse_parameters(broker, envelope, secrets).await?;
    let peer_ctx = match step.peer() {
        Some(peer) => {
            let target = peer_target(&peer, &envelope.target);
            let ctx = open_context::<S>(broker, envelope, &target, &peer.permissions, limit)
                .await
                .map_err(|error| error.with_target(target_label(&target)))?;
            Some(ctx.with_secrets(secrets))
        }
        None => None,
    };
    let target = &envelope.target;
    if S::USES_RECORDS {
        let records = broker
            .cached_configuration(&target.customer, &target.account)
            .await?;
        step.complete(&records)?;
    }
    let permissions = step.permissions();
    let ctx = open_context::<S>(broker, envelope, target, &permissions, limit).await?;
    Ok((step, ctx.with_peer(peer_ctx).with_secrets(secrets)))
}

/// Reads the target's records, checks that steps may run there, and opens a session that is limited
/// to the permissions.
async fn open_context<S: Step>(
    broker: &Broker,
    envelope: &Envelope,
    target: &Target,
    permissions: &Permissions,
    limit: Instant,
) -> Result<Context, StepError> {
    let record = broker
        .cached_configuration(&target.customer, &target.account)
        .await?;
    // A step must be able to stop what it started, even if the customer was suspended since then.
    if !envelope.cancel {
        record.customer.check_active()?;
        if !S::PROVES_TRUST {
            check_trust(&record)?;
        }
    }

    let region = record.region(target.region.as_deref())?;
    let scope = ArnScope {
        partition: record.partition(&region),
        region,
        account_id: record.account.account_id.clone(),
    };
    let attribution = Attribution::new(&target.customer, &envelope.execution);
    let policy = permissions.session_policy(&scope)?;
    let session = broker
        .account_session(&record, &scope, policy, &attribution)
        .await?;

    let prober = Prober {
        sts: broker.sts.clone(),
        record,
        attribution,
    };
    let ctx = Context::new(
        (target.customer.as_str(), target.account.as_str()),
        scope,
        envelope.execution.clone(),
        session,
        limit,
        Some(prober),
    );
    Ok(ctx.with_artifacts(Artifacts::Settings(Box::new(broker.config.clone()))))
}

/// Runs the step until it is done, or until the next wait would end after `inline_limit`. Short
/// waits in this process avoid a state transition and a second call for each poll.
async fn run_with_inline_wait<S: Step>(
    step: &S,
    ctx: &Context,
    mut resume: Option<Resume>,
    inline_limit: Instant,
) -> Result<Progress<Value>, StepError> {
    let since = resume.as_ref().map_or_else(unix_now, |resume| resume.since);
    loop {
        // Boxed, because the type of a step's future can be nested too deeply for the compiler.
        match step.run(ctx, resume.take()).boxed().await? {
            Progress::Done(output) => {
                let output = serde_json::to_value(&output).map_err(|error| {
                    ErrorName::Internal
                        .with_message(format!("the output could not be serialized: {error}"))
                })?;
                return Ok(Progress::Done(ctx.mask_json(output)));
            }
            Progress::Pending {
                state,
                retry_after,
                progress,
            } => {
                let next_resume = Resume::new(since, state.clone());
                let pending_seconds = unix_now().saturating_sub(since).unsigned_abs();
                if Duration::from_secs(pending_seconds) > S::TIMEOUT {
                    step.cancel(ctx, Some(next_resume)).await?;
                    return Err(ErrorName::TimedOut.with_message(format!(
                        "step {:?} did not finish within {} minutes and was cancelled; \
                         last progress: {progress}",
                        S::NAME,
                        S::TIMEOUT.as_secs() / 60,
                    )));
                }

                if retry_after.is_zero() || Instant::now() + retry_after >= inline_limit {
                    return Ok(Progress::Pending {
                        state,
                        retry_after,
                        progress,
                    });
                }
                tokio::time::sleep(retry_after).await;
                resume = Some(next_resume);
            }
        }
    }
}
