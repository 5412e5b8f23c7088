//! What is said on a data channel, without the channel: frames come in, frames to send come out.

use serde_json::Value;
use tokio::time::Instant;

use super::cipher::{Cipher, Unreadable};
use super::codec::{Content, Ids, Kind, Message};
use super::handshake::{self, Asked, DataKey, Unclear};
use super::stream::{Inbound, Outbound, Unheard};
use super::transcript::{Tail, Told, Transcript};

/// How much of a standard error is kept that is told apart.
const ERRORS_KEPT: usize = 64 * 1024;

/// One session's conversation.
#[derive(Debug)]
pub struct Conversation {
    ids: Ids,
    inbound: Inbound<(Content, Vec<u8>)>,
    outbound: Outbound,
    /// What the agent asked for in its handshake; it asks once.
    asked: Option<Vec<Asked>>,
    cipher: Option<Cipher>,
    is_challenged: bool,
    transcript: Transcript,
    errors: Tail,
    exit_code: Option<i32>,
    closed: Option<String>,
    is_paused: bool,
}

/// What to do about a frame that came in.
#[derive(Debug, Default)]
pub struct Reply {
    /// To be sent, in this order.
    pub frames: Vec<Vec<u8>>,
    /// A data key to get, and to give to [`Conversation::answer_with`].
    pub wanted: Option<Wanted>,
}

/// A data key that the agent asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// The KMS key's ARN.
    pub key: String,
    /// What goes into the encryption context with the session's names.
    pub challenge: Option<String>,
}

