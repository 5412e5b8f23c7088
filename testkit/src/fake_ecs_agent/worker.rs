//! The agent's side of one session: the channel, the handshake, and the command in its terminal.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_types::base64;
use futures_util::{SinkExt, StreamExt};
use portable_pty::{ChildKiller, CommandBuilder, PtySize, native_pty_system};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::faults::AgentFault;
use super::frame::{Frame, SessionKeys, decode_frame, encode_frame};
use super::shlex::split;
use super::state::{CLUSTER, CONTAINER, KEY, RUNTIME_ID, Session, State, TASK, lock};
use crate::random::SeededRandom;

/// The maximum number of bytes of output in one frame.
const CHUNK: usize = 1024;
/// A message is sent again if it is not acknowledged within this time.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_millis(60);
/// How often to check for messages that were not acknowledged.
const RESEND_INTERVAL: Duration = Duration::from_millis(10);
/// How long to wait for the last acknowledgements after the command has ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

struct Worker {
    socket: WebSocketStream<TcpStream>,
    state: Arc<Mutex<State>>,
    id: String,
    random: SeededRandom,
    fault: AgentFault,
    /// Frames to send after a later frame.
    delayed: Vec<Vec<u8>>,
    next_sequence: i64,
    last_id: u64,
    unacknowledged: VecDeque<(i64, Vec<u8>, Instant)>,
    /// The sequence number of the next message from the client.
    expected_sequence: i64,
    keys: Option<SessionKeys>,
    /// The client's responses in the handshake, in order.
    responses: VecDeque<(u32, Vec<u8>)>,
    has_sent_data: bool,
}

/// The session has ended, because the client closed the connection or violated the protocol.
struct SessionEnded;

/// Serves a connection until its session ends.
pub(super) async fn serve_connection(stream: TcpStream, state: Arc<Mutex<State>>) {
    let (mut path, mut query, mut signature) = (String::new(), String::new(), None);
    let fault = lock(&state).fault;
    let seed = lock(&state).network.seed;
    #[expect(
        clippy::result_large_err,
        reason = "the library sets the type of the callback"
    )]
    let upgrade = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        request.uri().path().clone_into(&mut path);
        request
            .uri()
            .query()
            .unwrap_or_default()
            .clone_into(&mut query);
        signature = request
            .headers()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        match fault {
            AgentFault::UpgradeRefused(status) => {
                let mut refusal = ErrorResponse::new(None);
                *refusal.status_mut() = status.try_into().unwrap_or_default();
                Err(refusal)
            }
            _ => Ok(response),
        }
    };
    let Ok(socket) = accept_hdr_async(stream, upgrade).await else {
        return;
    };
    let id = path.rsplit('/').next().unwrap_or_default().to_owned();
    let (command, token, terminated) = {
        let mut state = lock(&state);
        if signature.is_none_or(|text| {
            !text.contains("/ssmmessages/aws4_request, SignedHeaders=host;x-amz-date")
        }) {
            state
                .violations
                .push("the upgrade to a WebSocket was not signed".to_owned());
        }
        let session = state
            .sessions
            .entry(id.clone())
            .or_insert_with(|| Session::from_query(&query));
        (
            session.command.clone(),
            session.token.clone(),
            session.terminated.subscribe(),
        )
    };
    let worker = Worker {
        socket,
        state: Arc::clone(&state),
        id: id.clone(),
        random: SeededRandom::new(seed),
        fault,
        delayed: Vec::new(),
        next_sequence: 0,
        last_id: 0,
        unacknowledged: VecDeque::new(),
        expected_sequence: 0,
        keys: None,
        responses: VecDeque::new(),
        has_sent_data: false,
    };
    // Most sessions end because the client closes the connection, so the error is expected.
    let _ = worker.run_session(&command, &token, terminated).await;
    if let Some(session) = lock(&state).sessions.get_mut(&id) {
        session.has_ended = true;
    }
}

