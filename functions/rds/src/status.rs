//! The meaning of database statuses, and the refusals that depend on them.

use stepward::{ErrorName, StepError};

/// The error codes of requests that RDS refuses because of a state. Their `Invalid…` does not mean
/// the parameters.
const STATE_ERROR_CODES: [&str; 5] = [
    "InvalidDBClusterStateFault",
    "InvalidDBInstanceState",
    "InvalidDBShardGroupState",
    "InvalidSubnet",
    "InvalidVPCNetworkStateFault",
];
/// The error code for databases that RDS never stops and starts: "DB instances are not eligible for
/// stopping and starting".
pub(crate) const INELIGIBLE_CODE: &str = "InvalidParameterCombination";

/// A stable state of databases, and the statuses that lead to it.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The statuses of a database that has reached the state.
    pub(crate) reached: &'static [&'static str],
    /// The statuses in which RDS accepts the request. The step waits while a database has a status
    /// of neither list.
    pub(crate) accepting: &'static [&'static str],
    /// The state in messages: "stopped".
    pub(crate) status: &'static str,
    /// The step's activity in the log: "Stopping".
    pub(crate) activity: &'static str,
}

/// The database accepts connections. An instance is fully operational while RDS optimizes its
/// storage or fills it from a snapshot.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/accessing-monitoring.html>
pub const AVAILABLE: Goal = Goal {
    reached: &[
        "available",
        "storage-initialization",
        "storage-optimization",
    ],
    accepting: &["stopped", "inaccessible-encryption-credentials-recoverable"],
    status: "available",
    activity: "Starting",
};

/// The database is stopped until a person or AWS starts it again.
pub const STOPPED: Goal = Goal {
    reached: &["stopped"],
    accepting: &["available"],
    status: "stopped",
    activity: "Stopping",
};

/// Whether RDS refused a request because of a state.
#[must_use]
pub fn is_refused_for_state(error: &StepError) -> bool {
    STATE_ERROR_CODES.iter().any(|code| error.has_code(code))
}

/// Converts a refusal of RDS to a `Conflict` with advice.
#[must_use]
pub fn conflict_with_advice(error: StepError, advice: &str) -> StepError {
    StepError {
        name: ErrorName::Conflict,
        message: format!("{}; {advice}", error.message),
        ..error
    }
}

/// The meaning of a status that does not change without help, and what to do. `None` for a healthy
/// status and for one that passes.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/accessing-monitoring.html>
#[must_use]
pub fn trouble_advice(status: &str) -> Option<&'static str> {
    Some(match status {
        "cloning-failed" | "migration-failed" => {
            "RDS could not create it; delete it and create it again"
        }
        "deleted" | "deleting" => {
            "it is being deleted; if you still need it, restore it from a snapshot"
        }
        "failed" => "RDS cannot recover it; restore it to a point in time or from a snapshot",
        "inaccessible-encryption-credentials" => {
            "RDS cannot use its KMS key, and the database cannot be recovered; make the key usable \
             and restore the database from a backup"
        }
        "inaccessible-encryption-credentials-recoverable" => {
            "RDS cannot use its KMS key; enable the key, then start the database within seven days"
        }
        "incompatible-network" => {
            "RDS cannot start it in its VPC, for example because the subnets have no free IP \
             addresses; fix the subnets and security groups"
        }
        "incompatible-option-group" => {
            "RDS cannot apply its option group; change the options of the group, or use another \
             group"
        }
        "incompatible-parameters" => {
            "RDS cannot start it with the values in its parameter group; reset or correct the \
             values, then reboot it"
        }
        "incompatible-restore" | "restore-error" => {
            "RDS could not restore it; delete it and restore another one"
        }
        "insufficient-capacity" => {
            "AWS has no capacity for it in its Availability Zone; create it in another zone or \
             with another class"
        }
        "storage-full" => "its storage is full; increase its allocated storage",
        "upgrade_failed" => {
            "RDS could not upgrade its engine; read its recent events and its upgrade log"
        }
        status if status.starts_with("incompatible-") => {
            "its settings are incompatible; read its recent events"
        }
        _ => return None,
    })
}
