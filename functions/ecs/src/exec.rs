//! ECS Exec: the client side of the SSM data channel.
//!
//! `ecs:ExecuteCommand` returns a session, whose data channel is a WebSocket. After the opening
//! message, everything on the data channel is binary agent messages ([`codec`]). Stream data is
//! numbered, and the sender repeats it until the receiver acknowledges it ([`stream`]).
//!
//! The agent in the container may request a handshake ([`handshake`]) and, if the cluster has a KMS
//! key, encryption ([`cipher`]). [`data_channel`] combines these parts without any I/O, so that
//! tests can feed it any bytes.
//!
//! The command runs in a terminal, which reports no exit status. [`wrapper`] surrounds the command
//! with a script that prints the exit status, and [`transcript`] reads it from the output.
//!
//! [`readiness`] checks the task before a session is requested. [`websocket`] opens the WebSocket,
//! with a request that [`signing`] signs, and runs the data channel on it. [`session`] requests the
//! session and always terminates it. [`outcome`] turns the result into a status and a message.

pub mod cipher;
pub mod codec;
pub mod data_channel;
pub mod handshake;
pub mod outcome;
pub mod readiness;
pub mod session;
pub mod signing;
pub mod stream;
pub mod transcript;
#[cfg(test)]
mod vectors;
pub mod websocket;
pub mod wrapper;
