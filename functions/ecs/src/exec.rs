//! ECS Exec: the client's half of the SSM data channel.
//!
//! `ecs:ExecuteCommand` gives a session, whose data channel is a WebSocket. Everything on it but
//! the opening is binary messages ([`codec`]), numbered, acknowledged and sent again until they are
//! ([`stream`]). The agent in the container may ask for a handshake ([`handshake`]) and, with a KMS
//! key, for encryption ([`cipher`]); [`conversation`] puts these together without any input or
//! output of its own, so that every byte that can come in is tried in tests. The command runs in a
//! terminal that tells no exit status: [`wrapper`] makes it say its own, and [`transcript`] reads
//! that. [`channel`] opens the WebSocket ([`signing`]) and holds the conversation on it;
//! [`session`] gets the session, and ends it on every way out; [`outcome`] says what became of the
//! command.

pub mod channel;
pub mod cipher;
pub mod codec;
pub mod conversation;
pub mod handshake;
pub mod outcome;
pub mod ready;
pub mod session;
pub mod signing;
pub mod stream;
pub mod transcript;
#[cfg(test)]
mod vectors;
pub mod wrapper;
