//! Every file below a directory, in the order of their keys.

use std::collections::BinaryHeap;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::vec::IntoIter;

use cap_std::fs::{Dir, MetadataExt};
use stepward::StepError;

use super::failure::{failed, is_absent, why_skipped};
use super::scratch::SCRATCH;
use super::{Root, Stat};

/// How many names are held at once. A directory with more is read again for the next ones.
const MOST_NAMES: usize = 50_000;

/// An entry that a walk met.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listed {
    /// A regular file, or a link to one.
    File {
        /// Its path from where the walk began.
        key: String,
        /// How it is.
        stat: Stat,
    },
    /// What is passed over, and with a directory all below it.
    Skipped {
        /// Its path from where the walk began, with a slash at its end if it is a directory. Of a name that is not UTF-8 it
        /// is only what can be shown; a walk must not be taken up again after it.
        key: String,
        /// Why, as the end of a sentence.
        reason: String,
    },
}

impl Root {
    /// Calls `each` with every file below the directory `base`, in byte order of their keys, which is the order of S3's
    /// listings and the AWS CLI's. Everything up to and including the key `after` is left out, without being looked at.
    /// What comes or goes meanwhile may be met or not.
    ///
    /// # Errors
    /// `NotFound` when there is no `base`, `Conflict` when it is a file.
    pub fn walk(
        &self,
        base: &str,
        after: Option<&str>,
        each: &mut dyn FnMut(Listed) -> ControlFlow<()>,
    ) -> Result<(), StepError> {
        self.walk_by(MOST_NAMES, base, after, each)
    }

    pub(super) fn walk_by(
        &self,
        most: usize,
        base: &str,
        after: Option<&str>,
        each: &mut dyn FnMut(Listed) -> ControlFlow<()>,
    ) -> Result<(), StepError> {
        let mut walk = Walk { root: self, base, most, levels: Vec::new(), dir: None };
        let (dir, level) = walk.enter("", after).map_err(|error| failed("list", base, &error))?;
        (walk.dir, walk.levels) = (Some(dir), vec![level]);
        while let Some(listed) = walk.next()? {
            if each(listed).is_break() {
                break;
            }
        }
        Ok(())
    }
}

struct Walk<'a> {
    root: &'a Root,
    base: &'a str,
    most: usize,
    /// The directories from `base` down to where the walk is.
    levels: Vec<Level>,
    /// The last of them, open. Only this one is: a tree may be deeper than a process can have files open.
    dir: Option<Dir>,
}

struct Level {
    /// The directory's own key: empty, or with a slash at its end.
    key: String,
    /// Device and inode.
    identity: (u64, u64),
    /// What of it is still to be visited; a directory's name has a slash at its end.
    names: IntoIter<Vec<u8>>,
    /// The last name that was visited.
    last: Option<Vec<u8>>,
    /// Whether there are names beyond these.
    more: bool,
    /// Where to take up: the part of `after` that is below this directory.
    after: Option<String>,
}

