//! What the file system says, as errors of a step.

use std::io::{self, ErrorKind};

use rustix::io::Errno;
use stepward::StepError;
use stepward::model::error::ErrorName;

/// Whether a path was refused because it leads out of the root. cap-std says so with an error of
/// its own, not the system's.
pub(super) fn is_escape(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

/// Whether there is nothing at a path, be it because what should be a directory on the way is a
/// file.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Why one entry of a directory is passed over; `None` when the trouble is not the entry's own, and
/// a listing without it would look complete where it is not.
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
    let place = if path.is_empty() {
        "the local root".into()
    } else {
        format!("{path:?} below the local root")
    };
    let (name, why) = match error.kind() {
        _ if is_escape(error) => (
            ErrorName::InvalidInput,
            "a link on the way leads out of it, and nothing outside is touched".into(),
        ),
        _ if is_circle(error) => (ErrorName::InvalidInput, "its links lead in a circle".into()),
        // What opening a socket is answered with.
        _ if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => (
            ErrorName::Conflict,
            "it is a device, a pipe or a socket, not a file".into(),
        ),
        ErrorKind::InvalidFilename => (ErrorName::InvalidInput, "the path is too long".into()),
        ErrorKind::NotFound => (ErrorName::NotFound, "it does not exist".into()),
        ErrorKind::PermissionDenied => (
            ErrorName::AccessDenied,
            "owner or mode of it or of its directory keep this function's user out".into(),
        ),
        ErrorKind::ReadOnlyFilesystem => (
            ErrorName::AccessDenied,
            "it is mounted to be read only".into(),
        ),
        ErrorKind::IsADirectory => (
            ErrorName::Conflict,
            "there is a directory of this name".into(),
        ),
        ErrorKind::NotADirectory => (
            ErrorName::Conflict,
            "a part of the path is a file, not a directory".into(),
        ),
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => (
            ErrorName::Conflict,
            "something else was put there meanwhile; run it again".into(),
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (
            ErrorName::StepFailed,
            "the file system is full; make room and run it again".into(),
        ),
        ErrorKind::CrossesDevices => (
            ErrorName::StepFailed,
            "it is on another file system than the local root itself".into(),
        ),
        _ => (ErrorName::StepFailed, error.to_string()),
    };
    name.with_message(format!("could not {action} {place}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_has_its_name_and_the_message_has_the_path() {
        for (kind, name, says) in [
            (ErrorKind::NotFound, ErrorName::NotFound, "does not exist"),
            (
                ErrorKind::ReadOnlyFilesystem,
                ErrorName::AccessDenied,
                "read only",
            ),
            (
                ErrorKind::IsADirectory,
                ErrorName::Conflict,
                "directory of this name",
            ),
            (ErrorKind::NotADirectory, ErrorName::Conflict, "is a file"),
            (ErrorKind::StorageFull, ErrorName::StepFailed, "full"),
            (ErrorKind::QuotaExceeded, ErrorName::StepFailed, "full"),
            (
                ErrorKind::CrossesDevices,
                ErrorName::StepFailed,
                "another file system",
            ),
            (ErrorKind::Other, ErrorName::StepFailed, "other error"),
        ] {
            let error = failed("write", "a/b", &kind.into());
            assert_eq!(error.name, name, "{error}");
            assert!(
                error
                    .message
                    .starts_with("could not write \"a/b\" below the local root: "),
                "{error}"
            );
            assert!(error.message.contains(says), "{error}");
        }
        let denied = io::Error::from_raw_os_error(Errno::ACCESS.raw_os_error());
        assert_eq!(failed("write", "a", &denied).name, ErrorName::AccessDenied);
        assert!(
            failed("list", "", &denied)
                .message
                .contains("could not list the local root: ")
        );
    }
}
