//! The shared parts of the SSM steps: an engine that runs a command on any number of nodes through
//! Run Command.
//!
//! A step builds a [`Plan`](plan::Plan) from its parameters, most of which are defined in
//! [`params`], and passes it to [`engine`] together with a [`Payload`](payload::Payload), the text
//! that the nodes run. The engine works through the plan batch by batch:
//!
//! | module | topic |
//! |---|---|
//! | [`state`] | what the engine knows about the run, saved from call to call |
//! | [`eligibility`] | which nodes SSM can send a command to |
//! | `schedule` | which batches are due |
//! | `send`, `commands`, `poll`, `recovery` | sending, listing, polling and finding commands |
//! | [`outcome`] | what SSM's status texts mean |
//! | [`results`], `full_output` | the final result of every node, and outputs that SSM truncated |
//! | [`quote`], [`node_script`] | the scripts that run on a node |
//!
//! # No batch is sent twice
//!
//! `SendCommand` has no client token, so each batch has a comment that no other batch of any
//! execution has. Before a call sends its first command, it lists the commands that SSM received
//! since the previous call and takes over those that have a comment of this run. After a call has
//! sent a command, it returns immediately, so the next call knows the command's ID.
//!
//! The SDK repeats a `SendCommand` request only when SSM throttled it
//! ([`RetryThrottlingOnly`](stepward::runtime::retry_policy::RetryThrottlingOnly)). When a request
//! gets no response, the next call searches for its command before it sends the batch again.
//!
//! One gap remains, because SSM does not document how soon `ListCommands` shows a new command. A
//! batch could run twice if that takes longer than the time between two calls: the wait of the
//! state machine plus the new call's requests to DynamoDB and STS, or five seconds after a request
//! without a response.

mod commands;
pub mod eligibility;
pub mod engine;
mod error;
mod full_output;
pub mod node_script;
pub mod outcome;
pub mod params;
pub mod payload;
pub mod plan;
mod poll;
pub mod quote;
mod recovery;
pub mod results;
mod schedule;
mod send;
pub mod state;
pub mod steps;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use stepward::{ErrorName, FunctionConfig};

/// How long a step may take: 48 hours for the longest command, and one hour for the agents to take
/// it and for the last poll.
pub const TIMEOUT: Duration = Duration::from_hours(49);

/// The maximum number of concurrent requests to SSM. SSM's request limits apply to the whole
/// account, so other users of the account need a part of them.
pub(crate) const MAX_CONCURRENT_REQUESTS: usize = 4;

/// Time and memory of the steps' functions. A call sends commands for at most 20 seconds and reads
/// SSM's lists page by page. The last call needs the memory: it reads the results of up to 25,000
/// nodes, with up to 4 MiB of output.
pub const FUNCTION: FunctionConfig = FunctionConfig {
    timeout_seconds: 300,
    memory_mib: 1024,
    local_files: false,
};

/// What error names mean for these steps.
pub const ERRORS: &[(ErrorName, &str)] = &[
    (
        ErrorName::StepFailed,
        "The command did not succeed on every node. The message has the counts and the first nodes \
         with reasons; fix these nodes and run the step on them again.",
    ),
    (
        ErrorName::Internal,
        "One possible cause: AWS refused to return the status of commands that the step already \
         sent. Open the commands in the Systems Manager console to see how they ended.",
    ),
    (
        ErrorName::Conflict,
        "The account has too many recent commands to search, or nodes connected and disconnected \
         while the step sent a command. Run the step again later.",
    ),
    (
        ErrorName::Throttled,
        "The account's request limits of SSM are exhausted. Commands that were sent continue, and \
         a retry finds them.",
    ),
    (
        ErrorName::TimedOut,
        "The step did not finish within 49 hours. Its running commands were cancelled; check the \
         nodes before you run it again.",
    ),
];
