//! Tests of [`Root`]: reading, deleting and following links. The tests of the other modules use the
//! helpers in this file, too.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use stepward::StepError;
use stepward::model::error::ErrorName;

use super::root::{FileStat, Root};

/// A root with a directory next to it that no test may change.
pub(super) struct Tree {
    top: PathBuf,
    pub(super) root: Arc<Root>,
}

impl Tree {
    pub(super) fn new() -> Self {
        static TREES: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "stepward-local-{}-{}",
            std::process::id(),
            TREES.fetch_add(1, Ordering::Relaxed)
        );
        let top = std::env::temp_dir().join(name);
        fs::create_dir_all(top.join("root")).unwrap();
        fs::create_dir(top.join("outside")).unwrap();
        fs::write(top.join("outside/f"), "secret").unwrap();
        let root = Root::open_at(&top.join("root")).unwrap();
        Self { top, root }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    pub(super) fn outside(&self) -> PathBuf {
        self.top.join("outside")
    }

    pub(super) fn dir(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    /// Creates a file whose content is its own path, and its parent directories.
    pub(super) fn file(&self, path: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), path).unwrap();
    }

    pub(super) fn files(&self, paths: &[&str]) {
        for path in paths {
            self.file(path);
        }
    }

    pub(super) fn link(&self, target: impl AsRef<Path>, path: &str) {
        symlink(target, self.path(path)).unwrap();
    }

    pub(super) fn pipe(&self, path: &str) {
        assert!(
            Command::new("mkfifo")
                .arg(self.path(path))
                .status()
                .unwrap()
                .success()
        );
    }

    /// Reads a file with `std::fs`, which follows links out of the root.
    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    pub(super) fn assert_outside_unchanged(&self) {
        let names: Vec<_> = fs::read_dir(self.outside())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["f"]);
        assert_eq!(
            fs::read_to_string(self.outside().join("f")).unwrap(),
            "secret"
        );
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.top);
    }
}

pub(super) fn error_name<T>(result: Result<T, StepError>) -> Option<ErrorName> {
    result.err().map(|error| error.name)
}

/// Reads a file through [`Root`], which refuses links out of the root.
pub(super) fn read_content(tree: &Tree, path: &str) -> Result<String, StepError> {
    let mut text = String::new();
    tree.root
        .open_file(path)?
        .file
        .read_to_string(&mut text)
        .unwrap();
    Ok(text)
}

#[test]
fn a_root_that_cannot_be_opened_is_invalid_input() {
    for path in ["/nowhere/at/all", "relative"] {
        let error = Root::open_at(Path::new(path)).err().unwrap();
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("FileSystemMountPath"), "{error}");
    }
}

#[test]
fn a_changed_file_has_different_metadata() {
    let tree = Tree::new();
    tree.file("a/b");
    let open = tree.root.open_file("a/b").unwrap();
    assert_eq!(tree.root.stat("a/b").unwrap(), Some(open.stat));
    assert_eq!(
        (open.stat.size, open.stat.is_file, open.stat.is_dir),
        (3, true, false)
    );
    fs::write(tree.path("a/b"), "longer").unwrap();
    assert_ne!(FileStat::of_open_file(&open.file).unwrap(), open.stat);
    assert_ne!(tree.root.stat("a/b").unwrap(), Some(open.stat));
}

#[test]
fn a_replacement_of_equal_size_and_time_is_detected() {
    let tree = Tree::new();
    tree.file("a");
    tree.file("b");
    let before = tree.root.stat("a").unwrap().unwrap();
    File::options()
        .write(true)
        .open(tree.path("b"))
        .unwrap()
        .set_modified(before.modified)
        .unwrap();
    fs::rename(tree.path("b"), tree.path("a")).unwrap();
    let after = tree.root.stat("a").unwrap().unwrap();
    assert_eq!((before.size, before.modified), (after.size, after.modified));
    assert_ne!(before, after);
}

