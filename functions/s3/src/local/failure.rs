//! What the file system says, as errors of a step.

use std::io::{self, ErrorKind};

use rustix::io::Errno;
use stepward::StepError;
use stepward::error::ErrorName;

/// Whether a path was refused because it leads out of the root. cap-std says so with an error of its own, not the system's.
pub(super) fn is_escape(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

/// Whether there is nothing at a path, be it because what should be a directory on the way is a file.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Why one entry of a directory is passed over; `None` when the trouble is not the entry's own, and a listing without it
/// would look complete where it is not.
pub(super) fn why_skipped(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        _ if is_escape(error) => "it is a link that leads out of the local root",
        _ if is_circle(error) => "it is a link that leads in a circle",
        ErrorKind::PermissionDenied => "it may not be read",
        ErrorKind::InvalidFilename => "its path is too long",
        _ => return None,
    })
}

fn is_circle(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// The error for `path`, at which `action` did not succeed.
pub(crate) fn failed(action: &str, path: &str, error: &io::Error) -> StepError {
    let place = if path.is_empty() { "the local root".into() } else { format!("{path:?} below the local root") };
    let (name, why) = match error.kind() {
        _ if is_escape(error) => {
            (ErrorName::InvalidInput, "a link on the way leads out of it, and nothing outside is touched".into())
        }
        _ if is_circle(error) => (ErrorName::InvalidInput, "its links lead in a circle".into()),
        ErrorKind::InvalidFilename => (ErrorName::InvalidInput, "the path is too long".into()),
        ErrorKind::NotFound => (ErrorName::NotFound, "it does not exist".into()),
        ErrorKind::PermissionDenied => {
            (ErrorName::AccessDenied, "owner or mode of it or of its directory keep this function's user out".into())
        }
        ErrorKind::ReadOnlyFilesystem => (ErrorName::AccessDenied, "it is mounted to be read only".into()),
        ErrorKind::IsADirectory => (ErrorName::Conflict, "there is a directory of this name".into()),
        ErrorKind::NotADirectory => (ErrorName::Conflict, "a part of the path is a file, not a directory".into()),
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => {
            (ErrorName::Conflict, "something else was put there meanwhile; run it again".into())
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (ErrorName::StepFailed, "the file system is full; make room and run it again".into())
        }
        ErrorKind::CrossesDevices => {
            (ErrorName::StepFailed, "it is on another file system than the local root itself".into())
        }
        _ => (ErrorName::StepFailed, error.to_string()),
    };
    name.because(format!("could not {action} {place}: {why}"))
}
