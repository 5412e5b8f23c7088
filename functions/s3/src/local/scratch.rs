//! Unfinished files, and how a finished file gets its name.

use std::fs::{File, FileTimes};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, OpenOptions};
use stepward::StepError;
use stepward::model::error::ErrorName;

use super::failure::file_error;
use super::path::split_parent;
use super::root::{FileStat, Root};

/// The directory below the root for unfinished files. Listings of the root omit it.
pub(super) const SCRATCH_DIR: &str = ".stepward";

/// The maximum number of attempts to create a file. Other runs can remove the directory in between,
/// but are unlikely to do so this many times.
const ATTEMPTS: usize = 16;

/// The directory for the unfinished files of one run: `.stepward/<token>` below the root. It is
/// created when the first file is.
#[derive(Debug)]
pub struct Scratch {
    root: Arc<Root>,
    path: String,
}

impl Root {
    /// The directory for a run's unfinished files. `token` may contain letters, digits, `-` and
    /// `_`.
    ///
    /// # Errors
    /// `Internal` if the token contains other characters.
    pub fn scratch(self: &Arc<Self>, token: &str) -> Result<Scratch, StepError> {
        Ok(Scratch {
            root: self.clone(),
            path: format!("{SCRATCH_DIR}/{}", check_plain_name(token)?),
        })
    }

