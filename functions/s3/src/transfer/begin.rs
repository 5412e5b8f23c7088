//! What another call goes on with.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::Partial;
use crate::multipart::Begun;

/// A transfer that goes on in another call.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// A multipart upload, from a file or from another bucket.
    Upload(Begun),
    /// A file that is not whole yet.
    Download(Partial),
}

/// How far a transfer has got in this call, for when it is cut off: what has not got any further in a whole call is not
/// tried in another one.
#[derive(Debug, Default)]
pub struct Reached(Mutex<Option<Begin>>);

impl Reached {
    /// Notes what the next call could go on with; `None` where that is nothing.
    pub fn note(&self, begin: Option<Begin>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = begin;
    }

    pub(super) fn take(&self) -> Option<Begin> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Begin {
    /// The multipart upload, where it is one.
    pub(super) fn upload(self) -> Option<Begun> {
        match self {
            Self::Upload(begun) => Some(begun),
            Self::Download(_) => None,
        }
    }
}
