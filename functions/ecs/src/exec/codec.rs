//! The binary messages of the data channel: a header of 120 bytes, big-endian, and a payload.
//!
//! | offset | bytes | field |
//! |--:|--:|---|
//! | 0 | 4 | header length: 116, what comes before the payload's length |
//! | 4 | 32 | message type, ASCII, padded with spaces |
//! | 36 | 4 | schema version: 1 |
//! | 40 | 8 | created, milliseconds since 1970 |
//! | 48 | 8 | sequence number |
//! | 56 | 8 | flags |
//! | 64 | 16 | message ID: a UUID, its second half first |
//! | 80 | 32 | SHA-256 of the payload |
//! | 112 | 4 | payload type |
//! | 116 | 4 | payload length |

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use sha2::{Digest, Sha256};

/// The shortest message there can be: a header and no payload.
const HEADER: usize = 120;
/// What the header says of its own length.
const HEADER_LENGTH: u32 = 116;
/// The longest message taken, in bytes. The agent sends at most 1,024 bytes of output at once, the
/// largest handshake has some hundreds, and a closing text is cut at 2,500 characters.
pub const MESSAGE_LIMIT: usize = 64 * 1024;
/// The flags of an acknowledgement: first and last of its kind.
const SYN_FIN: u64 = 3;

/// What a message is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// From the client to the agent, numbered.
    Input,
    /// From the agent to the client, numbered.
    Output,
    /// Confirms one numbered message.
    Acknowledge,
    /// From the service: the session is over.
    ChannelClosed,
    /// From the service: the agent's side is there.
    StartPublication,
    /// From the service: the agent's side is gone, for now or for good.
    PausePublication,
    /// Of no meaning to a client.
    Other,
}

/// What the payload of a numbered message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// What the terminal shows; towards the agent, keys.
    Output,
    /// The agent asks what the client can do.
    HandshakeRequest,
    /// The client's answer.
    HandshakeResponse,
    /// The handshake is over.
    HandshakeComplete,
    /// The agent wants to see that the client has the same keys.
    EncryptionChallenge,
    /// The client's proof.
    EncryptionResponse,
    /// Standard error, where it is told apart.
    ErrorOutput,
    /// `EXIT_CODE: n`, where it is told.
    ExitCode,
    /// Any other, by its number: 0 with messages that are not numbered.
    Other(u32),
}

/// A message ID: a UUID.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Id(pub [u8; 16]);

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// What it is for.
    pub kind: Kind,
    /// Milliseconds since 1970.
    pub created: u64,
    /// Its place among the numbered messages of its direction.
    pub sequence: i64,
    /// 1: the first of the direction; 3: an acknowledgement. Nobody reads them.
    pub flags: u64,
    /// Its ID.
    pub id: Id,
    /// What the payload is.
    pub content: Content,
    /// The payload.
    pub payload: Vec<u8>,
}

/// What is wrong with a message. It is dropped and not acknowledged, so that the other side sends
/// it again.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than a header, or longer than [`MESSAGE_LIMIT`].
    #[error("its length is not that of a message")]
    Length,
    /// The header's own length leads out of the message.
    #[error("its header says another length than it has")]
    HeaderLength,
    /// The payload's length is not what the header says.
    #[error("its payload has another length than its header says")]
    PayloadLength,
    /// No message type, or no date.
    #[error("its type or date is missing")]
    Missing,
    /// The payload is not the one that was sent.
    #[error("its payload was altered on the way")]
    Digest,
}

impl Kind {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::Input, "input_stream_data"),
        (Self::Output, "output_stream_data"),
        (Self::Acknowledge, "acknowledge"),
        (Self::ChannelClosed, "channel_closed"),
        (Self::StartPublication, "start_publication"),
        (Self::PausePublication, "pause_publication"),
    ];

    /// As it is on the wire; empty for what the client has no name for.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, name)| name)
    }

    fn of(name: &str) -> Self {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map_or(Self::Other, |(kind, _)| *kind)
    }
}

