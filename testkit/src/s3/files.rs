//! Creates the directories of a case on disk, and reads them after the operation.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::case::Node;

/// An entry of the file system. Two entries are equal if the operations on both sides had the same
/// result.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    /// A directory.
    Directory,
    /// A file: size, hash of the content, and the time of the last modification in whole seconds
    /// since 1970.
    File(u64, u64, i64),
    /// A symbolic link to this target.
    Link(String),
    /// Another type of entry.
    Other,
}

/// Removes everything from a directory. Creates the directory if it does not exist.
pub(super) fn clear_directory(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Creates nodes below an empty directory. `with_names` replaces the placeholders in the targets of
/// links.
pub(super) fn create_nodes(
    root: &Path,
    nodes: &BTreeMap<String, Node>,
    with_names: impl Fn(&str) -> String,
) -> io::Result<()> {
    for (path, node) in nodes {
        let path = root.join(path);
        match node {
            Node::Directory => fs::create_dir(&path)?,
            Node::File(content, modified, adds_half_second) => {
                fs::write(&path, content.bytes())?;
                set_modified(&path, *modified, *adds_half_second)?;
            }
            Node::Link(target) => symlink(with_names(target), &path)?,
            Node::Fifo => {
                if !Command::new("mkfifo").arg(&path).status()?.success() {
                    return Err(io::Error::other(format!(
                        "mkfifo {} failed",
                        path.display()
                    )));
                }
            }
        }
    }
    Ok(())
}

fn set_modified(path: &Path, seconds: i64, adds_half_second: bool) -> io::Result<()> {
    let fraction = Duration::from_millis(if adds_half_second { 500 } else { 0 });
    let time = UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs()) + fraction;
    File::options()
        .write(true)
        .open(path)?
        .set_times(FileTimes::new().set_modified(time))
}

/// Returns everything below a directory, by path. `with_placeholders` replaces the names of the
/// side in the targets of links.
pub(super) fn read_tree(
    root: &Path,
    with_placeholders: &impl Fn(&str) -> String,
) -> io::Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    let mut directories = vec![(root.to_owned(), String::new())];
    while let Some((directory, prefix)) = directories.pop() {
        for file in fs::read_dir(&directory)? {
            let file = file?;
            let path = format!("{prefix}{}", file.file_name().display());
            let metadata = file.metadata()?;
            let kind = metadata.file_type();
            let entry = if kind.is_dir() {
                directories.push((file.path(), format!("{path}/")));
                Entry::Directory
            } else if kind.is_symlink() {
                let target = fs::read_link(file.path())?;
                Entry::Link(with_placeholders(&target.to_string_lossy()))
            } else if kind.is_file() {
                Entry::File(
                    metadata.len(),
                    hash_file(&file.path())?,
                    whole_seconds(metadata.modified()?),
                )
            } else {
                debug_assert!(kind.is_fifo() || kind.is_socket());
                Entry::Other
            };
            entries.insert(path, entry);
        }
    }
    Ok(entries)
}

fn hash_file(path: &Path) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    fs::read(path)?.hash(&mut hasher);
    Ok(hasher.finish())
}

fn whole_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
