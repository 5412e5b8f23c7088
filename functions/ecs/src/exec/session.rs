//! Runs one command in one session: requests the session from ECS, runs its data channel, and
//! terminates it in every case.

use std::time::{Duration, SystemTime};

use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_ecs::config::Config;
use aws_sdk_ecs::config::retry::RetryConfig;
use aws_sdk_ecs::types::Session;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_ssm::types::{SessionFilter, SessionFilterKey, SessionState};
use stepward::{Context, ErrorName, StepError};
use tokio::time::{Instant, timeout};

use super::cipher::DATA_KEY_BYTES;
use super::codec::MessageIds;
use super::data_channel::{DataChannel, DataKeyRequest};
use super::handshake::{self, DataKey};
use super::readiness::{self, ExecContainer, random_delay};
use super::transcript::{CommandEnd, CommandOutput};
use super::websocket::{self, EndReason, SessionServices};
use super::{signing, wrapper};

use crate::error::{ecs_error, kms_error, ssm_error};

/// How often to request a session while no command can have started.
const MAX_SESSION_REQUESTS: u32 = 4;
/// The delay before the second request; each further delay is twice as long.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(2);
/// How long `TerminateSession` or `DescribeSessions` may take.
const SESSION_CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known about the run of a command.
#[derive(Debug)]
pub struct CommandRun {
    /// Why the data channel ended.
    pub end_reason: EndReason,
    /// The command's output and end.
    pub output: CommandOutput,
    /// Standard error, if the agent sent it separately.
    pub error_output: String,
    /// The exit code, if the agent reported one.
    pub exit_code: Option<i32>,
    /// The text that arrived although the wrapper had not started.
    pub preamble: String,
    /// Whether the command is known to have started.
    pub has_started: bool,
    /// The ID of the session.
    pub session_id: String,
    /// Why the session could not be terminated, so that it may still be running.
    pub terminate_error: Option<StepError>,
    /// If an earlier call had started the command: this execution's other sessions in the
    /// container.
    pub other_sessions: Result<Vec<String>, StepError>,
}

struct ExecSession<'a> {
    ctx: &'a Context,
    container: &'a ExecContainer,
    session_id: String,
}

/// Runs the command in the container. Terminates the session in every case, unless the future is
/// dropped before it completes.
///
/// # Errors
/// Why no session was created. Later failures are part of the result, because the agent starts the
/// command even if the client never connects.
pub async fn run_command(
    ctx: &Context,
    container: &ExecContainer,
    command: &str,
    client_token: &str,
    deadline: Instant,
) -> Result<CommandRun, StepError> {
    let nonce = wrapper::format_nonce(random_bytes()?);
    let wrapped = wrapper::wrap_command(command, &nonce, &wrapper::claim_file_path(client_token));
    let mut channel = DataChannel::new(MessageIds::new(random_bytes()?), &nonce);

    let session = request_session(ctx, container, &wrapped, deadline).await?;
    let session_id = session.session_id().unwrap_or_default().to_owned();
    let exec_session = ExecSession {
        ctx,
        container,
        session_id,
    };
    let end_reason = exec_session
        .run_data_channel(&session, &mut channel, deadline)
        .await
        .unwrap_or_else(|error| EndReason::ConnectionLost(error.message));

    let (preamble, has_started) = (channel.preamble(), channel.has_started());
    let (output, error_output, exit_code) = channel.into_results();
    let other_sessions = async {
        if output.end == Some(CommandEnd::AlreadyStarted) {
            exec_session.other_session_ids().await
        } else {
            Ok(Vec::new())
        }
    };
    let (terminated, other_sessions) = tokio::join!(
        terminate_session(ctx, &exec_session.session_id),
        other_sessions
    );

    let session_id = exec_session.session_id;
    let terminate_error = terminated.err();
    if let Some(error) = &terminate_error {
        ctx.log(format_args!(
            "Could not terminate session {session_id}: {error}; AWS ends it after 20 minutes \
             without input"
        ));
    }

    Ok(CommandRun {
        end_reason,
        output,
        error_output,
        exit_code,
        preamble,
        has_started,
        session_id,
        terminate_error,
        other_sessions,
    })
}