impl Content {
    const NUMBERS: [(Self, u32); 8] = [
        (Self::Output, 1),
        (Self::HandshakeRequest, 5),
        (Self::HandshakeResponse, 6),
        (Self::HandshakeComplete, 7),
        (Self::EncryptionChallenge, 8),
        (Self::EncryptionResponse, 9),
        (Self::ErrorOutput, 11),
        (Self::ExitCode, 12),
    ];

    /// As it is on the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Other(number) => number,
            known => Self::NUMBERS
                .iter()
                .find(|(content, _)| *content == known)
                .map_or(0, |(_, number)| *number),
        }
    }

    fn of(number: u32) -> Self {
        Self::NUMBERS
            .iter()
            .find(|(_, known)| *known == number)
            .map_or(Self::Other(number), |(content, _)| *content)
    }
}

impl Id {
    /// The usual text of a UUID.
    #[must_use]
    pub fn text(self) -> String {
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

/// Message IDs: random ones of which the last bytes count, so that they differ without another look
/// at the system's randomness, which can fail.
#[derive(Clone, Debug)]
pub struct Ids(u128);

impl Ids {
    /// IDs that nobody else makes, from 16 random bytes.
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(random))
    }

    /// The next one, in the form of a random UUID (version 4).
    pub fn another(&mut self) -> Id {
        self.0 = self.0.wrapping_add(1);
        let mut bytes = self.0.to_be_bytes();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Id(bytes)
    }
}

impl Message {
    /// A numbered message to the agent.
    #[must_use]
    pub fn input(id: Id, sequence: i64, content: Content, payload: Vec<u8>) -> Self {
        Self {
            kind: Kind::Input,
            created: now(),
            sequence,
            flags: 0,
            id,
            content,
            payload,
        }
    }

