//! One session at the agent's side: the channel, the handshake, the command in its terminal.

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

use super::frame::{self, Frame, Keys};
use super::mishap::{Dice, Mishap};
use super::shlex::split;
use super::state::{CLUSTER, CONTAINER, KEY, RUNTIME_ID, Session, State, TASK, lock};

/// The most bytes of output in one frame.
const CHUNK: usize = 1024;
/// How long an acknowledgement is waited for, and how often that is looked at.
const PATIENCE: Duration = Duration::from_millis(60);
const LOOK: Duration = Duration::from_millis(10);
/// How long outstanding acknowledgements are waited for when the command is over.
const FAREWELL: Duration = Duration::from_secs(2);
const HANDSHAKE: Duration = Duration::from_secs(15);

struct Worker {
    socket: WebSocketStream<TcpStream>,
    state: Arc<Mutex<State>>,
    id: String,
    dice: Dice,
    mishap: Mishap,
    /// Frames that come after ones that are sent later.
    late: Vec<Vec<u8>>,
    sequence: i64,
    ids: u64,
    unacknowledged: VecDeque<(i64, Vec<u8>, Instant)>,
    expected: i64,
    keys: Option<Keys>,
    /// The answers of a handshake, in order.
    answers: VecDeque<(u32, Vec<u8>)>,
    has_spoken: bool,
}

/// The client is gone.
struct Gone;

