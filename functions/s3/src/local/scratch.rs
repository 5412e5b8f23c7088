//! Unfinished files, and how they get their name when they are finished.

use std::fs::{File, FileTimes};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, OpenOptions};
use stepward::StepError;
use stepward::model::error::ErrorName;

use super::failure::failed;
use super::path::split;
use super::root::{Root, Stat};

/// The directory below the root that listings leave out.
pub(super) const SCRATCH: &str = ".stepward";

// Others may take the directory away between two of our calls; that they do so every time is not
// believed.
const ATTEMPTS: usize = 16;

/// A directory for one run's unfinished files: `.stepward/<token>` below the root, made when it is
/// first needed.
#[derive(Debug)]
pub struct Scratch {
    root: Arc<Root>,
    path: String,
}

impl Root {
    /// The directory for a run's unfinished files. `token` is letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// `Internal` when the token has anything else.
    pub fn scratch(self: &Arc<Self>, token: &str) -> Result<Scratch, StepError> {
        Ok(Scratch {
            root: self.clone(),
            path: format!("{SCRATCH}/{}", plain(token)?),
        })
    }

    /// Opens a directory, made with all that are missing on the way to it.
    fn make_dir(&self, path: &str) -> io::Result<Dir> {
        let open = || self.beneath(path, |dir, path| dir.open_dir(path));
        match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            done => return done,
        }
        for end in path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()])
        {
            let (parent, name) = split(&path[..end]);
            match self.beneath(parent, |dir, parent| dir.create_dir(parent.join(name))) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        open()
    }

    /// Sees to it that a name in `path` and the directories on the way to it outlive a crash.
    fn sync_dirs(&self, mut path: &str) -> io::Result<()> {
        loop {
            let synced = self
                .beneath(path, |dir, path| dir.open(path))?
                .into_std()
                .sync_all();
            // Some file systems have nothing to do here, and say so in this way.
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
            (path, _) = split(path);
        }
    }
}

impl Scratch {
    /// Makes an empty file to write to, in place of one that may be there.
    ///
    /// # Errors
    /// `AccessDenied`, or `StepFailed` when the file system is full.
    pub fn create(&self, name: &str) -> Result<File, StepError> {
        let path = self.file(name)?;
        let mut options = OpenOptions::new();
        // Only ever a new file: whatever else has this name, a link above all, is not written
        // through.
        options.read(true).write(true).create_new(true);
        for _ in 0..ATTEMPTS {
            let done = match self.root.dir.open_with(&path, &options) {
                Ok(file) => return Ok(file.into_std()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    self.root.dir.remove_file(&path)
                }
                Err(error) if error.kind() == ErrorKind::NotFound => self.make(),
                Err(error) => Err(error),
            };
            ignoring(ErrorKind::NotFound, done).map_err(|error| failed("make", &path, &error))?;
        }
        Err(ErrorName::Conflict.with_message(format!(
            "{path:?} below the local root is taken away again and again"
        )))
    }

