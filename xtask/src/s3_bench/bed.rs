//! Where the transfers run: files, an S3 server that keeps its objects as files too, and the proof
//! that both are right.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use stepward_testkit::run_dir::new_run_dir;
use stepward_testkit::stand_in::ARTIFACTS;

use super::choice::Case;

/// How many small files, and how long each is.
pub(super) const SMALL: (u64, u64) = (5_000, 16 << 10);
/// The large file's length.
pub(super) const BIG: u64 = 1 << 30;
/// The one access key that the server knows.
pub(super) const KEY: (&str, &str) = (
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
);
/// The bucket for what is uploaded; `small` and `big` hold what is downloaded.
const UPLOADS: &str = "uploads";
/// Small files in one folder.
const FOLDER: u64 = 100;

/// What the folders of benches are called, before a number.
const FOLDERS: &str = "bench-s3";
/// In such a folder, locked while its bench runs.
const ALIVE: &str = "alive.lock";

/// The folder of one bench.
pub(super) struct Place {
    dir: PathBuf,
    /// Held while the bench runs, where the folder is below Cargo's target directory.
    _alive: Option<File>,
}

impl Place {
    /// Makes a new folder: the one that was asked for, else one below Cargo's target directory,
    /// where other benches may run at the same time. What benches that were killed have left there
    /// is removed.
    pub(super) fn new(asked_for: Option<PathBuf>, target: &Path) -> Result<Self, String> {
        if let Some(dir) = asked_for {
            fs::create_dir(&dir).map_err(|error| {
                format!("{}: {error}; name a folder that is new", dir.display())
            })?;
            return Ok(Self { dir, _alive: None });
        }
        let locked = |path: &Path| {
            let file = File::create(path);
            file.and_then(|file| file.lock().map(|()| file))
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        make(target)?;
        // Otherwise another bench could take this one's folder for left over, before that is
        // locked.
        let _gate = locked(&target.join(format!("{FOLDERS}.lock")))?;
        for name in names(target)?
            .iter()
            .filter(|name| name.to_string_lossy().starts_with(&format!("{FOLDERS}-")))
        {
            let alive = File::open(target.join(name).join(ALIVE));
            if !alive.is_ok_and(|alive| matches!(alive.try_lock(), Err(TryLockError::WouldBlock))) {
                remove(&target.join(name))?;
            }
        }
        let dir = new_run_dir(target, FOLDERS)?;
        let alive = locked(&dir.join(ALIVE))?;
        Ok(Self {
            dir,
            _alive: Some(alive),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Files and a server. Both are gone when it is dropped.
pub(super) struct Bed {
    place: Place,
    server: Child,
    /// Where the server answers.
    pub(super) endpoint: String,
    /// What the server has once its buckets are filled: the rest is of transfers.
    filled: BTreeSet<OsString>,
    objects: Tree,
}

/// Files by their paths, each with its length and when it was written.
type Tree = BTreeMap<PathBuf, (u64, SystemTime)>;

impl Bed {
    /// Makes the files and starts the server, with empty buckets.
    pub(super) fn new(place: Place, server: &Path) -> Result<Self, String> {
        write_files(&place.dir)?;
        let (server, endpoint) = start(server, &place.dir.join("server"))?;
        Ok(Self {
            place,
            server,
            endpoint,
            filled: BTreeSet::new(),
            objects: Tree::new(),
        })
    }

    /// The folder that holds all the files.
    pub(super) fn root(&self) -> PathBuf {
        self.place.dir.join("files")
    }

    /// From where to where a case's data goes.
    pub(super) fn ends(&self, case: Case) -> (String, String) {
        let root = self.root().display().to_string();
        match case {
            Case::SmallUp => (format!("{root}/small/"), format!("s3://{UPLOADS}/")),
            Case::SmallDown => ("s3://small/".into(), format!("{root}/down/")),
            Case::BigUp => (format!("{root}/big/file"), format!("s3://{UPLOADS}/file")),
            Case::BigDown => ("s3://big/file".into(), format!("{root}/down/file")),
            Case::NoChange => (format!("{root}/small/"), "s3://small/".into()),
        }
    }

    /// Remembers what the buckets hold now, after checking that it is what the files are.
    pub(super) fn filled(&mut self) -> Result<(), String> {
        same(&self.root().join("small"), &self.bucket("small"))?;
        same(&self.root().join("big"), &self.bucket("big"))?;
        self.objects = tree(&self.bucket("small"))?;
        self.filled = names(&self.place.dir.join("server"))?;
        Ok(())
    }

    /// Takes back what an earlier transfer did, and waits until the disk has it: no transfer pays
    /// for another's writes.
    pub(super) fn prepare(&self) -> Result<(), String> {
        let server = self.place.dir.join("server");
        for name in names(&server)?.difference(&self.filled) {
            remove(&server.join(name))?;
        }
        remove(&self.root().join("down"))?;
        remove(&self.root().join(".stepward"))?;
        make(&self.bucket(UPLOADS))?;
        make(&self.root().join("down"))?;
        let synced = Command::new("sync").arg("-f").arg(&server).status();
        synced.map(drop).map_err(|error| format!("sync: {error}"))
    }

    /// That a transfer came out right: every file and object there, byte by byte, and nothing
    /// beside it.
    pub(super) fn check(&self, case: Case) -> Result<(), String> {
        let (small, big, down) = (
            self.root().join("small"),
            self.root().join("big"),
            self.root().join("down"),
        );
        match case {
            Case::SmallUp => same(&small, &self.bucket(UPLOADS))?,
            Case::SmallDown => same(&small, &down)?,
            Case::BigUp => same(&big, &self.bucket(UPLOADS))?,
            Case::BigDown => same(&big, &down)?,
            // Written anew, an object would have another time.
            Case::NoChange if tree(&self.bucket("small"))? == self.objects => {}
            Case::NoChange => return Err("objects were written although none had changed".into()),
        }
        let left = names(&self.place.dir.join("server"))?
            .into_iter()
            .find(|name| is_part(&name.to_string_lossy()));
        if let Some(left) = left {
            return Err(format!(
                "a multipart upload was left unfinished: {}",
                left.display()
            ));
        }
        let unfinished = self.root().join(".stepward");
        match tree(&unfinished)?.keys().next() {
            Some(file) => Err(format!(
                "a download was left unfinished: {}",
                unfinished.join(file).display()
            )),
            None => Ok(()),
        }
    }

    fn bucket(&self, name: &str) -> PathBuf {
        self.place.dir.join("server").join(name)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// How s3s-fs calls what belongs to an upload that is neither completed nor aborted.
fn is_part(name: &str) -> bool {
    name.starts_with(".upload-") || name.starts_with(".upload_id-")
}

fn write_files(dir: &Path) -> Result<(), String> {
    let (count, length) = SMALL;
    for number in 0..count {
        let folder = dir.join(format!("files/small/{:02}", number / FOLDER));
        make(&folder)?;
        write(&folder.join(format!("{number:04}.dat")), length)?;
    }
    make(&dir.join("files/big"))?;
    write(&dir.join("files/big/file"), BIG)
}

/// A file of noise, which nothing on the way can compress or guess.
fn write(path: &Path, length: u64) -> Result<(), String> {
    let written = || {
        let mut file = File::create(path)?;
        std::io::copy(&mut File::open("/dev/urandom")?.take(length), &mut file)
    };
    written()
        .map(drop)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn start(server: &Path, dir: &Path) -> Result<(Child, String), String> {
    ["small", "big", ARTIFACTS]
        .iter()
        .try_for_each(|bucket| make(&dir.join(bucket)))?;
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.map_err(|error| format!("a free port: {error}"))?;
    let mut command = Command::new(server);
    command
        .args(["--host", "127.0.0.1", "--port"])
        .arg(address.port().to_string());
    command
        .args(["--access-key", KEY.0, "--secret-key", KEY.1])
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
            return Err(format!("{} does not answer at {address}", server.display()));
        }
        sleep(Duration::from_millis(20));
    }
    Ok((child, format!("http://{address}")))
}

/// Fails when two folders do not hold the same files.
fn same(one: &Path, other: &Path) -> Result<(), String> {
    let lengths = |dir| {
        Ok::<_, String>(
            tree(dir)?
                .into_iter()
                .map(|(path, (length, _))| (path, length))
                .collect(),
        )
    };
    let (files, found): (BTreeMap<_, _>, BTreeMap<_, _>) = (lengths(one)?, lengths(other)?);
    if files != found {
        let differs = files
            .iter()
            .find(|(path, length)| found.get(*path) != Some(length))
            .map(|(path, _)| path);
        let differs = differs.or_else(|| found.keys().find(|path| !files.contains_key(*path)));
        let which = differs
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        let (wanted, has) = (files.len(), found.len());
        return Err(format!(
            "{} has {has} files where {wanted} should be; {which} differs",
            other.display()
        ));
    }
    match files
        .keys()
        .find(|path| !same_bytes(&one.join(path), &other.join(path)).unwrap_or(false))
    {
        Some(path) => Err(format!(
            "{} has other content than it should",
            other.join(path).display()
        )),
        None => Ok(()),
    }
}

fn same_bytes(one: &Path, other: &Path) -> std::io::Result<bool> {
    const AT_ONCE: usize = 1 << 20;
    let (mut one, mut other) = (
        BufReader::new(File::open(one)?),
        BufReader::new(File::open(other)?),
    );
    let (mut bytes, mut others) = (Vec::new(), Vec::new());
    loop {
        bytes.clear();
        others.clear();
        one.by_ref().take(AT_ONCE as u64).read_to_end(&mut bytes)?;
        other
            .by_ref()
            .take(AT_ONCE as u64)
            .read_to_end(&mut others)?;
        if bytes != others || bytes.is_empty() {
            return Ok(bytes == others);
        }
    }
}

/// Every file below a folder; none where the folder is not.
fn tree(dir: &Path) -> Result<Tree, String> {
    let mut found = Tree::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for name in names(&folder)? {
            let path = folder.join(name);
            let about = fs::symlink_metadata(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            if about.is_dir() {
                folders.push(path);
            } else {
                let written = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let name = path.strip_prefix(dir).unwrap_or(&path);
                found.insert(name.to_owned(), (about.len(), written));
            }
        }
    }
    Ok(found)
}

/// What a folder holds; nothing where the folder is not.
fn names(dir: &Path) -> Result<BTreeSet<OsString>, String> {
    match fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
    .map_err(|error| format!("{}: {error}", dir.display()))
}

fn make(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))
}

/// Removes a file or a folder; well if there is none.
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

    fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("stepward-bed-{}-{name}", std::process::id()));
        remove(&dir).unwrap();
        for (path, content) in files {
            let path = dir.join(path);
            make(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn a_bench_leaves_the_folders_of_running_benches_alone_and_removes_others() {
        let target = folder(
            "places",
            &[
                ("bench-s3-1-0/files/a", "1"),
                ("bench-s3.txt", ""),
                ("debug/a", ""),
            ],
        );
        let one = Place::new(None, &target).unwrap();
        let other = Place::new(None, &target).unwrap();
        assert!(one.dir != other.dir && one.dir.is_dir() && other.dir.is_dir());
        assert!(!target.join("bench-s3-1-0").exists());
        assert!(target.join("bench-s3.txt").is_file() && target.join("debug/a").is_file());
        let gone = one.dir.clone();
        drop(one);
        assert!(!gone.exists() && other.dir.is_dir());
        let taken = Place::new(Some(other.dir.clone()), &target).err().unwrap();
        assert!(taken.contains("name a folder that is new"), "{taken}");
        drop(other);
        remove(&target).unwrap();
    }

    #[test]
    fn folders_are_the_same_only_with_the_same_files_and_bytes() {
        let one = folder("one", &[("a", "1"), ("b/c", "22")]);
        for (name, files, equal) in [
            ("equal", &[("a", "1"), ("b/c", "22")][..], true),
            ("missing", &[("a", "1")], false),
            ("more", &[("a", "1"), ("b/c", "22"), ("d", "")], false),
            ("longer", &[("a", "1"), ("b/c", "222")], false),
            ("other bytes", &[("a", "1"), ("b/c", "23")], false),
        ] {
            let other = folder(name, files);
            assert_eq!(same(&one, &other).is_ok(), equal, "{name}");
            remove(&other).unwrap();
        }
        remove(&one).unwrap();
    }
}
