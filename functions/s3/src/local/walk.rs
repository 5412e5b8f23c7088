//! All files below a directory, in the order of their keys.

use std::collections::BinaryHeap;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::vec::IntoIter;

use cap_std::fs::{Dir, MetadataExt};
use stepward::StepError;

use super::failure::{file_error, is_absent, skip_reason};
use super::root::{FileStat, Root};

/// How many names a walk holds in memory. A larger directory is read again for the next names.
const MAX_NAMES: usize = 100_000;

/// The directory of unfinished files, as a listing of the root names it.
const SCRATCH_ENTRY: &[u8] = b".stepward/";

/// An entry that a walk found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WalkedEntry {
    /// A regular file, or a link to one.
    File {
        /// The path, relative to the start of the walk.
        key: String,
        /// The file's metadata.
        stat: FileStat,
    },
    /// An entry that is skipped, with everything below it if it is a directory.
    Skipped {
        /// The path, relative to the start of the walk, with a slash at the end if it is a
        /// directory. For a name that is not UTF-8 it is an approximation; do not resume a walk
        /// after it.
        key: String,
        /// The reason, as the end of a sentence.
        reason: String,
    },
}

impl Root {
    /// Calls `visit` for every file below `directory`, in byte order of their keys, which is the
    /// order of S3's listings and of the AWS CLI. Everything up to and including the key `after` is
    /// omitted without being read. Files that appear or disappear during the walk may be visited or
    /// not.
    ///
    /// # Errors
    /// `NotFound` if `directory` does not exist; `Conflict` if it is a file.
    pub fn walk(
        &self,
        directory: &str,
        after: Option<&str>,
        visit: &mut dyn FnMut(WalkedEntry) -> ControlFlow<()>,
    ) -> Result<(), StepError> {
        self.walk_with_limit(MAX_NAMES, directory, after, visit)
    }

    pub(super) fn walk_with_limit(
        &self,
        max_names: usize,
        directory: &str,
        after: Option<&str>,
        visit: &mut dyn FnMut(WalkedEntry) -> ControlFlow<()>,
    ) -> Result<(), StepError> {
        let mut walk = Walk {
            root: self,
            directory,
            max_names,
            levels: Vec::new(),
            dir: None,
        };
        let (dir, level) = walk
            .enter_directory("", after)
            .map_err(|error| file_error("list", directory, &error))?;
        (walk.dir, walk.levels) = (Some(dir), vec![level]);
        while let Some(listed) = walk.next_entry()? {
            if visit(listed).is_break() {
                break;
            }
        }
        Ok(())
    }
}

struct Walk<'a> {
    root: &'a Root,
    directory: &'a str,
    max_names: usize,
    /// The directories from `directory` down to the current one.
    levels: Vec<Level>,
    /// The last of them, open. Only this one is open: a tree can be deeper than the number of files
    /// that a process may open.
    dir: Option<Dir>,
}

struct Level {
    /// The directory's own key: empty, or with a slash at the end.
    key: String,
    /// Device and inode.
    identity: (u64, u64),
    /// The names that are still to visit. A directory's name ends with a slash.
    names: IntoIter<Vec<u8>>,
    /// The last name that was visited.
    last: Option<Vec<u8>>,
    /// Whether the directory has names beyond these.
    has_more: bool,
    /// The part of `after` below this directory.
    after: Option<String>,
}

