//! Opens a session's WebSocket, and runs the data channel on it until the command ends.

use std::time::Duration;

use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::{FutureExt, SinkExt, StreamExt};
use http::Request;
use stepward::{ErrorName, StepError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::codec::MAX_MESSAGE_BYTES;
use super::data_channel::{DataChannel, DataKeyRequest, ProtocolError};
use super::handshake::DataKey;
use super::readiness::random_delay;

/// How many times to try to connect, and how long one attempt may take.
const CONNECT_ATTEMPTS: u32 = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sending one frame may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to check for unacknowledged messages.
const RESEND_INTERVAL: Duration = Duration::from_millis(100);
/// How often to ping. NAT gateways and VPC endpoints drop connections that are idle for 350
/// seconds.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// After this time without any frame, pongs included, the connection counts as lost.
const DEAD_AFTER: Duration = Duration::from_secs(90);
/// How long the command may take to start. An agent that has reached its limit of sessions lets
/// further sessions wait without any message.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the service may take to close the data channel after the command ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time without a message, check the task: the data channel stays silent when a
/// container stops.
const CHECK_AFTER_SILENCE: Duration = Duration::from_secs(15);
/// The same, while the service reports that the agent is disconnected.
const CHECK_WHILE_PAUSED: Duration = Duration::from_secs(3);
/// How long KMS may take. The agent waits 15 seconds for the handshake response.
const DATA_KEY_TIMEOUT: Duration = Duration::from_secs(12);

/// The AWS services that a data channel needs.
pub trait SessionServices: Sync {
    /// Gets a data key for the session from KMS.
    fn generate_data_key(
        &self,
        request: &DataKeyRequest,
    ) -> impl Future<Output = Result<DataKey, StepError>> + Send;

    /// Asks ECS whether the container has stopped, and returns the reason if it has.
    fn stopped_reason(&self) -> impl Future<Output = Option<String>> + Send;
}

/// Why the data channel ended.
#[derive(Debug)]
pub enum EndReason {
    /// The command ended, and its end is known.
    CommandEnded,
    /// The service closed the data channel with this text.
    ChannelClosed(String),
    /// The deadline passed.
    DeadlineReached,
    /// The command did not start in time.
    NotStarted,
    /// The container or its task stopped.
    ContainerStopped(String),
    /// The connection broke, or the agent violated the protocol.
    ConnectionLost(String),
    /// The agent requires encryption, and there is no data key.
    NoDataKey(StepError),
}

/// The WebSocket of a session.
pub type SessionSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a session's WebSocket. `sign_request` creates a freshly signed request for each attempt.
///
/// # Errors
/// `AccessDenied`, `Throttled` or `StepFailed` if the service refuses the connection; `TimedOut` if
/// the service cannot be reached.
pub async fn connect(
    sign_request: impl Fn() -> Result<Request<()>, StepError>,
) -> Result<SessionSocket, StepError> {
    // The SDK's HTTP client uses the same provider. An already installed provider stays.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));

    let mut delay = Duration::from_millis(150);
    for attempts_left in (0..CONNECT_ATTEMPTS).rev() {
        let attempt = timeout(
            CONNECT_TIMEOUT,
            connect_async_with_config(sign_request()?, Some(limits), true),
        );
        let failure = match attempt.await {
            Ok(Ok((socket, _))) => return Ok(socket),
            Ok(Err(Error::Http(response))) if response.status().is_client_error() => {
                return Err(refusal_error(response.status().as_u16()));
            }
            Ok(Err(Error::Http(response))) => format!("HTTP {}", response.status().as_u16()),
            Ok(Err(Error::Io(error))) => error.to_string(),
            // The texts of other errors can contain the request, and with it its signature.
            Ok(Err(_)) => "the WebSocket could not be opened".into(),
            Err(_) => format!("no response within {CONNECT_TIMEOUT:?}"),
        };
        if attempts_left == 0 {
            return Err(ErrorName::TimedOut.with_message(format!(
                "could not connect to ssmmessages, which carries the session ({failure}); check \
                 the Region, the network of this function and the status of the service"
            )));
        }
        sleep(delay + random_delay(delay)).await;
        delay = (delay * 2).min(Duration::from_secs(5));
    }
    Err(ErrorName::Internal.with_message("no attempt was made to open the session's WebSocket"))
}

fn refusal_error(status: u16) -> StepError {
    match status {
        401 | 403 => ErrorName::AccessDenied.with_message(format!(
            "AWS denied ssmmessages:OpenDataChannel (HTTP {status}); allow it in the customer's \
             role, on arn:aws:ssm:REGION:ACCOUNT:session/ecs-execute-command-*"
        )),
        429 => ErrorName::Throttled
            .with_message("ssmmessages throttled the connection; run the step again later"),
        _ => ErrorName::StepFailed.with_message(format!(
            "ssmmessages refused to open the session's data channel (HTTP {status}); run the step \
             again"
        )),
    }
}

/// Opens the data channel on the WebSocket, and runs it until it ends for any reason.
pub async fn run_data_channel<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    token: &str,
    channel: &mut DataChannel,
    services: &impl SessionServices,
    deadline: Instant,
) -> EndReason {
    let opening_message = channel.opening_message(token);
    let result = timeout_at(deadline, async {
        send_frame(socket, Message::text(opening_message)).await?;
        exchange_messages(socket, channel, services).await
    })
    .await
    .unwrap_or(Ok(EndReason::DeadlineReached));
    let reason = result.unwrap_or_else(|reason| reason);

    // Closing is optional, because TerminateSession follows.
    let _ = timeout(Duration::from_secs(1), socket.close(None)).await;

    // A known end of the command counts, even if the connection broke afterwards.
    if channel.has_ended() && !matches!(reason, EndReason::NoDataKey(_)) {
        EndReason::CommandEnded
    } else {
        reason
    }
}