impl Worker {
    async fn run_session(
        mut self,
        command: &str,
        token: &str,
        mut terminated: watch::Receiver<bool>,
    ) -> Result<(), SessionEnded> {
        self.receive_opening(token).await?;
        if self.fault == AgentFault::Silent {
            return self.stay_silent(&mut terminated).await;
        }
        if lock(&self.state).encrypts {
            self.shake_hands().await?;
        }
        let arguments = split(command);
        let started = match (&arguments, self.fault) {
            (_, AgentFault::CannotStart) => {
                Err("Failed to start pty: fork/exec /bin/sh: no such file or directory".into())
            }
            (Err(error), _) => Err(format!("Failed to parse commands input: {error}")),
            (Ok(arguments), _) => {
                start_command(arguments).map_err(|error| format!("Failed to start pty: {error}"))
            }
        };
        let (mut output, mut killer) = match started {
            Ok(started) => started,
            Err(error) => {
                return self
                    .close_channel(&format!(
                        "\n----------ERROR-------\nUnable to start command: {error}\n\n"
                    ))
                    .await;
            }
        };
        let result = match self.fault {
            AgentFault::ClosedWithoutOutput(message) => {
                sleep(Duration::from_secs(1)).await;
                self.close_channel(message).await
            }
            _ => self.send_output(&mut output, &mut terminated).await,
        };
        // Fails if the command has ended already.
        let _ = killer.kill();
        result
    }

    /// Receives the first frame, which must open the channel.
    async fn receive_opening(&mut self, token: &str) -> Result<(), SessionEnded> {
        let Some(Ok(Message::Text(text))) = self.socket.next().await else {
            return self.end_on_violation("the first frame was not text").await;
        };
        let opening: Value = serde_json::from_str(&text).unwrap_or_default();
        let has = |field: &str| opening[field].as_str().is_some_and(|text| text.len() >= 16);
        if opening["MessageSchemaVersion"] != "1.0" || !has("RequestId") || !has("ClientId") {
            return self
                .end_on_violation("the opening message was incomplete")
                .await;
        }
        if !token.is_empty() && opening["TokenValue"] != token
            || opening["ClientVersion"].as_str().is_none()
        {
            return self
                .end_on_violation("the opening message had a wrong token or no client version")
                .await;
        }
        Ok(())
    }

    async fn end_on_violation(&mut self, violation: &str) -> Result<(), SessionEnded> {
        lock(&self.state).violations.push(violation.to_owned());
        let _ = self.socket.close(None).await;
        Err(SessionEnded)
    }

    /// Sends a frame over the faulty network.
    async fn send_frame(&mut self, frame: Vec<u8>) -> Result<(), SessionEnded> {
        let network = lock(&self.state).network;
        if self.fault == AgentFault::InvalidFrames {
            let mut altered = frame.clone();
            if let Some(last) = altered.last_mut() {
                *last ^= 1;
            }
            for invalid in [vec![0xff; 37], altered, Vec::new()] {
                self.socket
                    .send(Message::binary(invalid))
                    .await
                    .map_err(|_| SessionEnded)?;
            }
        }
        if self.random.percent(network.lost_percent) {
            return Ok(());
        }
        if self.random.percent(network.delayed_percent) {
            self.delayed.push(frame);
            return Ok(());
        }
        if self.random.percent(network.duplicated_percent) {
            self.socket
                .feed(Message::binary(frame.clone()))
                .await
                .map_err(|_| SessionEnded)?;
        }
        self.socket
            .send(Message::binary(frame))
            .await
            .map_err(|_| SessionEnded)?;
        for delayed in std::mem::take(&mut self.delayed) {
            self.socket
                .send(Message::binary(delayed))
                .await
                .map_err(|_| SessionEnded)?;
        }
        Ok(())
    }

    /// Sends a numbered message, and keeps it until it is acknowledged.
    async fn send_data(&mut self, content: u32, payload: &[u8]) -> Result<(), SessionEnded> {
        let payload = match &mut self.keys {
            Some(keys) if content == 1 => &keys.seal(payload),
            _ => payload,
        };
        self.last_id += 1;
        let flags = u64::from(self.next_sequence == 0);
        let frame = encode_frame(
            "output_stream_data",
            self.next_sequence,
            flags,
            self.last_id,
            content,
            payload,
        );
        self.unacknowledged
            .push_back((self.next_sequence, frame.clone(), Instant::now()));
        self.next_sequence += 1;
        self.has_sent_data = true;
        self.send_frame(frame).await
    }