    /// Opens a directory, and creates it and its parents if they are missing.
    fn open_or_create_dir(&self, path: &str) -> io::Result<Dir> {
        let open = || self.with_path_below(path, |dir, path| dir.open_dir(path));
        match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => return result,
        }
        for end in path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()])
        {
            let (parent, name) = split_parent(&path[..end]);
            match self.with_path_below(parent, |dir, parent| dir.create_dir(parent.join(name))) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        open()
    }

    /// Flushes a directory and its parents to disk, so that the names in them survive a crash.
    fn sync_dirs(&self, mut path: &str) -> io::Result<()> {
        loop {
            let synced = self
                .with_path_below(path, |dir, path| dir.open(path))?
                .into_std()
                .sync_all();
            // Some file systems have nothing to flush, and report it with this error.
            synced.or_else(|error| {
                if error.kind() == ErrorKind::InvalidInput {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
            if path.is_empty() {
                return Ok(());
            }
            (path, _) = split_parent(path);
        }
    }
}

impl Scratch {
    /// Creates an empty file for writing, and replaces an existing one.
    ///
    /// # Errors
    /// `AccessDenied`, or `StepFailed` if the file system is full.
    pub fn create_file(&self, name: &str) -> Result<File, StepError> {
        let path = self.file_path(name)?;
        let mut options = OpenOptions::new();

        // With `create_new` the target of an existing link is never written to.
        options.read(true).write(true).create_new(true);

        for _ in 0..ATTEMPTS {
            let prepared = match self.root.dir.open_with(&path, &options) {
                Ok(file) => return Ok(file.into_std()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    self.root.dir.remove_file(&path)
                }
                Err(error) if error.kind() == ErrorKind::NotFound => self.create_directories(),
                Err(error) => Err(error),
            };
            ignore_kind(ErrorKind::NotFound, prepared)
                .map_err(|error| file_error("create", &path, &error))?;
        }

        Err(ErrorName::Conflict.with_message(format!(
            "could not create {path:?} below the local root: other runs keep removing its \
             directory; run the step again"
        )))
    }

    /// Opens a file that an earlier call created. `None` if it no longer exists.
    ///
    /// # Errors
    /// `AccessDenied`; `Conflict` if it is not a file.
    pub fn reopen_file(&self, name: &str) -> Result<Option<File>, StepError> {
        let path = self.file_path(name)?;
        match self.open_regular_file(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file_error("reopen", &path, &error)),
        }
    }

    /// Removes a file, if it exists.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub fn discard_file(&self, name: &str) -> Result<(), StepError> {
        let path = self.file_path(name)?;
        ignore_kind(ErrorKind::NotFound, self.root.dir.remove_file(&path))
            .map_err(|error| file_error("remove", &path, &error))
    }

    /// Removes all files except these.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub fn remove_all_except(&self, names: &[&str]) -> Result<(), StepError> {
        let clear = || -> io::Result<()> {
            for entry in self.root.dir.read_dir(&self.path)? {
                let entry = entry?;
                if !names.iter().any(|name| *name == entry.file_name()) {
                    ignore_kind(ErrorKind::NotFound, entry.remove_file())?;
                }
            }
            Ok(())
        };
        ignore_kind(ErrorKind::NotFound, clear())
            .map_err(|error| file_error("clear", &self.path, &error))
    }

    /// Gives a finished file its name: `destination`, a path from [`Root::resolve`], with the time
    /// `modified` in whole seconds. An existing file is replaced in one operation; an existing link
    /// is replaced itself, and its target is not written to. Missing directories are created. Close
    /// the file before. With `durable`, the function returns only when file and name survive a
    /// crash.
    ///
    /// # Errors
    /// `Conflict` if a directory has the name, or a directory of the path is a file; `InvalidInput`
    /// if a link in the path leaves the root.
    pub fn publish_file(
        &self,
        name: &str,
        destination: &str,
        modified: SystemTime,
        durable: bool,
    ) -> Result<(), StepError> {
        let path = self.file_path(name)?;
        let time = truncate_to_seconds(modified);
        let finished = self.open_regular_file(&path).and_then(|file| {
            file.set_times(FileTimes::new().set_accessed(time).set_modified(time))?;
            if durable { file.sync_all() } else { Ok(()) }
        });
        finished.map_err(|error| file_error("flush", &path, &error))?;
        let (parent, last) = split_parent(destination);
        let renamed = self.root.open_or_create_dir(parent).and_then(|dir| {
            if last.is_empty() {
                return Err(ErrorKind::IsADirectory.into());
            }
            self.root.dir.rename(&path, &dir, last)?;
            if durable {
                self.root.sync_dirs(parent)
            } else {
                Ok(())
            }
        });
        renamed.map_err(|error| file_error("write", destination, &error))
    }

    /// Removes the directory with everything in it, and `.stepward` if no other run uses it.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub fn remove_directory(&self) -> Result<(), StepError> {
        let removed = ignore_kind(
            ErrorKind::NotFound,
            self.root.dir.remove_dir_all(&self.path),
        );
        removed.map_err(|error| file_error("remove", &self.path, &error))?;
        let removed = ignore_kind(ErrorKind::NotFound, self.root.dir.remove_dir(SCRATCH_DIR));
        ignore_kind(ErrorKind::DirectoryNotEmpty, removed)
            .map_err(|error| file_error("remove", SCRATCH_DIR, &error))
    }

    /// The path of an unfinished file.
    fn file_path(&self, name: &str) -> Result<String, StepError> {
        Ok(format!("{}/{}", self.path, check_plain_name(name)?))
    }

    fn open_regular_file(&self, path: &str) -> io::Result<File> {
        let file = self
            .root
            .dir
            .open_with(path, OpenOptions::new().read(true).write(true))?
            .into_std();
        if FileStat::of_open_file(&file)?.is_file {
            Ok(file)
        } else {
            Err(ErrorKind::IsADirectory.into())
        }
    }

    fn create_directories(&self) -> io::Result<()> {
        let mut private = DirBuilder::new();
        private.mode(0o700);
        for path in [SCRATCH_DIR, &self.path] {
            ignore_kind(
                ErrorKind::AlreadyExists,
                self.root.dir.create_dir_with(path, &private),
            )?;
        }
        Ok(())
    }
}

/// Accepts plain names only: as part of a path, the name must not lead elsewhere.
fn check_plain_name(name: &str) -> Result<&str, StepError> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=200).contains(&name.len()) && name.bytes().all(is_allowed) {
        Ok(name)
    } else {
        Err(ErrorName::Internal.with_message(format!(
            "{name:?} cannot be the name of an unfinished file; report this as a bug"
        )))
    }
}

