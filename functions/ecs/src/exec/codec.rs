//! The codec of agent messages, the binary messages of the data channel. An agent message is a
//! header of 120 bytes, with big-endian integers, and a payload.
//!
//! | offset | bytes | field |
//! |--:|--:|---|
//! | 0 | 4 | header length: always 116, the number of bytes before the payload length |
//! | 4 | 32 | message type, ASCII, padded with spaces |
//! | 36 | 4 | schema version: 1 |
//! | 40 | 8 | created date, in milliseconds since 1970 |
//! | 48 | 8 | sequence number |
//! | 56 | 8 | flags |
//! | 64 | 16 | message ID: a UUID, second half first |
//! | 80 | 32 | payload digest: SHA-256 of the payload |
//! | 112 | 4 | payload type |
//! | 116 | 4 | payload length |

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use sha2::{Digest, Sha256};

/// The bytes of the header, and of the shortest message: one without payload.
const HEADER_BYTES: usize = 120;
/// The header length that the header declares.
const HEADER_LENGTH: u32 = 116;
/// The longest message that the client accepts, in bytes. The agent sends at most 1,024 bytes of
/// output at once, the largest handshake has a few hundred bytes, and the agent cuts the text of
/// `channel_closed` at 2,500 characters.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The flags of an acknowledge message: SYN and FIN.
const SYN_FIN: u64 = 3;

/// The type of an agent message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MessageType {
    /// Stream data from the client to the agent, numbered.
    InputStreamData,
    /// Stream data from the agent to the client, numbered.
    OutputStreamData,
    /// Acknowledges one stream data message.
    Acknowledge,
    /// From the service: the session has ended.
    ChannelClosed,
    /// From the service: the agent is connected.
    StartPublication,
    /// From the service: the agent is disconnected, for a time or for good.
    PausePublication,
    /// A type that clients ignore.
    Other,
}

/// The type of a stream data message's payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PayloadType {
    /// Terminal output from the agent, or keyboard input from the client.
    Output,
    /// The agent's request for client actions.
    HandshakeRequest,
    /// The client's response to the request.
    HandshakeResponse,
    /// The agent's confirmation that the handshake has ended.
    HandshakeComplete,
    /// The agent's check that the client has the same keys.
    EncChallengeRequest,
    /// The client's response to the check.
    EncChallengeResponse,
    /// Standard error, if the agent separates it from standard output.
    StdErr,
    /// `EXIT_CODE: n`, if the agent reports an exit code.
    ExitCode,
    /// Any other type, by its number. Messages without stream data have 0.
    Other(u32),
}

/// A message ID: a UUID.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MessageId(pub [u8; 16]);

/// A decoded agent message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AgentMessage {
    /// The message type.
    pub message_type: MessageType,
    /// The created date, in milliseconds since 1970.
    pub created_date: u64,
    /// The position among the stream data messages of its direction.
    pub sequence_number: i64,
    /// 1 for the first message of a direction, 3 for an acknowledge message. Neither side reads
    /// the flags.
    pub flags: u64,
    /// The message ID.
    pub message_id: MessageId,
    /// The payload type.
    pub payload_type: PayloadType,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Why bytes are not an agent message. The client drops such a message without acknowledging it,
/// and the agent sends it again.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The message is shorter than a header, or longer than [`MAX_MESSAGE_BYTES`].
    #[error("the message is too short or too long")]
    Length,
    /// The declared header length is not that of a header, or exceeds the message.
    #[error("the header length does not fit the message")]
    HeaderLength,
    /// The payload does not have the declared length.
    #[error("the payload length does not match the header")]
    PayloadLength,
    /// The message type or the created date is missing.
    #[error("the message type or the created date is missing")]
    MissingField,
    /// The payload does not have the declared digest.
    #[error("the payload does not match its digest")]
    Digest,
}

impl MessageType {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::InputStreamData, "input_stream_data"),
        (Self::OutputStreamData, "output_stream_data"),
        (Self::Acknowledge, "acknowledge"),
        (Self::ChannelClosed, "channel_closed"),
        (Self::StartPublication, "start_publication"),
        (Self::PausePublication, "pause_publication"),
    ];

    /// Returns the name in the message; empty for [`MessageType::Other`].
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(message_type, _)| *message_type == self)
            .map_or("", |(_, name)| name)
    }

    fn from_name(wanted: &str) -> Self {
        Self::NAMES
            .iter()
            .find(|(_, name)| *name == wanted)
            .map_or(Self::Other, |(message_type, _)| *message_type)
    }
}

impl PayloadType {
    const NUMBERS: [(Self, u32); 8] = [
        (Self::Output, 1),
        (Self::HandshakeRequest, 5),
        (Self::HandshakeResponse, 6),
        (Self::HandshakeComplete, 7),
        (Self::EncChallengeRequest, 8),
        (Self::EncChallengeResponse, 9),
        (Self::StdErr, 11),
        (Self::ExitCode, 12),
    ];

