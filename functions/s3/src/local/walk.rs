//! Every file below a directory, in the order of their keys.

use std::collections::BinaryHeap;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::vec::IntoIter;

use cap_std::fs::{Dir, MetadataExt};
use stepward::StepError;

use super::failure::{failed, is_absent, why_skipped};
use super::root::{Root, Stat};

/// How many names are held at once. A directory with more is read again for the next ones.
const MOST_NAMES: usize = 100_000;

/// Where unfinished files are, as a listing of the root has it.
const OWN: &[u8] = b".stepward/";

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
        /// Its path from where the walk began, with a slash at its end if it is a directory. Of a
        /// name that is not UTF-8 it is only what can be shown; a walk must not be taken up again
        /// after it.
        key: String,
        /// Why, as the end of a sentence.
        reason: String,
    },
}

impl Root {
    /// Calls `each` with every file below the directory `base`, in byte order of their keys, which
    /// is the order of S3's listings and the AWS CLI's. Everything up to and including the key
    /// `after` is left out, without being looked at. What comes or goes meanwhile may be met or
    /// not.
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
        let mut walk = Walk {
            root: self,
            base,
            most,
            levels: Vec::new(),
            dir: None,
        };
        let (dir, level) = walk
            .enter("", after)
            .map_err(|error| failed("list", base, &error))?;
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
    /// The last of them, open. Only this one is: a tree may be deeper than a process can have files
    /// open.
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
        let Some(level) = self.levels.last() else {
            return Ok(None);
        };
        let name = match String::from_utf8(name) {
            Ok(name) => name,
            Err(error) => {
                let key = format!("{}{}", level.key, String::from_utf8_lossy(error.as_bytes()));
                return Ok(Some(Listed::Skipped {
                    key,
                    reason: "its name is not UTF-8, as keys in S3 are".into(),
                }));
            }
        };
        let key = format!("{}{name}", level.key);
        if !name.ends_with('/') {
            return self.file(key, &name);
        }
        let after = level
            .after
            .as_deref()
            .and_then(|after| after.strip_prefix(&name))
            .map(str::to_owned);
        let (dir, level) = match self.enter(&key, after.as_deref()) {
            Ok(entered) => entered,
            Err(error) => return self.unless_gone(key, &error),
        };
        if self
            .levels
            .iter()
            .any(|above| above.identity == level.identity)
        {
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
                    return Ok(Some(Listed::Skipped {
                        key,
                        reason: "it is a link to nothing".into(),
                    }));
                }
                found => found,
            },
            found => found.map(|metadata| Stat::from(&metadata)),
        };
        match found {
            Ok(stat) if stat.is_file => Ok(Some(Listed::File { key, stat })),
            // It was none when its directory was read, and would now come in another place.
            Ok(stat) if stat.is_dir => Ok(Some(Listed::Skipped {
                key,
                reason: "it has become a directory meanwhile".into(),
            })),
            Ok(_) => Ok(Some(Listed::Skipped {
                key,
                reason: "it is a device, a pipe or a socket".into(),
            })),
            Err(error) => self.unless_gone(key, &error),
        }
    }

    /// What went while the walk came is no trouble.
    fn unless_gone(&self, key: String, error: &io::Error) -> Result<Option<Listed>, StepError> {
        match why_skipped(error) {
            Some(reason) => Ok(Some(Listed::Skipped {
                key,
                reason: reason.into(),
            })),
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
        Ok((
            dir,
            Level {
                key: key.to_owned(),
                identity,
                names: names.into_iter(),
                last: None,
                more,
                after,
            },
        ))
    }

    /// Reads the last level's next names.
    fn read_on(&mut self) -> Result<(), StepError> {
        let read = self.open_dir().map(|_| ());
        let (Some(level), Some(dir)) = (self.levels.last(), &self.dir) else {
            return Ok(());
        };
        let read = read.and_then(|()| {
            self.portion(
                dir,
                &level.key,
                level.last.as_deref(),
                level.after.as_deref(),
            )
        });
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

    /// The smallest names in a directory that come after `last` and `after`, and whether there are
    /// more.
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
        let at_root = self.base.is_empty() && key.is_empty();
        let (mut names, mut more) = (BinaryHeap::new(), false);
        for entry in dir.entries()? {
            let entry = match entry {
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                entry => entry?,
            };
            let mut name = entry.file_name().into_vec();
            let kind = entry.file_type()?;
            let path = || self.path(&format!("{key}{}", String::from_utf8_lossy(&name)));
            let leads = if kind.is_file() || kind.is_dir() {
                None
            } else {
                Some(self.root.look(&path()))
            };
            if kind.is_dir() || matches!(&leads, Some(Ok(stat)) if stat.is_dir) {
                name.push(b'/');
            }
            // Where a link leads is not known: what may be below it is still to come.
            let is_dark = matches!(leads, Some(Err(_)));
            let wanted = after.is_none_or(|after| {
                let (after, below) = (after.as_bytes(), [name.as_slice(), b"/"].concat());
                name.as_slice() > after
                    || name.ends_with(b"/") && after.starts_with(&name)
                    || is_dark && (below.as_slice() > after || after.starts_with(&below))
            });
            let own = at_root && name == OWN;
            if own || !wanted || last.is_some_and(|last| name.as_slice() <= last) {
                continue;
            }
            if names.len() < room {
                names.push(name);
                continue;
            }
            more = true;
            if let Some(mut largest) = names.peek_mut()
                && name < *largest
            {
                *largest = name;
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
        self.root
            .beneath(&self.path(key), |dir, path| dir.open_dir(path))
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

    use super::super::tests::{Tree, name};
    use super::*;

    fn walk(
        root: &Root,
        most: usize,
        base: &str,
        after: Option<&str>,
    ) -> (Vec<String>, Vec<(String, String)>) {
        let (mut files, mut skipped) = (Vec::new(), Vec::new());
        let mut each = |listed| {
            match listed {
                Listed::File { key, .. } => files.push(key),
                Listed::Skipped { key, reason } => skipped.push((key, reason)),
            }
            ControlFlow::Continue(())
        };
        root.walk_by(most, base, after, &mut each).unwrap();
        (files, skipped)
    }

    fn files(tree: &Tree) -> Vec<String> {
        let (files, skipped) = walk(&tree.root, MOST_NAMES, "", None);
        assert!(skipped.is_empty(), "{skipped:?}");
        files
    }

    fn skipped(tree: &Tree) -> Vec<(String, String)> {
        walk(&tree.root, MOST_NAMES, "", None).1
    }

    #[test]
    fn a_directory_sorts_as_its_name_with_a_slash() {
        let tree = Tree::new();
        tree.files(&["a/x", "a-b", "a.b", "a0", "a/y/z", "b"]);
        assert_eq!(files(&tree), ["a-b", "a.b", "a/x", "a/y/z", "a0", "b"]);
    }

    #[test]
    fn names_are_kept_as_they_are() {
        let tree = Tree::new();
        let names = ["\n", " ", "*[", "\\", "\u{10ffff}", "\u{e9}", "e\u{301}"];
        tree.files(&names);
        assert_eq!(
            files(&tree).into_iter().collect::<BTreeSet<_>>(),
            names.map(str::to_owned).into()
        );
    }

    #[test]
    fn a_file_comes_with_its_size_and_time() {
        let tree = Tree::new();
        tree.file("a");
        let mut listed = Vec::new();
        let mut each = |one| {
            listed.push(one);
            ControlFlow::Continue(())
        };
        tree.root.walk("", None, &mut each).unwrap();
        let stat = tree.root.stat("a").unwrap().unwrap();
        assert_eq!(
            listed,
            [Listed::File {
                key: "a".into(),
                stat
            }]
        );
    }

    #[test]
    fn a_walk_ends_when_it_is_told_to() {
        let tree = Tree::new();
        tree.files(&["a", "b", "c"]);
        let mut met = 0;
        let mut each = |_| {
            met += 1;
            if met == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        tree.root.walk("", None, &mut each).unwrap();
        assert_eq!(met, 2);
    }

    #[test]
    fn only_the_scratch_directory_of_the_root_itself_is_left_out() {
        let tree = Tree::new();
        tree.files(&["a/.stepward/x", ".stepward/y/z", ".stepwards"]);
        assert_eq!(files(&tree), [".stepwards", "a/.stepward/x"]);
        assert_eq!(walk(&tree.root, MOST_NAMES, "a", None).0, [".stepward/x"]);
    }

    #[test]
    fn a_walk_of_nothing_is_not_found_and_of_a_file_a_conflict() {
        let tree = Tree::new();
        tree.file("f");
        let mut each = |_| ControlFlow::Continue(());
        assert_eq!(
            name(tree.root.walk("x", None, &mut each)),
            Some(ErrorName::NotFound)
        );
        assert_eq!(
            name(tree.root.walk("f", None, &mut each)),
            Some(ErrorName::Conflict)
        );
        assert!(files(&tree) == ["f"] && walk(&Tree::new().root, 3, "", None).0.is_empty());
    }

    #[test]
    fn links_inside_are_followed_and_circles_and_links_out_are_passed_over_with_a_reason() {
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
        // `copy` is `d/e`, so `copy/up` is `d`, and in that `e` is where the walk is.
        let (files, skipped) = walk(&tree.root, MOST_NAMES, "", None);
        assert_eq!(files, ["copy/f", "d/e/f", "file"]);
        let skipped: Vec<_> = skipped
            .iter()
            .map(|(key, reason)| (key.as_str(), reason.as_str()))
            .collect();
        let (around, circle) = (
            "it is a link to a directory that it is in itself",
            "it is a link that leads in a circle",
        );
        let out = "it is a link that leads out of the local root";
        assert_eq!(
            skipped,
            [
                ("broken", "it is a link to nothing"),
                ("copy/up/e/", around),
                ("copy/up/top/", around),
                ("d/e/up/", around),
                ("d/top/", around),
                ("out", out),
                ("secret", out),
                ("self", circle),
            ]
        );
    }

    #[test]
    fn special_files_and_names_that_are_not_utf8_are_passed_over_with_a_reason() {
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

    /// Modes mean nothing to the superuser, so that one runs this test again as somebody else.
    #[test]
    fn a_directory_that_may_not_be_read_is_passed_over_and_a_file_is_named_when_it_is_read() {
        const ROOT: &str = "STEPWARD_TEST_UNREADABLE";
        let check = |root: &Root| {
            let (files, skipped) = walk(root, MOST_NAMES, "", None);
            assert_eq!(files, ["f", "g"]);
            assert_eq!(
                skipped,
                [("d/".to_owned(), "it may not be read".to_owned())]
            );
            assert_eq!(name(root.open_file("f")), Some(ErrorName::AccessDenied));
        };
        if let Some(root) = std::env::var_os(ROOT) {
            return check(&Root::at(Path::new(&root)).unwrap());
        }
        let tree = Tree::new();
        tree.files(&["d/x", "f", "g"]);
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap()
        };
        for path in ["d", "f"] {
            mode(&tree.path(path), 0);
        }
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            let copy = tree.outside().join("tests");
            fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
            let test = std::thread::current().name().unwrap().to_owned();
            let mut again = Command::new(&copy);
            again
                .args([&test, "--exact"])
                .env(ROOT, tree.root.path())
                .current_dir("/")
                .uid(65_534)
                .gid(65_534);
            let output = again.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && said.contains("1 passed"),
                "{said}"
            );
        } else {
            check(&tree.root);
        }
        mode(&tree.path("d"), 0o700);
    }

    #[test]
    fn what_comes_and_goes_meanwhile_does_not_fail_a_walk() {
        for most in [3, MOST_NAMES] {
            let tree = Tree::new();
            for n in 0..9 {
                tree.file(&format!("d{n}/a"));
                tree.file(&format!("d{n}/b/c"));
                tree.file(&format!("e{n}"));
            }
            let mut met = Vec::new();
            let mut each = |listed| {
                let key = match listed {
                    Listed::File { key, .. } => key,
                    Listed::Skipped { key, reason } => {
                        assert_eq!(
                            (key.as_str(), reason.as_str()),
                            ("e2", "it has become a directory meanwhile")
                        );
                        return ControlFlow::Continue(());
                    }
                };
                if key == "d0/a" {
                    fs::remove_dir_all(tree.path("d0")).unwrap();
                    fs::remove_dir_all(tree.path("d2")).unwrap();
                    fs::remove_file(tree.path("e1")).unwrap();
                    // A file in place of a directory, and the other way round.
                    fs::remove_dir_all(tree.path("d4")).unwrap();
                    tree.file("d4");
                    fs::remove_file(tree.path("e2")).unwrap();
                    tree.file("e2/new");
                    tree.file("d1/new");
                }
                met.push(key);
                ControlFlow::Continue(())
            };
            tree.root.walk_by(most, "", None, &mut each).unwrap();
            assert!(met.is_sorted(), "{met:?}");
            for stays in [
                "d1/a", "d1/b/c", "d1/new", "d3/a", "d8/b/c", "e0", "e3", "e8",
            ] {
                assert!(
                    met.iter().any(|key| key == stays),
                    "{stays} is missing in {met:?}"
                );
            }
            assert!(
                !met.iter()
                    .any(|key| key.starts_with("d2") || key == "e1" || key == "d0/b/c"),
                "{met:?}"
            );
        }
    }

    /// Every key below a directory, found in another way: by the paths of `std`, links followed,
    /// circles left.
    fn keys(dir: &Path, prefix: &str, within: &mut Vec<PathBuf>, found: &mut Vec<String>) {
        let real = dir.canonicalize().unwrap();
        if within.contains(&real) {
            return;
        }
        within.push(real);
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let key = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => {
                    keys(&entry.path(), &format!("{key}/"), within, found)
                }
                Ok(_) => found.push(key),
                Err(_) => {}
            }
        }
        within.pop();
    }

    #[test]
    fn random_trees_are_walked_whole_in_order_and_from_anywhere() {
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
                let whole = tree.path(&path.join("/"));
                if fs::create_dir_all(whole.parent().unwrap()).is_err()
                    || whole.symlink_metadata().is_ok()
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
                    fs::write(whole, "").unwrap();
                }
            }
            let mut all = Vec::new();
            keys(tree.root.path(), "", &mut Vec::new(), &mut all);
            all.sort();
            for most in [3, MOST_NAMES] {
                assert_eq!(
                    walk(&tree.root, most, "", None).0,
                    all,
                    "seed {seed}, {most} at once"
                );
                let between = all.iter().map(|key| format!("{key}!"));
                let parents = all
                    .iter()
                    .filter_map(|key| key.rsplit_once('/'))
                    .flat_map(|(up, _)| [up.into(), format!("{up}/")]);
                for after in all.iter().cloned().chain(between).chain(parents) {
                    let tail: Vec<_> = all.iter().filter(|key| **key > after).cloned().collect();
                    let (files, skipped) = walk(&tree.root, most, "", Some(&after));
                    assert_eq!(files, tail, "seed {seed}, {most} at once, after {after:?}");
                    // Where a link leads nobody knows: it is told again while what may be below it
                    // is still to come.
                    let is_due = |key: &str| {
                        key > after.as_str() || format!("{key}/") > after || after.starts_with(key)
                    };
                    assert!(
                        skipped.iter().all(|(key, _)| is_due(key)),
                        "{skipped:?} after {after:?}"
                    );
                }
            }
        }
        assert!(links > 50, "{links} links are too few to mean anything");
    }
}