async fn exchange_messages<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    channel: &mut DataChannel,
    services: &impl SessionServices,
) -> Result<EndReason, EndReason> {
    let start = Instant::now();
    let (mut last_frame, mut last_message, mut last_check) = (start, start, start);
    let mut ended_at = None;
    let mut task_check: OptionFuture<BoxFuture<'_, Option<String>>> = None.into();

    let (mut resend_ticks, mut ping_ticks) = (interval(RESEND_INTERVAL), interval(PING_INTERVAL));
    for ticks in [&mut resend_ticks, &mut ping_ticks] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }

    loop {
        if let Some(text) = channel.close_reason() {
            return Ok(EndReason::ChannelClosed(text.to_owned()));
        }
        if ended_at.is_none() && channel.has_ended() {
            ended_at = Some(Instant::now());
        }
        let (time_limit, limit_reason) = match ended_at {
            Some(ended_at) => (ended_at + CLOSE_TIMEOUT, EndReason::CommandEnded),
            None if !channel.has_started() => (start + START_TIMEOUT, EndReason::NotStarted),
            None => (
                last_frame + DEAD_AFTER,
                connection_lost("nothing arrived for 90 seconds"),
            ),
        };

        tokio::select! {
            frame = socket.next() => {
                last_frame = Instant::now();
                let frame = match frame {
                    Some(Ok(Message::Binary(frame))) => frame.to_vec(),
                    Some(Ok(Message::Text(frame))) => frame.as_bytes().to_vec(),
                    Some(Ok(Message::Close(_))) | None => {
                        return Err(connection_lost("the service closed the connection"));
                    }
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Err(connection_lost(&error.to_string())),
                };
                last_message = last_frame;

                let reply = channel.receive(&frame, last_frame).map_err(protocol_violated)?;
                for frame in reply.frames {
                    send_frame(socket, Message::binary(frame)).await?;
                }
                if let Some(request) = reply.data_key_request {
                    respond_to_data_key_request(socket, channel, services, &request).await?;
                }
            }
            _ = resend_ticks.tick() => {
                let now = Instant::now();
                if let Some(frame) = channel.frame_to_resend(now).map_err(protocol_violated)? {
                    send_frame(socket, Message::binary(frame)).await?;
                }

                let is_paused = channel.is_paused();
                let wait = if is_paused { CHECK_WHILE_PAUSED } else { CHECK_AFTER_SILENCE };
                // While paused, messages of the service do not delay the check.
                let last_sign = if is_paused { last_check } else { last_message.max(last_check) };
                if last_sign + wait < now {
                    last_check = now;
                    task_check = Some(services.stopped_reason().boxed()).into();
                }
            }
            Some(stopped_reason) = &mut task_check => {
                task_check = None.into();
                if let Some(stopped_reason) = stopped_reason {
                    return Ok(EndReason::ContainerStopped(stopped_reason));
                }
            }
            _ = ping_ticks.tick() => {
                send_frame(socket, Message::Ping(b"keepalive".as_slice().into())).await?;
            }
            () = sleep_until(time_limit) => return Ok(limit_reason),
        }
    }
}

/// Gets the data key that the agent requests, and sends the handshake response with the key. If
/// there is no key, the response reports the failure.
async fn respond_to_data_key_request<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    channel: &mut DataChannel,
    services: &impl SessionServices,
    request: &DataKeyRequest,
) -> Result<(), EndReason> {
    let data_key = timeout(DATA_KEY_TIMEOUT, services.generate_data_key(request))
        .await
        .unwrap_or_else(|_| {
            Err(ErrorName::TimedOut.with_message(
                "KMS did not respond to GenerateDataKey within 12 seconds; run the step again",
            ))
        });
    let frame = channel
        .respond_to_handshake(data_key.as_ref().ok(), Instant::now())
        .map_err(protocol_violated)?;
    send_frame(socket, Message::binary(frame)).await?;
    data_key.map(drop).map_err(EndReason::NoDataKey)
}

async fn send_frame<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    frame: Message,
) -> Result<(), EndReason> {
    match timeout(SEND_TIMEOUT, socket.send(frame)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(connection_lost(&error.to_string())),
        Err(_) => Err(connection_lost("sending took more than 10 seconds")),
    }
}

fn connection_lost(reason: &str) -> EndReason {
    EndReason::ConnectionLost(reason.to_owned())
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "`map_err` passes the error by value"
)]
fn protocol_violated(error: ProtocolError) -> EndReason {
    EndReason::ConnectionLost(error.to_string())
}
