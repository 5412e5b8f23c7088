//! What another call goes on with.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::body::Checksum;

/// A transfer that goes on in another call.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// A multipart upload, from a file or from another bucket.
    Upload(Begun),
    /// A file that is not whole yet.
    Download(Partial),
}

/// A multipart upload that goes on in another call.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Begun {
    /// S3's ID of it.
    pub upload_id: String,
    /// What it is of: when this has changed, its parts are of no use.
    pub of: String,
}

/// A file that has its first `bytes`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Partial {
    pub(super) etag: Option<String>,
    pub(super) bytes: u64,
    /// As text: of a number of 64 bits a state machine keeps 53.
    pub(super) checksum: String,
    /// Of a move whose file is whole and has its name: how many bytes of it have been read again,
    /// and their checksum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) read: Option<(u64, String)>,
}

impl Partial {
    pub(super) fn of(etag: Option<&String>, received: Checksum) -> Self {
        Self {
            etag: etag.cloned(),
            bytes: received.bytes,
            checksum: received.text(),
            read: None,
        }
    }
}

/// How far a transfer has got in this call, for when it is cut off: what has not got any further in
/// a whole call is not tried in another one.
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
