//! The opened local root, and access to the paths below it.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, MetadataExt, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;
use stepward::model::error::ErrorName;
use stepward::{StepError, settings};

use super::failure::{file_error, is_absent, leads_out_of_root};
use super::path::{clean_path, split_parent};

/// How many links one path may contain, as on Linux:
/// <https://man7.org/linux/man-pages/man7/path_resolution.7.html>
const MAX_LINKS: usize = 40;

/// The opened local root.
#[derive(Debug)]
pub struct Root {
    pub(super) path: PathBuf,
    /// `path` with its links followed: absolute links below the root can be written either way.
    real: PathBuf,
    pub(super) dir: Dir,
}

/// The metadata of a file. Two equal values mean the same file with the same content, as far as the
/// file system can tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileStat {
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether it is a regular file. A device, a pipe or a socket is neither a file nor a
    /// directory.
    pub is_file: bool,
    /// The size, in bytes.
    pub size: u64,
    /// When the content last changed, in the file system's precision.
    pub modified: SystemTime,
    /// The file's number in its file system.
    pub inode: u64,
    /// The number of the file system.
    pub device: u64,
}

/// A file that is open for reading.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// The open file.
    pub file: Arc<File>,
    /// Its metadata when it was opened.
    pub stat: FileStat,
}

impl Root {
    /// Opens the deployment's local root.
    ///
    /// # Errors
    /// `InvalidInput` if the deployment has no local root, or the root cannot be opened.
    pub fn open() -> Result<Arc<Self>, StepError> {
        let path = settings::local_root().ok_or_else(|| {
            ErrorName::InvalidInput.with_message(
                "this deployment has no local root; set the parameters FileSystemAccessPointArn, \
                 VpcSubnetIds and VpcSecurityGroupIds of infra/template.yaml, or use s3:// for \
                 source and destination",
            )
        })?;
        Self::open_at(&path)
    }

    /// Opens a directory as the root.
    ///
    /// # Errors
    /// `InvalidInput` if it cannot be opened.
    pub fn open_at(path: &Path) -> Result<Arc<Self>, StepError> {
        let unusable = |reason: &str| {
            ErrorName::InvalidInput.with_message(format!(
                "the local root \"{}\" cannot be opened: {reason}; check the parameters \
                 FileSystemAccessPointArn and FileSystemMountPath of infra/template.yaml",
                path.display()
            ))
        };
        let text = path.to_str().filter(|text| text.starts_with('/'));
        let clean = text
            .and_then(clean_path)
            .ok_or_else(|| unusable("it is not an absolute path"))?;
        let opened = Dir::open_ambient_dir(path, ambient_authority())
            .map_err(|error| unusable(&error.to_string()))?;
        let real = path
            .canonicalize()
            .map_err(|error| unusable(&error.to_string()))?;
        Ok(Arc::new(Self {
            path: format!("/{}", clean.join("/")).into(),
            real,
            dir: opened,
        }))
    }

    /// The root's absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata of a path, with links followed. `None` if nothing exists there, or only a
    /// broken link.
    ///
    /// # Errors
    /// `InvalidInput` if a link leaves the root or is circular.
    pub fn stat(&self, path: &str) -> Result<Option<FileStat>, StepError> {
        match self.metadata_at(path) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(file_error("read the metadata of", path, &error)),
        }
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// `Conflict` if it is a directory, a device, a pipe or a socket.
    pub fn open_file(&self, path: &str) -> Result<OpenFile, StepError> {
        // Without this flag, opening a pipe waits for a writer. It does not affect regular files.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flag_bits(OFlags::NONBLOCK));
        let opened = self.with_path_below(path, |dir, path| {
            let file = dir.open_with(path, &options)?;
            let stat = FileStat::from(&file.metadata()?);
            Ok(OpenFile {
                file: Arc::new(file.into_std()),
                stat,
            })
        });
        let opened = opened.map_err(|error| file_error("read", path, &error))?;
        if opened.stat.is_file {
            return Ok(opened);
        }

        let kind = if opened.stat.is_dir {
            "a directory"
        } else {
            "a device, a pipe or a socket"
        };

        Err(ErrorName::Conflict.with_message(format!(
            "could not read {path:?} below the local root: it is {kind}, not a regular file"
        )))
    }

    /// Removes a file, or a link without its target.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if it is a directory.
    pub fn remove_file(&self, path: &str) -> Result<(), StepError> {
        let (parent, name) = split_parent(path);
        self.with_path_below(parent, |dir, parent| dir.remove_file(parent.join(name)))
            .map_err(|error| file_error("remove", path, &error))
    }

    /// The metadata of a path, with links followed.
    pub(super) fn metadata_at(&self, path: &str) -> io::Result<FileStat> {
        self.with_path_below(path, |dir, path| dir.metadata(path))
            .map(|metadata| FileStat::from(&metadata))
    }

    /// Calls `act` with a path that is confined to the root. cap-std refuses every absolute link.
    /// If an absolute link leads back below the root, it is replaced by its target, and the new
    /// path is confined like every other path.
    pub(super) fn with_path_below<T>(
        &self,
        path: &str,
        act: impl Fn(&Dir, &Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let path = Path::new(if path.is_empty() { "." } else { path });
        match act(&self.dir, path) {
            Err(error) if leads_out_of_root(&error) => match self.follow_links(path) {
                Some(path) => act(&self.dir, &path),
                None => Err(error),
            },
            result => result,
        }
    }

    /// The path with every link in it followed; `None` if one leaves the root.
    fn follow_links(&self, path: &Path) -> Option<PathBuf> {
        let reversed = |path: &Path| path.iter().rev().map(ToOwned::to_owned).collect::<Vec<_>>();
        let (mut remaining, mut resolved, mut links) = (reversed(path), PathBuf::from("."), 0);

        while let Some(part) = remaining.pop() {
            match Path::new(&part).components().next() {
                Some(Component::ParentDir) if resolved.as_os_str() == "." => return None,
                Some(Component::ParentDir) => {
                    resolved.pop();
                }
                Some(Component::Normal(name)) => {
                    match self.dir.read_link_contents(resolved.join(name)) {
                        Ok(_) if links == MAX_LINKS => return None,
                        Ok(target) => {
                            links += 1;
                            let inside = [&self.path, &self.real]
                                .iter()
                                .find_map(|root| target.strip_prefix(root).ok());
                            match inside {
                                Some(inside) => {
                                    resolved = PathBuf::from(".");
                                    remaining.extend(reversed(inside));
                                }
                                None if target.is_absolute() => return None,
                                None => remaining.extend(reversed(&target)),
                            }
                        }
                        Err(_) => resolved.push(name),
                    }
                }
                _ => {}
            }
        }

        Some(resolved)
    }
}

impl FileStat {
    /// The current metadata of an open file. It differs from [`OpenFile::stat`] if the file changed
    /// since it was opened.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn of_open_file(file: &File) -> io::Result<Self> {
        Metadata::from_file(file).map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for FileStat {
    fn from(metadata: &Metadata) -> Self {
        // If the file system reports no time, use the oldest one, as the AWS CLI does.
        let modified = metadata
            .modified()
            .map_or(SystemTime::UNIX_EPOCH, cap_std::time::SystemTime::into_std);
        Self {
            is_dir: metadata.is_dir(),
            is_file: metadata.is_file(),
            size: metadata.len(),
            modified,
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }
}

fn flag_bits(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}
