//! From Lambda's event to the step and back.

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
use tracing::Instrument;

use crate::access::assume::{Attribution, check_trust};
use crate::access::keys;
use crate::access::mask::Secrets;
use crate::access::session::Broker;
use crate::model::envelope::{Answer, Envelope, Resume, Target, now, read};
use crate::model::error::{ErrorName, StepError, without_role_arns};
use crate::model::permissions::{ArnScope, Permissions};
use crate::runtime::artifact::{self, INLINE_LIMIT};
use crate::runtime::context::{Artifacts, Context, Prober};
use crate::runtime::logging;
use crate::runtime::manifest::Manifest;
use crate::runtime::step::{Peer, Progress, Step};

/// Kept free before Lambda's own limit, to answer by name rather than be killed.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);

/// An event as it came: text, or why it is not JSON. `lambda_runtime` would answer bad JSON with a
/// Rust type's name.
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
    /// An event of this text.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(RawValue::from_string(text.to_owned()).map_err(|error| error.to_string()))
    }

    /// The event's text.
    ///
    /// # Errors
    /// `InvalidInput` when it is not JSON.
    pub fn text(&self) -> Result<&str, StepError> {
        let raw = self.0.as_ref();
        raw.map(|raw| raw.get()).map_err(|error| {
            ErrorName::InvalidInput.with_message(format!("the input is not JSON: {error}"))
        })
    }

    /// The event as a type of Stepward's own functions. Steps read an [`Envelope`] instead.
    ///
    /// # Errors
    /// `InvalidInput` naming the field.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        let value = serde_json::from_str(self.text()?).map_err(|error| {
            ErrorName::InvalidInput.with_message(format!("the input is not JSON: {error}"))
        })?;
        read("the input", &value)
    }
}

/// A step's `main`: runs it on Lambda, or prints its manifest when called as `<step> describe`.
#[must_use]
pub fn serve<S: Step>() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("describe") {
        return match Manifest::of::<S>().map(|manifest| json!(manifest)) {
            Ok(manifest) => match writeln!(std::io::stdout(), "{manifest:#}") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            },
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    run(Broker::load, async |broker: &Broker, event| {
        handle::<S>(broker, &event).await
    })
}

