//! Hashes, and bytes as hexadecimal text.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The SHA-256 hash of a text, as hexadecimal digits.
#[must_use]
pub fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text))
}
