//! Encryption of a session with a KMS key: AES-256-GCM, with one key for each direction.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

/// The bytes of the data key to request from KMS: two keys of 32 bytes.
pub const DATA_KEY_BYTES: usize = 64;

/// Both keys of a session.
pub struct Cipher {
    agent_key: RandomizedNonceKey,
    client_key: RandomizedNonceKey,
}

/// A payload could not be decrypted, because it was encrypted with another key or altered; or it
/// could not be encrypted. The error has no details on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a payload of the agent cannot be decrypted with the session's key")]
pub struct CipherError;

impl Cipher {
    /// Creates both keys from a data key: its first half is the agent's key, its second half the
    /// client's. Returns `None` unless the data key has [`DATA_KEY_BYTES`].
    #[must_use]
    pub fn new(data_key: &[u8]) -> Option<Self> {
        let data_key: &[u8; DATA_KEY_BYTES] = data_key.try_into().ok()?;
        let (agent_half, client_half) = data_key.split_at(DATA_KEY_BYTES / 2);
        let create_key = |bytes| RandomizedNonceKey::new(&AES_256_GCM, bytes).ok();
        Some(Self {
            agent_key: create_key(agent_half)?,
            client_key: create_key(client_half)?,
        })
    }

    /// Decrypts a payload from the agent: a nonce, the ciphertext and a tag.
    ///
    /// # Errors
    /// [`CipherError`].
    pub fn decrypt(&self, payload: &[u8]) -> Result<Vec<u8>, CipherError> {
        let (nonce, text) = payload
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(CipherError)?;
        let mut text = text.to_vec();
        let length = self
            .agent_key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::empty(),
                &mut text,
            )
            .map_err(|_| CipherError)?
            .len();
        text.truncate(length);
        Ok(text)
    }

    /// Encrypts a payload for the agent, with a random nonce.
    ///
    /// # Errors
    /// [`CipherError`] if the system's random source fails.
    pub fn encrypt(&self, text: &[u8]) -> Result<Vec<u8>, CipherError> {
        let mut text = text.to_vec();
        let nonce = self
            .client_key
            .seal_in_place_append_tag(Aad::empty(), &mut text)
            .map_err(|_| CipherError)?;
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

    fn data_key() -> Vec<u8> {
        (0..64).collect()
    }

    /// The agent's cipher: the same keys in the opposite order.
    fn agent_cipher() -> Cipher {
        Cipher::new(&[&data_key()[32..], &data_key()[..32]].concat()).unwrap()
    }

    #[test]
    fn each_direction_has_its_own_key_and_random_nonces() {
        let (client, agent) = (Cipher::new(&data_key()).unwrap(), agent_cipher());
        let encrypted = client.encrypt(b"keys").unwrap();
        assert_eq!(agent.decrypt(&encrypted).unwrap(), b"keys");
        assert_eq!(client.decrypt(&encrypted), Err(CipherError));
        assert_ne!(client.encrypt(b"keys").unwrap(), encrypted);
        assert!(Cipher::new(&data_key()[1..]).is_none());
    }

    proptest! {
        #[test]
        fn altered_bytes_cannot_be_decrypted(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            index: prop::sample::Index,
            mask in 1..=255_u8,
        ) {
            let client = Cipher::new(&data_key()).unwrap();
            prop_assert_eq!(client.decrypt(&bytes), Err(CipherError));
            let mut encrypted = agent_cipher().encrypt(&bytes).unwrap();
            prop_assert_eq!(client.decrypt(&encrypted).unwrap(), bytes);
            let index = index.index(encrypted.len());
            encrypted[index] ^= mask;
            prop_assert_eq!(client.decrypt(&encrypted), Err(CipherError));
        }
    }
}