/// Runs a function on Lambda until Lambda ends it. `load` makes, once, what `handler` gets with
/// every event.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a function's `main` gives its handler away"
)]
pub fn run<T, A: Serialize>(
    load: impl AsyncFnOnce() -> Result<T, StepError>,
    handler: impl AsyncFn(&T, LambdaEvent<Event>) -> Result<A, StepError>,
) -> ExitCode {
    logging::init();
    // One event at a time: one thread, which starts faster than several.
    let served = tokio::runtime::Builder::new_current_thread().enable_all().build().map(|runtime| {
        runtime.block_on(async {
            let loaded = load().await;
            lambda_runtime::run(service_fn(async |event: LambdaEvent<Event>| {
                let answer = match &loaded {
                    Ok(loaded) => AssertUnwindSafe(handler(loaded, event).boxed_local()).catch_unwind().await.unwrap_or_else(|_| {
                        Err(ErrorName::Internal.with_message(
                            "the step failed in a way that nobody foresaw; the log of this time has the place, please report it",
                        ))
                    }),
                    Err(error) => Err(error.clone()),
                };
                answer.map_err(|error| {
                    // A step has logged its own already, with its fields.
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
            tracing::error!("no Tokio runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn handle<S: Step>(broker: &Broker, event: &LambdaEvent<Event>) -> Result<Answer, StepError> {
    answer::<S>(
        broker,
        event.payload.text()?,
        event.context.deadline(),
        &event.context.request_id,
    )
    .await
}

/// Answers an envelope: everything of a step's function but Lambda itself.
pub(crate) async fn answer<S: Step>(
    broker: &Broker,
    event: &str,
    deadline: SystemTime,
    request_id: &str,
) -> Result<Answer, StepError> {
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
    let left = deadline
        .duration_since(SystemTime::now())
        .unwrap_or_default()
        .saturating_sub(ANSWER_MARGIN);
    let limit = tokio::time::Instant::now() + left;
    let work = work::<S>(broker, &envelope, limit).instrument(span.clone());
    let place = format!("{}/{}", target.customer, target.account);
    let in_time = tokio::time::timeout_at(limit, work).await.unwrap_or_else(|_| {
        Err(ErrorName::TimedOut.with_message(
            "the step was not over before Lambda's limit; what it started may go on, and its page says what a retry does",
        ))
    });
    in_time.map_err(|error| {
        let error = error.with_target(place);
        span.in_scope(|| tracing::error!(error.name = %error.name, "{error}"));
        error
    })
}

async fn work<S: Step>(
    broker: &Broker,
    envelope: &Envelope,
    limit: tokio::time::Instant,
) -> Result<Answer, StepError> {
    let mut secrets = Secrets::default();
    let worked = work_with::<S>(broker, envelope, limit, &mut secrets).await;
    // An error may quote a parameter, and AWS's reasons quote the session.
    worked.map_err(|error| StepError {
        message: without_role_arns(&secrets.mask(&error.message)),
        target: error.target.map(|target| secrets.mask(&target)),
        ..error
    })
}

/// Works, and leaves in `secrets` what must not be shown.
async fn work_with<S: Step>(
    broker: &Broker,
    envelope: &Envelope,
    limit: tokio::time::Instant,
    secrets: &mut Secrets,
) -> Result<Answer, StepError> {
    let customer = &envelope.target.customer;
    if S::PROVES_TRUST {
        // A proof is of the record as it is.
        broker.forget_records(customer);
    }
    let kept = broker.keeps_records(customer);
    let (step, ctx) = match enter::<S>(broker, envelope, limit, secrets).await {
        // What a kept record does not allow, the present one may.
        Err(error) if kept && depends_on_record(error.name) => {
            broker.forget_records(customer);
            enter(broker, envelope, limit, secrets).await
        }
        entered => entered,
    }?;
    secrets.join(&ctx.secrets);
    let answer = if envelope.cancel {
        let cancelled = step.cancel(&ctx, envelope.resume.clone()).boxed().await;
        cancelled.map(|()| Progress::Done(json!({ "cancelled": true })))
    } else {
        linger(
            &step,
            &ctx,
            envelope.resume.clone(),
            limit.min(tokio::time::Instant::now() + broker.linger),
        )
        .await
    }?;
    let folder = artifact::folder(customer, &envelope.execution)?;
    let log = artifact::store_if_large(
        &broker.config,
        &folder,
        "log",
        json!(ctx.take_log()),
        INLINE_LIMIT,
    )
    .await?;
    Ok(match answer {
        Progress::Done(output) => {
            let limit = if envelope.store { 0 } else { INLINE_LIMIT };
            Answer::Done {
                output: artifact::store_if_large(&broker.config, &folder, "output", output, limit)
                    .await?,
                log,
            }
        }
        Progress::Pending {
            state,
            retry_after,
            progress,
        } => {
            let since = envelope
                .resume
                .as_ref()
                .map_or_else(now, |resume| resume.since);
            let retry_after = retry_after.as_secs().max(1);
            if ctx.mask_json(state.clone()) != state {
                return Err(ErrorName::Internal.with_message(
                    "the step would keep a secret between two calls, where histories show it; please report it",
                ));
            }
            Answer::Pending {
                resume: Resume::new(since, state),
                retry_after,
                progress: ctx.mask(&progress),
                log,
            }
        }
    })
}

/// Whether another record of the customer could have made a difference; throttling, say, would only
/// meet again.
fn depends_on_record(name: ErrorName) -> bool {
    matches!(
        name,
        ErrorName::AccessDenied
            | ErrorName::Conflict
            | ErrorName::InvalidInput
            | ErrorName::TrustBroken
    )
}

/// Where a step's second place is: for the same customer, whatever the parameters say.
fn target_of(peer: &Peer, target: &Target) -> Target {
    let Peer {
        account, region, ..
    } = peer.clone();
    // In another account the Region is that account's default.
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

/// The step with its parameters: secrets in the places of their paths.
async fn parameters<S: Step>(
    broker: &Broker,
    envelope: &Envelope,
    secrets: &mut Secrets,
) -> Result<S, StepError> {
    let target = &envelope.target;
    let none = json!({});
    let given = if envelope.params.is_null() {
        &none
    } else {
        &envelope.params
    };
    if !keys::contains_key_path(given) {
        let step: S = read("params", given)?;
        step.validate()?;
        return Ok(step);
    }
    // Nobody's secrets are read for a customer who is unknown or suspended.
    let record = broker
        .configuration(&target.customer, &target.account)
        .await?;
    if !envelope.cancel {
        record.customer.check_active()?;
    }
    let mut params = given.clone();
    match keys::resolve_key_paths(
        &broker.config,
        &broker.stack,
        &target.customer,
        &mut params,
        secrets,
    )
    .await
    {
        // What was started must be stoppable, also when the key is gone.
        Err(error) if envelope.cancel && error.name != ErrorName::AccessDenied => {
            return read("params", given);
        }
        resolved => resolved?,
    }
    let step: S = read("params", &params)?;
    step.validate()?;
    // Histories, logs and CloudTrail show names, so a secret can be none. With its path in its
    // place everything that the step does and where must be the same.
    let in_a_name = || {
        ErrorName::InvalidInput
            .with_message("a key stands where a parameter names or chooses something; that is shown, so give it as it is")
    };
    let named: S = read("params", given).map_err(|_| in_a_name())?;
    if named.permissions() != step.permissions() || named.peer() != step.peer() {
        return Err(in_a_name());
    }
    Ok(step)
}

/// Everything between the envelope and the step: its parameters, the customer's records, the roles'
/// trust, credentials cut to the step.
async fn enter<S: Step>(
    broker: &Broker,
    envelope: &Envelope,
    limit: tokio::time::Instant,
    secrets: &mut Secrets,
) -> Result<(S, Context), StepError> {
    let step: S = parameters(broker, envelope, secrets).await?;
    let peer = match step.peer() {
        Some(peer) => {
            let target = target_of(&peer, &envelope.target);
            let there = enter_place::<S>(broker, envelope, &target, &peer.permissions, limit).await;
            let at = |error: StepError| {
                error.with_target(format!("{}/{}", target.customer, target.account))
            };
            Some(there.map_err(at)?.with_secrets(secrets))
        }
        None => None,
    };
    let here = enter_place::<S>(
        broker,
        envelope,
        &envelope.target,
        &step.permissions(),
        limit,
    )
    .await?;
    Ok((step, here.with_peer(peer).with_secrets(secrets)))
}

async fn enter_place<S: Step>(
    broker: &Broker,
    envelope: &Envelope,
    target: &Target,
    permissions: &Permissions,
    limit: tokio::time::Instant,
) -> Result<Context, StepError> {
    let record = broker
        .configuration(&target.customer, &target.account)
        .await?;
    // What was started must be stoppable, whatever has happened to the customer since.
    if !envelope.cancel {
        record.customer.check_active()?;
        if !S::PROVES_TRUST {
            check_trust(&record)?;
        }
    }
    let region = record.region(target.region.as_deref())?;
    let place = ArnScope {
        partition: record.partition(&region),
        region,
        account_id: record.account.account_id.clone(),
    };
    let attribution = Attribution::new(&target.customer, &envelope.execution);
    let policy = permissions.session_policy(&place)?;
    let session = broker
        .session(&record, &place, policy, &attribution)
        .await?;
    let prober = Prober {
        sts: broker.sts.clone(),
        record,
        attribution,
    };
    let who = (target.customer.as_str(), target.account.as_str());
    let ctx = Context::new(
        who,
        place,
        envelope.execution.clone(),
        session,
        limit,
        Some(prober),
    );
    Ok(ctx.with_artifacts(Artifacts::Own(Box::new(broker.config.clone()))))
}

/// Runs the step, and waits with it for a short while rather than going through the state machine
/// for every look.
async fn linger<S: Step>(
    step: &S,
    ctx: &Context,
    mut resume: Option<Resume>,
    until: tokio::time::Instant,
) -> Result<Progress<Value>, StepError> {
    let since = resume.as_ref().map_or_else(now, |resume| resume.since);
    loop {
        // Boxed, because a step's future is deep: its type alone can be more than the compiler
        // follows.
        match step.run(ctx, resume.take()).boxed().await? {
            Progress::Done(output) => {
                let output = serde_json::to_value(&output).map_err(|error| {
                    ErrorName::Internal.with_message(format!("the output is not JSON: {error}"))
                })?;
                return Ok(Progress::Done(ctx.mask_json(output)));
            }
            Progress::Pending {
                state,
                retry_after,
                progress,
            } => {
                let resumed = Resume::new(since, state.clone());
                if Duration::from_secs(now().saturating_sub(since).unsigned_abs()) > S::TIMEOUT {
                    step.cancel(ctx, Some(resumed)).await?;
                    let minutes = S::TIMEOUT.as_secs() / 60;
                    return Err(ErrorName::TimedOut.with_message(format!(
                        "{} was not over after {minutes} minutes and was given up at: {progress}",
                        S::NAME
                    )));
                }
                if retry_after.is_zero() || tokio::time::Instant::now() + retry_after >= until {
                    return Ok(Progress::Pending {
                        state,
                        retry_after,
                        progress,
                    });
                }
                tokio::time::sleep(retry_after).await;
                resume = Some(resumed);
            }
        }
    }
}