/// Requests a session from ECS.
///
/// Repeats the request only after errors that mean that no command started: throttling, and an
/// agent that is not connected yet. The SDK's retries are disabled, because a retry after a lost
/// response would create a second session and leave the first one running.
async fn request_session(
    ctx: &Context,
    container: &ExecContainer,
    command: &str,
    deadline: Instant,
) -> Result<Session, StepError> {
    let ecs = ctx.client(aws_sdk_ecs::Client::new);
    let mut delay = FIRST_RETRY_DELAY;
    for requests_left in (0..MAX_SESSION_REQUESTS).rev() {
        let without_retries = Config::builder().retry_config(RetryConfig::disabled());
        let request = ecs
            .execute_command()
            .cluster(&container.cluster)
            .task(&container.task)
            .container(&container.container)
            .command(command)
            .interactive(true)
            .customize()
            .config_override(without_retries);
        let error = match request.send().await {
            Ok(response) => {
                return response.session.ok_or_else(|| {
                    warn_may_have_started(
                        ErrorName::Internal.with_message("ECS returned no session"),
                    )
                });
            }
            Err(error) => ecs_error(error),
        };

        let is_not_connected = error.has_code("TargetNotConnectedException");
        let is_retryable = is_not_connected || error.name == ErrorName::Throttled;
        if !is_retryable || requests_left == 0 || Instant::now() + 2 * delay > deadline {
            return Err(match error.name {
                _ if is_not_connected => agent_not_connected(error, container),
                ErrorName::TimedOut | ErrorName::Internal => warn_may_have_started(error),
                _ => error,
            });
        }

        tokio::time::sleep(delay + random_delay(delay / 2)).await;
        delay *= 2;
    }
    Err(ErrorName::Internal.with_message("no session was requested"))
}

/// Adds a warning to an error after which ECS may have started the command. A retry of the step
/// uses the same claim file, so that the command does not run twice.
fn warn_may_have_started(error: StepError) -> StepError {
    let message = format!(
        "{}. The command may have started. A retry of this step runs it only if it has not \
         started; before you run it in a new execution, check its effects",
        error.message
    );
    StepError { message, ..error }
}

fn agent_not_connected(error: StepError, container: &ExecContainer) -> StepError {
    let ExecContainer {
        container, task, ..
    } = container;
    let message = format!(
        "the ECS Exec agent in container {container} of task {task} is not connected to AWS; \
         check that the task role allows ssmmessages:CreateControlChannel, CreateDataChannel, \
         OpenControlChannel and OpenDataChannel, and that the subnet can reach ssmmessages; if the \
         task has just started, run the step again"
    );
    StepError {
        name: ErrorName::Conflict,
        message,
        ..error
    }
}

impl ExecSession<'_> {
    async fn run_data_channel(
        &self,
        session: &Session,
        channel: &mut DataChannel,
        deadline: Instant,
    ) -> Result<EndReason, StepError> {
        let (config, region) = (self.ctx.config(), self.ctx.scope.region.as_str());
        let url = signing::parse_stream_url(
            session.stream_url().unwrap_or_default(),
            region,
            config.endpoint_url(),
        )?;

        let no_credentials = || {
            ErrorName::AccessDenied.with_message(
                "could not get the account's credentials, which sign the session's data channel; \
                 check the account with the step validate-credentials",
            )
        };
        let provider = config.credentials_provider().ok_or_else(no_credentials)?;
        let credentials = provider
            .provide_credentials()
            .await
            .map_err(|_| no_credentials())?;

        let connecting = websocket::connect(|| {
            signing::sign_upgrade_request(&url, region, &credentials, SystemTime::now())
        });
        let mut socket = tokio::time::timeout_at(deadline, connecting)
            .await
            .unwrap_or_else(|_| {
                Err(ErrorName::TimedOut.with_message(
                    "the session's data channel did not open in time; run the step again",
                ))
            })?;

        let token = session.token_value().unwrap_or_default();
        Ok(websocket::run_data_channel(&mut socket, token, channel, self, deadline).await)
    }

    /// Returns the IDs of this execution's other sessions in the container.
    async fn other_session_ids(&self) -> Result<Vec<String>, StepError> {
        let timed_out = |_| {
            Err(ErrorName::TimedOut.with_message(
                "Systems Manager did not respond to DescribeSessions within 5 seconds",
            ))
        };
        let mut ids = timeout(
            SESSION_CALL_TIMEOUT,
            own_session_ids(self.ctx, self.container),
        )
        .await
        .unwrap_or_else(timed_out)?;
        ids.retain(|id| *id != self.session_id);
        Ok(ids)
    }
}

