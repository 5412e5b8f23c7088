//! Opens a session's WebSocket and holds the conversation on it until the command is over, in one
//! task.

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

use super::codec::MESSAGE_LIMIT;
use super::conversation::{Conversation, Fault, Wanted};
use super::handshake::DataKey;
use super::ready::jitter;

/// How often opening is tried, and how long one try may take.
const DIALS: u32 = 5;
const DIAL: Duration = Duration::from_secs(10);
/// How long one frame may take to be sent.
const WRITE: Duration = Duration::from_secs(10);
/// Between two looks at what is not acknowledged.
const RESEND: Duration = Duration::from_millis(100);
/// Between two pings: NAT gateways and VPC endpoints drop what is silent for 350 seconds.
const PING: Duration = Duration::from_secs(30);
/// Without any frame for so long, pings' answers included, the connection is dead.
const DEAD: Duration = Duration::from_secs(90);
/// How long the command may take to begin. An agent that holds its limit of sessions lets others
/// wait, without a word.
const BEGIN: Duration = Duration::from_secs(30);
/// How long the service may take to close the channel once the command is over.
const CLOSE: Duration = Duration::from_secs(5);
/// Of silence, after which the task is looked at: the channel says nothing when a container stops.
const SILENCE: Duration = Duration::from_secs(15);
/// The same, where the service says that the agent's side is away.
const AWAY: Duration = Duration::from_secs(3);
/// How long KMS may take. The agent waits 15 seconds for the answer.
const KEY: Duration = Duration::from_secs(12);

/// What a conversation needs from outside.
pub trait Outside: Sync {
    /// A data key for the session.
    fn data_key(&self, wanted: &Wanted) -> impl Future<Output = Result<DataKey, StepError>> + Send;
    /// Why the container cannot answer any more, if it cannot.
    fn gone(&self) -> impl Future<Output = Option<String>> + Send;
}

/// Why a conversation ended.
#[derive(Debug)]
pub enum Why {
    /// The command's end is known.
    Ended,
    /// The service closed the channel, and said this.
    Closed(String),
    /// The time for it is over.
    Deadline,
    /// It did not even begin.
    Silent,
    /// The container or its task is not there any more.
    Gone(String),
    /// The connection broke, or what came on it makes no sense.
    Lost(String),
    /// The agent wants encryption, and there is no key for it.
    NoKey(StepError),
}