impl Walk<'_> {
    /// The next entry, `None` at the end.
    fn next(&mut self) -> Result<Option<Listed>, StepError> {
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = level.names.next() {
                level.last = Some(name.clone());
                if let Some(listed) = self.visit(name)? {
                    return Ok(Some(listed));
                }
            } else if level.more {
                self.read_on()?;
            } else {
                self.levels.pop();
                self.dir = None;
            }
        }
        Ok(None)
    }

    fn visit(&mut self, name: Vec<u8>) -> Result<Option<Listed>, StepError> {
        let Some(level) = self.levels.last() else { return Ok(None) };
        let name = match String::from_utf8(name) {
            Ok(name) => name,
            Err(error) => {
                let key = format!("{}{}", level.key, String::from_utf8_lossy(error.as_bytes()));
                return Ok(Some(Listed::Skipped { key, reason: "its name is not UTF-8, as keys in S3 are".into() }));
            }
        };
        let key = format!("{}{name}", level.key);
        if !name.ends_with('/') {
            return self.file(key, &name);
        }
        let after = level.after.as_deref().and_then(|after| after.strip_prefix(&name)).map(str::to_owned);
        let (dir, level) = match self.enter(&key, after.as_deref()) {
            Ok(entered) => entered,
            Err(error) => return self.unless_gone(key, &error),
        };
        if self.levels.iter().any(|above| above.identity == level.identity) {
            let reason = "it is a link to a directory that it is in itself".into();
            return Ok(Some(Listed::Skipped { key, reason }));
        }
        self.levels.push(level);
        self.dir = Some(dir);
        Ok(None)
    }

    fn file(&mut self, key: String, name: &str) -> Result<Option<Listed>, StepError> {
        let found = match self.open_dir().and_then(|dir| dir.symlink_metadata(name)) {
            Ok(metadata) if metadata.is_symlink() => match self.root.look(&self.path(&key)) {
                Err(error) if is_absent(&error) => {
                    return Ok(Some(Listed::Skipped { key, reason: "it is a link to nothing".into() }));
                }
                found => found,
            },
            found => found.map(|metadata| Stat::from(&metadata)),
        };
        match found {
            Ok(stat) if stat.is_file => Ok(Some(Listed::File { key, stat })),
            // It was none when its directory was read, and would now come in another place.
            Ok(stat) if stat.is_dir => Ok(None),
            Ok(_) => Ok(Some(Listed::Skipped { key, reason: "it is a device, a pipe or a socket".into() })),
            Err(error) => self.unless_gone(key, &error),
        }
    }

    /// What went while the walk came is no trouble.
    fn unless_gone(&self, key: String, error: &io::Error) -> Result<Option<Listed>, StepError> {
        match why_skipped(error) {
            Some(reason) => Ok(Some(Listed::Skipped { key, reason: reason.into() })),
            None if is_absent(error) => Ok(None),
            None => Err(failed("list", &self.path(&key), error)),
        }
    }

    /// Opens a directory and reads its first names.
    fn enter(&self, key: &str, after: Option<&str>) -> io::Result<(Dir, Level)> {
        let dir = self.open(key)?;
        let metadata = dir.dir_metadata()?;
        let (names, more) = self.portion(&dir, key, None, after)?;
        let identity = (metadata.dev(), metadata.ino());
        let after = after.map(str::to_owned);
        Ok((dir, Level { key: key.to_owned(), identity, names: names.into_iter(), last: None, more, after }))
    }

    /// Reads the last level's next names.
    fn read_on(&mut self) -> Result<(), StepError> {
        let read = self.open_dir().map(|_| ());
        let (Some(level), Some(dir)) = (self.levels.last(), &self.dir) else { return Ok(()) };
        let read = read.and_then(|()| self.portion(dir, &level.key, level.last.as_deref(), level.after.as_deref()));
        let (names, more) = match read {
            Ok(read) => read,
            Err(error) if is_absent(&error) => (Vec::new(), false),
            Err(error) => return Err(failed("list", &self.path(&level.key), &error)),
        };
        if let Some(level) = self.levels.last_mut() {
            (level.names, level.more) = (names.into_iter(), more);
        }
        Ok(())
    }

    /// The smallest names in a directory that come after `last` and `after`, and whether there are more.
    fn portion(
        &self,
        dir: &Dir,
        key: &str,
        last: Option<&[u8]>,
        after: Option<&str>,
    ) -> io::Result<(Vec<Vec<u8>>, bool)> {
        // Directories above keep what they hold, and still each one below has room for a fair part.
        let held: usize = self.levels.iter().map(|level| level.names.len()).sum();
        let room = self.most.saturating_sub(held).max(self.most.div_ceil(5));
        let (mut names, mut more) = (BinaryHeap::new(), false);
        for entry in dir.entries()? {
            let entry = match entry {
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                entry => entry?,
            };
            let mut name = entry.file_name().into_vec();
            let kind = entry.file_type()?;
            let path = || self.path(&format!("{key}{}", String::from_utf8_lossy(&name)));
            if kind.is_dir() || !kind.is_file() && self.root.look(&path()).is_ok_and(|stat| stat.is_dir) {
                name.push(b'/');
            }
            let wanted = after.is_none_or(|after| {
                let after = after.as_bytes();
                name.as_slice() > after || name.ends_with(b"/") && after.starts_with(&name)
            });
            let own = self.base.is_empty() && key.is_empty() && name == format!("{SCRATCH}/").as_bytes();
            if wanted && !own && last.is_none_or(|last| name.as_slice() > last) {
                names.push(name);
                if names.len() > room {
                    names.pop();
                    more = true;
                }
            }
        }
        Ok((names.into_sorted_vec(), more))
    }

    /// The last level's directory, opened again when the walk has come back to it.
    fn open_dir(&mut self) -> io::Result<&Dir> {
        let dir = match self.dir.take() {
            Some(dir) => dir,
            None => self.open(self.levels.last().map_or("", |level| &level.key))?,
        };
        Ok(self.dir.insert(dir))
    }

    fn open(&self, key: &str) -> io::Result<Dir> {
        self.root.beneath(&self.path(key), |dir, path| dir.open_dir(path))
    }

    /// Where a key is below the root.
    fn path(&self, key: &str) -> String {
        let key = key.strip_suffix('/').unwrap_or(key);
        if self.base.is_empty() || key.is_empty() {
            format!("{}{key}", self.base)
        } else {
            format!("{}/{key}", self.base)
        }
    }
}
