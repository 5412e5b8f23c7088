//! What a status of a database means, and what RDS refuses because of it.

use stepward::{ErrorName, StepError};

/// What RDS answers when the state of something forbids a call. `Invalid…` is not about the
/// parameters here.
const FORBIDS: [&str; 5] = [
    "InvalidDBClusterStateFault",
    "InvalidDBInstanceState",
    "InvalidDBShardGroupState",
    "InvalidSubnet",
    "InvalidVPCNetworkStateFault",
];
/// What RDS answers for what it never stops and starts: "DB instances are not eligible for stopping
/// and starting".
pub(crate) const INELIGIBLE: &str = "InvalidParameterCombination";

/// A state that databases rest in, and those from which RDS can be asked for it.
#[derive(Clone, Debug)]
pub struct Goal {
    /// Who has one of these statuses is there.
    pub(crate) reached: &'static [&'static str],
    /// Who has one of these is acted upon; those in between are waited for.
    pub(crate) act_on: &'static [&'static str],
    /// The state in a word: "stopped".
    pub(crate) word: &'static str,
    /// What the step does, for the log: "Stopping".
    pub(crate) doing: &'static str,
}

/// Up and ready. An instance whose storage is being optimized or filled from a snapshot is fully
/// operational.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/accessing-monitoring.html>
pub const AVAILABLE: Goal = Goal {
    reached: &[
        "available",
        "storage-initialization",
        "storage-optimization",
    ],
    act_on: &["stopped", "inaccessible-encryption-credentials-recoverable"],
    word: "available",
    doing: "Starting",
};

/// Stopped, until somebody or AWS starts it again.
pub const STOPPED: Goal = Goal {
    reached: &["stopped"],
    act_on: &["available"],
    word: "stopped",
    doing: "Stopping",
};

/// Whether RDS refused because of a state.
#[must_use]
pub fn is_forbidden(error: &StepError) -> bool {
    FORBIDS.iter().any(|code| error.has_code(code))
}

/// RDS's refusal because of a state as a `Conflict`, with what to do about it.
#[must_use]
pub fn refused(error: StepError, advice: &str) -> StepError {
    StepError {
        name: ErrorName::Conflict,
        message: format!("{}; {advice}", error.message),
        ..error
    }
}

/// What a status means that does not pass by itself, and what to do; `None` for one that is well,
/// or will be.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/accessing-monitoring.html>
#[must_use]
pub fn trouble(status: &str) -> Option<&'static str> {
    Some(match status {
        "cloning-failed" | "migration-failed" => "it could not be made; delete it and make it anew",
        "deleted" | "deleting" => {
            "it is being deleted; where it is still needed, restore it from a snapshot"
        }
        "failed" => "RDS cannot recover it; restore it to a point in time or from a snapshot",
        "inaccessible-encryption-credentials" => {
            "its KMS key cannot be used and it does not come back; make the key usable and restore it from a backup"
        }
        "inaccessible-encryption-credentials-recoverable" => {
            "its KMS key cannot be used; enable the key, then start it within seven days"
        }
        "incompatible-network" => {
            "RDS cannot bring it up in its VPC, for lack of free IP addresses say; mend subnets and security groups"
        }
        "incompatible-option-group" => {
            "its option group cannot be applied; change the group's options, or the group"
        }
        "incompatible-parameters" => {
            "it does not start with the values in its parameter group; reset or mend them, then reboot it"
        }
        "incompatible-restore" | "restore-error" => {
            "it could not be restored; delete it and restore another one"
        }
        "insufficient-capacity" => {
            "AWS has no capacity for it there; make it in another zone or of another class"
        }
        "storage-full" => "its storage is used up; give it more allocated storage",
        "upgrade_failed" => {
            "its engine could not be upgraded; its recent events and its upgrade log say why"
        }
        other if other.starts_with("incompatible-") => {
            "it does not fit its settings; its recent events say why"
        }
        _ => return None,
    })
}