    /// Returns the number in the message.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Other(number) => number,
            named => Self::NUMBERS
                .iter()
                .find(|(payload_type, _)| *payload_type == named)
                .map_or(0, |(_, number)| *number),
        }
    }

    fn from_number(wanted: u32) -> Self {
        Self::NUMBERS
            .iter()
            .find(|(_, number)| *number == wanted)
            .map_or(Self::Other(wanted), |(payload_type, _)| *payload_type)
    }
}

impl MessageId {
    /// Returns the usual text form of a UUID.
    #[must_use]
    pub fn to_text(self) -> String {
        let digits = format!("{:032x}", u128::from_be_bytes(self.0));
        [
            &digits[..8],
            &digits[8..12],
            &digits[12..16],
            &digits[16..20],
            &digits[20..],
        ]
        .join("-")
    }
}

/// Generates message IDs: counts up from a random number. The system's random source is read once
/// only, because reading it can fail.
#[derive(Clone, Debug)]
pub struct MessageIds(u128);

impl MessageIds {
    /// Starts at 16 random bytes, which makes the IDs unique.
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(random))
    }

    /// Returns the next ID, in the form of a random UUID (version 4).
    pub fn next_id(&mut self) -> MessageId {
        self.0 = self.0.wrapping_add(1);
        let mut bytes = self.0.to_be_bytes();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        MessageId(bytes)
    }
}

impl AgentMessage {
    /// Creates an `input_stream_data` message.
    #[must_use]
    pub fn input_stream_data(
        message_id: MessageId,
        sequence_number: i64,
        payload_type: PayloadType,
        payload: Vec<u8>,
    ) -> Self {
        Self {
            message_type: MessageType::InputStreamData,
            created_date: unix_millis(),
            sequence_number,
            flags: 0,
            message_id,
            payload_type,
            payload,
        }
    }

    /// Creates the `acknowledge` message for a message.
    #[must_use]
    pub fn acknowledge(message_id: MessageId, acknowledged: &Self) -> Self {
        let payload = json!({
            "AcknowledgedMessageType": acknowledged.message_type.name(),
            "AcknowledgedMessageId": acknowledged.message_id.to_text(),
            "AcknowledgedMessageSequenceNumber": acknowledged.sequence_number,
            "IsSequentialMessage": true,
        })
        .to_string();

        Self {
            message_type: MessageType::Acknowledge,
            created_date: unix_millis(),
            sequence_number: 0,
            flags: SYN_FIN,
            message_id,
            payload_type: PayloadType::Other(0),
            payload: payload.into_bytes(),
        }
    }

    /// Encodes the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.payload.len());
        bytes.extend(HEADER_LENGTH.to_be_bytes());
        bytes.extend(format!("{:<32}", self.message_type.name()).bytes());
        bytes.extend(1_u32.to_be_bytes());
        bytes.extend(self.created_date.to_be_bytes());
        bytes.extend(self.sequence_number.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());

        let (first_half, second_half) = self.message_id.0.split_at(8);
        bytes.extend(second_half.iter().chain(first_half));

        bytes.extend(Sha256::digest(&self.payload));
        bytes.extend(self.payload_type.number().to_be_bytes());
        // The client never sends a payload near 4 GiB.
        bytes.extend(
            u32::try_from(self.payload.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        bytes.extend(&self.payload);
        bytes
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if !(HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&bytes.len()) {
            return Err(DecodeError::Length);
        }

        let header_length =
            usize::try_from(u32::from_be_bytes(read_bytes(bytes, 0)?)).unwrap_or(usize::MAX);
        if !(HEADER_BYTES - 4..=bytes.len() - 4).contains(&header_length) {
            return Err(DecodeError::HeaderLength);
        }

        let payload = &bytes[header_length + 4..];
        let payload_length = u32::from_be_bytes(read_bytes(bytes, header_length)?);
        let payload_length = usize::try_from(payload_length).unwrap_or(usize::MAX);
        if payload_length != 0 && payload_length != payload.len() {
            return Err(DecodeError::PayloadLength);
        }

        let name = String::from_utf8_lossy(&bytes[4..36]);
        let name = name.trim_matches('\0').trim();
        let message_type = MessageType::from_name(name);
        let created_date = u64::from_be_bytes(read_bytes(bytes, 40)?);
        // The service is reported to send these two types with empty fields.
        if !matches!(
            message_type,
            MessageType::StartPublication | MessageType::PausePublication
        ) {
            if name.is_empty() || created_date == 0 {
                return Err(DecodeError::MissingField);
            }
            if payload_length != 0 && Sha256::digest(payload)[..] != bytes[80..112] {
                return Err(DecodeError::Digest);
            }
        }

        let mut message_id: [u8; 16] = read_bytes(bytes, 64)?;
        message_id.rotate_left(8);

        Ok(Self {
            message_type,
            created_date,
            sequence_number: i64::from_be_bytes(read_bytes(bytes, 48)?),
            flags: u64::from_be_bytes(read_bytes(bytes, 56)?),
            message_id: MessageId(message_id),
            payload_type: PayloadType::from_number(u32::from_be_bytes(read_bytes(bytes, 112)?)),
            payload: payload.to_vec(),
        })
    }
}

fn read_bytes<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], DecodeError> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    field.copied().ok_or(DecodeError::Length)
}

