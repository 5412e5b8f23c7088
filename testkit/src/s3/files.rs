//! Directories on disk: made for a case, and looked at after it.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::case::Node;

/// What is at a path. Two are the same when an operation has done the same there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// A directory.
    Directory,
    /// A file: size, hash of the content, whole seconds since 1970 of its last modification.
    File(u64, u64, i64),
    /// A symbolic link to this.
    Link(String),
    /// Anything else.
    Other,
}

/// Empties a directory, or makes it.
pub(super) fn empty(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?
        } else {
            fs::remove_file(entry.path())?
        }
    }
    Ok(())
}

/// Makes nodes below an empty directory; `put` writes the targets of links.
pub(super) fn make(
    root: &Path,
    nodes: &BTreeMap<String, Node>,
    put: impl Fn(&str) -> String,
) -> io::Result<()> {
    for (path, node) in nodes {
        let path = root.join(path);
        match node {
            Node::Directory => fs::create_dir(&path)?,
            Node::File(content, modified, and_a_half) => {
                fs::write(&path, content.bytes())?;
                set_modified(&path, *modified, *and_a_half)?;
            }
            Node::Link(target) => symlink(put(target), &path)?,
            Node::Fifo => {
                if !Command::new("mkfifo").arg(&path).status()?.success() {
                    return Err(io::Error::other("mkfifo failed"));
                }
            }
        }
    }
    Ok(())
}

fn set_modified(path: &Path, seconds: i64, and_a_half: bool) -> io::Result<()> {
    let half = Duration::from_millis(if and_a_half { 500 } else { 0 });
    let time = UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs()) + half;
    File::options()
        .write(true)
        .open(path)?
        .set_times(FileTimes::new().set_modified(time))
}

/// Everything below a directory, by path; `take` takes what is only this side's out of a text.
pub(super) fn look(
    root: &Path,
    take: &impl Fn(&str) -> String,
) -> io::Result<BTreeMap<String, Seen>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![(root.to_owned(), String::new())];
    while let Some((directory, prefix)) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let path = format!("{prefix}{}", entry.file_name().display());
            let meta = entry.metadata()?;
            let kind = meta.file_type();
            let seen = if kind.is_dir() {
                directories.push((entry.path(), format!("{path}/")));
                Seen::Directory
            } else if kind.is_symlink() {
                Seen::Link(take(&fs::read_link(entry.path())?.to_string_lossy()))
            } else if kind.is_file() {
                Seen::File(
                    meta.len(),
                    hash(&entry.path())?,
                    whole_seconds(meta.modified()?),
                )
            } else {
                debug_assert!(kind.is_fifo() || kind.is_socket());
                Seen::Other
            };
            found.insert(path, seen);
        }
    }
    Ok(found)
}

fn hash(path: &Path) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    fs::read(path)?.hash(&mut hasher);
    Ok(hasher.finish())
}

fn whole_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