/// Why the conversation cannot go on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The agent acknowledges nothing.
    #[error("the agent in the container acknowledges nothing")]
    Unheard,
    /// Its handshake is not one.
    #[error(transparent)]
    Unclear(#[from] Unclear),
    /// Its encryption is not the session's.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

impl From<Unheard> for Fault {
    fn from(Unheard: Unheard) -> Self {
        Self::Unheard
    }
}

impl Conversation {
    /// A conversation about a wrapper with this nonce.
    #[must_use]
    pub fn new(ids: Ids, nonce: &str) -> Self {
        Self {
            ids,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            asked: None,
            cipher: None,
            is_challenged: false,
            transcript: Transcript::new(nonce),
            errors: Tail::new(ERRORS_KEPT),
            exit_code: None,
            closed: None,
            is_paused: false,
        }
    }

    /// The first frame, which is text: it opens the channel with the session's token.
    #[must_use]
    pub fn opening(&mut self, token: &str) -> String {
        let (request, client) = (self.ids.another().text(), self.ids.another().text());
        opening(&request, token, &client)
    }

    /// Takes a frame.
    ///
    /// # Errors
    /// [`Fault`]. A frame that is no message is dropped: it comes again.
    pub fn receive(&mut self, frame: &[u8], now: Instant) -> Result<Reply, Fault> {
        let mut reply = Reply::default();
        let Ok(message) = Message::decode(frame) else {
            return Ok(reply);
        };
        match message.kind {
            Kind::Output => {
                self.is_paused = false;
                let acknowledgement = Message::acknowledgement(self.ids.another(), &message);
                let bytes = message.payload.len();
                let item = (message.content, message.payload);
                if let Some(ready) = self.inbound.take(message.sequence, item, bytes) {
                    reply.frames.push(acknowledgement.encode());
                    for (content, payload) in ready {
                        self.take(content, payload, now, &mut reply)?;
                    }
                }
            }
            Kind::Acknowledge => {
                let of: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
                if let Some(sequence) = of["AcknowledgedMessageSequenceNumber"].as_i64() {
                    self.outbound.acknowledged(sequence, now);
                }
            }
            Kind::ChannelClosed => {
                let said: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
                self.closed = Some(
                    said["Output"]
                        .as_str()
                        .unwrap_or_default()
                        .trim()
                        .to_owned(),
                );
            }
            Kind::StartPublication => self.is_paused = false,
            Kind::PausePublication => self.is_paused = true,
            Kind::Input | Kind::Other => {}
        }
        Ok(reply)
    }

    /// Takes a numbered message whose turn it is.
    fn take(
        &mut self,
        content: Content,
        payload: Vec<u8>,
        now: Instant,
        reply: &mut Reply,
    ) -> Result<(), Fault> {
        match content {
            Content::Output => self.transcript.feed(&self.open(payload)?),
            Content::ErrorOutput => self.errors.feed(&self.open(payload)?),
            Content::ExitCode => {
                let text = self.open(payload)?;
                let text = String::from_utf8_lossy(&text);
                self.exit_code = text
                    .strip_prefix("EXIT_CODE:")
                    .and_then(|code| code.trim().parse().ok());
            }
            Content::HandshakeRequest if self.asked.is_none() => {
                let asked = handshake::request(&payload)?;
                reply.wanted = asked.iter().find_map(|one| match one {
                    Asked::Encryption { key, challenge } => Some(Wanted {
                        key: key.clone(),
                        challenge: challenge.clone(),
                    }),
                    _ => None,
                });
                self.asked = Some(asked);
                if reply.wanted.is_none() {
                    reply.frames.push(self.answer_with(None, now)?);
                }
            }
            Content::EncryptionChallenge if !self.is_challenged => {
                self.is_challenged = true;
                let cipher = self.cipher.as_ref().ok_or(Unreadable)?;
                let answer = handshake::challenge(&payload, cipher)?;
                reply
                    .frames
                    .push(self.send(Content::EncryptionResponse, answer, now)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// The frame that answers the agent's handshake, with the data key that it asked for; without
    /// one the agent ends the session.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn answer_with(&mut self, key: Option<&DataKey>, now: Instant) -> Result<Vec<u8>, Fault> {
        self.cipher = key.and_then(|key| Cipher::new(&key.plaintext));
        let key = key.filter(|_| self.cipher.is_some());
        let answer = handshake::response(self.asked.as_deref().unwrap_or_default(), key);
        self.send(Content::HandshakeResponse, answer, now)
    }

    fn send(&mut self, content: Content, payload: Vec<u8>, now: Instant) -> Result<Vec<u8>, Fault> {
        let id = self.ids.another();
        Ok(self.outbound.send(now, |sequence| {
            Message::input(id, sequence, content, payload).encode()
        })?)
    }

    fn open(&self, payload: Vec<u8>) -> Result<Vec<u8>, Unreadable> {
        match &self.cipher {
            Some(cipher) => cipher.open(&payload),
            None => Ok(payload),
        }
    }

    /// The frame that is to be sent again, if one is; none while the agent is away.
    ///
    /// # Errors
    /// [`Fault::Unheard`].
    pub fn late(&mut self, now: Instant) -> Result<Option<Vec<u8>>, Fault> {
        if self.is_paused {
            Ok(None)
        } else {
            Ok(self.outbound.late(now)?)
        }
    }

    /// Whether the command has begun to run, or the agent said so without it.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.transcript.has_begun() || self.exit_code.is_some()
    }

    /// Whether the command's exit status is known.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.exit_code.is_some() || self.transcript.has_ended()
    }

    /// Whether the service says that the agent's side is away.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// What the service said when it closed the channel; empty for a usual end.
    #[must_use]
    pub fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// What came before the wrapper began, or instead of it.
    #[must_use]
    pub fn before(&self) -> String {
        self.transcript.before()
    }

    /// What there is to tell: output and end, standard error where it is told apart, and the exit
    /// code where the agent told one, which is surer than the marker.
    #[must_use]
    pub fn read(self) -> (Told, String, Option<i32>) {
        (self.transcript.read(), self.errors.text(), self.exit_code)
    }
}

/// The text that opens a channel.
pub(crate) fn opening(request_id: &str, token: &str, client_id: &str) -> String {
    let version = handshake::CLIENT_VERSION;
    serde_json::json!({
        "MessageSchemaVersion": "1.0",
        "RequestId": request_id,
        "TokenValue": token,
        "ClientId": client_id,
        "ClientVersion": version,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::base64;
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::codec::Id;
    use super::*;

    fn conversation() -> Conversation {
        Conversation::new(Ids::new([3; 16]), "N")
    }

    fn from_agent(sequence: i64, content: Content, payload: &[u8]) -> Vec<u8> {
        let message = Message::input(Id([9; 16]), sequence, content, payload.to_vec());
        Message {
            kind: Kind::Output,
            ..message
        }
        .encode()
    }

    fn received(conversation: &mut Conversation, frame: &[u8]) -> Vec<Message> {
        let reply = conversation.receive(frame, Instant::now()).unwrap();
        reply
            .frames
            .iter()
            .map(|frame| Message::decode(frame).unwrap())
            .collect()
    }

    #[test]
    fn without_a_handshake_output_is_acknowledged_and_read() {
        let mut conversation = conversation();
        assert!(!conversation.has_begun());
        let late = received(
            &mut conversation,
            &from_agent(1, Content::Output, b"\nhi\n\n</N:3>\n"),
        );
        assert_eq!((late.len(), late[0].kind), (1, Kind::Acknowledge));
        assert!(!conversation.has_begun());
        received(&mut conversation, &from_agent(0, Content::Output, b"<N>"));
        assert!(conversation.has_begun() && conversation.has_ended());
        let (told, ..) = conversation.read();
        assert_eq!(told.output, "hi\n");
    }

    #[test]
    fn a_handshake_is_answered_once_however_often_it_is_asked() {
        let mut conversation = conversation();
        let request = from_agent(
            0,
            Content::HandshakeRequest,
            br#"{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{}}]}"#,
        );
        let first = received(&mut conversation, &request);
        assert_eq!(
            first.iter().map(|message| message.kind).collect::<Vec<_>>(),
            [Kind::Acknowledge, Kind::Input]
        );
        assert_eq!(
            (first[1].content, first[1].sequence),
            (Content::HandshakeResponse, 0)
        );
        let again = received(&mut conversation, &request);
        assert_eq!(
            again.iter().map(|message| message.kind).collect::<Vec<_>>(),
            [Kind::Acknowledge]
        );
        let soon = Instant::now() + std::time::Duration::from_secs(1);
        assert!(
            conversation.late(soon).unwrap().is_some(),
            "the answer is sent again"
        );
        let acknowledgement = Message::acknowledgement(Id([1; 16]), &first[1]).encode();
        received(&mut conversation, &acknowledgement);
        assert_eq!(
            conversation.late(soon + std::time::Duration::from_mins(1)),
            Ok(None),
            "until it is acknowledged"
        );
    }

    #[test]
    fn an_encrypted_session_is_read_with_its_key_and_nothing_else_is() {
        let data_key: Vec<u8> = (0..64).collect();
        let agent = Cipher::new(&[&data_key[32..], &data_key[..32]].concat()).unwrap();
        let mut conversation = conversation();
        let request = json!({ "RequestedClientActions": [
            { "ActionType": "SessionType", "ActionParameters": {} },
            { "ActionType": "KMSEncryption", "ActionParameters": { "KMSKeyId": "k", "Challenge": "AAEC" } },
        ] });
        let frame = from_agent(0, Content::HandshakeRequest, request.to_string().as_bytes());
        let reply = conversation.receive(&frame, Instant::now()).unwrap();
        assert_eq!(
            reply.wanted,
            Some(Wanted {
                key: "k".into(),
                challenge: Some("AAEC".into())
            })
        );
        let key = DataKey {
            plaintext: data_key,
            ciphertext: vec![1],
        };
        let answer = Message::decode(
            &conversation
                .answer_with(Some(&key), Instant::now())
                .unwrap(),
        )
        .unwrap();
        assert!(
            String::from_utf8(answer.payload)
                .unwrap()
                .contains("ChallengeAcknowledgement")
        );
        let challenge =
            json!({ "Challenge": base64::encode(agent.seal(b"prove it").unwrap()) }).to_string();
        let proof = received(
            &mut conversation,
            &from_agent(1, Content::EncryptionChallenge, challenge.as_bytes()),
        );
        let proof: Value = serde_json::from_slice(&proof[1].payload).unwrap();
        assert_eq!(
            agent
                .open(&base64::decode(proof["Challenge"].as_str().unwrap()).unwrap())
                .unwrap(),
            b"prove it"
        );
        let sealed = agent.seal(b"<N>\n\n</N:0>\n").unwrap();
        received(&mut conversation, &from_agent(2, Content::Output, &sealed));
        assert!(conversation.has_ended());
        let open = conversation.receive(
            &from_agent(3, Content::Output, b"in the clear"),
            Instant::now(),
        );
        assert_eq!(open.unwrap_err(), Fault::Unreadable(Unreadable));
    }

    #[test]
    fn while_the_agent_is_away_nothing_is_sent_again() {
        let mut conversation = conversation();
        let later = Instant::now() + std::time::Duration::from_secs(5);
        conversation.answer_with(None, Instant::now()).unwrap();
        let service = |kind| {
            let message = Message::input(Id([9; 16]), 0, Content::Other(0), b"{}".to_vec());
            Message { kind, ..message }.encode()
        };
        received(&mut conversation, &service(Kind::PausePublication));
        assert_eq!(
            (conversation.is_paused(), conversation.late(later)),
            (true, Ok(None))
        );
        received(&mut conversation, &service(Kind::StartPublication));
        assert!(conversation.late(later).unwrap().is_some());
    }

    #[test]
    fn an_exit_code_that_the_agent_tells_is_taken() {
        let mut conversation = conversation();
        received(
            &mut conversation,
            &from_agent(0, Content::ErrorOutput, b"err\n"),
        );
        received(
            &mut conversation,
            &from_agent(1, Content::ExitCode, b"EXIT_CODE: 7"),
        );
        assert!(conversation.has_ended());
        let (_, errors, code) = conversation.read();
        assert_eq!((errors.as_str(), code), ("err\n", Some(7)));
    }

    proptest! {
        #[test]
        fn no_conversation_panics_or_answers_more_than_it_was_told(
            frames in prop::collection::vec(
                (
                    0..6_i64,
                    0..14_u32,
                    prop::sample::select(KINDS.to_vec()),
                    prop::collection::vec(any::<u8>(), 0..80),
                    any::<bool>(),
                ),
                0..60,
            ),
        ) {
            let mut conversation = conversation();
            for (sequence, content, kind, payload, is_json) in frames {
                let payload = if is_json {
                    let actions = json!([{ "ActionType": "SessionType" }]);
                    let all = json!({ "RequestedClientActions": actions, "Output": "x", "Challenge": "AAAA" });
                    all.to_string().into_bytes()
                } else {
                    payload
                };
                let message = Message::input(Id([9; 16]), sequence, Content::Other(content), payload);
                let mut bytes = Message { kind, ..message }.encode();
                // Any number can be on the wire, also of a content that has a name.
                bytes[112..116].copy_from_slice(&content.to_be_bytes());
                match conversation.receive(&bytes, Instant::now()) {
                    Ok(reply) => prop_assert!(reply.frames.len() <= 3),
                    Err(_) => return Ok(()),
                }
            }
        }

        #[test]
        fn no_bytes_at_all_panic(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut conversation = conversation();
            for frame in frames {
                prop_assert!(conversation.receive(&frame, Instant::now()).unwrap().frames.is_empty());
            }
        }
    }

    const KINDS: [Kind; 6] = [
        Kind::Input,
        Kind::Output,
        Kind::Acknowledge,
        Kind::ChannelClosed,
        Kind::StartPublication,
        Kind::PausePublication,
    ];
}