impl SessionServices for ExecSession<'_> {
    async fn generate_data_key(&self, request: &DataKeyRequest) -> Result<DataKey, StepError> {
        let context = handshake::encryption_context(
            &self.session_id,
            &self.container.ssm_target_id(),
            request.challenge.as_deref(),
        );
        let mut call = self
            .ctx
            .client(aws_sdk_kms::Client::new)
            .generate_data_key()
            .key_id(&request.kms_key_id)
            .number_of_bytes(i32::try_from(DATA_KEY_BYTES).unwrap_or_default());
        for (name, value) in context {
            call = call.encryption_context(name, value);
        }
        let response = call.send().await.map_err(kms_error)?;

        let into_bytes = |blob: Option<Blob>| blob.map(Blob::into_inner).unwrap_or_default();
        Ok(DataKey {
            plaintext: into_bytes(response.plaintext),
            ciphertext: into_bytes(response.ciphertext_blob),
        })
    }

    async fn stopped_reason(&self) -> Option<String> {
        let ecs = self.ctx.client(aws_sdk_ecs::Client::new);
        let ExecContainer {
            cluster,
            task,
            container,
            ..
        } = self.container;
        match readiness::describe_task(&ecs, cluster, task).await {
            Ok(task) => readiness::stopped_reason(&task, container),
            // After any other error, the next check decides.
            Err(error) => (error.name == ErrorName::NotFound).then_some(error.message),
        }
    }
}

/// Terminates a session, which kills its command. A session that has already ended is success.
///
/// # Errors
/// Why the session may still be running.
pub async fn terminate_session(ctx: &Context, session_id: &str) -> Result<(), StepError> {
    let request = ctx
        .client(aws_sdk_ssm::Client::new)
        .terminate_session()
        .session_id(session_id);
    match timeout(SESSION_CALL_TIMEOUT, request.send()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => match ssm_error(error) {
            error if error.has_code("DoesNotExistException") => Ok(()),
            error => Err(error),
        },
        Err(_) => Err(ErrorName::TimedOut
            .with_message("Systems Manager did not respond to TerminateSession within 5 seconds")),
    }
}

/// Returns the IDs of the active sessions in the container that this role session started.
///
/// A stopped job needs them, because it cannot reach the call that holds the session.
///
/// # Errors
/// The error of Systems Manager.
pub async fn own_session_ids(
    ctx: &Context,
    container: &ExecContainer,
) -> Result<Vec<String>, StepError> {
    let Some(owner) = ctx.session_arn() else {
        return Ok(Vec::new());
    };

    let filter = SessionFilter::builder()
        .key(SessionFilterKey::TargetId)
        .value(container.ssm_target_id())
        .build()
        .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
    let mut pages = ctx
        .client(aws_sdk_ssm::Client::new)
        .describe_sessions()
        .state(SessionState::Active)
        .filters(filter)
        .into_paginator()
        .send();

    let mut ids = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(ssm_error)?;
        let own_sessions = page
            .sessions()
            .iter()
            .filter(|session| session.owner() == Some(owner));
        ids.extend(own_sessions.filter_map(|session| session.session_id().map(str::to_owned)));
    }
    Ok(ids)
}

fn random_bytes() -> Result<[u8; 16], StepError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        ErrorName::Internal.with_message(format!("could not get random bytes: {error}"))
    })?;
    Ok(bytes)
}