impl Walk<'_> {
    /// The next entry; `None` at the end.
    fn next_entry(&mut self) -> Result<Option<WalkedEntry>, StepError> {
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = level.names.next() {
                level.last = Some(name.clone());
                if let Some(listed) = self.visit_name(name)? {
                    return Ok(Some(listed));
                }
            } else if level.has_more {
                self.read_more_names()?;
            } else {
                self.levels.pop();
                self.dir = None;
            }
        }
        Ok(None)
    }

    fn visit_name(&mut self, name: Vec<u8>) -> Result<Option<WalkedEntry>, StepError> {
        let Some(level) = self.levels.last() else {
            return Ok(None);
        };
        let name = match String::from_utf8(name) {
            Ok(name) => name,
            Err(error) => {
                let key = format!("{}{}", level.key, String::from_utf8_lossy(error.as_bytes()));
                return Ok(Some(WalkedEntry::Skipped {
                    key,
                    reason: "its name is not UTF-8, which keys in S3 must be".into(),
                }));
            }
        };
        let key = format!("{}{name}", level.key);
        if !name.ends_with('/') {
            return self.visit_file(key, &name);
        }

        let after = level
            .after
            .as_deref()
            .and_then(|after| after.strip_prefix(&name))
            .map(str::to_owned);
        let (dir, level) = match self.enter_directory(&key, after.as_deref()) {
            Ok(entered) => entered,
            Err(error) => return self.skip_or_fail(key, &error),
        };
        if self
            .levels
            .iter()
            .any(|above| above.identity == level.identity)
        {
            let reason = "it is a link to a directory above it".into();
            return Ok(Some(WalkedEntry::Skipped { key, reason }));
        }
        self.levels.push(level);
        self.dir = Some(dir);
        Ok(None)
    }

    fn visit_file(&mut self, key: String, name: &str) -> Result<Option<WalkedEntry>, StepError> {
        let stat = match self
            .current_dir()
            .and_then(|dir| dir.symlink_metadata(name))
        {
            Ok(metadata) if metadata.is_symlink() => {
                match self.root.metadata_at(&self.path_below_root(&key)) {
                    Err(error) if is_absent(&error) => {
                        return Ok(Some(WalkedEntry::Skipped {
                            key,
                            reason: "it is a broken link".into(),
                        }));
                    }
                    stat => stat,
                }
            }
            metadata => metadata.map(|metadata| FileStat::from(&metadata)),
        };

        match stat {
            Ok(stat) if stat.is_file => Ok(Some(WalkedEntry::File { key, stat })),
            // It became a directory after its parent was read, so its position has changed.
            Ok(stat) if stat.is_dir => Ok(Some(WalkedEntry::Skipped {
                key,
                reason: "it became a directory during the listing".into(),
            })),
            Ok(_) => Ok(Some(WalkedEntry::Skipped {
                key,
                reason: "it is a device, a pipe or a socket".into(),
            })),
            Err(error) => self.skip_or_fail(key, &error),
        }
    }

    /// Skips an entry that disappeared during the walk, or that alone cannot be read.
    fn skip_or_fail(
        &self,
        key: String,
        error: &io::Error,
    ) -> Result<Option<WalkedEntry>, StepError> {
        match skip_reason(error) {
            Some(reason) => Ok(Some(WalkedEntry::Skipped {
                key,
                reason: reason.into(),
            })),
            None if is_absent(error) => Ok(None),
            None => Err(file_error("list", &self.path_below_root(&key), error)),
        }
    }

    /// Opens a directory and reads its first names.
    fn enter_directory(&self, key: &str, after: Option<&str>) -> io::Result<(Dir, Level)> {
        let dir = self.open_directory(key)?;
        let metadata = dir.dir_metadata()?;
        let (names, has_more) = self.read_names(&dir, key, None, after)?;
        let identity = (metadata.dev(), metadata.ino());
        let after = after.map(str::to_owned);
        Ok((
            dir,
            Level {
                key: key.to_owned(),
                identity,
                names: names.into_iter(),
                last: None,
                has_more,
                after,
            },
        ))
    }

    /// Reads the current directory's next names.
    fn read_more_names(&mut self) -> Result<(), StepError> {
        let read = self.current_dir().map(|_| ());
        let (Some(level), Some(dir)) = (self.levels.last(), &self.dir) else {
            return Ok(());
        };
        let read = read.and_then(|()| {
            self.read_names(
                dir,
                &level.key,
                level.last.as_deref(),
                level.after.as_deref(),
            )
        });
        let (names, has_more) = match read {
            Ok(read) => read,
            Err(error) if is_absent(&error) => (Vec::new(), false),
            Err(error) => {
                return Err(file_error(
                    "list",
                    &self.path_below_root(&level.key),
                    &error,
                ));
            }
        };
        if let Some(level) = self.levels.last_mut() {
            (level.names, level.has_more) = (names.into_iter(), has_more);
        }

        Ok(())
    }

    /// The smallest names of a directory that come after `last` and `after`, and whether there are
    /// more.
    fn read_names(
        &self,
        dir: &Dir,
        key: &str,
        last: Option<&[u8]>,
        after: Option<&str>,
    ) -> io::Result<(Vec<Vec<u8>>, bool)> {
        // The directories above keep their names, but each directory gets at least a fifth.
        let held: usize = self.levels.iter().map(|level| level.names.len()).sum();
        let room = self
            .max_names
            .saturating_sub(held)
            .max(self.max_names.div_ceil(5));
        let at_root = self.directory.is_empty() && key.is_empty();
        let (mut names, mut has_more) = (BinaryHeap::new(), false);

        for entry in dir.entries()? {
            let entry = match entry {
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                entry => entry?,
            };
            let mut name = entry.file_name().into_vec();
            let kind = entry.file_type()?;
            let path = || self.path_below_root(&format!("{key}{}", String::from_utf8_lossy(&name)));
            let target = if kind.is_file() || kind.is_dir() {
                None
            } else {
                Some(self.root.metadata_at(&path()))
            };
            if kind.is_dir() || matches!(&target, Some(Ok(stat)) if stat.is_dir) {
                name.push(b'/');
            }
            // The target of this link is unknown. It may be a directory with files after `after`.
            let is_unknown = matches!(target, Some(Err(_)));
            let wanted = after.is_none_or(|after| {
                let (after, below) = (after.as_bytes(), [name.as_slice(), b"/"].concat());
                name.as_slice() > after
                    || name.ends_with(b"/") && after.starts_with(&name)
                    || is_unknown && (below.as_slice() > after || after.starts_with(&below))
            });
            let is_scratch = at_root && name == SCRATCH_ENTRY;
            if is_scratch || !wanted || last.is_some_and(|last| name.as_slice() <= last) {
                continue;
            }
            if names.len() < room {
                names.push(name);
                continue;
            }
            has_more = true;
            if let Some(mut largest) = names.peek_mut()
                && name < *largest
            {
                *largest = name;
            }
        }

        Ok((names.into_sorted_vec(), has_more))
    }

    /// The current directory; it is reopened if the walk returned to it.
    fn current_dir(&mut self) -> io::Result<&Dir> {
        let dir = match self.dir.take() {
            Some(dir) => dir,
            None => self.open_directory(self.levels.last().map_or("", |level| &level.key))?,
        };
        Ok(self.dir.insert(dir))
    }

    fn open_directory(&self, key: &str) -> io::Result<Dir> {
        self.root
            .with_path_below(&self.path_below_root(key), |dir, path| dir.open_dir(path))
    }

    /// The path of a key, relative to the root.
    fn path_below_root(&self, key: &str) -> String {
        let key = key.strip_suffix('/').unwrap_or(key);
        if self.directory.is_empty() || key.is_empty() {
            format!("{}{key}", self.directory)
        } else {
            format!("{}/{key}", self.directory)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
    use std::os::unix::process::CommandExt;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use stepward::model::error::ErrorName;

    use super::super::tests::{Tree, error_name};
    use super::*;

    fn walk(
        root: &Root,
        max_names: usize,
        base: &str,
        after: Option<&str>,
    ) -> (Vec<String>, Vec<(String, String)>) {
        let (mut files, mut skipped) = (Vec::new(), Vec::new());
        let mut visit = |listed| {
            match listed {
                WalkedEntry::File { key, .. } => files.push(key),
                WalkedEntry::Skipped { key, reason } => skipped.push((key, reason)),
            }
            ControlFlow::Continue(())
        };
        root.walk_with_limit(max_names, base, after, &mut visit)
            .unwrap();
        (files, skipped)
    }

    fn files(tree: &Tree) -> Vec<String> {
        let (files, skipped) = walk(&tree.root, MAX_NAMES, "", None);
        assert!(skipped.is_empty(), "{skipped:?}");
        files
    }

    fn skipped(tree: &Tree) -> Vec<(String, String)> {
        walk(&tree.root, MAX_NAMES, "", None).1
    }

    #[test]
    fn a_directory_sorts_as_its_name_with_a_slash() {
        let tree = Tree::new();
        tree.files(&["a/x", "a-b", "a.b", "a0", "a/y/z", "b"]);
        assert_eq!(files(&tree), ["a-b", "a.b", "a/x", "a/y/z", "a0", "b"]);
    }

    #[test]
    fn names_are_unchanged() {
        let tree = Tree::new();
        let names = ["\n", " ", "*[", "\\", "\u{10ffff}", "\u{e9}", "e\u{301}"];
        tree.files(&names);
        assert_eq!(
            files(&tree).into_iter().collect::<BTreeSet<_>>(),
            names.map(str::to_owned).into()
        );
    }

    #[test]
    fn a_file_has_its_size_and_time() {
        let tree = Tree::new();
        tree.file("a");
        let mut listed = Vec::new();
        let mut collect = |entry| {
            listed.push(entry);
            ControlFlow::Continue(())
        };
        tree.root.walk("", None, &mut collect).unwrap();
        let stat = tree.root.stat("a").unwrap().unwrap();
        assert_eq!(
            listed,
            [WalkedEntry::File {
                key: "a".into(),
                stat
            }]
        );
    }

    #[test]
    fn a_walk_ends_when_the_callback_breaks() {
        let tree = Tree::new();
        tree.files(&["a", "b", "c"]);
        let mut visited = 0;
        let mut visit = |_| {
            visited += 1;
            if visited == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        tree.root.walk("", None, &mut visit).unwrap();
        assert_eq!(visited, 2);
    }

    #[test]
    fn only_the_scratch_directory_of_the_root_is_omitted() {
        let tree = Tree::new();
        tree.files(&["a/.stepward/x", ".stepward/y/z", ".stepwards"]);
        assert_eq!(files(&tree), [".stepwards", "a/.stepward/x"]);
        assert_eq!(walk(&tree.root, MAX_NAMES, "a", None).0, [".stepward/x"]);
    }

    #[test]
    fn a_missing_directory_is_not_found() {
        let tree = Tree::new();
        tree.file("f");
        let mut visit = |_| ControlFlow::Continue(());
        assert_eq!(
            error_name(tree.root.walk("x", None, &mut visit)),
            Some(ErrorName::NotFound)
        );
        assert_eq!(
            error_name(tree.root.walk("f", None, &mut visit)),
            Some(ErrorName::Conflict)
        );
        assert!(files(&tree) == ["f"] && walk(&Tree::new().root, 3, "", None).0.is_empty());
    }

    #[test]
    fn inside_links_are_followed_and_other_links_skipped() {
        let tree = Tree::new();
        tree.file("d/e/f");
        tree.link("d/e", "copy");
        tree.link(tree.path("d/e/f"), "file");
        tree.link("..", "d/e/up");
        tree.link(tree.path(""), "d/top");
        tree.link("self", "self");
        tree.link("gone", "broken");
        tree.link("../outside", "out");
        tree.link(tree.outside().join("f"), "secret");
        // `copy` is `d/e`, so `copy/up` is `d`, and its `e` is the directory of the walk.
        let (files, skipped) = walk(&tree.root, MAX_NAMES, "", None);
        assert_eq!(files, ["copy/f", "d/e/f", "file"]);
        let skipped: Vec<_> = skipped
            .iter()
            .map(|(key, reason)| (key.as_str(), reason.as_str()))
            .collect();
        let (above, circular) = (
            "it is a link to a directory above it",
            "it is a circular link",
        );
        let out = "it is a link that leads out of the local root";
        assert_eq!(
            skipped,
            [
                ("broken", "it is a broken link"),
                ("copy/up/e/", above),
                ("copy/up/top/", above),
                ("d/e/up/", above),
                ("d/top/", above),
                ("out", out),
                ("secret", out),
                ("self", circular),
            ]
        );
    }

    #[test]
    fn special_files_and_names_outside_utf8_are_skipped() {
        let tree = Tree::new();
        tree.pipe("p");
        fs::write(tree.path("").join(OsStr::from_bytes(b"a\xff")), "").unwrap();
        fs::create_dir(tree.path("").join(OsStr::from_bytes(b"b\xff"))).unwrap();
        let skipped = skipped(&tree);
        assert_eq!(
            skipped
                .iter()
                .map(|(key, _)| key.as_str())
                .collect::<Vec<_>>(),
            ["a\u{fffd}", "b\u{fffd}/", "p"]
        );
        assert!(
            skipped[0].1.contains("UTF-8") && skipped[2].1.contains("pipe"),
            "{skipped:?}"
        );
    }

    /// The superuser may read every file, so the test then runs itself again as another user.
    #[test]
    fn unreadable_directories_are_skipped_and_unreadable_files_fail_when_opened() {
        const ROOT: &str = "STEPWARD_TEST_UNREADABLE";
        let check = |root: &Root| {
            let (files, skipped) = walk(root, MAX_NAMES, "", None);
            assert_eq!(files, ["f", "g"]);
            assert_eq!(
                skipped,
                [(
                    "d/".to_owned(),
                    "the function's user is not allowed to read it".to_owned()
                )]
            );
            assert_eq!(
                error_name(root.open_file("f")),
                Some(ErrorName::AccessDenied)
            );
        };
        if let Some(root) = std::env::var_os(ROOT) {
            return check(&Root::open_at(Path::new(&root)).unwrap());
        }
        let tree = Tree::new();
        tree.files(&["d/x", "f", "g"]);
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for path in ["d", "f"] {
            mode(&tree.path(path), 0);
        }
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            let copy = tree.outside().join("tests");
            fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
            let test = std::thread::current().name().unwrap().to_owned();
            let mut rerun = Command::new(&copy);
            rerun
                .args([&test, "--exact"])
                .env(ROOT, tree.root.path())
                .current_dir("/")
                .uid(65_534)
                .gid(65_534);
            let output = rerun.output().unwrap();
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && stdout.contains("1 passed"),
                "{stdout}"
            );
        } else {
            check(&tree.root);
        }
        mode(&tree.path("d"), 0o700);
    }

    #[test]
    fn changes_during_a_walk_do_not_fail_it() {
        for max_names in [3, MAX_NAMES] {
            let tree = Tree::new();
            for n in 0..9 {
                tree.file(&format!("d{n}/a"));
                tree.file(&format!("d{n}/b/c"));
                tree.file(&format!("e{n}"));
            }
            let mut visited = Vec::new();
            let mut visit = |listed| {
                let key = match listed {
                    WalkedEntry::File { key, .. } => key,
                    WalkedEntry::Skipped { key, reason } => {
                        assert_eq!(
                            (key.as_str(), reason.as_str()),
                            ("e2", "it became a directory during the listing")
                        );
                        return ControlFlow::Continue(());
                    }
                };
                if key == "d0/a" {
                    fs::remove_dir_all(tree.path("d0")).unwrap();
                    fs::remove_dir_all(tree.path("d2")).unwrap();
                    fs::remove_file(tree.path("e1")).unwrap();
                    // A file replaces a directory, and a directory replaces a file.
                    fs::remove_dir_all(tree.path("d4")).unwrap();
                    tree.file("d4");
                    fs::remove_file(tree.path("e2")).unwrap();
                    tree.file("e2/new");
                    tree.file("d1/new");
                }
                visited.push(key);
                ControlFlow::Continue(())
            };
            tree.root
                .walk_with_limit(max_names, "", None, &mut visit)
                .unwrap();
            assert!(visited.is_sorted(), "{visited:?}");
            for unchanged in [
                "d1/a", "d1/b/c", "d1/new", "d3/a", "d8/b/c", "e0", "e3", "e8",
            ] {
                assert!(
                    visited.iter().any(|key| key == unchanged),
                    "{unchanged} is missing in {visited:?}"
                );
            }
            assert!(
                !visited
                    .iter()
                    .any(|key| key.starts_with("d2") || key == "e1" || key == "d0/b/c"),
                "{visited:?}"
            );
        }
    }

    /// Every key below a directory, found independently with the paths of `std`: links are
    /// followed, circles are not.
    fn collect_keys(dir: &Path, prefix: &str, parents: &mut Vec<PathBuf>, keys: &mut Vec<String>) {
        let real = dir.canonicalize().unwrap();
        if parents.contains(&real) {
            return;
        }
        parents.push(real);
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let key = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => {
                    collect_keys(&entry.path(), &format!("{key}/"), parents, keys);
                }
                Ok(_) => keys.push(key),
                Err(_) => {}
            }
        }
        parents.pop();
    }

    #[test]
    fn random_trees_are_walked_completely_from_any_key() {
        const NAMES: [&str; 12] = [
            "a", "b", "a.b", "a-b", "a b", "a\n", "A", "é", "z", "0", "ab", "\u{fffd}",
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % below
        };
        let mut links = 0;
        for seed in 0..100 {
            let tree = Tree::new();
            for _ in 0..random(25) {
                let path: Vec<_> = (0..=random(4))
                    .map(|_| NAMES[random(NAMES.len())])
                    .collect();
                let full_path = tree.path(&path.join("/"));
                if fs::create_dir_all(full_path.parent().unwrap()).is_err()
                    || full_path.symlink_metadata().is_ok()
                {
                    continue;
                }
                if random(6) == 0 {
                    let target: Vec<_> = (0..=random(2))
                        .map(|_| NAMES[random(NAMES.len())])
                        .collect();
                    tree.link(tree.path(&target.join("/")), &path.join("/"));
                    links += 1;
                } else {
                    fs::write(full_path, "").unwrap();
                }
            }
            let mut all = Vec::new();
            collect_keys(tree.root.path(), "", &mut Vec::new(), &mut all);
            all.sort();
            for max_names in [3, MAX_NAMES] {
                assert_eq!(
                    walk(&tree.root, max_names, "", None).0,
                    all,
                    "seed {seed}, {max_names} at once"
                );
                let between = all.iter().map(|key| format!("{key}!"));
                let parents = all
                    .iter()
                    .filter_map(|key| key.rsplit_once('/'))
                    .flat_map(|(up, _)| [up.into(), format!("{up}/")]);
                for after in all.iter().cloned().chain(between).chain(parents) {
                    let tail: Vec<_> = all.iter().filter(|key| **key > after).cloned().collect();
                    let (files, skipped) = walk(&tree.root, max_names, "", Some(&after));
                    assert_eq!(
                        files, tail,
                        "seed {seed}, {max_names} at once, after {after:?}"
                    );
                    // A link with an unknown target is reported again as long as keys below it
                    // could follow.
                    let is_expected = |key: &str| {
                        key > after.as_str() || format!("{key}/") > after || after.starts_with(key)
                    };
                    assert!(
                        skipped.iter().all(|(key, _)| is_expected(key)),
                        "{skipped:?} after {after:?}"
                    );
                }
            }
        }
        assert!(links > 50, "too few links: {links}");
    }
}