/// The WebSocket of a session.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a session's WebSocket. `request` signs anew for each try.
///
/// # Errors
/// `AccessDenied` or `StepFailed` where the service refuses it, `TimedOut` where it cannot be
/// reached.
pub async fn open(
    request: impl Fn() -> Result<Request<()>, StepError>,
) -> Result<Socket, StepError> {
    // The SDK's own HTTP client has the same provider. Where one is installed already, it is that.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT));
    let mut wait = Duration::from_millis(150);
    for left in (0..DIALS).rev() {
        let failure = match timeout(
            DIAL,
            connect_async_with_config(request()?, Some(limits), true),
        )
        .await
        {
            Ok(Ok((socket, _))) => return Ok(socket),
            Ok(Err(Error::Http(answer))) if answer.status().is_client_error() => {
                return Err(refused(answer.status().as_u16()));
            }
            Ok(Err(Error::Http(answer))) => format!("it answered {}", answer.status().as_u16()),
            Ok(Err(Error::Io(error))) => error.to_string(),
            // Others can quote the request.
            Ok(Err(_)) => "the WebSocket could not be opened".into(),
            Err(_) => format!("no answer within {DIAL:?}"),
        };
        if left == 0 {
            return Err(ErrorName::TimedOut.with_message(format!(
                "ssmmessages, which carries the session, could not be reached ({failure}); check the Region, the \
                 network of this function and the service's status"
            )));
        }
        sleep(wait + jitter(wait)).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
    Err(ErrorName::Internal.with_message("a session's WebSocket was not tried"))
}

fn refused(status: u16) -> StepError {
    match status {
        401 | 403 => ErrorName::AccessDenied.with_message(format!(
            "AWS denied ssmmessages:OpenDataChannel (status {status}): allow it in the customer's role, on \
             arn:aws:ssm:REGION:ACCOUNT:session/ecs-execute-command-*"
        )),
        429 => ErrorName::Throttled.with_message("ssmmessages asked to slow down; run it again later"),
        _ => ErrorName::StepFailed
            .with_message(format!("ssmmessages refused to open the session's channel (status {status}); run it again")),
    }
}

/// Holds the conversation until it ends one way or another.
pub async fn hold<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    token: &str,
    conversation: &mut Conversation,
    outside: &impl Outside,
    deadline: Instant,
) -> Why {
    let opening = conversation.opening(token);
    let held = timeout_at(deadline, async {
        send(socket, Message::text(opening)).await?;
        talk(socket, conversation, outside).await
    });
    let held = held.await.unwrap_or(Ok(Why::Deadline));
    // Only politeness: TerminateSession follows.
    let _ = timeout(Duration::from_secs(1), socket.close(None)).await;
    let why = held.unwrap_or_else(|why| why);
    // What is known is known, however untidy the connection's end.
    if conversation.has_ended() && !matches!(why, Why::NoKey(_)) {
        Why::Ended
    } else {
        why
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    conversation: &mut Conversation,
    outside: &impl Outside,
) -> Result<Why, Why> {
    let start = Instant::now();
    // The last frame of any kind, the last message, the last look at the task, and when the end
    // marker came.
    let (mut heard, mut spoken, mut looked, mut ended) = (start, start, start, None);
    let mut looking: OptionFuture<BoxFuture<'_, Option<String>>> = None.into();
    let (mut resend, mut ping) = (interval(RESEND), interval(PING));
    for ticks in [&mut resend, &mut ping] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        if let Some(said) = conversation.closed() {
            return Ok(Why::Closed(said.to_owned()));
        }
        if ended.is_none() && conversation.has_ended() {
            ended = Some(Instant::now());
        }
        let (limit, why) = match ended {
            Some(ended) => (ended + CLOSE, Why::Ended),
            None if !conversation.has_begun() => (start + BEGIN, Why::Silent),
            None => (heard + DEAD, lost("nothing came for 90 seconds")),
        };
        tokio::select! {
            frame = socket.next() => {
                heard = Instant::now();
                let frame = match frame {
                    Some(Ok(Message::Binary(frame))) => frame.to_vec(),
                    Some(Ok(Message::Text(frame))) => frame.as_bytes().to_vec(),
                    Some(Ok(Message::Close(_))) | None => return Err(lost("the service closed the connection")),
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Err(lost(&error.to_string())),
                };
                spoken = heard;
                let reply = conversation.receive(&frame, heard).map_err(broken)?;
                for frame in reply.frames {
                    send(socket, Message::binary(frame)).await?;
                }
                if let Some(wanted) = reply.wanted {
                    give_key(socket, conversation, outside, &wanted).await?;
                }
            }
            _ = resend.tick() => {
                let now = Instant::now();
                if let Some(frame) = conversation.late(now).map_err(broken)? {
                    send(socket, Message::binary(frame)).await?;
                }
                let silence = if conversation.is_paused() { AWAY } else { SILENCE };
                if spoken.max(looked) + silence < now || conversation.is_paused() && looked + silence < now {
                    looked = now;
                    looking = Some(outside.gone().boxed()).into();
                }
            }
            Some(gone) = &mut looking => {
                looking = None.into();
                if let Some(gone) = gone {
                    return Ok(Why::Gone(gone));
                }
            }
            _ = ping.tick() => send(socket, Message::Ping(b"keepalive".as_slice().into())).await?,
            () = sleep_until(limit) => return Ok(why),
        }
    }
}

/// Gets the data key that the agent asks for, and answers with it, or that there is none.
async fn give_key<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    conversation: &mut Conversation,
    outside: &impl Outside,
    wanted: &Wanted,
) -> Result<(), Why> {
    let key = timeout(KEY, outside.data_key(wanted))
        .await
        .unwrap_or_else(|_| {
            Err(ErrorName::TimedOut
                .with_message("KMS did not answer GenerateDataKey in time; run it again"))
        });
    let frame = conversation
        .answer_with(key.as_ref().ok(), Instant::now())
        .map_err(broken)?;
    send(socket, Message::binary(frame)).await?;
    key.map(drop).map_err(Why::NoKey)
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    message: Message,
) -> Result<(), Why> {
    match timeout(WRITE, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(lost(&error.to_string())),
        Err(_) => Err(lost("nothing could be sent for 10 seconds")),
    }
}

fn lost(why: &str) -> Why {
    Why::Lost(why.to_owned())
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "what `map_err` calls is given the error"
)]
fn broken(fault: Fault) -> Why {
    Why::Lost(fault.to_string())
}