    /// Opens a file that a call before made, to go on with it; `None` when it is gone.
    ///
    /// # Errors
    /// `AccessDenied`; `Conflict` when it is no file.
    pub fn reopen(&self, name: &str) -> Result<Option<File>, StepError> {
        let path = self.file(name)?;
        match self.open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("go on with", &path, &error)),
        }
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub fn discard(&self, name: &str) -> Result<(), StepError> {
        let path = self.file(name)?;
        ignoring(ErrorKind::NotFound, self.root.dir.remove_file(&path))
            .map_err(|error| failed("remove", &path, &error))
    }

    /// Removes all files but these.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub fn keep_only(&self, names: &[&str]) -> Result<(), StepError> {
        let clear = || -> io::Result<()> {
            for entry in self.root.dir.read_dir(&self.path)? {
                let entry = entry?;
                if !names.iter().any(|name| *name == entry.file_name()) {
                    ignoring(ErrorKind::NotFound, entry.remove_file())?;
                }
            }
            Ok(())
        };
        ignoring(ErrorKind::NotFound, clear()).map_err(|error| failed("clear", &self.path, &error))
    }

    /// Gives a finished file its name: `destination`, a path from [`Root::resolve`], with
    /// `modified` to the second. What had the name before is replaced in one step; a link is
    /// replaced itself, and never written through. Missing directories are made. Close what was
    /// written first. `durable`: do not return before file and name would outlive a crash.
    ///
    /// # Errors
    /// `Conflict` when a directory has the name, or a file stands where a directory is needed;
    /// `InvalidInput` when a link on the way leaves the root.
    pub fn publish(
        &self,
        name: &str,
        destination: &str,
        modified: SystemTime,
        durable: bool,
    ) -> Result<(), StepError> {
        let path = self.file(name)?;
        let time = whole_seconds(modified);
        let finished = self.open(&path).and_then(|file| {
            file.set_times(FileTimes::new().set_accessed(time).set_modified(time))?;
            if durable { file.sync_all() } else { Ok(()) }
        });
        finished.map_err(|error| failed("finish", &path, &error))?;
        let (parent, last) = split(destination);
        let named = self.root.make_dir(parent).and_then(|dir| {
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
        named.map_err(|error| failed("write", destination, &error))
    }

    /// Removes the directory with all that is left in it, and `.stepward` when no other run uses
    /// it.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub fn remove(&self) -> Result<(), StepError> {
        let removed = ignoring(
            ErrorKind::NotFound,
            self.root.dir.remove_dir_all(&self.path),
        );
        removed.map_err(|error| failed("remove", &self.path, &error))?;
        let removed = ignoring(ErrorKind::NotFound, self.root.dir.remove_dir(SCRATCH));
        ignoring(ErrorKind::DirectoryNotEmpty, removed)
            .map_err(|error| failed("remove", SCRATCH, &error))
    }

    fn file(&self, name: &str) -> Result<String, StepError> {
        Ok(format!("{}/{}", self.path, plain(name)?))
    }

    fn open(&self, path: &str) -> io::Result<File> {
        let file = self
            .root
            .dir
            .open_with(path, OpenOptions::new().read(true).write(true))?
            .into_std();
        if Stat::of(&file)?.is_file {
            Ok(file)
        } else {
            Err(ErrorKind::IsADirectory.into())
        }
    }

    fn make(&self) -> io::Result<()> {
        let mut private = DirBuilder::new();
        private.mode(0o700);
        for path in [SCRATCH, &self.path] {
            ignoring(
                ErrorKind::AlreadyExists,
                self.root.dir.create_dir_with(path, &private),
            )?;
        }
        Ok(())
    }
}

/// Nothing but a plain name: as part of a path it must not lead anywhere.
fn plain(name: &str) -> Result<&str, StepError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=200).contains(&name.len()) && name.bytes().all(legal) {
        Ok(name)
    } else {
        Err(ErrorName::Internal
            .with_message(format!("{name:?} cannot be the name of an unfinished file")))
    }
}

fn ignoring(kind: ErrorKind, done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| {
        if error.kind() == kind {
            Ok(())
        } else {
            Err(error)
        }
    })
}

