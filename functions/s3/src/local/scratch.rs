//! Unfinished files, and how they get their name when they are finished.

use std::fs::{File, FileTimes};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, OpenOptions};
use stepward::StepError;
use stepward::error::ErrorName;

use super::failure::failed;
use super::{Root, Stat, split};

/// The directory below the root that listings leave out.
pub(super) const SCRATCH: &str = ".stepward";

// Others may take the directory away between two of our calls; that they do so every time is not believed.
const ATTEMPTS: usize = 16;

/// A directory for one run's unfinished files: `.stepward/<token>` below the root, made when it is first needed.
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
        Ok(Scratch { root: self.clone(), path: format!("{SCRATCH}/{}", plain(token)?) })
    }

    /// Opens a directory, made with all that are missing on the way to it.
    fn make_dir(&self, path: &str) -> io::Result<Dir> {
        let open = || self.beneath(path, |dir, path| dir.open_dir(path));
        match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            done => return done,
        }
        for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
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
            let synced = self.beneath(path, |dir, path| dir.open(path))?.into_std().sync_all();
            // Some file systems have nothing to do here, and say so in this way.
            synced.or_else(|error| if error.kind() == ErrorKind::InvalidInput { Ok(()) } else { Err(error) })?;
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
        // Only ever a new file: whatever else has this name, a link above all, is not written through.
        options.read(true).write(true).create_new(true);
        for _ in 0..ATTEMPTS {
            let done = match self.root.dir.open_with(&path, &options) {
                Ok(file) => return Ok(file.into_std()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => self.root.dir.remove_file(&path),
                Err(error) if error.kind() == ErrorKind::NotFound => self.make(),
                Err(error) => Err(error),
            };
            ignoring(ErrorKind::NotFound, done).map_err(|error| failed("make", &path, &error))?;
        }
        Err(ErrorName::Conflict.because(format!("{path:?} below the local root is taken away again and again")))
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
        ignoring(ErrorKind::NotFound, self.root.dir.remove_file(&path)).map_err(|error| failed("remove", &path, &error))
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

    /// Gives a finished file its name: `destination`, a path from [`Root::resolve`], with `modified` to the second. What had
    /// the name before is replaced in one step; a link is replaced itself, and never written through. Missing directories
    /// are made. Close what was written first. `durable`: do not return before file and name would outlive a crash.
    ///
    /// # Errors
    /// `Conflict` when a directory has the name, or a file stands where a directory is needed; `InvalidInput` when a link on
    /// the way leaves the root.
    pub fn publish(&self, name: &str, destination: &str, modified: SystemTime, durable: bool) -> Result<(), StepError> {
        let path = self.file(name)?;
        let time = whole_seconds(modified);
        let finished = self.open(&path).and_then(|file| {
            file.set_times(FileTimes::new().set_accessed(time).set_modified(time))?;
            if durable { file.sync_all() } else { Ok(()) }
        });
        finished.map_err(|error| failed("finish", &path, &error))?;
        let (parent, last) = split(destination);
        let named = self.root.make_dir(parent).and_then(|dir| {
            self.root.dir.rename(&path, &dir, last)?;
            if durable { self.root.sync_dirs(parent) } else { Ok(()) }
        });
        named.map_err(|error| failed("write", destination, &error))
    }

    /// Removes the directory with all that is left in it, and `.stepward` when no other run uses it.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub fn remove(&self) -> Result<(), StepError> {
        let removed = ignoring(ErrorKind::NotFound, self.root.dir.remove_dir_all(&self.path));
        removed.map_err(|error| failed("remove", &self.path, &error))?;
        let removed = ignoring(ErrorKind::NotFound, self.root.dir.remove_dir(SCRATCH));
        ignoring(ErrorKind::DirectoryNotEmpty, removed).map_err(|error| failed("remove", SCRATCH, &error))
    }

    fn file(&self, name: &str) -> Result<String, StepError> {
        Ok(format!("{}/{}", self.path, plain(name)?))
    }

    fn open(&self, path: &str) -> io::Result<File> {
        let file = self.root.dir.open_with(path, OpenOptions::new().read(true).write(true))?.into_std();
        if Stat::of(&file)?.is_file { Ok(file) } else { Err(ErrorKind::IsADirectory.into()) }
    }

    fn make(&self) -> io::Result<()> {
        let mut private = DirBuilder::new();
        private.mode(0o700);
        for path in [SCRATCH, &self.path] {
            ignoring(ErrorKind::AlreadyExists, self.root.dir.create_dir_with(path, &private))?;
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
        Err(ErrorName::Internal.because(format!("{name:?} cannot be the name of an unfinished file")))
    }
}

fn ignoring(kind: ErrorKind, done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == kind { Ok(()) } else { Err(error) })
}

/// Rounded down, as the AWS CLI does: a sync compares with what S3 keeps, which is whole seconds.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
