//! Dispatches of the job `nodes/dispatch`: followed to their end, and what came of them.

mod state;
mod watch;

pub use state::dispatched;
pub(crate) use watch::watch;
