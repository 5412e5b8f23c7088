//! The environment of the transfers: source files, an S3 server that stores objects as files, and
//! checks that a transfer had the right result.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use stepward_testkit::fake_aws::ARTIFACTS_BUCKET;
use stepward_testkit::run_dir::create_run_dir;

use super::choice::Case;

/// The number of small files, and the size of each in bytes.
pub(super) const SMALL_FILES: (u64, u64) = (5_000, 16 << 10);
/// The size of the large file in bytes.
pub(super) const BIG_FILE: u64 = 1 << 30;
/// The only access key that the server accepts.
pub(super) const ACCESS_KEY: (&str, &str) = (
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
);
/// The destination bucket of uploads. Downloads come from the buckets `small` and `big`.
const UPLOADS: &str = "uploads";
/// The number of small files in one folder.
const FILES_PER_FOLDER: u64 = 100;

/// The prefix of the names of benchmark folders. A number follows.
const FOLDER_PREFIX: &str = "bench-s3";
/// A file in each benchmark folder, which is locked while the benchmark runs.
const LOCK_FILE: &str = "alive.lock";

/// The folder of one benchmark. It is removed when dropped.
pub(super) struct BenchFolder {
    dir: PathBuf,
    /// The lock of a folder below Cargo's target directory.
    _lock: Option<File>,
}

impl BenchFolder {
    /// Creates the given folder, or a new one below Cargo's target directory, where other
    /// benchmarks may run at the same time. Removes the folders of benchmarks that were killed.
    pub(super) fn create(given: Option<PathBuf>, target: &Path) -> Result<Self, String> {
        if let Some(dir) = given {
            fs::create_dir(&dir).map_err(|error| {
                format!(
                    "{}: {error}; set --dir to a folder that does not exist",
                    dir.display()
                )
            })?;
            return Ok(Self { dir, _lock: None });
        }

        let create_locked = |path: &Path| {
            let file = File::create(path);
            file.and_then(|file| file.lock().map(|()| file))
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        create_folder(target)?;
        // Without this lock another benchmark could remove the new folder before it has its own
        // lock.
        let _global_lock = create_locked(&target.join(format!("{FOLDER_PREFIX}.lock")))?;
        for name in list_names(target)?.iter().filter(|name| {
            name.to_string_lossy()
                .starts_with(&format!("{FOLDER_PREFIX}-"))
        }) {
            let lock_file = File::open(target.join(name).join(LOCK_FILE));
            let is_locked = lock_file
                .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
            if !is_locked {
                remove(&target.join(name))?;
            }
        }

        let dir = create_run_dir(target, FOLDER_PREFIX)?;
        let lock = create_locked(&dir.join(LOCK_FILE))?;
        Ok(Self {
            dir,
            _lock: Some(lock),
        })
    }
}

impl Drop for BenchFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The source files and a running server. Both are removed when it is dropped.
pub(super) struct Environment {
    folder: BenchFolder,
    server: Child,
    /// The URL of the server.
    pub(super) endpoint: String,
    /// The entries of the server's folder after the buckets were filled. Transfers have written all
    /// other entries.
    initial_entries: BTreeSet<OsString>,
    initial_objects: Tree,
}

/// Files by path, each with its size and the time of its last modification.
type Tree = BTreeMap<PathBuf, (u64, SystemTime)>;

impl Environment {
    /// Writes the files and starts the server with empty buckets.
    pub(super) fn new(folder: BenchFolder, server: &Path) -> Result<Self, String> {
        write_files(&folder.dir)?;
        let (server, endpoint) = start_server(server, &folder.dir.join("server"))?;
        Ok(Self {
            folder,
            server,
            endpoint,
            initial_entries: BTreeSet::new(),
            initial_objects: Tree::new(),
        })
    }

    /// Returns the folder with all files.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.dir.join("files")
    }

    /// Returns the source and the destination of a transfer.
    pub(super) fn source_and_destination(&self, case: Case) -> (String, String) {
        let root = self.root().display().to_string();
        match case {
            Case::SmallUp => (format!("{root}/small/"), format!("s3://{UPLOADS}/")),
            Case::SmallDown => ("s3://small/".into(), format!("{root}/down/")),
            Case::BigUp => (format!("{root}/big/file"), format!("s3://{UPLOADS}/file")),
            Case::BigDown => ("s3://big/file".into(), format!("{root}/down/file")),
            Case::NoChange => (format!("{root}/small/"), "s3://small/".into()),
        }
    }

    /// Checks that the filled buckets have the content of the files, and records it.
    pub(super) fn record_initial_state(&mut self) -> Result<(), String> {
        check_same_files(&self.root().join("small"), &self.bucket("small"))?;
        check_same_files(&self.root().join("big"), &self.bucket("big"))?;
        self.initial_objects = read_tree(&self.bucket("small"))?;
        self.initial_entries = list_names(&self.folder.dir.join("server"))?;
        Ok(())
    }

