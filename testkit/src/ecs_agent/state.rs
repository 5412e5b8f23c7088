//! The one task and its sessions, as the agent and the three services know them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::mishap::{Mishap, Weather};

/// The cluster of the one task.
pub const CLUSTER: &str = "production";
/// The one task.
pub const TASK: &str = "0123456789abcdef0123456789abcdef";
/// Its one container.
pub const CONTAINER: &str = "app";
/// Who the active sessions belong to, as Systems Manager shows them.
pub const OWNER: &str = "arn:aws:sts::222222222222:assumed-role/Stepward/acme@execution-1";
pub(super) const RUNTIME_ID: &str = "0123456789abcdef-1";
pub(super) const KEY: &str = "arn:aws:kms:eu-west-1:222222222222:key/0e1d";

/// What the agent and the three services know.
pub(super) struct State {
    pub(super) stream: String,
    pub(super) weather: Weather,
    pub(super) mishap: Mishap,
    pub(super) encrypts: bool,
    pub(super) task_status: &'static str,
    pub(super) sessions: HashMap<String, Session>,
    /// Data keys by their ciphertext: the key, and what it is bound to.
    pub(super) data_keys: HashMap<String, (Vec<u8>, Value)>,
    /// Calls of the API: operation and body.
    pub(super) calls: Vec<(String, Value)>,
    /// What the client did that it must not do.
    pub(super) wrongs: Vec<String>,
}

/// A session that ECS has given.
pub(super) struct Session {
    pub(super) command: String,
    /// Empty: any.
    pub(super) token: String,
    pub(super) terminated: watch::Sender<bool>,
    pub(super) is_over: bool,
}

impl Session {
    /// A session that another ECS has given, with the command in hexadecimal in its URL's query:
    /// the local cloud does that (`local-cloud/stepward_local_cloud/ecs_exec.py`).
    pub(super) fn of_a_stranger(query: &str) -> Self {
        let digits = query.strip_prefix("command=").unwrap_or_default();
        let bytes = (0..digits.len() / 2)
            .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap_or(b'?'));
        let command = String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned();
        Self {
            command,
            token: String::new(),
            terminated: watch::Sender::new(false),
            is_over: false,
        }
    }
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
