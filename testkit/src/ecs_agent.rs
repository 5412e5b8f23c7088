//! The agent's half of ECS Exec on loopback, with as much of ECS, Systems Manager and KMS as a
//! session needs.
//!
//! It really runs the commands, in a terminal, as this machine's user. It is written from what is
//! known of AWS's agent, not from the client that is tested with it, and shares no code with that.
//! What goes over its WebSocket can be lost, doubled and put out of order, by a seed.

#![expect(
    clippy::expect_used,
    reason = "without a server there is no test; the message says so"
)]

mod api;
mod frame;
mod mishap;
mod shlex;
mod state;
mod worker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use self::mishap::{Mishap, Weather};
pub use self::shlex::split;
pub use self::state::{CLUSTER, CONTAINER, OWNER, TASK};
use self::state::{State, lock};
use crate::http::Server;

/// A task with one container and its agent, until it is dropped.
pub struct EcsAgent {
    api: Server,
    state: Arc<Mutex<State>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Default for EcsAgent {
    fn default() -> Self {
        Self::new(Mishap::None, Weather::default(), false)
    }
}

impl EcsAgent {
    /// An agent to which this happens, on a network like this, that encrypts or not.
    ///
    /// # Panics
    /// Without a free port.
    #[must_use]
    pub fn new(mishap: Mishap, weather: Weather, encrypts: bool) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        listener
            .set_nonblocking(true)
            .expect("a socket that Tokio takes");
        let address = listener.local_addr().expect("the socket has an address");
        let state = Arc::new(Mutex::new(State {
            stream: format!("ws://{address}/v1/data-channel"),
            weather,
            mishap,
            encrypts,
            task_status: "RUNNING",
            sessions: HashMap::new(),
            data_keys: HashMap::new(),
            calls: Vec::new(),
            wrongs: Vec::new(),
        }));
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a Tokio runtime");
            runtime.block_on(serve(listener, shared, stopped));
        });
        let shared = Arc::clone(&state);
        Self {
            api: Server::start(move |call| api::answer(&shared, call)),
            state,
            stop,
            thread: Some(thread),
        }
    }

    /// Where ECS, Systems Manager and KMS are, for `AWS_ENDPOINT_URL`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.api.address())
    }

    /// Where the streams of sessions are; those that another ECS has given may be there too.
    #[must_use]
    pub fn stream(&self) -> String {
        lock(&self.state).stream.clone()
    }

    /// The bodies of the calls of an operation so far, as in `TerminateSession`.
    #[must_use]
    pub fn calls(&self, operation: &str) -> Vec<Value> {
        let state = lock(&self.state);
        state
            .calls
            .iter()
            .filter(|(of, _)| of == operation)
            .map(|(_, body)| body.clone())
            .collect()
    }

    /// The sessions that were given and not terminated.
    #[must_use]
    pub fn left_open(&self) -> Vec<String> {
        let state = lock(&self.state);
        let open = state
            .sessions
            .iter()
            .filter(|(_, session)| !*session.terminated.borrow());
        open.map(|(id, _)| id.clone()).collect()
    }

    /// What the client did that it must not do.
    #[must_use]
    pub fn wrongs(&self) -> Vec<String> {
        lock(&self.state).wrongs.clone()
    }

    /// The tokens of all sessions, which nobody may show.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        lock(&self.state)
            .sessions
            .values()
            .map(|session| session.token.clone())
            .collect()
    }
}

impl Drop for EcsAgent {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        let _ = self.thread.take().map(JoinHandle::join);
        // Commands run on this machine, and so their claims are left here.
        let state = lock(&self.state);
        for session in state.sessions.values() {
            let arguments = split(&session.command).unwrap_or_default();
            for claim in arguments
                .iter()
                .filter(|argument| argument.starts_with("/tmp/.stepward-"))
            {
                let _ = std::fs::remove_file(claim);
            }
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    state: Arc<Mutex<State>>,
    mut stopped: watch::Receiver<bool>,
) {
    let listener = TcpListener::from_std(listener).expect("a socket that Tokio takes");
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(worker::connected(stream, Arc::clone(&state)));
                }
            }
            _ = stopped.changed() => return,
        }
    }
}