    /// Sends the oldest message again if it was not acknowledged in time.
    async fn resend_oldest(&mut self) -> Result<(), SessionEnded> {
        let Some((_, frame, sent)) = self.unacknowledged.front_mut() else {
            return Ok(());
        };
        if sent.elapsed() < ACKNOWLEDGE_TIMEOUT {
            return Ok(());
        }
        *sent = Instant::now();
        let frame = frame.clone();
        self.send_frame(frame).await
    }

    /// Handles a message of the client. Returns an error if the client closed the connection.
    async fn handle_message(
        &mut self,
        message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    ) -> Result<(), SessionEnded> {
        let bytes = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Text(_))) => {
                return self
                    .end_on_violation("the client sent a second text frame")
                    .await;
            }
            _ => return Err(SessionEnded),
        };
        let network = lock(&self.state).network;
        if self.random.percent(network.lost_percent) {
            return Ok(());
        }
        match decode_frame(&bytes) {
            Ok(Frame {
                kind,
                payload,
                flags,
                sequence,
                ..
            }) if kind == "acknowledge" => {
                let acknowledged: Value = serde_json::from_slice(&payload).unwrap_or_default();
                let number = acknowledged["AcknowledgedMessageSequenceNumber"].as_i64();
                if flags != 3
                    || sequence != 0
                    || acknowledged["AcknowledgedMessageType"] != "output_stream_data"
                {
                    return self
                        .end_on_violation(&format!("invalid acknowledgement: {acknowledged}"))
                        .await;
                }
                let index = self
                    .unacknowledged
                    .iter()
                    .position(|(sequence, ..)| Some(*sequence) == number);
                let _ = index.map(|index| self.unacknowledged.remove(index));
                Ok(())
            }
            Ok(input) if input.kind == "input_stream_data" => self.handle_input(input).await,
            Ok(frame) => {
                let violation = format!("unknown type of frame: {:?}", frame.kind);
                self.end_on_violation(&violation).await
            }
            Err(error) => {
                self.end_on_violation(&format!("invalid frame: {error}"))
                    .await
            }
        }
    }

    async fn handle_input(&mut self, input: Frame) -> Result<(), SessionEnded> {
        if !self.has_sent_data {
            return self
                .end_on_violation("the client sent input before the agent's first message")
                .await;
        }
        if input.sequence > self.expected_sequence {
            return Ok(());
        }

        self.last_id += 1;
        let acknowledgement = json!({
            "AcknowledgedMessageType": "input_stream_data",
            "AcknowledgedMessageId": input.id,
            "AcknowledgedMessageSequenceNumber": input.sequence,
            "IsSequentialMessage": true,
        });
        let frame = encode_frame(
            "acknowledge",
            0,
            3,
            self.last_id,
            0,
            acknowledgement.to_string().as_bytes(),
        );
        if input.sequence == self.expected_sequence {
            self.expected_sequence += 1;
            self.responses.push_back((input.content, input.payload));
        }
        self.send_frame(frame).await
    }

    /// Waits until the client sends a message with this type of content.
    async fn wait_for_response(&mut self, content: u32) -> Result<Vec<u8>, SessionEnded> {
        const MESSAGE: &str = "Handshake timed out. Please ensure that you have the latest \
                               version of the session manager plugin.";
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let mut resend = interval(RESEND_INTERVAL);
        loop {
            if let Some((received, payload)) = self.responses.pop_front() {
                if received == content {
                    return Ok(payload);
                }
                self.end_on_violation(&format!(
                    "the client responded to the handshake with type {received}, expected {content}"
                ))
                .await?;
            }
            tokio::select! {
                message = self.socket.next() => self.handle_message(message).await?,
                _ = resend.tick() => self.resend_oldest().await?,
                () = sleep_until(deadline) => {
                    self.close_channel(MESSAGE).await?;
                    return Err(SessionEnded);
                }
            }
        }
    }

    async fn shake_hands(&mut self) -> Result<(), SessionEnded> {
        let challenge = base64::encode(b"sixteen bytes ok");
        let request = json!({ "AgentVersion": "3.3.987.0", "RequestedClientActions": [
            { "ActionType": "SessionType",
              "ActionParameters": { "SessionType": "InteractiveCommands", "Properties": null } },
            { "ActionType": "KMSEncryption",
              "ActionParameters": { "KMSKeyId": KEY, "Challenge": challenge } },
        ] });
        self.send_data(5, request.to_string().as_bytes()).await?;
        let response: Value =
            serde_json::from_slice(&self.wait_for_response(6).await?).unwrap_or_default();
        let actions = &response["ProcessedClientActions"];
        if actions[0]["ActionStatus"] != 1 || actions[1]["ActionStatus"] != 1 {
            self.close_channel(&format!(
                "KMSEncryption failed on client with error: {}",
                actions[1]["Error"]
            ))
            .await?;
            return Err(SessionEnded);
        }
        let result = &actions[1]["ActionResult"];
        let cipher = result["KMSCipherTextKey"].as_str().unwrap_or_default();
        let expected_context = json!({
            "aws:ssm:SessionId": self.id,
            "aws:ssm:RandomChallenge": challenge,
            "aws:ssm:TargetId": format!("ecs:{CLUSTER}_{TASK}_{RUNTIME_ID}"),
        });
        let data_key = lock(&self.state).data_keys.get(cipher).cloned();
        let data_key = data_key.filter(|(_, context)| {
            *context == expected_context && result["ChallengeAcknowledgement"] == true
        });
        let Some(mut keys) = data_key.and_then(|(key, _)| SessionKeys::new(&key)) else {
            self.end_on_violation(
                "the data key has the wrong encryption context, or the challenge was not \
                 acknowledged",
            )
            .await?;
            return Err(SessionEnded);
        };

        let proof = [7; 64];
        let request = json!({ "Challenge": base64::encode(keys.seal(&proof)) });
        self.send_data(8, request.to_string().as_bytes()).await?;
        let response: Value =
            serde_json::from_slice(&self.wait_for_response(9).await?).unwrap_or_default();
        let sealed =
            base64::decode(response["Challenge"].as_str().unwrap_or_default()).unwrap_or_default();
        if keys.open(&sealed).as_deref() != Some(&proof) {
            self.end_on_violation("the client responded to the encryption challenge incorrectly")
                .await?;
        }

        let complete = json!({
            "HandshakeTimeToComplete": 31_311_736,
            "CustomerMessage": "This session is encrypted using AWS KMS.",
        });
        self.send_data(7, complete.to_string().as_bytes()).await?;
        self.keys = Some(keys);
        Ok(())
    }

    /// Sends the output of the command until it ends, the session is terminated, or the fault
    /// occurs.
    async fn send_output(
        &mut self,
        output: &mut mpsc::Receiver<Vec<u8>>,
        terminated: &mut watch::Receiver<bool>,
    ) -> Result<(), SessionEnded> {
        let fault_after = match self.fault {
            AgentFault::ContainerStops(after)
            | AgentFault::ContainerVanishes(after)
            | AgentFault::Cut(after)
            | AgentFault::Closed(after, _) => Some(after),
            _ => None,
        };
        let never = Instant::now() + Duration::from_hours(1);
        let fault_time = fault_after.map_or(never, |after| Instant::now() + after);
        let mut resend = interval(RESEND_INTERVAL);
        let (mut has_ended, mut close_deadline) = (false, never);
        loop {
            if has_ended && self.unacknowledged.is_empty() || Instant::now() > close_deadline {
                return self.close_channel("").await;
            }
            tokio::select! {
                chunk = output.recv(), if !has_ended => if let Some(chunk) = chunk {
                    self.send_data(1, &chunk).await?;
                } else {
                    has_ended = true;
                    close_deadline = Instant::now() + CLOSE_TIMEOUT;
                },
                message = self.socket.next() => self.handle_message(message).await?,
                _ = resend.tick() => self.resend_oldest().await?,
                _ = terminated.changed() => return self.close_channel("").await,
                () = sleep_until(fault_time) => return self.simulate_fault(terminated).await,
            }
        }
    }

    async fn simulate_fault(
        &mut self,
        terminated: &mut watch::Receiver<bool>,
    ) -> Result<(), SessionEnded> {
        match self.fault {
            AgentFault::Closed(_, message) => self.close_channel(message).await,
            AgentFault::ContainerStops(_) => {
                lock(&self.state).task_status = "STOPPED";
                let frame = encode_frame("pause_publication", 0, 0, 0, 0, b"");
                self.socket
                    .send(Message::binary(frame))
                    .await
                    .map_err(|_| SessionEnded)?;
                self.stay_silent(terminated).await
            }
            AgentFault::ContainerVanishes(_) => {
                lock(&self.state).task_status = "STOPPED";
                self.stay_silent(terminated).await
            }
            _ => Err(SessionEnded),
        }
    }

    /// Reads messages without responding to them.
    async fn stay_silent(
        &mut self,
        terminated: &mut watch::Receiver<bool>,
    ) -> Result<(), SessionEnded> {
        loop {
            tokio::select! {
                message = self.socket.next() => {
                    if !matches!(message, Some(Ok(_))) {
                        return Err(SessionEnded);
                    }
                }
                _ = terminated.changed() => return Ok(()),
            }
        }
    }

    /// Sends the message with which the service closes the channel after the session has ended.
    async fn close_channel(&mut self, message: &str) -> Result<(), SessionEnded> {
        let closed = json!({
            "MessageId": "e1e2e3e4-e5e6-47e8-89ea-ebecedeeeff0",
            "CreatedDate": "1700000000013",
            "DestinationId": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
            "SessionId": self.id,
            "MessageType": "channel_closed",
            "SchemaVersion": 1,
            "Output": message,
        });
        self.last_id += 1;
        let frame = encode_frame(
            "channel_closed",
            0,
            0,
            self.last_id,
            0,
            closed.to_string().as_bytes(),
        );
        self.socket
            .send(Message::binary(frame))
            .await
            .map_err(|_| SessionEnded)?;
        // The client reads the message and closes the connection.
        let _ = timeout(CLOSE_TIMEOUT, async {
            while let Some(Ok(_)) = self.socket.next().await {}
        })
        .await;
        Ok(())
    }
}

