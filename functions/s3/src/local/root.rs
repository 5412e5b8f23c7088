//! The local root, opened, and what is at a path below it.

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

use super::failure::{failed, is_absent, is_escape};
use super::path::{lexical, split};

/// How many links one path may go through, as on Linux:
/// <https://man7.org/linux/man-pages/man7/path_resolution.7.html>.
const MOST_LINKS: usize = 40;

/// The local root, opened.
#[derive(Debug)]
pub struct Root {
    pub(super) path: PathBuf,
    /// Where `path` is when links on the way to it are followed: absolute links below it may be
    /// written either way.
    real: PathBuf,
    pub(super) dir: Dir,
}

/// What is at a path. Two that are equal are the same file with, as far as a file system tells, the
/// same content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stat {
    /// A directory.
    pub is_dir: bool,
    /// A regular file. Neither this nor a directory is a device, a pipe or a socket.
    pub is_file: bool,
    /// In bytes.
    pub size: u64,
    /// When the content last changed, with what the file system keeps of a second.
    pub modified: SystemTime,
    /// The number of the file in its file system.
    pub inode: u64,
    /// The file system.
    pub device: u64,
}

/// A file that is read.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// The content.
    pub file: Arc<File>,
    /// How it was when it was opened.
    pub stat: Stat,
}

impl Root {
    /// Opens the deployment's local root.
    ///
    /// # Errors
    /// `InvalidInput` when it has none, or it cannot be opened.
    pub fn open() -> Result<Arc<Self>, StepError> {
        let path = settings::local_root().ok_or_else(|| {
            ErrorName::InvalidInput.with_message(
                "this deployment has no local root: give infra/template.yaml a file system (FileSystemAccessPointArn, \
                 VpcSubnetIds, VpcSecurityGroupIds), or use s3:// on both sides",
            )
        })?;
        Self::at(&path)
    }

    /// Opens a directory as the root.
    ///
    /// # Errors
    /// `InvalidInput` when it cannot be opened.
    pub fn at(path: &Path) -> Result<Arc<Self>, StepError> {
        let unusable = |why: &str| {
            ErrorName::InvalidInput.with_message(format!(
                "the local root {} cannot be used: {why}; look at the parameters FileSystemAccessPointArn \
                 and FileSystemMountPath of infra/template.yaml",
                path.display()
            ))
        };
        let text = path.to_str().filter(|text| text.starts_with('/'));
        let clean = text
            .and_then(lexical)
            .ok_or_else(|| unusable("it is no absolute path"))?;
        let opened = Dir::open_ambient_dir(path, ambient_authority())
            .map_err(|e| unusable(&e.to_string()))?;
        let real = path.canonicalize().map_err(|e| unusable(&e.to_string()))?;
        Ok(Arc::new(Self {
            path: format!("/{}", clean.join("/")).into(),
            real,
            dir: opened,
        }))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is at a path, its links followed; `None` when there is nothing, or only a link to
    /// nothing.
    ///
    /// # Errors
    /// `InvalidInput` when a link leaves the root or leads in a circle.
    pub fn stat(&self, path: &str) -> Result<Option<Stat>, StepError> {
        match self.look(path) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("look at", path, &error)),
        }
    }

    /// Opens a regular file to read it.
    ///
    /// # Errors
    /// `Conflict` when it is a directory, a device, a pipe or a socket.
    pub fn open_file(&self, path: &str) -> Result<OpenFile, StepError> {
        // Opening a pipe waits for a writer, unless told not to. Regular files are read as ever.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags(OFlags::NONBLOCK));
        let opened = self.beneath(path, |dir, path| {
            let file = dir.open_with(path, &options)?;
            let stat = Stat::from(&file.metadata()?);
            Ok(OpenFile {
                file: Arc::new(file.into_std()),
                stat,
            })
        });
        let opened = opened.map_err(|error| failed("read", path, &error))?;
        if opened.stat.is_file {
            return Ok(opened);
        }
        let what = if opened.stat.is_dir {
            "a directory"
        } else {
            "a device, a pipe or a socket"
        };
        Err(ErrorName::Conflict.with_message(format!(
            "{path:?} below the local root is {what}, not a file to read"
        )))
    }

    /// Removes a file, or a link without what it leads to.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is a directory.
    pub fn remove_file(&self, path: &str) -> Result<(), StepError> {
        let (parent, name) = split(path);
        self.beneath(parent, |dir, parent| dir.remove_file(parent.join(name)))
            .map_err(|error| failed("remove", path, &error))
    }

    pub(super) fn look(&self, path: &str) -> io::Result<Stat> {
        self.beneath(path, |dir, path| dir.metadata(path))
            .map(|metadata| Stat::from(&metadata))
    }

    /// Does something with a path below the root. An absolute link always counts as leaving it; one
    /// that leads back below the root is replaced by where it leads, and that path is confined as
    /// every other.
    pub(super) fn beneath<T>(
        &self,
        path: &str,
        act: impl Fn(&Dir, &Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let path = Path::new(if path.is_empty() { "." } else { path });
        match act(&self.dir, path) {
            Err(error) if is_escape(&error) => match self.without_links(path) {
                Some(path) => act(&self.dir, &path),
                None => Err(error),
            },
            done => done,
        }
    }

    /// The path with every link in it followed, if they all stay below the root.
    fn without_links(&self, path: &Path) -> Option<PathBuf> {
        let reversed = |path: &Path| path.iter().rev().map(ToOwned::to_owned).collect::<Vec<_>>();
        let (mut todo, mut done, mut links) = (reversed(path), PathBuf::from("."), 0);
        while let Some(part) = todo.pop() {
            match Path::new(&part).components().next() {
                Some(Component::ParentDir) if done.as_os_str() == "." => return None,
                Some(Component::ParentDir) => {
                    done.pop();
                }
                Some(Component::Normal(name)) => match self.dir.read_link_contents(done.join(name))
                {
                    Ok(_) if links == MOST_LINKS => return None,
                    Ok(target) => {
                        links += 1;
                        let inside = [&self.path, &self.real]
                            .iter()
                            .find_map(|root| target.strip_prefix(root).ok());
                        match inside {
                            Some(inside) => {
                                done = PathBuf::from(".");
                                todo.extend(reversed(inside));
                            }
                            None if target.is_absolute() => return None,
                            None => todo.extend(reversed(&target)),
                        }
                    }
                    Err(_) => done.push(name),
                },
                _ => {}
            }
        }
        Some(done)
    }
}

impl Stat {
    /// How an open file is now; if that differs from before, it changed meanwhile.
    ///
    /// # Errors
    /// What the file system says.
    pub fn of(file: &File) -> io::Result<Self> {
        Metadata::from_file(file).map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for Stat {
    fn from(metadata: &Metadata) -> Self {
        // A time that cannot be told is the oldest one, as in the AWS CLI.
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

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}