/// Takes a connection, until its session is over.
pub(super) async fn connected(stream: TcpStream, state: Arc<Mutex<State>>) {
    let (mut path, mut query, mut signature) = (String::new(), String::new(), None);
    let mishap = lock(&state).mishap;
    let seed = lock(&state).weather.seed;
    #[expect(clippy::result_large_err, reason = "the callback's type is given")]
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
        match mishap {
            Mishap::Refused(status) => {
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
    let mut wrongs = Vec::new();
    if signature.is_none_or(|text| {
        !text.contains("/ssmmessages/aws4_request, SignedHeaders=host;x-amz-date")
    }) {
        wrongs.push("the upgrade was not signed".to_owned());
    }
    let (command, token, terminated) = {
        let mut state = lock(&state);
        state.wrongs.append(&mut wrongs);
        let session = state
            .sessions
            .entry(id.clone())
            .or_insert_with(|| Session::of_a_stranger(&query));
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
        dice: Dice::new(seed),
        mishap,
        late: Vec::new(),
        sequence: 0,
        ids: 0,
        unacknowledged: VecDeque::new(),
        expected: 0,
        keys: None,
        answers: VecDeque::new(),
        has_spoken: false,
    };
    // A client that is gone is how sessions end.
    let _ = worker.session(&command, &token, terminated).await;
    if let Some(session) = lock(&state).sessions.get_mut(&id) {
        session.is_over = true;
    }
}

impl Worker {
    async fn session(
        mut self,
        command: &str,
        token: &str,
        mut terminated: watch::Receiver<bool>,
    ) -> Result<(), Gone> {
        self.opened(token).await?;
        if self.mishap == Mishap::Silent {
            return self.silence(&mut terminated).await;
        }
        if lock(&self.state).encrypts {
            self.handshake().await?;
        }
        let arguments = split(command);
        let started = match (&arguments, self.mishap) {
            (_, Mishap::Unstartable) => {
                Err("Failed to start pty: fork/exec /bin/sh: no such file or directory".into())
            }
            (Err(error), _) => Err(format!("Failed to parse commands input: {error}")),
            (Ok(arguments), _) => {
                start(arguments).map_err(|error| format!("Failed to start pty: {error}"))
            }
        };
        let (mut output, mut killer) = match started {
            Ok(started) => started,
            Err(error) => {
                return self
                    .close(&format!(
                        "\n----------ERROR-------\nUnable to start command: {error}\n\n"
                    ))
                    .await;
            }
        };
        let ended = match self.mishap {
            Mishap::Mute(words) => {
                sleep(Duration::from_secs(1)).await;
                self.close(words).await
            }
            _ => self.command(&mut output, &mut terminated).await,
        };
        // What is over cannot be killed any more.
        let _ = killer.kill();
        ended
    }

    /// The first frame, which must open the channel.
    async fn opened(&mut self, token: &str) -> Result<(), Gone> {
        let Some(Ok(Message::Text(text))) = self.socket.next().await else {
            return self.wrong("the first frame was not text").await;
        };
        let opening: Value = serde_json::from_str(&text).unwrap_or_default();
        let has = |field: &str| opening[field].as_str().is_some_and(|text| text.len() >= 16);
        if opening["MessageSchemaVersion"] != "1.0" || !has("RequestId") || !has("ClientId") {
            return self.wrong("the opening was not complete").await;
        }
        if !token.is_empty() && opening["TokenValue"] != token
            || opening["ClientVersion"].as_str().is_none()
        {
            return self
                .wrong("the opening had another token, or no version")
                .await;
        }
        Ok(())
    }

    async fn wrong(&mut self, what: &str) -> Result<(), Gone> {
        lock(&self.state).wrongs.push(what.to_owned());
        let _ = self.socket.close(None).await;
        Err(Gone)
    }

    /// Sends a frame through the weather.
    async fn send(&mut self, frame: Vec<u8>) -> Result<(), Gone> {
        let weather = lock(&self.state).weather;
        if self.mishap == Mishap::Rubbish {
            let mut altered = frame.clone();
            if let Some(last) = altered.last_mut() {
                *last ^= 1;
            }
            for rubbish in [vec![0xff; 37], altered, Vec::new()] {
                self.socket
                    .send(Message::binary(rubbish))
                    .await
                    .map_err(|_| Gone)?;
            }
        }
        if self.dice.fall(weather.lost) {
            return Ok(());
        }
        if self.dice.fall(weather.late) {
            self.late.push(frame);
            return Ok(());
        }
        if self.dice.fall(weather.doubled) {
            self.socket
                .feed(Message::binary(frame.clone()))
                .await
                .map_err(|_| Gone)?;
        }
        self.socket
            .send(Message::binary(frame))
            .await
            .map_err(|_| Gone)?;
        for late in std::mem::take(&mut self.late) {
            self.socket
                .send(Message::binary(late))
                .await
                .map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Sends a numbered message, and keeps it until it is acknowledged.
    async fn data(&mut self, content: u32, payload: &[u8]) -> Result<(), Gone> {
        let payload = match &mut self.keys {
            Some(keys) if content == 1 => &keys.seal(payload),
            _ => payload,
        };
        self.ids += 1;
        let flags = u64::from(self.sequence == 0);
        let frame = frame::write(
            "output_stream_data",
            self.sequence,
            flags,
            self.ids,
            content,
            payload,
        );
        self.unacknowledged
            .push_back((self.sequence, frame.clone(), Instant::now()));
        self.sequence += 1;
        self.has_spoken = true;
        self.send(frame).await
    }

    /// Sends the oldest message again that was not acknowledged in time.
    async fn resend(&mut self) -> Result<(), Gone> {
        let Some((_, frame, sent)) = self.unacknowledged.front_mut() else {
            return Ok(());
        };
        if sent.elapsed() < PATIENCE {
            return Ok(());
        }
        *sent = Instant::now();
        let frame = frame.clone();
        self.send(frame).await
    }

    /// Takes what the client sends; an error when it is gone.
    async fn receive(
        &mut self,
        message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    ) -> Result<(), Gone> {
        let bytes = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Text(_))) => return self.wrong("a second text frame").await,
            _ => return Err(Gone),
        };
        let weather = lock(&self.state).weather;
        if self.dice.fall(weather.lost) {
            return Ok(());
        }
        match frame::read(&bytes) {
            Ok(Frame {
                kind,
                payload,
                flags,
                sequence,
                ..
            }) if kind == "acknowledge" => {
                let of: Value = serde_json::from_slice(&payload).unwrap_or_default();
                let number = of["AcknowledgedMessageSequenceNumber"].as_i64();
                if flags != 3
                    || sequence != 0
                    || of["AcknowledgedMessageType"] != "output_stream_data"
                {
                    return self
                        .wrong(&format!("an acknowledgement that is none: {of}"))
                        .await;
                }
                let place = self
                    .unacknowledged
                    .iter()
                    .position(|(sequence, ..)| Some(*sequence) == number);
                let _ = place.map(|place| self.unacknowledged.remove(place));
                Ok(())
            }
            Ok(input) if input.kind == "input_stream_data" => self.input(input).await,
            Ok(other) => self.wrong(&format!("a frame of kind {}", other.kind)).await,
            Err(error) => self.wrong(&format!("a frame that is none: {error}")).await,
        }
    }

    async fn input(&mut self, input: Frame) -> Result<(), Gone> {
        if !self.has_spoken {
            return self.wrong("input before the agent has said anything").await;
        }
        if input.sequence > self.expected {
            return Ok(());
        }
        self.ids += 1;
        let acknowledgement = json!({
            "AcknowledgedMessageType": "input_stream_data", "AcknowledgedMessageId": input.id,
            "AcknowledgedMessageSequenceNumber": input.sequence, "IsSequentialMessage": true,
        });
        let frame = frame::write(
            "acknowledge",
            0,
            3,
            self.ids,
            0,
            acknowledgement.to_string().as_bytes(),
        );
        if input.sequence == self.expected {
            self.expected += 1;
            self.answers.push_back((input.content, input.payload));
        }
        self.send(frame).await
    }

    /// Goes on until the client answers with a message of this type.
    async fn answer(&mut self, content: u32) -> Result<Vec<u8>, Gone> {
        let limit = Instant::now() + HANDSHAKE;
        let mut look = interval(LOOK);
        loop {
            if let Some((of, payload)) = self.answers.pop_front() {
                if of == content {
                    return Ok(payload);
                }
                self.wrong(&format!("an answer of type {of} in a handshake"))
                    .await?;
            }
            tokio::select! {
                message = self.socket.next() => self.receive(message).await?,
                _ = look.tick() => self.resend().await?,
                () = sleep_until(limit) => {
                    self.close("Handshake timed out. Please ensure that you have the latest version of the session \
                                manager plugin.").await?;
                    return Err(Gone);
                }
            }
        }
    }

    async fn handshake(&mut self) -> Result<(), Gone> {
        let challenge = base64::encode(b"sixteen bytes ok");
        let request = json!({ "AgentVersion": "3.3.987.0", "RequestedClientActions": [
            { "ActionType": "SessionType",
              "ActionParameters": { "SessionType": "InteractiveCommands", "Properties": null } },
            { "ActionType": "KMSEncryption", "ActionParameters": { "KMSKeyId": KEY, "Challenge": challenge } },
        ] });
        self.data(5, request.to_string().as_bytes()).await?;
        let answer: Value = serde_json::from_slice(&self.answer(6).await?).unwrap_or_default();
        let actions = &answer["ProcessedClientActions"];
        if actions[0]["ActionStatus"] != 1 || actions[1]["ActionStatus"] != 1 {
            self.close(&format!(
                "KMSEncryption failed on client with error: {}",
                actions[1]["Error"]
            ))
            .await?;
            return Err(Gone);
        }
        let result = &actions[1]["ActionResult"];
        let cipher = result["KMSCipherTextKey"].as_str().unwrap_or_default();
        let wanted = json!({
            "aws:ssm:SessionId": self.id, "aws:ssm:RandomChallenge": challenge,
            "aws:ssm:TargetId": format!("ecs:{CLUSTER}_{TASK}_{RUNTIME_ID}"),
        });
        let found = lock(&self.state).data_keys.get(cipher).cloned();
        let key = found.filter(|(_, context)| {
            *context == wanted && result["ChallengeAcknowledgement"] == true
        });
        let Some(mut keys) = key.and_then(|(key, _)| Keys::new(&key)) else {
            self.wrong(
                "the data key is not bound to the session, or the challenge not acknowledged",
            )
            .await?;
            return Err(Gone);
        };
        let proof = [7; 64];
        let asked = json!({ "Challenge": base64::encode(keys.seal(&proof)) });
        self.data(8, asked.to_string().as_bytes()).await?;
        let answer: Value = serde_json::from_slice(&self.answer(9).await?).unwrap_or_default();
        let sealed =
            base64::decode(answer["Challenge"].as_str().unwrap_or_default()).unwrap_or_default();
        if keys.open(&sealed).as_deref() != Some(&proof) {
            self.wrong("the challenge was not met").await?;
        }
        let complete = json!({
            "HandshakeTimeToComplete": 31_311_736,
            "CustomerMessage": "This session is encrypted using AWS KMS.",
        });
        self.data(7, complete.to_string().as_bytes()).await?;
        self.keys = Some(keys);
        Ok(())
    }

    /// The command's output, until it is over or something happens.
    async fn command(
        &mut self,
        output: &mut mpsc::Receiver<Vec<u8>>,
        terminated: &mut watch::Receiver<bool>,
    ) -> Result<(), Gone> {
        let mishap = match self.mishap {
            Mishap::ContainerStops(after)
            | Mishap::ContainerVanishes(after)
            | Mishap::Cut(after)
            | Mishap::Closed(after, _) => Some(after),
            _ => None,
        };
        let mishap = mishap.map(|after| Instant::now() + after);
        let far = Instant::now() + Duration::from_hours(1);
        let mut look = interval(LOOK);
        let (mut is_over, mut farewell) = (false, far);
        loop {
            if is_over && self.unacknowledged.is_empty() || Instant::now() > farewell {
                return self.close("").await;
            }
            tokio::select! {
                chunk = output.recv(), if !is_over => if let Some(chunk) = chunk {
                    self.data(1, &chunk).await?;
                } else {
                    (is_over, farewell) = (true, Instant::now() + FAREWELL);
                },
                message = self.socket.next() => self.receive(message).await?,
                _ = look.tick() => self.resend().await?,
                _ = terminated.changed() => return self.close("").await,
                () = sleep_until(mishap.unwrap_or(far)) => return self.befall(terminated).await,
            }
        }
    }

    async fn befall(&mut self, terminated: &mut watch::Receiver<bool>) -> Result<(), Gone> {
        match self.mishap {
            Mishap::Closed(_, words) => self.close(words).await,
            Mishap::ContainerStops(_) => {
                lock(&self.state).task_status = "STOPPED";
                let frame = frame::write("pause_publication", 0, 0, 0, 0, b"");
                self.socket
                    .send(Message::binary(frame))
                    .await
                    .map_err(|_| Gone)?;
                self.silence(terminated).await
            }
            Mishap::ContainerVanishes(_) => {
                lock(&self.state).task_status = "STOPPED";
                self.silence(terminated).await
            }
            _ => Err(Gone),
        }
    }

    /// Reads and says nothing.
    async fn silence(&mut self, terminated: &mut watch::Receiver<bool>) -> Result<(), Gone> {
        loop {
            tokio::select! {
                message = self.socket.next() => if !matches!(message, Some(Ok(_))) { return Err(Gone) },
                _ = terminated.changed() => return Ok(()),
            }
        }
    }

    /// What the service sends when the agent says that the session is over.
    async fn close(&mut self, words: &str) -> Result<(), Gone> {
        let closed = json!({
            "MessageId": "e1e2e3e4-e5e6-47e8-89ea-ebecedeeeff0", "CreatedDate": "1700000000013",
            "DestinationId": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", "SessionId": self.id,
            "MessageType": "channel_closed", "SchemaVersion": 1, "Output": words,
        });
        self.ids += 1;
        let frame = frame::write(
            "channel_closed",
            0,
            0,
            self.ids,
            0,
            closed.to_string().as_bytes(),
        );
        self.socket
            .send(Message::binary(frame))
            .await
            .map_err(|_| Gone)?;
        // Until the client has read it and goes.
        let _ = timeout(FAREWELL, async {
            while let Some(Ok(_)) = self.socket.next().await {}
        })
        .await;
        Ok(())
    }
}

type Started = (mpsc::Receiver<Vec<u8>>, Box<dyn ChildKiller + Send + Sync>);

/// Starts the command in a terminal of no size, and reads that until its end.
fn start(arguments: &[String]) -> Result<Started, Box<dyn std::error::Error + Send + Sync>> {
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
        // The terminal lives as long as it is read.
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