/// Treats one kind of error as success.
fn ignore_kind(kind: ErrorKind, result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| {
        if error.kind() == kind {
            Ok(())
        } else {
            Err(error)
        }
    })
}

/// Rounds down to whole seconds, as the AWS CLI does. S3 stores whole seconds, and a sync compares
/// with them.
fn truncate_to_seconds(time: SystemTime) -> SystemTime {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::super::tests::{Tree, error_name};
    use super::*;

    fn mode(tree: &Tree, path: &str) -> u32 {
        fs::metadata(tree.path(path)).unwrap().permissions().mode() & 0o7777
    }

    fn time_at(seconds: u64, nanos: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    /// Publishes a file with this content.
    fn publish_text(tree: &Tree, content: &str, destination: &str) -> Result<(), StepError> {
        let scratch = tree.root.scratch("run-1")?;
        scratch
            .create_file("one")?
            .write_all(content.as_bytes())
            .unwrap();
        scratch.publish_file("one", destination, time_at(1_700_000_000, 0), true)
    }

    #[test]
    fn a_published_file_has_whole_seconds_and_the_default_mode() {
        let tree = Tree::new();
        tree.file("other");
        let scratch = tree.root.scratch("run-1").unwrap();
        scratch
            .create_file("one")
            .unwrap()
            .write_all(b"new")
            .unwrap();
        assert_eq!(tree.root.stat("a/b/c").unwrap(), None);
        scratch
            .publish_file("one", "a/b/c", time_at(1_700_000_000, 999_999_999), false)
            .unwrap();
        assert_eq!(tree.read("a/b/c"), "new");
        assert_eq!(
            tree.root.stat("a/b/c").unwrap().unwrap().modified,
            time_at(1_700_000_000, 0)
        );
        tree.dir("new");
        assert_eq!(
            (mode(&tree, "a/b/c"), mode(&tree, "a")),
            (mode(&tree, "other"), mode(&tree, "new"))
        );
        assert!(scratch.reopen_file("one").unwrap().is_none());
    }

    #[test]
    fn an_existing_file_is_replaced() {
        let tree = Tree::new();
        tree.file("a");
        publish_text(&tree, "new", "a").unwrap();
        assert_eq!(tree.read("a"), "new");
    }

    #[test]
    fn an_existing_link_is_replaced_without_touching_its_target() {
        let tree = Tree::new();
        tree.file("target");
        tree.link("target", "inside");
        tree.link(tree.outside().join("f"), "out");
        for path in ["inside", "out"] {
            publish_text(&tree, "new", path).unwrap();
            assert!(fs::symlink_metadata(tree.path(path)).unwrap().is_file());
            assert_eq!(tree.read(path), "new");
        }
        assert_eq!(tree.read("target"), "target");
        tree.assert_outside_unchanged();
    }

    #[test]
    fn directories_of_the_path_may_be_inside_links() {
        let tree = Tree::new();
        tree.dir("d");
        tree.link("d", "relative");
        tree.link(tree.path("d"), "absolute");
        publish_text(&tree, "1", "relative/new/x").unwrap();
        publish_text(&tree, "2", "absolute/other/y").unwrap();
        assert_eq!(
            (tree.read("d/new/x"), tree.read("d/other/y")),
            ("1".into(), "2".into())
        );
    }

    #[test]
    fn an_impossible_destination_is_an_error_and_changes_nothing() {
        let tree = Tree::new();
        tree.file("dir/f");
        tree.file("file");
        tree.link("../outside", "out");
        tree.link("nowhere", "broken");
        for (destination, error) in [
            ("dir", ErrorName::Conflict),
            ("file/x", ErrorName::Conflict),
            ("file/x/y", ErrorName::Conflict),
            ("out/x", ErrorName::InvalidInput),
            ("out/x/y", ErrorName::InvalidInput),
            ("../outside/x", ErrorName::InvalidInput),
            ("", ErrorName::Conflict),
        ] {
            assert_eq!(
                error_name(publish_text(&tree, "new", destination)),
                Some(error),
                "{destination:?}"
            );
        }
        assert!(publish_text(&tree, "new", "broken/x").is_err());
        assert_eq!(
            (tree.read("dir/f"), tree.read("file")),
            ("dir/f".into(), "file".into())
        );
        tree.assert_outside_unchanged();
    }

    #[test]
    fn unfinished_files_are_private_and_can_be_reopened() {
        let tree = Tree::new();
        let scratch = tree.root.scratch("run-1").unwrap();
        assert!(scratch.reopen_file("one").unwrap().is_none());
        scratch
            .create_file("one")
            .unwrap()
            .write_all(b"half")
            .unwrap();
        assert_eq!(
            (mode(&tree, ".stepward"), mode(&tree, ".stepward/run-1")),
            (0o700, 0o700)
        );
        let mut text = String::new();
        scratch
            .reopen_file("one")
            .unwrap()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "half");
        assert_eq!(
            scratch
                .create_file("one")
                .unwrap()
                .metadata()
                .unwrap()
                .len(),
            0
        );
    }

    #[test]
    fn all_files_except_the_named_ones_are_removed() {
        let tree = Tree::new();
        let scratch = tree.root.scratch("run-1").unwrap();
        scratch.remove_all_except(&["a"]).unwrap();
        for name in ["a", "b", "c"] {
            drop(scratch.create_file(name).unwrap());
        }
        scratch.remove_all_except(&["b", "x"]).unwrap();
        assert!(scratch.reopen_file("b").unwrap().is_some());
        assert!(
            scratch.reopen_file("a").unwrap().is_none()
                && scratch.reopen_file("c").unwrap().is_none()
        );
    }

    #[test]
    fn the_last_run_removes_the_scratch_directory() {
        let tree = Tree::new();
        let (first, second) = (
            tree.root.scratch("one").unwrap(),
            tree.root.scratch("two").unwrap(),
        );
        drop((
            first.create_file("x").unwrap(),
            second.create_file("x").unwrap(),
        ));
        first.remove_directory().unwrap();
        assert_eq!(tree.root.stat(".stepward/one").unwrap(), None);
        assert!(second.reopen_file("x").unwrap().is_some());
        second.remove_directory().unwrap();
        second.remove_directory().unwrap();
        assert_eq!(tree.root.stat(".stepward").unwrap(), None);
    }

    #[test]
    fn concurrent_runs_do_not_disturb_each_other() {
        let tree = Tree::new();
        std::thread::scope(|scope| {
            for token in ["a", "b", "c"] {
                let scratch = tree.root.scratch(token).unwrap();
                scope.spawn(move || {
                    for _ in 0..500 {
                        drop(scratch.create_file("x").unwrap());
                        scratch
                            .publish_file("x", token, SystemTime::now(), false)
                            .unwrap();
                        scratch.remove_directory().unwrap();
                    }
                });
            }
        });
        assert_eq!(tree.root.stat(".stepward").unwrap(), None);
    }

    #[test]
    fn a_link_in_place_of_an_unfinished_file_is_replaced() {
        let tree = Tree::new();
        tree.file("kept");
        tree.dir(".stepward/run-1");
        tree.link("../../kept", ".stepward/run-1/x");
        tree.link(tree.outside().join("f"), ".stepward/run-1/y");
        let scratch = tree.root.scratch("run-1").unwrap();
        for name in ["x", "y"] {
            scratch
                .create_file(name)
                .unwrap()
                .write_all(b"new")
                .unwrap();
        }
        assert_eq!(tree.read("kept"), "kept");
        tree.assert_outside_unchanged();
    }

    #[test]
    fn tokens_and_names_cannot_be_paths() {
        let tree = Tree::new();
        for invalid in ["", ".", "..", "a/b", "../x", "é"] {
            assert_eq!(
                error_name(tree.root.scratch(invalid)),
                Some(ErrorName::Internal),
                "{invalid:?}"
            );
            assert_eq!(
                error_name(tree.root.scratch("t").unwrap().create_file(invalid)),
                Some(ErrorName::Internal),
                "{invalid:?}"
            );
        }
    }
}
