//! What the RDS steps share: names, the meaning of statuses, and starting or stopping a database.

mod change;
mod database;
mod error;
mod identifier;
mod snapshot;
mod status;
pub mod steps;
#[cfg(test)]
mod testing;

use std::time::Duration;

pub use change::{DatabaseChange, drive_to_state};
pub use database::{Database, Member, describe_instance};
pub use identifier::{Identifier, MAX_DATABASE_NAME};
pub use status::{
    AVAILABLE, Goal, STOPPED, conflict_with_advice, is_refused_for_state, trouble_advice,
};

/// The first interval between two polls. RDS takes minutes for most changes.
pub const POLL_INTERVAL: Duration = Duration::from_secs(15);
