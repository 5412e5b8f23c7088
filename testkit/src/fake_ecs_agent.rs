//! A fake of the ECS Exec agent on loopback, with the operations of ECS, Systems Manager and KMS
//! that a session needs.
//!
//! The fake runs the commands in a terminal, as the user of the test. It is written from the known
//! behavior of AWS's agent. It shares no code with the client that it tests. It can lose, duplicate
//! and reorder the frames of its WebSocket; a seed decides which.

#![expect(clippy::expect_used, reason = "a test cannot run without its server")]

mod api;
mod faults;
mod frame;
mod shlex;
mod state;
mod worker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use self::faults::{AgentFault, NetworkFaults};
pub use self::shlex::split;
pub use self::state::{CLUSTER, CONTAINER, OWNER, TASK};
use self::state::{State, lock};
use crate::http::Server;

/// A running task with one container and its agent. It stops when dropped.
pub struct FakeEcsAgent {
    api: Server,
    state: Arc<Mutex<State>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Default for FakeEcsAgent {
    fn default() -> Self {
        Self::new(AgentFault::None, NetworkFaults::default(), false)
    }
}

impl FakeEcsAgent {
    /// Starts an agent with a fault and with a faulty network. `encrypts` means that it encrypts
    /// its sessions with KMS.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn new(fault: AgentFault, network: NetworkFaults, encrypts: bool) -> Self {
        let listener =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port on loopback is free");
        listener
            .set_nonblocking(true)
            .expect("the socket supports non-blocking mode");
        let address = listener.local_addr().expect("the socket has an address");
        let state = Arc::new(Mutex::new(State {
            stream: format!("ws://{address}/v1/data-channel"),
            network,
            fault,
            encrypts,
            task_status: "RUNNING",
            sessions: HashMap::new(),
            data_keys: HashMap::new(),
            calls: Vec::new(),
            violations: Vec::new(),
        }));
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("Tokio starts");
            runtime.block_on(accept_connections(listener, shared, stopped));
        });
        let shared = Arc::clone(&state);
        Self {
            api: Server::start(move |call| api::handle_call(&shared, call)),
            state,
            stop,
            thread: Some(thread),
        }
    }

    /// Returns the endpoint of ECS, Systems Manager and KMS, for `AWS_ENDPOINT_URL`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.api.address())
    }

    /// Returns the base URL of the session streams. A second fake of ECS can use it for its own
    /// sessions.
    #[must_use]
    pub fn stream_base_url(&self) -> String {
        lock(&self.state).stream.clone()
    }

    /// Returns the bodies of all calls of an operation so far, for example `TerminateSession`.
    #[must_use]
    pub fn calls(&self, operation: &str) -> Vec<Value> {
        let state = lock(&self.state);
        state
            .calls
            .iter()
            .filter(|(name, _)| name == operation)
            .map(|(_, body)| body.clone())
            .collect()
    }

    /// Returns the IDs of the sessions that were started and not terminated.
    #[must_use]
    pub fn open_sessions(&self) -> Vec<String> {
        let state = lock(&self.state);
        let open = state
            .sessions
            .iter()
            .filter(|(_, session)| !*session.terminated.borrow());
        open.map(|(id, _)| id.clone()).collect()
    }

    /// Returns the client's violations of the protocol.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        lock(&self.state).violations.clone()
    }

    /// Returns the tokens of all sessions. They must not appear in any output.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        lock(&self.state)
            .sessions
            .values()
            .map(|session| session.token.clone())
            .collect()
    }
}

impl Drop for FakeEcsAgent {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        let _ = self.thread.take().map(JoinHandle::join);
        // The commands ran on this machine, so their claim files are here.
        let state = lock(&self.state);
        for session in state.sessions.values() {
            let arguments = split(&session.command).unwrap_or_default();
            for claim_file in arguments
                .iter()
                .filter(|argument| argument.starts_with("/tmp/.stepward-"))
            {
                let _ = std::fs::remove_file(claim_file);
            }
        }
    }
}

async fn accept_connections(
    listener: std::net::TcpListener,
    state: Arc<Mutex<State>>,
    mut stopped: watch::Receiver<bool>,
) {
    let listener = TcpListener::from_std(listener).expect("Tokio accepts the socket");
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(worker::serve_connection(stream, Arc::clone(&state)));
                }
            }
            _ = stopped.changed() => return,
        }
    }
}
