//! Partial transfers that the next call continues.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::body::Checksum;

/// A partial transfer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartialTransfer {
    /// A multipart upload, of a file or of an object in another bucket.
    Upload(StartedUpload),
    /// An incomplete file.
    Download(PartialDownload),
}

/// A multipart upload that was started.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StartedUpload {
    /// S3's ID of the upload.
    pub upload_id: String,
    /// The version of the source. If the source has another one, the parts are useless.
    #[serde(rename = "of")]
    pub source_version: String,
}

/// A file of which the first bytes are written.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PartialDownload {
    /// The entity tag of the object.
    pub(super) etag: Option<String>,
    /// How many bytes are written.
    pub(super) bytes: u64,
    /// Their checksum, as text: a state machine keeps only 53 of a number's 64 bits.
    pub(super) checksum: String,
    /// For a move whose file is complete: how many bytes of it were verified, and their checksum.
    #[serde(rename = "read", default, skip_serializing_if = "Option::is_none")]
    pub(super) verified: Option<(u64, String)>,
}

impl PartialDownload {
    pub(super) fn new(etag: Option<&String>, received: Checksum) -> Self {
        Self {
            etag: etag.cloned(),
            bytes: received.bytes,
            checksum: received.to_base64(),
            verified: None,
        }
    }
}

/// The progress of a transfer in this call, for the case that the transfer is cut off. A transfer
/// without progress in a whole call is not continued.
#[derive(Debug, Default)]
pub struct TransferProgress(Mutex<Option<PartialTransfer>>);

impl TransferProgress {
    /// Records what the next call can continue; `None` if there is nothing.
    pub fn record(&self, partial: Option<PartialTransfer>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = partial;
    }

    pub(super) fn take(&self) -> Option<PartialTransfer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl PartialTransfer {
    /// The multipart upload, if it is one.
    pub(super) fn into_upload(self) -> Option<StartedUpload> {
        match self {
            Self::Upload(upload) => Some(upload),
            Self::Download(_) => None,
        }
    }
}
