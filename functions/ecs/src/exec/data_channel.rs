//! The protocol of the data channel, without I/O: the caller passes in the frames that arrive, and
//! gets back the frames to send.

use serde_json::Value;
use tokio::time::Instant;

use super::cipher::{Cipher, CipherError};
use super::codec::{AgentMessage, MessageIds, MessageType, PayloadType};
use super::handshake::{self, ClientAction, DataKey, HandshakeError};
use super::stream::{Inbound, NotAcknowledged, Outbound};
use super::transcript::{CommandOutput, TailBuffer, Transcript};

/// How much standard error is kept if the agent sends it separately.
const MAX_ERROR_OUTPUT_BYTES: usize = 64 * 1024;

/// The state of one session's data channel.
#[derive(Debug)]
pub struct DataChannel {
    message_ids: MessageIds,
    inbound: Inbound<(PayloadType, Vec<u8>)>,
    outbound: Outbound,
    /// The actions of the handshake request; the client responds only to the first request.
    requested_actions: Option<Vec<ClientAction>>,
    cipher: Option<Cipher>,
    has_responded_to_challenge: bool,
    transcript: Transcript,
    error_output: TailBuffer,
    exit_code: Option<i32>,
    close_reason: Option<String>,
    is_paused: bool,
}

/// What to do after a frame arrived.
#[derive(Debug, Default)]
pub struct Reply {
    /// Frames to send, in this order.
    pub frames: Vec<Vec<u8>>,
    /// A data key to get from KMS; pass it to [`DataChannel::respond_to_handshake`].
    pub data_key_request: Option<DataKeyRequest>,
}

/// The agent's request for a data key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataKeyRequest {
    /// The ARN of the KMS key.
    pub kms_key_id: String,
    /// The text to add to the encryption context.
    pub challenge: Option<String>,
}

/// Why the data channel cannot continue.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProtocolError {
    /// The agent acknowledges no more messages.
    #[error("the agent in the container stopped acknowledging messages")]
    NotAcknowledged,
    /// The handshake is malformed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// A payload cannot be decrypted.
    #[error(transparent)]
    Cipher(#[from] CipherError),
}

impl From<NotAcknowledged> for ProtocolError {
    fn from(NotAcknowledged: NotAcknowledged) -> Self {
        Self::NotAcknowledged
    }
}

impl DataChannel {
    /// Creates the data channel for a wrapper with this nonce.
    #[must_use]
    pub fn new(message_ids: MessageIds, nonce: &str) -> Self {
        Self {
            message_ids,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            requested_actions: None,
            cipher: None,
            has_responded_to_challenge: false,
            transcript: Transcript::new(nonce),
            error_output: TailBuffer::new(MAX_ERROR_OUTPUT_BYTES),
            exit_code: None,
            close_reason: None,
            is_paused: false,
        }
    }

    /// Returns the first frame, a text frame that opens the data channel with the session's token.
    #[must_use]
    pub fn opening_message(&mut self, token: &str) -> String {
        let request_id = self.message_ids.next_id().to_text();
        let client_id = self.message_ids.next_id().to_text();
        opening_message(&request_id, token, &client_id)
    }

    /// Processes a frame that arrived. Drops a frame that is not an agent message; the agent sends
    /// it again.
    ///
    /// # Errors
    /// [`ProtocolError`].
    pub fn receive(&mut self, frame: &[u8], now: Instant) -> Result<Reply, ProtocolError> {
        let mut reply = Reply::default();
        let Ok(message) = AgentMessage::decode(frame) else {
            return Ok(reply);
        };

        match message.message_type {
            MessageType::OutputStreamData => {
                self.is_paused = false;
                let acknowledge = AgentMessage::acknowledge(self.message_ids.next_id(), &message);
                let bytes = message.payload.len();
                let item = (message.payload_type, message.payload);
                if let Some(ready) = self.inbound.accept(message.sequence_number, item, bytes) {
                    reply.frames.push(acknowledge.encode());
                    for (payload_type, payload) in ready {
                        self.process_stream_data(payload_type, payload, now, &mut reply)?;
                    }
                }
            }
            MessageType::Acknowledge => {
                let content: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
                if let Some(sequence) = content["AcknowledgedMessageSequenceNumber"].as_i64() {
                    self.outbound.acknowledge(sequence, now);
                }
            }
            MessageType::ChannelClosed => {
                let content: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
                let reason = content["Output"].as_str().unwrap_or_default();
                self.close_reason = Some(reason.trim().to_owned());
            }
            MessageType::StartPublication => self.is_paused = false,
            MessageType::PausePublication => self.is_paused = true,
            MessageType::InputStreamData | MessageType::Other => {}
        }
        Ok(reply)
    }