#[test]
fn missing_paths_broken_links_and_paths_through_files_are_absent() {
    let tree = Tree::new();
    tree.file("a");
    tree.link("missing", "l");
    for path in ["b", "l", "a/b"] {
        assert_eq!(tree.root.stat(path).unwrap(), None, "{path}");
    }
    assert_eq!(
        error_name(tree.root.open_file("b")),
        Some(ErrorName::NotFound)
    );
    assert!(tree.root.stat("").unwrap().unwrap().is_dir);
}

#[test]
fn relative_and_absolute_links_inside_the_root_are_followed() {
    let tree = Tree::new();
    tree.file("a/b/f");
    tree.link("a/../a/b", "relative");
    tree.link(tree.path("a/b"), "absolute");
    tree.link("../absolute/f", "a/again");
    tree.link(fs::canonicalize(tree.path("a/b/f")).unwrap(), "real");
    for path in ["relative/f", "absolute/f", "a/again", "real"] {
        assert_eq!(read_content(&tree, path).unwrap(), "a/b/f", "{path}");
        assert!(tree.root.stat(path).unwrap().unwrap().is_file, "{path}");
    }
}

#[test]
fn links_that_leave_the_root_are_refused() {
    let tree = Tree::new();
    tree.file("a/f");
    tree.link("../outside", "up");
    tree.link(tree.outside(), "absolute");
    tree.link("/proc/self/root", "magic");
    tree.link("up/f", "through");
    tree.link(tree.path("a/../../outside"), "back");
    for path in [
        "up/f",
        "absolute/f",
        "magic/etc/passwd",
        "through",
        "back/f",
        "../outside/f",
    ] {
        assert_eq!(
            error_name(tree.root.open_file(path)),
            Some(ErrorName::InvalidInput),
            "{path}"
        );
        assert_eq!(
            error_name(tree.root.stat(path)),
            Some(ErrorName::InvalidInput),
            "{path}"
        );
    }
    assert_eq!(
        error_name(tree.root.remove_file("up/f")),
        Some(ErrorName::InvalidInput)
    );
    tree.assert_outside_unchanged();
}

#[test]
fn circular_links_are_refused() {
    let tree = Tree::new();
    tree.link("y", "x");
    tree.link("x", "y");
    tree.link(tree.path("q"), "p");
    tree.link(tree.path("p"), "q");
    for path in ["x", "p"] {
        assert_eq!(
            error_name(tree.root.stat(path)),
            Some(ErrorName::InvalidInput),
            "{path}"
        );
        assert_eq!(
            error_name(tree.root.open_file(path)),
            Some(ErrorName::InvalidInput),
            "{path}"
        );
    }
}

#[test]
fn opening_a_directory_pipe_or_socket_fails_without_waiting() {
    let tree = Tree::new();
    tree.dir("d");
    tree.pipe("p");
    let _socket = UnixListener::bind(tree.path("s")).unwrap();
    // On a separate thread: opening a pipe could wait forever for its other end.
    let root = tree.root.clone();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        ["d", "p", "s", ""].map(|path| sender.send(error_name(root.open_file(path))))
    });
    for path in ["d", "p", "s", ""] {
        let result = receiver.recv_timeout(Duration::from_secs(10));
        assert_eq!(result, Ok(Some(ErrorName::Conflict)), "{path:?}");
    }
}

#[test]
fn remove_file_keeps_link_targets_and_refuses_directories() {
    let tree = Tree::new();
    tree.file("d/f");
    tree.link("d/f", "l");
    tree.link(tree.outside().join("f"), "o");
    tree.link(tree.path("d"), "absolute");
    tree.root.remove_file("l").unwrap();
    tree.root.remove_file("o").unwrap();
    assert_eq!(tree.read("d/f"), "d/f");
    assert_eq!(
        error_name(tree.root.remove_file("d")),
        Some(ErrorName::Conflict)
    );
    assert_eq!(
        error_name(tree.root.remove_file("")),
        Some(ErrorName::Conflict)
    );
    assert_eq!(
        error_name(tree.root.remove_file("l")),
        Some(ErrorName::NotFound)
    );
    tree.root.remove_file("absolute/f").unwrap();
    assert_eq!(tree.root.stat("d/f").unwrap(), None);
    tree.assert_outside_unchanged();
}
