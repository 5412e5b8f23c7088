//! Where a call goes on.

use serde::{Deserialize, Serialize};
use stepward::{Resume, StepError};

use crate::report::Report;
use crate::transfer::Begin;

/// Where a run goes on.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Position {
    /// The key up to which all is decided, and over but for what follows.
    pub after: Option<String>,
    /// What is not over yet.
    pub unfinished: Vec<Unfinished>,
    /// What has been done so far.
    pub report: Report,
}

/// An object that goes on in another call.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Unfinished {
    /// Its key in the source.
    pub key: String,
    /// Its size when it was begun, in bytes.
    pub size: u64,
    /// Its entity tag when it was begun, if it is an object.
    pub etag: Option<String>,
    /// How far it is.
    pub begin: Begin,
}

/// The position that a call goes on from.
///
/// # Errors
/// `InvalidInput` where it is none.
pub fn position(resume: Option<&Resume>) -> Result<Position, StepError> {
    resume
        .map(Resume::state)
        .transpose()
        .map(Option::unwrap_or_default)
}