    /// Processes stream data that is in order.
    fn process_stream_data(
        &mut self,
        payload_type: PayloadType,
        payload: Vec<u8>,
        now: Instant,
        reply: &mut Reply,
    ) -> Result<(), ProtocolError> {
        match payload_type {
            PayloadType::Output => self.transcript.append(&self.decrypt(payload)?),
            PayloadType::StdErr => self.error_output.append(&self.decrypt(payload)?),
            PayloadType::ExitCode => {
                let text = self.decrypt(payload)?;
                let text = String::from_utf8_lossy(&text);
                self.exit_code = text
                    .strip_prefix("EXIT_CODE:")
                    .and_then(|code| code.trim().parse().ok());
            }
            PayloadType::HandshakeRequest if self.requested_actions.is_none() => {
                let actions = handshake::parse_request(&payload)?;
                reply.data_key_request = actions.iter().find_map(|action| match action {
                    ClientAction::KmsEncryption {
                        kms_key_id,
                        challenge,
                    } => Some(DataKeyRequest {
                        kms_key_id: kms_key_id.clone(),
                        challenge: challenge.clone(),
                    }),
                    _ => None,
                });
                self.requested_actions = Some(actions);
                if reply.data_key_request.is_none() {
                    reply.frames.push(self.respond_to_handshake(None, now)?);
                }
            }
            PayloadType::EncChallengeRequest if !self.has_responded_to_challenge => {
                self.has_responded_to_challenge = true;
                let cipher = self.cipher.as_ref().ok_or(CipherError)?;
                let response = handshake::respond_to_challenge(&payload, cipher)?;
                reply.frames.push(self.add_stream_data(
                    PayloadType::EncChallengeResponse,
                    response,
                    now,
                )?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the frame of the handshake response, with the requested data key. Without the data
    /// key the agent ends the session.
    ///
    /// # Errors
    /// [`ProtocolError`].
    pub fn respond_to_handshake(
        &mut self,
        data_key: Option<&DataKey>,
        now: Instant,
    ) -> Result<Vec<u8>, ProtocolError> {
        self.cipher = data_key.and_then(|data_key| Cipher::new(&data_key.plaintext));
        let data_key = data_key.filter(|_| self.cipher.is_some());
        let actions = self.requested_actions.as_deref().unwrap_or_default();
        let response = handshake::build_response(actions, data_key);
        self.add_stream_data(PayloadType::HandshakeResponse, response, now)
    }

    fn add_stream_data(
        &mut self,
        payload_type: PayloadType,
        payload: Vec<u8>,
        now: Instant,
    ) -> Result<Vec<u8>, ProtocolError> {
        let message_id = self.message_ids.next_id();
        let encode = |sequence| {
            AgentMessage::input_stream_data(message_id, sequence, payload_type, payload).encode()
        };
        Ok(self.outbound.add_message(now, encode)?)
    }

    fn decrypt(&self, payload: Vec<u8>) -> Result<Vec<u8>, CipherError> {
        match &self.cipher {
            Some(cipher) => cipher.decrypt(&payload),
            None => Ok(payload),
        }
    }

    /// Returns the frame to send again, if one is due. None is due while the agent is
    /// disconnected.
    ///
    /// # Errors
    /// [`ProtocolError::NotAcknowledged`].
    pub fn frame_to_resend(&mut self, now: Instant) -> Result<Option<Vec<u8>>, ProtocolError> {
        if self.is_paused {
            Ok(None)
        } else {
            Ok(self.outbound.frame_to_resend(now)?)
        }
    }

    /// Returns whether the wrapper has started, or the agent has reported an exit code.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.transcript.has_started() || self.exit_code.is_some()
    }

    /// Returns whether the command's end is known.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.exit_code.is_some() || self.transcript.has_ended()
    }

    /// Returns whether the service reports that the agent is disconnected.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Returns the text of `channel_closed`, once it arrived. The text is empty for a normal end.
    #[must_use]
    pub fn close_reason(&self) -> Option<&str> {
        self.close_reason.as_deref()
    }

    /// Returns the text that arrived although the wrapper has not started.
    #[must_use]
    pub fn preamble(&self) -> String {
        self.transcript.preamble()
    }

    /// Returns the command's output, its standard error if the agent sent it separately, and the
    /// exit code if the agent reported one. That exit code is more reliable than the end marker.
    #[must_use]
    pub fn into_results(self) -> (CommandOutput, String, Option<i32>) {
        (
            self.transcript.into_output(),
            self.error_output.into_text(),
            self.exit_code,
        )
    }
}

/// Returns the message that opens a data channel.
pub(crate) fn opening_message(request_id: &str, token: &str, client_id: &str) -> String {
    serde_json::json!({
        "MessageSchemaVersion": "1.0",
        "RequestId": request_id,
        "TokenValue": token,
        "ClientId": client_id,
        "ClientVersion": handshake::CLIENT_VERSION,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::base64;
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::codec::MessageId;
    use super::*;

    fn new_channel() -> DataChannel {
        DataChannel::new(MessageIds::new([3; 16]), "N")
    }

    /// A frame with stream data from the agent.
    fn agent_frame(sequence: i64, payload_type: PayloadType, payload: &[u8]) -> Vec<u8> {
        let id = MessageId([9; 16]);
        let message = AgentMessage::input_stream_data(id, sequence, payload_type, payload.to_vec());
        AgentMessage {
            message_type: MessageType::OutputStreamData,
            ..message
        }
        .encode()
    }

    /// Passes a frame to the channel and decodes its replies.
    fn receive(channel: &mut DataChannel, frame: &[u8]) -> Vec<AgentMessage> {
        let reply = channel.receive(frame, Instant::now()).unwrap();
        reply
            .frames
            .iter()
            .map(|frame| AgentMessage::decode(frame).unwrap())
            .collect()
    }

    #[test]
    fn output_without_handshake_is_acknowledged_and_read() {
        let mut channel = new_channel();
        assert!(!channel.has_started());
        let replies = receive(
            &mut channel,
            &agent_frame(1, PayloadType::Output, b"\nhi\n\n</N:3>\n"),
        );
        assert_eq!(
            (replies.len(), replies[0].message_type),
            (1, MessageType::Acknowledge)
        );
        assert!(!channel.has_started());
        receive(&mut channel, &agent_frame(0, PayloadType::Output, b"<N>"));
        assert!(channel.has_started() && channel.has_ended());
        let (output, ..) = channel.into_results();
        assert_eq!(output.text, "hi\n");
    }

    #[test]
    fn a_repeated_handshake_request_is_answered_once() {
        let mut channel = new_channel();
        let request = agent_frame(
            0,
            PayloadType::HandshakeRequest,
            br#"{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{}}]}"#,
        );
        let first = receive(&mut channel, &request);
        assert_eq!(
            first
                .iter()
                .map(|message| message.message_type)
                .collect::<Vec<_>>(),
            [MessageType::Acknowledge, MessageType::InputStreamData]
        );
        assert_eq!(
            (first[1].payload_type, first[1].sequence_number),
            (PayloadType::HandshakeResponse, 0)
        );
        let second = receive(&mut channel, &request);
        assert_eq!(
            second
                .iter()
                .map(|message| message.message_type)
                .collect::<Vec<_>>(),
            [MessageType::Acknowledge]
        );
        let soon = Instant::now() + std::time::Duration::from_secs(1);
        assert!(
            channel.frame_to_resend(soon).unwrap().is_some(),
            "the response is sent again"
        );
        let acknowledge = AgentMessage::acknowledge(MessageId([1; 16]), &first[1]).encode();
        receive(&mut channel, &acknowledge);
        assert_eq!(
            channel.frame_to_resend(soon + std::time::Duration::from_mins(1)),
            Ok(None),
            "the response is not sent again after it is acknowledged"
        );
    }

    #[test]
    fn an_encrypted_session_accepts_only_encrypted_output() {
        let data_key: Vec<u8> = (0..64).collect();
        let agent = Cipher::new(&[&data_key[32..], &data_key[..32]].concat()).unwrap();
        let mut channel = new_channel();
        let request = json!({ "RequestedClientActions": [
            { "ActionType": "SessionType", "ActionParameters": {} },
            {
                "ActionType": "KMSEncryption",
                "ActionParameters": { "KMSKeyId": "k", "Challenge": "AAEC" },
            },
        ] });
        let frame = agent_frame(
            0,
            PayloadType::HandshakeRequest,
            request.to_string().as_bytes(),
        );
        let reply = channel.receive(&frame, Instant::now()).unwrap();
        assert_eq!(
            reply.data_key_request,
            Some(DataKeyRequest {
                kms_key_id: "k".into(),
                challenge: Some("AAEC".into())
            })
        );
        let key = DataKey {
            plaintext: data_key,
            ciphertext: vec![1],
        };
        let response = AgentMessage::decode(
            &channel
                .respond_to_handshake(Some(&key), Instant::now())
                .unwrap(),
        )
        .unwrap();
        assert!(
            String::from_utf8(response.payload)
                .unwrap()
                .contains("ChallengeAcknowledgement")
        );
        let challenge =
            json!({ "Challenge": base64::encode(agent.encrypt(b"prove it").unwrap()) }).to_string();
        let proof = receive(
            &mut channel,
            &agent_frame(1, PayloadType::EncChallengeRequest, challenge.as_bytes()),
        );
        let proof: Value = serde_json::from_slice(&proof[1].payload).unwrap();
        assert_eq!(
            agent
                .decrypt(&base64::decode(proof["Challenge"].as_str().unwrap()).unwrap())
                .unwrap(),
            b"prove it"
        );
        let encrypted = agent.encrypt(b"<N>\n\n</N:0>\n").unwrap();
        receive(
            &mut channel,
            &agent_frame(2, PayloadType::Output, &encrypted),
        );
        assert!(channel.has_ended());
        let unencrypted = channel.receive(
            &agent_frame(3, PayloadType::Output, b"not encrypted"),
            Instant::now(),
        );
        assert_eq!(unencrypted.unwrap_err(), ProtocolError::Cipher(CipherError));
    }

    #[test]
    fn nothing_is_sent_again_while_the_agent_is_disconnected() {
        let mut channel = new_channel();
        let later = Instant::now() + std::time::Duration::from_secs(5);
        channel.respond_to_handshake(None, Instant::now()).unwrap();
        let service_frame = |message_type| {
            let (id, payload) = (MessageId([9; 16]), b"{}".to_vec());
            let message = AgentMessage::input_stream_data(id, 0, PayloadType::Other(0), payload);
            AgentMessage {
                message_type,
                ..message
            }
            .encode()
        };
        receive(&mut channel, &service_frame(MessageType::PausePublication));
        assert_eq!(
            (channel.is_paused(), channel.frame_to_resend(later)),
            (true, Ok(None))
        );
        receive(&mut channel, &service_frame(MessageType::StartPublication));
        assert!(channel.frame_to_resend(later).unwrap().is_some());
    }

    #[test]
    fn a_reported_exit_code_is_used() {
        let mut channel = new_channel();
        receive(&mut channel, &agent_frame(0, PayloadType::StdErr, b"err\n"));
        receive(
            &mut channel,
            &agent_frame(1, PayloadType::ExitCode, b"EXIT_CODE: 7"),
        );
        assert!(channel.has_ended());
        let (_, error_output, exit_code) = channel.into_results();
        assert_eq!((error_output.as_str(), exit_code), ("err\n", Some(7)));
    }

    proptest! {
        #[test]
        fn no_messages_panic_or_cause_many_replies(
            frames in prop::collection::vec(
                (
                    0..6_i64,
                    0..14_u32,
                    prop::sample::select(MESSAGE_TYPES.to_vec()),
                    prop::collection::vec(any::<u8>(), 0..80),
                    any::<bool>(),
                ),
                0..60,
            ),
        ) {
            let mut channel = new_channel();
            for (sequence, payload_type, message_type, payload, is_json) in frames {
                let payload = if is_json {
                    let actions = json!([{ "ActionType": "SessionType" }]);
                    json!({
                        "RequestedClientActions": actions,
                        "Output": "x",
                        "Challenge": "AAAA",
                    })
                    .to_string()
                    .into_bytes()
                } else {
                    payload
                };
                let message = AgentMessage::input_stream_data(
                    MessageId([9; 16]),
                    sequence,
                    PayloadType::Other(payload_type),
                    payload,
                );
                let bytes = AgentMessage {
                    message_type,
                    ..message
                }
                .encode();
                match channel.receive(&bytes, Instant::now()) {
                    Ok(reply) => prop_assert!(reply.frames.len() <= 3),
                    Err(_) => return Ok(()),
                }
            }
        }

        #[test]
        fn no_bytes_panic(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        ) {
            let mut channel = new_channel();
            for frame in frames {
                let reply = channel.receive(&frame, Instant::now()).unwrap();
                prop_assert!(reply.frames.is_empty());
            }
        }
    }

    const MESSAGE_TYPES: [MessageType; 6] = [
        MessageType::InputStreamData,
        MessageType::OutputStreamData,
        MessageType::Acknowledge,
        MessageType::ChannelClosed,
        MessageType::StartPublication,
        MessageType::PausePublication,
    ];
}
