//! Where the next call continues.

use serde::{Deserialize, Serialize};
use stepward::{Resume, StepError};

use crate::report::Report;
use crate::transfer::PartialTransfer;

/// The resume state of a transfer or deletion.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Position {
    /// The last key that was decided. All keys up to it are finished, except `unfinished`.
    pub after: Option<String>,
    /// The transfers that continue in the next call.
    pub unfinished: Vec<UnfinishedTransfer>,
    /// The results so far.
    pub report: Report,
}

/// The transfer of an object that continues in the next call.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct UnfinishedTransfer {
    /// The key in the source.
    pub key: String,
    /// The size when the transfer started, in bytes.
    pub size: u64,
    /// The entity tag when the transfer started, if the source is an object.
    pub etag: Option<String>,
    /// The parts that are finished.
    #[serde(rename = "begin")]
    pub partial: PartialTransfer,
}

/// The position at which a call continues; the start if there is no earlier call.
///
/// # Errors
/// `InvalidInput` if the resume state is not a position.
pub fn position_from(resume: Option<&Resume>) -> Result<Position, StepError> {
    resume
        .map(Resume::state)
        .transpose()
        .map(Option::unwrap_or_default)
}
