//! Runs one command in one session: asks ECS for it, talks, and ends it however it went.

use std::time::{Duration, SystemTime};

use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_ecs::config::Config;
use aws_sdk_ecs::config::retry::RetryConfig;
use aws_sdk_ecs::types::Session;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_ssm::types::{SessionFilter, SessionFilterKey, SessionState};
use stepward::{Context, ErrorName, StepError};
use tokio::time::{Instant, timeout};

use super::channel::{self, Outside, Why};
use super::cipher::KEY_BYTES;
use super::codec::Ids;
use super::conversation::{Conversation, Wanted};
use super::handshake::{self, DataKey};
use super::ready::{self, Ready, jitter};
use super::transcript::{End, Told};
use super::{signing, wrapper};

use crate::error::{ecs_error, kms_error, ssm_error};

/// How often a session is asked for where nothing can have begun, and the first wait; each is twice
/// the one before.
const ASKS: u32 = 4;
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// How long the end of a session may take.
const END: Duration = Duration::from_secs(5);

/// How a command ended, as far as it is known.
#[derive(Debug)]
pub struct Ran {
    /// Why the conversation about it ended.
    pub why: Why,
    /// Its output and end.
    pub told: Told,
    /// Standard error, where it is told apart.
    pub errors: String,
    /// The exit code that the agent told, where it did.
    pub exit_code: Option<i32>,
    /// What came before the command began, or instead of it.
    pub before: String,
    /// Whether it is known to have begun.
    pub has_begun: bool,
    /// Its session.
    pub session_id: String,
    /// Why the session may still be there, where it could not be ended.
    pub left: Option<StepError>,
    /// Where an earlier call had begun the command: this execution's other sessions with the
    /// container.
    pub others: Result<Vec<String>, StepError>,
}

struct Life<'a> {
    ctx: &'a Context,
    ready: &'a Ready,
    session_id: String,
}

/// Runs the command in the container. The session is ended whatever happens, as long as this is not
/// dropped before.
///
/// # Errors
/// Why there was no session. What goes wrong after that is in the answer: the agent needs nobody to
/// begin the command.
pub async fn run(
    ctx: &Context,
    ready: &Ready,
    command: &str,
    token: &str,
    deadline: Instant,
) -> Result<Ran, StepError> {
    let nonce = wrapper::nonce(random()?);
    let wrapped = wrapper::wrapped(command, &nonce, &wrapper::claim(token));
    let mut conversation = Conversation::new(Ids::new(random()?), &nonce);
    let session = ask(ctx, ready, &wrapped, deadline).await?;
    let session_id = session.session_id().unwrap_or_default().to_owned();
    let life = Life {
        ctx,
        ready,
        session_id,
    };
    let talked = life.talk(&session, &mut conversation, deadline).await;
    let why = talked.unwrap_or_else(|error| Why::Lost(error.message));
    let (before, has_begun) = (conversation.before(), conversation.has_begun());
    let (told, errors, exit_code) = conversation.read();
    let others = async {
        if told.end == Some(End::Begun) {
            life.others().await
        } else {
            Ok(Vec::new())
        }
    };
    let (ended, others) = tokio::join!(end(ctx, &life.session_id), others);
    let (session_id, left) = (life.session_id, ended.err());
    if let Some(error) = &left {
        ctx.log(format_args!(
            "Session {session_id} could not be ended: {error}; it ends by itself after 20 minutes without input"
        ));
    }
    Ok(Ran {
        why,
        told,
        errors,
        exit_code,
        before,
        has_begun,
        session_id,
        left,
        others,
    })
}

/// A session from ECS. It is asked again only after what surely began nothing: throttling, and an
/// agent that is not connected yet. After a lost answer the SDK's own retry would get a second
/// session, and leave the first to itself.
async fn ask(
    ctx: &Context,
    ready: &Ready,
    command: &str,
    deadline: Instant,
) -> Result<Session, StepError> {
    let ecs = ctx.client(aws_sdk_ecs::Client::new);
    let mut wait = ASK_AGAIN;
    for left in (0..ASKS).rev() {
        let request = ecs
            .execute_command()
            .cluster(&ready.cluster)
            .task(&ready.task)
            .container(&ready.container);
        let once = Config::builder().retry_config(RetryConfig::disabled());
        let error = match request
            .command(command)
            .interactive(true)
            .customize()
            .config_override(once)
            .send()
            .await
        {
            Ok(answer) => {
                return answer.session.ok_or_else(|| {
                    unsure(ErrorName::Internal.with_message("ECS gave no session"))
                });
            }
            Err(error) => ecs_error(error),
        };
        let is_late = error.has_code("TargetNotConnectedException");
        let may_ask = is_late || error.name == ErrorName::Throttled;
        if !may_ask || left == 0 || Instant::now() + 2 * wait > deadline {
            return Err(match error.name {
                _ if is_late => unconnected(error, ready),
                ErrorName::TimedOut | ErrorName::Internal => unsure(error),
                _ => error,
            });
        }
        tokio::time::sleep(wait + jitter(wait / 2)).await;
        wait *= 2;
    }
    Err(ErrorName::Internal.with_message("no session was asked for"))
}

/// The error, where ECS may have taken the command. What retries the step gets the same claim.
fn unsure(error: StepError) -> StepError {
    let message = format!(
        "{}. The command may have begun: a retry of this step runs it only if it has not; before it is run again in a \
         new execution, look at what it was to do",
        error.message
    );
    StepError { message, ..error }
}