    /// Removes the result of the previous transfer. Waits until the changes are on the disk, so
    /// that the next transfer does not pay for them.
    pub(super) fn prepare_transfer(&self) -> Result<(), String> {
        let server = self.folder.dir.join("server");
        for name in list_names(&server)?.difference(&self.initial_entries) {
            remove(&server.join(name))?;
        }
        remove(&self.root().join("down"))?;
        remove(&self.root().join(".stepward"))?;
        create_folder(&self.bucket(UPLOADS))?;
        create_folder(&self.root().join("down"))?;
        let synced = Command::new("sync").arg("-f").arg(&server).status();
        synced.map(drop).map_err(|error| format!("sync: {error}"))
    }

    /// Checks that a transfer had the right result: the destination has exactly the bytes of the
    /// source, and nothing unfinished is left.
    pub(super) fn check_result(&self, case: Case) -> Result<(), String> {
        let (small, big, down) = (
            self.root().join("small"),
            self.root().join("big"),
            self.root().join("down"),
        );
        match case {
            Case::SmallUp => check_same_files(&small, &self.bucket(UPLOADS))?,
            Case::SmallDown => check_same_files(&small, &down)?,
            Case::BigUp => check_same_files(&big, &self.bucket(UPLOADS))?,
            Case::BigDown => check_same_files(&big, &down)?,
            // The time of an object shows whether it was written again.
            Case::NoChange if read_tree(&self.bucket("small"))? == self.initial_objects => {}
            Case::NoChange => {
                return Err("the sync wrote objects although no file had changed".into());
            }
        }

        let upload = list_names(&self.folder.dir.join("server"))?
            .into_iter()
            .find(|name| is_upload_part(&name.to_string_lossy()));
        if let Some(upload) = upload {
            return Err(format!(
                "a multipart upload was left unfinished: {}",
                upload.display()
            ));
        }

        let unfinished = self.root().join(".stepward");
        match read_tree(&unfinished)?.keys().next() {
            Some(file) => Err(format!(
                "a download was left unfinished: {}",
                unfinished.join(file).display()
            )),
            None => Ok(()),
        }
    }

