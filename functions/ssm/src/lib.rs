//! What the SSM steps share: one engine that runs a command on any number of nodes through Run
//! Command.
//!
//! A step makes a [`Plan`](plan::Plan) from its parameters, most of which are those of [`params`],
//! and hands it to [`engine`] with a [`Payload`](payload::Payload): what is run, as text that may
//! be made anew for every batch. The engine keeps its position in [`state`], asks SSM about nodes
//! in [`nodes`], reads results in [`results`], and makes sense of SSM's words in [`outcome`].
//! [`quote`] and [`deliver`] write what runs on the node.
//!
//! # Nothing is sent twice
//!
//! `SendCommand` has no client token, so every batch has a comment that no other batch of any
//! execution has. Each call lists the commands that SSM has had since the last answer before it
//! sends the first one, and takes over those that have a comment of its own; after it has sent
//! anything it answers at once, so that the next call knows their IDs. The SDK repeats the request
//! only where SSM has refused it for now
//! ([`RetryThrottlingOnly`](stepward::runtime::resend::RetryThrottlingOnly)), and a request without an answer
//! is looked for by the next look before it is made again. What remains is that SSM does not say
//! how soon `ListCommands` shows a new command: a batch could run twice only where that takes
//! longer than the wait of the state machine and the new call's way through DynamoDB and STS, or
//! the five seconds after a request without an answer.

pub mod deliver;
pub mod engine;
mod error;
mod look;
pub mod nodes;
pub mod outcome;
mod output;
pub mod params;
pub mod payload;
pub mod plan;
pub mod quote;
pub mod results;
mod send;
pub mod state;
pub mod steps;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use stepward::{ErrorName, FunctionConfig};

/// How long a step may be at it: the longest command, 48 hours, with an hour to be taken and looked
/// at.
pub const TIMEOUT: Duration = Duration::from_hours(49);

/// How many requests are made of SSM at once. Its limits are the account's and shared with
/// everything else there.
pub(crate) const AT_ONCE: usize = 4;

/// What the steps' functions are given: a call sends for 20 seconds at most and looks by pages, but
/// the last one reads the results of up to 25,000 nodes, with up to 4 MiB of outputs.
pub const FUNCTION: FunctionConfig = FunctionConfig {
    timeout_seconds: 300,
    memory_mib: 1024,
    local_files: false,
};

/// What errors mean with these steps.
pub const ERRORS: &[(ErrorName, &str)] = &[
    (
        ErrorName::StepFailed,
        "It did not succeed on every node; the message has counts, and the first nodes with reasons.",
    ),
    (
        ErrorName::Internal,
        "Also where AWS refuses to tell how commands go that were sent: see their pages in the console.",
    ),
    (
        ErrorName::Conflict,
        "SSM has too many commands to look through, or nodes come and go; run it again later.",
    ),
    (
        ErrorName::Throttled,
        "SSM's limits are the account's and are used up; what was sent goes on and is found again.",
    ),
    (
        ErrorName::TimedOut,
        "It was not over after 49 hours, and what was under way was cancelled.",
    ),
];