fn unconnected(error: StepError, ready: &Ready) -> StepError {
    let Ready {
        container, task, ..
    } = ready;
    let message = format!(
        "the agent of ECS Exec in container {container} of task {task} is not connected to AWS: its task role needs \
         ssmmessages:CreateControlChannel, CreateDataChannel, OpenControlChannel and OpenDataChannel, and its subnet a \
         way to ssmmessages; if it has just started, run it again"
    );
    StepError {
        name: ErrorName::Conflict,
        message,
        ..error
    }
}

impl Life<'_> {
    async fn talk(
        &self,
        session: &Session,
        conversation: &mut Conversation,
        deadline: Instant,
    ) -> Result<Why, StepError> {
        let (config, region) = (self.ctx.config(), self.ctx.place.region.as_str());
        let url = signing::stream_url(
            session.stream_url().unwrap_or_default(),
            region,
            config.endpoint_url(),
        )?;
        let no_keys = || {
            ErrorName::AccessDenied
                .with_message("this account gives no credentials to sign the session with")
        };
        let provider = config.credentials_provider().ok_or_else(no_keys)?;
        let keys = provider
            .provide_credentials()
            .await
            .map_err(|_| no_keys())?;
        let dial = channel::open(|| signing::upgrade(&url, region, &keys, SystemTime::now()));
        let mut socket = tokio::time::timeout_at(deadline, dial)
            .await
            .unwrap_or_else(|_| {
                Err(ErrorName::TimedOut
                    .with_message("the session's channel was not open in time; run it again"))
            })?;
        let token = session.token_value().unwrap_or_default();
        Ok(channel::hold(&mut socket, token, conversation, self, deadline).await)
    }

    /// This execution's other sessions with the container.
    async fn others(&self) -> Result<Vec<String>, StepError> {
        let late =
            |_| Err(ErrorName::TimedOut.with_message("DescribeSessions was not answered in time"));
        let mut ids = timeout(END, own(self.ctx, self.ready))
            .await
            .unwrap_or_else(late)?;
        ids.retain(|id| *id != self.session_id);
        Ok(ids)
    }
}

impl Outside for Life<'_> {
    async fn data_key(&self, wanted: &Wanted) -> Result<DataKey, StepError> {
        let target = self.ready.target();
        let context = handshake::context(&self.session_id, &target, wanted.challenge.as_deref());
        let mut request = self
            .ctx
            .client(aws_sdk_kms::Client::new)
            .generate_data_key()
            .key_id(&wanted.key);
        for (name, value) in context {
            request = request.encryption_context(name, value);
        }
        let bytes = i32::try_from(KEY_BYTES).unwrap_or_default();
        let answer = request
            .number_of_bytes(bytes)
            .send()
            .await
            .map_err(kms_error)?;
        let bytes = |blob: Option<Blob>| blob.map(Blob::into_inner).unwrap_or_default();
        Ok(DataKey {
            plaintext: bytes(answer.plaintext),
            ciphertext: bytes(answer.ciphertext_blob),
        })
    }

    async fn gone(&self) -> Option<String> {
        // Where ECS does not answer, the next look will tell.
        let ecs = self.ctx.client(aws_sdk_ecs::Client::new);
        let task = ready::look(&ecs, &self.ready.cluster, &self.ready.task).await;
        match task {
            Ok(task) => ready::gone(&task, &self.ready.container),
            Err(error) => (error.name == ErrorName::NotFound).then_some(error.message),
        }
    }
}

/// Ends a session; one that has ended is as good. Its command is killed.
///
/// # Errors
/// Why it may still be there.
pub async fn end(ctx: &Context, session_id: &str) -> Result<(), StepError> {
    let request = ctx
        .client(aws_sdk_ssm::Client::new)
        .terminate_session()
        .session_id(session_id);
    match timeout(END, request.send()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => match ssm_error(error) {
            error if error.has_code("DoesNotExistException") => Ok(()),
            error => Err(error),
        },
        Err(_) => {
            Err(ErrorName::TimedOut.with_message("TerminateSession was not answered in time"))
        }
    }
}

/// The IDs of the active sessions with the container that this very role session began, as it is
/// when a job is stopped and the call that holds the session cannot be reached.
///
/// # Errors
/// Why Systems Manager failed.
pub async fn own(ctx: &Context, ready: &Ready) -> Result<Vec<String>, StepError> {
    let Some(owner) = ctx.session_arn() else {
        return Ok(Vec::new());
    };
    let ssm = ctx.client(aws_sdk_ssm::Client::new);
    let filter = SessionFilter::builder()
        .key(SessionFilterKey::TargetId)
        .value(ready.target());
    let filter = filter
        .build()
        .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
    let mut pages = ssm
        .describe_sessions()
        .state(SessionState::Active)
        .filters(filter)
        .into_paginator()
        .send();
    let mut ids = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(ssm_error)?;
        let own = page
            .sessions()
            .iter()
            .filter(|session| session.owner() == Some(owner));
        ids.extend(own.filter_map(|session| session.session_id().map(str::to_owned)));
    }
    Ok(ids)
}

fn random() -> Result<[u8; 16], StepError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
    Ok(bytes)
}