    /// The acknowledgement of a message.
    #[must_use]
    pub fn acknowledgement(id: Id, of: &Self) -> Self {
        let payload = json!({
            "AcknowledgedMessageType": of.kind.name(),
            "AcknowledgedMessageId": of.id.text(),
            "AcknowledgedMessageSequenceNumber": of.sequence,
            "IsSequentialMessage": true,
        })
        .to_string();
        let content = Content::Other(0);
        let (kind, payload) = (Kind::Acknowledge, payload.into_bytes());
        Self {
            kind,
            created: now(),
            sequence: 0,
            flags: SYN_FIN,
            id,
            content,
            payload,
        }
    }

    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.payload.len());
        bytes.extend(HEADER_LENGTH.to_be_bytes());
        bytes.extend(format!("{:<32}", self.kind.name()).bytes());
        bytes.extend(1_u32.to_be_bytes());
        bytes.extend(self.created.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        let (most, least) = self.id.0.split_at(8);
        bytes.extend(least.iter().chain(most));
        bytes.extend(Sha256::digest(&self.payload));
        bytes.extend(self.content.number().to_be_bytes());
        // What this side sends is far below 4 GiB.
        bytes.extend(
            u32::try_from(self.payload.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        bytes.extend(&self.payload);
        bytes
    }

    /// Reads a message.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if !(HEADER..=MESSAGE_LIMIT).contains(&bytes.len()) {
            return Err(Malformed::Length);
        }
        let header_length =
            usize::try_from(u32::from_be_bytes(at(bytes, 0)?)).unwrap_or(usize::MAX);
        if !(HEADER - 4..=bytes.len() - 4).contains(&header_length) {
            return Err(Malformed::HeaderLength);
        }
        let (declared, payload) = (
            u32::from_be_bytes(at(bytes, header_length)?),
            &bytes[header_length + 4..],
        );
        let declared = usize::try_from(declared).unwrap_or(usize::MAX);
        if declared != 0 && declared != payload.len() {
            return Err(Malformed::PayloadLength);
        }
        let name = String::from_utf8_lossy(&bytes[4..36]);
        let name = name.trim_matches('\0').trim();
        let (kind, created) = (Kind::of(name), u64::from_be_bytes(at(bytes, 40)?));
        // The service is said to send these two with nothing filled in.
        if !matches!(kind, Kind::StartPublication | Kind::PausePublication) {
            if name.is_empty() || created == 0 {
                return Err(Malformed::Missing);
            }
            if declared != 0 && Sha256::digest(payload)[..] != bytes[80..112] {
                return Err(Malformed::Digest);
            }
        }
        let mut id: [u8; 16] = at(bytes, 64)?;
        id.rotate_left(8);
        Ok(Self {
            kind,
            created,
            sequence: i64::from_be_bytes(at(bytes, 48)?),
            flags: u64::from_be_bytes(at(bytes, 56)?),
            id: Id(id),
            content: Content::of(u32::from_be_bytes(at(bytes, 112)?)),
            payload: payload.to_vec(),
        })
    }
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], Malformed> {
    let part = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    part.copied().ok_or(Malformed::Length)
}

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(payload: Vec<u8>, sequence: i64, id: [u8; 16], content: u32) -> Message {
        Message {
            sequence,
            ..Message::input(Id(id), 0, Content::of(content), payload)
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let good = message(b"hello".to_vec(), 1, [7; 16], 1).encode();
        let with = |offset: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
            Message::decode(&bytes).unwrap_err()
        };
        assert_eq!(with(0, 115), Malformed::HeaderLength);
        assert_eq!(with(0, 122), Malformed::HeaderLength);
        assert_eq!(with(0, u32::MAX), Malformed::HeaderLength);
        assert_eq!(with(116, 4), Malformed::PayloadLength);
        assert_eq!(with(116, u32::MAX), Malformed::PayloadLength);
        assert_eq!(
            Message::decode(&[good.as_slice(), b"x"].concat()).unwrap_err(),
            Malformed::PayloadLength
        );
        let large = message(vec![0; MESSAGE_LIMIT - HEADER + 1], 1, [7; 16], 1).encode();
        assert_eq!(Message::decode(&large).unwrap_err(), Malformed::Length);
    }

    #[test]
    fn a_declared_length_of_zero_means_the_rest_without_a_digest() {
        let mut bytes = message(b"hello".to_vec(), 1, [7; 16], 1).encode();
        bytes[116..120].fill(0);
        bytes[80] ^= 1;
        assert_eq!(Message::decode(&bytes).unwrap().payload, b"hello");
    }

    #[test]
    fn publication_messages_may_have_nothing_filled_in() {
        let mut bytes = message(Vec::new(), 0, [0; 16], 0).encode();
        bytes[4..36].copy_from_slice(format!("{:<32}", "pause_publication").as_bytes());
        bytes[40..48].fill(0);
        bytes[80..112].fill(0);
        assert_eq!(
            Message::decode(&bytes).unwrap().kind,
            Kind::PausePublication
        );
        bytes[4..36].copy_from_slice(format!("{:<32}", "output_stream_data").as_bytes());
        assert_eq!(Message::decode(&bytes).unwrap_err(), Malformed::Missing);
    }

    #[test]
    fn ids_differ_and_are_random_uuids_by_form() {
        let mut ids = Ids::new([0xff; 16]);
        let made: Vec<_> = (0..300).map(|_| ids.another().text()).collect();
        let different: std::collections::BTreeSet<_> = made.iter().collect();
        assert_eq!(different.len(), made.len());
        assert!(made.iter().all(|id| id.len() == 36
            && id.as_bytes()[14] == b'4'
            && b"89ab".contains(&id.as_bytes()[19])));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            payload in prop::collection::vec(any::<u8>(), 0..2000), sequence: i64, id: [u8; 16], content: u32,
        ) {
            let message = message(payload, sequence, id, content);
            prop_assert_eq!(Message::decode(&message.encode()).unwrap(), message);
        }

        #[test]
        fn no_bytes_panic_and_none_grow(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            header in prop_oneof![Just(116_u32), 0..400_u32, any::<u32>()],
        ) {
            let mut bytes = bytes;
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&header.to_be_bytes());
            }
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert!(message.payload.len() <= bytes.len());
            }
        }

        #[test]
        fn one_altered_byte_of_the_payload_is_found(at in 0..500_usize, by in 1..=255_u8) {
            let mut bytes = message(vec![b'x'; 500], 3, [9; 16], 1).encode();
            bytes[HEADER + at] ^= by;
            prop_assert_eq!(Message::decode(&bytes).unwrap_err(), Malformed::Digest);
        }
    }
}
