//! Hashes and bytes as text.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// Bytes as hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// SHA-256 of a text, in hex digits.
#[must_use]
pub fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text))
}
