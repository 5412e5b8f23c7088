//! Dispatches of the job `nodes/dispatch`: how they are watched, and their results.

pub(crate) mod names;
mod state;
mod watch;

pub use state::read_dispatch_state;
pub(crate) use watch::watch_dispatch;