fn unix_millis() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(payload: Vec<u8>, sequence: i64, id: [u8; 16], payload_type: u32) -> AgentMessage {
        let payload_type = PayloadType::from_number(payload_type);
        AgentMessage::input_stream_data(MessageId(id), sequence, payload_type, payload)
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let valid = message(b"hello".to_vec(), 1, [7; 16], 1).encode();
        let decode_with = |offset: usize, value: u32| {
            let mut bytes = valid.clone();
            bytes[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
            AgentMessage::decode(&bytes).unwrap_err()
        };
        assert_eq!(decode_with(0, 115), DecodeError::HeaderLength);
        assert_eq!(decode_with(0, 122), DecodeError::HeaderLength);
        assert_eq!(decode_with(0, u32::MAX), DecodeError::HeaderLength);
        assert_eq!(decode_with(116, 4), DecodeError::PayloadLength);
        assert_eq!(decode_with(116, u32::MAX), DecodeError::PayloadLength);
        assert_eq!(
            AgentMessage::decode(&[valid.as_slice(), b"x"].concat()).unwrap_err(),
            DecodeError::PayloadLength
        );
        let large = message(vec![0; MAX_MESSAGE_BYTES - HEADER_BYTES + 1], 1, [7; 16], 1).encode();
        assert_eq!(
            AgentMessage::decode(&large).unwrap_err(),
            DecodeError::Length
        );
    }

    #[test]
    fn a_payload_length_of_zero_disables_the_digest() {
        let mut bytes = message(b"hello".to_vec(), 1, [7; 16], 1).encode();
        bytes[116..120].fill(0);
        bytes[80] ^= 1;
        assert_eq!(AgentMessage::decode(&bytes).unwrap().payload, b"hello");
    }

    #[test]
    fn publication_messages_may_have_empty_fields() {
        let mut bytes = message(Vec::new(), 0, [0; 16], 0).encode();
        bytes[4..36].copy_from_slice(format!("{:<32}", "pause_publication").as_bytes());
        bytes[40..48].fill(0);
        bytes[80..112].fill(0);
        assert_eq!(
            AgentMessage::decode(&bytes).unwrap().message_type,
            MessageType::PausePublication
        );
        bytes[4..36].copy_from_slice(format!("{:<32}", "output_stream_data").as_bytes());
        assert_eq!(
            AgentMessage::decode(&bytes).unwrap_err(),
            DecodeError::MissingField
        );
    }

    #[test]
    fn message_ids_are_unique_version_4_uuids() {
        let mut ids = MessageIds::new([0xff; 16]);
        let texts: Vec<_> = (0..300).map(|_| ids.next_id().to_text()).collect();
        let unique: std::collections::BTreeSet<_> = texts.iter().collect();
        assert_eq!(unique.len(), texts.len());
        assert!(texts.iter().all(|id| id.len() == 36
            && id.as_bytes()[14] == b'4'
            && b"89ab".contains(&id.as_bytes()[19])));
    }

    proptest! {
        #[test]
        fn an_encoded_message_decodes_to_itself(
            payload in prop::collection::vec(any::<u8>(), 0..2000),
            sequence: i64,
            id: [u8; 16],
            payload_type: u32,
        ) {
            let message = message(payload, sequence, id, payload_type);
            prop_assert_eq!(AgentMessage::decode(&message.encode()).unwrap(), message);
        }

        #[test]
        fn no_bytes_panic_or_decode_to_more_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            header_length in prop_oneof![Just(116_u32), 0..400_u32, any::<u32>()],
        ) {
            let mut bytes = bytes;
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&header_length.to_be_bytes());
            }
            if let Ok(message) = AgentMessage::decode(&bytes) {
                prop_assert!(message.payload.len() <= bytes.len());
            }
        }

        #[test]
        fn an_altered_payload_byte_is_detected(index in 0..500_usize, mask in 1..=255_u8) {
            let mut bytes = message(vec![b'x'; 500], 3, [9; 16], 1).encode();
            bytes[HEADER_BYTES + index] ^= mask;
            prop_assert_eq!(AgentMessage::decode(&bytes).unwrap_err(), DecodeError::Digest);
        }
    }
}