type Started = (mpsc::Receiver<Vec<u8>>, Box<dyn ChildKiller + Send + Sync>);

/// Starts the command in a terminal without a size, and reads its output until the end.
fn start_command(
    arguments: &[String],
) -> Result<Started, Box<dyn std::error::Error + Send + Sync>> {
    let size = PtySize {
        rows: 0,
        cols: 0,
        pixel_width: 0,
        pixel_height: 0,
    };
    let terminal = native_pty_system().openpty(size)?;
    let mut command = CommandBuilder::new(arguments.first().ok_or("no command")?);
    command.args(&arguments[1..]);
    command.env("TERM", "xterm-256color");
    command.env("CONTAINER", CONTAINER);
    command.cwd(std::env::temp_dir());
    let mut child = terminal.slave.spawn_command(command)?;
    drop(terminal.slave);
    let killer = child.clone_killer();
    let mut reader = terminal.master.try_clone_reader()?;
    let (chunks, output) = mpsc::channel(64);
    std::thread::spawn(move || {
        // The terminal must stay open while it is read.
        let _master = terminal.master;
        let mut chunk = [0; CHUNK];
        while let Ok(count @ 1..) = reader.read(&mut chunk) {
            if chunks.blocking_send(chunk[..count].to_vec()).is_err() {
                break;
            }
        }
        let _ = child.wait();
    });
    Ok((output, killer))
}
