//! Errors of the file system as errors of a step.

use std::io::{self, ErrorKind};

use rustix::io::Errno;
use stepward::StepError;
use stepward::model::error::ErrorName;

/// Whether a path was refused because it leads out of the root. cap-std reports this with an error
/// of its own, which has no error number of the system.
pub(super) fn leads_out_of_root(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

/// Whether nothing exists at a path, also because a directory on the path is a file.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Why a listing skips an entry of a directory. `None` if the error does not concern this entry
/// alone: a listing without the entry would then look complete although it is not.
pub(super) fn skip_reason(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        _ if leads_out_of_root(error) => "it is a link that leads out of the local root",
        _ if is_link_circle(error) => "it is a circular link",
        ErrorKind::PermissionDenied => "the function's user is not allowed to read it",
        ErrorKind::InvalidFilename => "its path is too long",
        _ => return None,
    })
}

fn is_link_circle(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// The error of `action` on `path`, which is relative to the local root.
pub(super) fn file_error(action: &str, path: &str, error: &io::Error) -> StepError {
    if path.is_empty() {
        error_about(action, "the local root", error)
    } else {
        error_about(action, &format!("{path:?} below the local root"), error)
    }
}

/// The error of `action` on an open file. The caller names the file.
pub(crate) fn open_file_error(action: &str, error: &io::Error) -> StepError {
    error_about(action, "the file", error)
}

fn error_about(action: &str, subject: &str, error: &io::Error) -> StepError {
    let (name, reason) = match error.kind() {
        _ if leads_out_of_root(error) => (
            ErrorName::InvalidInput,
            "a link in the path leads out of the local root; use a path inside it".into(),
        ),
        _ if is_link_circle(error) => (
            ErrorName::InvalidInput,
            "its links are circular; fix the links".into(),
        ),
        // The error of opening a socket.
        _ if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => (
            ErrorName::Conflict,
            "it is a device, a pipe or a socket, not a file".into(),
        ),
        ErrorKind::InvalidFilename => (ErrorName::InvalidInput, "the path is too long".into()),
        ErrorKind::NotFound => (ErrorName::NotFound, "it does not exist".into()),
        ErrorKind::PermissionDenied => (
            ErrorName::AccessDenied,
            "the function's user has no permission; change the owner or mode of the file or of its \
             directory"
                .into(),
        ),
        ErrorKind::ReadOnlyFilesystem => (
            ErrorName::AccessDenied,
            "the file system is mounted read-only".into(),
        ),
        ErrorKind::IsADirectory => (
            ErrorName::Conflict,
            "a directory has this name".into(),
        ),
        ErrorKind::NotADirectory => (
            ErrorName::Conflict,
            "a part of the path is a file, not a directory".into(),
        ),
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => (
            ErrorName::Conflict,
            "something else was created there at the same time; run the step again".into(),
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (
            ErrorName::StepFailed,
            "the file system is full; free some space and run the step again".into(),
        ),
        ErrorKind::CrossesDevices => (
            ErrorName::StepFailed,
            "it is on another file system than the local root".into(),
        ),
        _ => (ErrorName::StepFailed, error.to_string()),
    };
    name.with_message(format!("could not {action} {subject}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_error_name_and_the_path() {
        for (kind, name, reason) in [
            (ErrorKind::NotFound, ErrorName::NotFound, "does not exist"),
            (
                ErrorKind::ReadOnlyFilesystem,
                ErrorName::AccessDenied,
                "read-only",
            ),
            (
                ErrorKind::IsADirectory,
                ErrorName::Conflict,
                "directory has this name",
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
            let error = file_error("write", "a/b", &kind.into());
            assert_eq!(error.name, name, "{error}");
            assert!(
                error
                    .message
                    .starts_with("could not write \"a/b\" below the local root: "),
                "{error}"
            );
            assert!(error.message.contains(reason), "{error}");
        }
        let denied = io::Error::from_raw_os_error(Errno::ACCESS.raw_os_error());
        assert_eq!(
            file_error("write", "a", &denied).name,
            ErrorName::AccessDenied
        );
        assert!(
            file_error("list", "", &denied)
                .message
                .contains("could not list the local root: ")
        );
    }
}
