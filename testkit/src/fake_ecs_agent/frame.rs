//! The agent's side of frames and of the encryption of a session.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use stepward::model::digest::hex;

/// A frame from the client.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: String,
    pub(super) sequence: i64,
    pub(super) flags: u64,
    pub(super) id: String,
    pub(super) content: u32,
    pub(super) payload: Vec<u8>,
}

/// Returns the bytes of a frame to the client. `id` becomes a part of its UUID.
pub(super) fn encode_frame(
    kind: &str,
    sequence: i64,
    flags: u64,
    id: u64,
    content: u32,
    payload: &[u8],
) -> Vec<u8> {
    let millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| since.as_millis());
    let mut frame = vec![0, 0, 0, 116];
    frame.extend(kind.bytes().chain(std::iter::repeat(b' ')).take(32));
    frame.extend([0, 0, 0, 1]);
    frame.extend(u64::try_from(millis).unwrap_or(1).to_be_bytes());
    frame.extend(sequence.to_be_bytes());
    frame.extend(flags.to_be_bytes());
    // The second half of a UUID comes first.
    frame.extend([0x80, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend((id << 16 | 0x4000).to_be_bytes());
    frame.extend(Sha256::digest(payload));
    frame.extend(content.to_be_bytes());
    frame.extend(
        u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    frame.extend(payload);
    frame
}

/// Decodes a frame as strictly as AWS's agent does.
pub(super) fn decode_frame(bytes: &[u8]) -> Result<Frame, String> {
    let part = |from: usize, length: usize| {
        bytes
            .get(from..from + length)
            .ok_or("the header is incomplete")
    };
    let number = |from: usize, length: usize| {
        part(from, length).map(|part| {
            part.iter()
                .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        })
    };
    let payload = bytes.get(120..).unwrap_or_default().to_vec();
    if number(0, 4)? != 116 || number(36, 4)? != 1 || number(40, 8)? == 0 {
        return Err("the header length, the schema version or the date is wrong".into());
    }
    if payload.is_empty()
        || number(116, 4)? != payload.len() as u64
        || part(80, 32)? != &Sha256::digest(&payload)[..]
    {
        return Err("the length or the digest of the payload is wrong".into());
    }
    let kind = String::from_utf8_lossy(part(4, 32)?).trim_end().to_owned();
    let hex = |from: usize, length: usize| part(from, length).map(hex);
    let id = [
        hex(72, 4)?,
        hex(76, 2)?,
        hex(78, 2)?,
        hex(64, 2)?,
        hex(66, 6)?,
    ]
    .join("-");
    let (sequence, content) = (
        number(48, 8)?.cast_signed(),
        u32::try_from(number(112, 4)?).unwrap_or_default(),
    );
    Ok(Frame {
        kind,
        sequence,
        flags: number(56, 8)?,
        id,
        content,
        payload,
    })
}

/// The keys of a session: the agent's for sending, and the client's for receiving.
pub(super) struct SessionKeys {
    agent: LessSafeKey,
    client: LessSafeKey,
    nonce: u64,
}

impl SessionKeys {
    pub(super) fn new(data_key: &[u8]) -> Option<Self> {
        let key = |bytes| {
            UnboundKey::new(&AES_256_GCM, bytes)
                .ok()
                .map(LessSafeKey::new)
        };
        Some(Self {
            agent: key(data_key.get(..32)?)?,
            client: key(data_key.get(32..)?)?,
            nonce: 0,
        })
    }

    pub(super) fn seal(&mut self, text: &[u8]) -> Vec<u8> {
        self.nonce += 1;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.nonce.to_be_bytes());
        let mut sealed = text.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        self.agent
            .seal_in_place_append_tag(unique, Aad::empty(), &mut sealed)
            .expect("AES-GCM can encrypt a short text");
        [nonce.as_slice(), &sealed].concat()
    }

    pub(super) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_first_chunk::<12>()?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        Some(
            self.client
                .open_in_place(nonce, Aad::empty(), &mut text)
                .ok()?
                .to_vec(),
        )
    }
}
