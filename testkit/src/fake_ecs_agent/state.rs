//! The state that the agent and the three services share: one task and its sessions.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::faults::{AgentFault, NetworkFaults};

/// The name of the task's cluster.
pub const CLUSTER: &str = "production";
/// The ID of the task.
pub const TASK: &str = "0123456789abcdef0123456789abcdef";
/// The name of the task's container.
pub const CONTAINER: &str = "app";
/// The owner of the active sessions, as Systems Manager returns it.
pub const OWNER: &str = "arn:aws:sts::222222222222:assumed-role/Stepward/acme@execution-1";
pub(super) const RUNTIME_ID: &str = "0123456789abcdef-1";
pub(super) const KEY: &str = "arn:aws:kms:eu-west-1:222222222222:key/0e1d";

/// The state of the agent and of the three services.
pub(super) struct State {
    pub(super) stream: String,
    pub(super) network: NetworkFaults,
    pub(super) fault: AgentFault,
    pub(super) encrypts: bool,
    pub(super) task_status: &'static str,
    pub(super) sessions: HashMap<String, Session>,
    /// Data keys by their ciphertext: the key and its encryption context.
    pub(super) data_keys: HashMap<String, (Vec<u8>, Value)>,
    /// All calls: operation and body.
    pub(super) calls: Vec<(String, Value)>,
    /// The client's violations of the protocol.
    pub(super) violations: Vec<String>,
}

/// A session that ECS has started.
pub(super) struct Session {
    pub(super) command: String,
    /// The required token. If it is empty, any token is accepted.
    pub(super) token: String,
    pub(super) terminated: watch::Sender<bool>,
    pub(super) has_ended: bool,
}

impl Session {
    /// Returns a session that another fake of ECS has started. Its URL's query contains the command
    /// in hexadecimal, as the local cloud writes it
    /// (`local-cloud/stepward_local_cloud/ecs_exec.py`).
    pub(super) fn from_query(query: &str) -> Self {
        let digits = query.strip_prefix("command=").unwrap_or_default();
        let bytes = (0..digits.len() / 2)
            .map(|index| u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).unwrap_or(b'?'));
        let command = String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned();
        Self {
            command,
            token: String::new(),
            terminated: watch::Sender::new(false),
            has_ended: false,
        }
    }
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