/// Rounded down, as the AWS CLI does: a sync compares with what S3 keeps, which is whole seconds.
fn whole_seconds(time: SystemTime) -> SystemTime {
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

    use super::super::tests::{Tree, name};
    use super::*;

    fn mode(tree: &Tree, path: &str) -> u32 {
        fs::metadata(tree.path(path)).unwrap().permissions().mode() & 0o7777
    }

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    /// Publishes a file with this content.
    fn put(tree: &Tree, content: &str, destination: &str) -> Result<(), StepError> {
        let scratch = tree.root.scratch("run-1")?;
        scratch
            .create("one")?
            .write_all(content.as_bytes())
            .unwrap();
        scratch.publish("one", destination, at(1_700_000_000, 0), true)
    }

    #[test]
    fn a_published_file_has_its_time_to_the_second_and_the_mode_of_any_new_file() {
        let tree = Tree::new();
        tree.file("other");
        let scratch = tree.root.scratch("run-1").unwrap();
        scratch.create("one").unwrap().write_all(b"new").unwrap();
        assert_eq!(tree.root.stat("a/b/c").unwrap(), None);
        scratch
            .publish("one", "a/b/c", at(1_700_000_000, 999_999_999), false)
            .unwrap();
        assert_eq!(tree.read("a/b/c"), "new");
        assert_eq!(
            tree.root.stat("a/b/c").unwrap().unwrap().modified,
            at(1_700_000_000, 0)
        );
        tree.dir("beside");
        assert_eq!(
            (mode(&tree, "a/b/c"), mode(&tree, "a")),
            (mode(&tree, "other"), mode(&tree, "beside"))
        );
        assert!(scratch.reopen("one").unwrap().is_none());
    }

    #[test]
    fn what_had_the_name_before_is_replaced() {
        let tree = Tree::new();
        tree.file("a");
        put(&tree, "new", "a").unwrap();
        assert_eq!(tree.read("a"), "new");
    }

    #[test]
    fn a_link_that_has_the_name_is_replaced_and_not_written_through() {
        let tree = Tree::new();
        tree.file("target");
        tree.link("target", "inside");
        tree.link(tree.outside().join("f"), "out");
        for path in ["inside", "out"] {
            put(&tree, "new", path).unwrap();
            assert!(fs::symlink_metadata(tree.path(path)).unwrap().is_file());
            assert_eq!(tree.read(path), "new");
        }
        assert_eq!(tree.read("target"), "target");
        tree.nothing_happened_outside();
    }

    #[test]
    fn directories_on_the_way_may_be_links_that_stay_inside() {
        let tree = Tree::new();
        tree.dir("d");
        tree.link("d", "relative");
        tree.link(tree.path("d"), "absolute");
        put(&tree, "1", "relative/new/x").unwrap();
        put(&tree, "2", "absolute/other/y").unwrap();
        assert_eq!(
            (tree.read("d/new/x"), tree.read("d/other/y")),
            ("1".into(), "2".into())
        );
    }

    #[test]
    fn a_destination_that_cannot_be_a_file_there_is_an_error_and_nothing_changes() {
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
                name(put(&tree, "new", destination)),
                Some(error),
                "{destination:?}"
            );
        }
        assert!(put(&tree, "new", "broken/x").is_err());
        assert_eq!(
            (tree.read("dir/f"), tree.read("file")),
            ("dir/f".into(), "file".into())
        );
        tree.nothing_happened_outside();
    }

    #[test]
    fn unfinished_files_are_private_and_go_on_where_they_were() {
        let tree = Tree::new();
        let scratch = tree.root.scratch("run-1").unwrap();
        assert!(scratch.reopen("one").unwrap().is_none());
        scratch.create("one").unwrap().write_all(b"half").unwrap();
        assert_eq!(
            (mode(&tree, ".stepward"), mode(&tree, ".stepward/run-1")),
            (0o700, 0o700)
        );
        let mut text = String::new();
        scratch
            .reopen("one")
            .unwrap()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "half");
        assert_eq!(scratch.create("one").unwrap().metadata().unwrap().len(), 0);
    }

    #[test]
    fn only_the_files_that_are_still_wanted_are_kept() {
        let tree = Tree::new();
        let scratch = tree.root.scratch("run-1").unwrap();
        scratch.keep_only(&["a"]).unwrap();
        for name in ["a", "b", "c"] {
            drop(scratch.create(name).unwrap());
        }
        scratch.keep_only(&["b", "x"]).unwrap();
        assert!(scratch.reopen("b").unwrap().is_some());
        assert!(scratch.reopen("a").unwrap().is_none() && scratch.reopen("c").unwrap().is_none());
    }

    #[test]
    fn the_last_run_to_end_leaves_nothing_behind() {
        let tree = Tree::new();
        let (one, two) = (
            tree.root.scratch("one").unwrap(),
            tree.root.scratch("two").unwrap(),
        );
        drop((one.create("x").unwrap(), two.create("x").unwrap()));
        one.remove().unwrap();
        assert_eq!(tree.root.stat(".stepward/one").unwrap(), None);
        assert!(two.reopen("x").unwrap().is_some());
        two.remove().unwrap();
        two.remove().unwrap();
        assert_eq!(tree.root.stat(".stepward").unwrap(), None);
    }

    #[test]
    fn runs_that_begin_and_end_at_the_same_time_do_not_disturb_each_other() {
        let tree = Tree::new();
        std::thread::scope(|scope| {
            for token in ["a", "b", "c"] {
                let scratch = tree.root.scratch(token).unwrap();
                scope.spawn(move || {
                    for _ in 0..500 {
                        drop(scratch.create("x").unwrap());
                        scratch
                            .publish("x", token, SystemTime::now(), false)
                            .unwrap();
                        scratch.remove().unwrap();
                    }
                });
            }
        });
        assert_eq!(tree.root.stat(".stepward").unwrap(), None);
    }

    #[test]
    fn a_link_in_place_of_an_unfinished_file_is_not_written_through() {
        let tree = Tree::new();
        tree.file("kept");
        tree.dir(".stepward/run-1");
        tree.link("../../kept", ".stepward/run-1/x");
        tree.link(tree.outside().join("f"), ".stepward/run-1/y");
        let scratch = tree.root.scratch("run-1").unwrap();
        for name in ["x", "y"] {
            scratch.create(name).unwrap().write_all(b"new").unwrap();
        }
        assert_eq!(tree.read("kept"), "kept");
        tree.nothing_happened_outside();
    }

    #[test]
    fn tokens_and_names_lead_nowhere() {
        let tree = Tree::new();
        for odd in ["", ".", "..", "a/b", "../x", "é"] {
            assert_eq!(
                name(tree.root.scratch(odd)),
                Some(ErrorName::Internal),
                "{odd:?}"
            );
            assert_eq!(
                name(tree.root.scratch("t").unwrap().create(odd)),
                Some(ErrorName::Internal),
                "{odd:?}"
            );
        }
    }
}