    fn bucket(&self, name: &str) -> PathBuf {
        self.folder.dir.join("server").join(name)
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Returns whether s3s-fs uses this name for an upload that is neither completed nor aborted.
fn is_upload_part(name: &str) -> bool {
    name.starts_with(".upload-") || name.starts_with(".upload_id-")
}

fn write_files(dir: &Path) -> Result<(), String> {
    let (count, length) = SMALL_FILES;
    for number in 0..count {
        let folder = dir.join(format!("files/small/{:02}", number / FILES_PER_FOLDER));
        create_folder(&folder)?;
        write_random_file(&folder.join(format!("{number:04}.dat")), length)?;
    }
    create_folder(&dir.join("files/big"))?;
    write_random_file(&dir.join("files/big/file"), BIG_FILE)
}

/// Writes a file of random bytes, which cannot be compressed.
fn write_random_file(path: &Path, length: u64) -> Result<(), String> {
    let write = || {
        let mut file = File::create(path)?;
        std::io::copy(&mut File::open("/dev/urandom")?.take(length), &mut file)
    };
    write()
        .map(drop)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn start_server(server: &Path, dir: &Path) -> Result<(Child, String), String> {
    ["small", "big", ARTIFACTS_BUCKET]
        .iter()
        .try_for_each(|bucket| create_folder(&dir.join(bucket)))?;
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.map_err(|error| format!("found no free port on 127.0.0.1: {error}"))?;
    let mut command = Command::new(server);
    command
        .args(["--host", "127.0.0.1", "--port"])
        .arg(address.port().to_string());
    command
        .args(["--access-key", ACCESS_KEY.0, "--secret-key", ACCESS_KEY.1])
        .arg(dir);
    command
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = command
        .spawn()
        .map_err(|error| format!("{}: {error}", server.display()))?;
    let limit = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_err() {
        if let (Ok(Some(_)), _) | (_, true) = (child.try_wait(), Instant::now() > limit) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!(
                "{} did not start, or did not listen at {address} within 10 s",
                server.display()
            ));
        }
        sleep(Duration::from_millis(20));
    }
    Ok((child, format!("http://{address}")))
}

/// Fails if two folders do not contain the same files.
fn check_same_files(expected: &Path, actual: &Path) -> Result<(), String> {
    let read_sizes = |dir| {
        Ok::<_, String>(
            read_tree(dir)?
                .into_iter()
                .map(|(path, (size, _))| (path, size))
                .collect(),
        )
    };
    let expected_sizes: BTreeMap<_, _> = read_sizes(expected)?;
    let actual_sizes: BTreeMap<_, _> = read_sizes(actual)?;
    if expected_sizes != actual_sizes {
        let missing_or_different = expected_sizes
            .iter()
            .find(|(path, size)| actual_sizes.get(*path) != Some(size))
            .map(|(path, _)| path);
        let different = missing_or_different.or_else(|| {
            actual_sizes
                .keys()
                .find(|path| !expected_sizes.contains_key(*path))
        });
        return Err(format!(
            "{}: expected {} files, found {}; the first difference is {:?}",
            actual.display(),
            expected_sizes.len(),
            actual_sizes.len(),
            different
                .map(|path| path.display().to_string())
                .unwrap_or_default()
        ));
    }

    match expected_sizes
        .keys()
        .find(|path| !has_same_bytes(&expected.join(path), &actual.join(path)).unwrap_or(false))
    {
        Some(path) => Err(format!(
            "{}: the content differs from that of {}",
            actual.join(path).display(),
            expected.join(path).display()
        )),
        None => Ok(()),
    }
}

fn has_same_bytes(first: &Path, second: &Path) -> std::io::Result<bool> {
    const CHUNK: u64 = 1 << 20;
    let mut first = BufReader::new(File::open(first)?);
    let mut second = BufReader::new(File::open(second)?);
    let (mut first_chunk, mut second_chunk) = (Vec::new(), Vec::new());
    loop {
        first_chunk.clear();
        second_chunk.clear();
        first.by_ref().take(CHUNK).read_to_end(&mut first_chunk)?;
        second.by_ref().take(CHUNK).read_to_end(&mut second_chunk)?;
        if first_chunk != second_chunk || first_chunk.is_empty() {
            return Ok(first_chunk == second_chunk);
        }
    }
}

/// Returns every file below a folder. The tree is empty if the folder does not exist.
fn read_tree(dir: &Path) -> Result<Tree, String> {
    let mut tree = Tree::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for name in list_names(&folder)? {
            let path = folder.join(name);
            let metadata = fs::symlink_metadata(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            if metadata.is_dir() {
                folders.push(path);
            } else {
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let name = path.strip_prefix(dir).unwrap_or(&path);
                tree.insert(name.to_owned(), (metadata.len(), modified));
            }
        }
    }
    Ok(tree)
}

/// Returns the names of a folder's entries. The set is empty if the folder does not exist.
fn list_names(dir: &Path) -> Result<BTreeSet<OsString>, String> {
    match fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
    .map_err(|error| format!("{}: {error}", dir.display()))
}

fn create_folder(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))
}

/// Removes a file or a folder. Succeeds if it does not exist.
fn remove(path: &Path) -> Result<(), String> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create_test_folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("stepward-bench-{}-{name}", std::process::id()));
        remove(&dir).unwrap();
        for (path, content) in files {
            let path = dir.join(path);
            create_folder(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn only_folders_of_ended_benchmarks_are_removed() {
        let target = create_test_folder(
            "folders",
            &[
                ("bench-s3-1-0/files/a", "1"),
                ("bench-s3.txt", ""),
                ("debug/a", ""),
            ],
        );
        let first = BenchFolder::create(None, &target).unwrap();
        let second = BenchFolder::create(None, &target).unwrap();
        assert!(first.dir != second.dir && first.dir.is_dir() && second.dir.is_dir());
        assert!(!target.join("bench-s3-1-0").exists());
        assert!(target.join("bench-s3.txt").is_file() && target.join("debug/a").is_file());
        let removed = first.dir.clone();
        drop(first);
        assert!(!removed.exists() && second.dir.is_dir());
        let error = BenchFolder::create(Some(second.dir.clone()), &target)
            .err()
            .unwrap();
        assert!(
            error.contains("set --dir to a folder that does not exist"),
            "{error}"
        );
        drop(second);
        remove(&target).unwrap();
    }

    #[test]
    fn only_folders_with_equal_files_and_bytes_are_equal() {
        let expected = create_test_folder("expected", &[("a", "1"), ("b/c", "22")]);
        for (name, files, equal) in [
            ("equal", &[("a", "1"), ("b/c", "22")][..], true),
            ("missing", &[("a", "1")], false),
            ("more", &[("a", "1"), ("b/c", "22"), ("d", "")], false),
            ("longer", &[("a", "1"), ("b/c", "222")], false),
            ("other bytes", &[("a", "1"), ("b/c", "23")], false),
        ] {
            let actual = create_test_folder(name, files);
            assert_eq!(
                check_same_files(&expected, &actual).is_ok(),
                equal,
                "{name}"
            );
            remove(&actual).unwrap();
        }
        remove(&expected).unwrap();
    }
}
