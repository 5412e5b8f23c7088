//! The encryption of a session with a KMS key: AES-256-GCM, one key for each direction.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

/// The bytes of the data key that KMS is asked for: two keys of 32.
pub const KEY_BYTES: usize = 64;

/// Both keys of a session.
pub struct Cipher {
    from_agent: RandomizedNonceKey,
    to_agent: RandomizedNonceKey,
}

/// What cannot be decrypted: made with another key, or altered. It does not say more on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("what the agent encrypted cannot be read with the session's key")]
pub struct Unreadable;

impl Cipher {
    /// The keys from a data key: first the agent's, then the client's. `None` unless it has
    /// [`KEY_BYTES`].
    #[must_use]
    pub fn new(data_key: &[u8]) -> Option<Self> {
        let data_key: &[u8; KEY_BYTES] = data_key.try_into().ok()?;
        let (from_agent, to_agent) = data_key.split_at(KEY_BYTES / 2);
        let key = |bytes| RandomizedNonceKey::new(&AES_256_GCM, bytes).ok();
        Some(Self {
            from_agent: key(from_agent)?,
            to_agent: key(to_agent)?,
        })
    }

    /// Decrypts what the agent sent: a nonce, the text, a tag.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Unreadable)?;
        let mut text = text.to_vec();
        let length = self
            .from_agent
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::empty(),
                &mut text,
            )
            .map_err(|_| Unreadable)?
            .len();
        text.truncate(length);
        Ok(text)
    }

    /// Encrypts for the agent, with a random nonce.
    ///
    /// # Errors
    /// [`Unreadable`] where the system has no randomness.
    pub fn seal(&self, text: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let mut text = text.to_vec();
        let nonce = self
            .to_agent
            .seal_in_place_append_tag(Aad::empty(), &mut text)
            .map_err(|_| Unreadable)?;
        Ok([nonce.as_ref().as_slice(), &text].concat())
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cipher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> Vec<u8> {
        (0..64).collect()
    }

    /// The agent's side: the same keys, the other way around.
    fn agent() -> Cipher {
        Cipher::new(&[&key()[32..], &key()[..32]].concat()).unwrap()
    }

    #[test]
    fn each_direction_has_a_key_of_its_own_and_each_message_a_nonce() {
        let (client, agent) = (Cipher::new(&key()).unwrap(), agent());
        let sealed = client.seal(b"keys").unwrap();
        assert_eq!(agent.open(&sealed).unwrap(), b"keys");
        assert_eq!(client.open(&sealed), Err(Unreadable));
        assert_ne!(client.seal(b"keys").unwrap(), sealed);
        assert!(Cipher::new(&key()[1..]).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_altered_ones_are_unreadable(
            bytes in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, by in 1..=255_u8,
        ) {
            let client = Cipher::new(&key()).unwrap();
            prop_assert_eq!(client.open(&bytes), Err(Unreadable));
            let mut sealed = agent().seal(&bytes).unwrap();
            prop_assert_eq!(client.open(&sealed).unwrap(), bytes);
            let at = at.index(sealed.len());
            sealed[at] ^= by;
            prop_assert_eq!(client.open(&sealed), Err(Unreadable));
        }
    }
}
