//! The symbolic links of a case, and paths below the local root.

use std::collections::BTreeMap;

use super::case::{Case, Node, Operation, Verb};

/// The maximum number of links in a path on Linux. A program that follows all links stops there.
const MAX_LINKS: usize = 40;
/// How many entries the AWS CLI may visit in a case.
const MAX_VISITS: usize = 100_000;

/// Returns a path without `.`, `..` and empty parts.
pub(super) fn normalize_path(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Returns a local location as a path below the root.
pub(super) fn local_path(location: &str) -> String {
    normalize_path(location.strip_prefix("{root}").unwrap_or(location))
}

pub(super) fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.starts_with('/') || parent.is_empty())
}

/// Returns the paths of the stray links: those that lead out of the root, or to a directory that
/// contains the link. The target is a path below the root, or below `{outside}`.
pub(super) fn stray_links(case: &Case) -> impl Iterator<Item = (&str, String)> {
    case.files.iter().filter_map(|(path, node)| match node {
        Node::Link(target) => Some((path.as_str(), stray_target(path, target)?)),
        _ => None,
    })
}

pub(super) fn has_stray_links(case: &Case) -> bool {
    stray_links(case).next().is_some()
}

/// Returns the target of a link if it is a stray link.
fn stray_target(path: &str, target: &str) -> Option<String> {
    if target.starts_with("{outside}") {
        return Some(target.to_owned());
    }
    let directory = parent(path);
    match target {
        "." => Some(directory.to_owned()),
        // This leads out of the root if the link is directly in the root. The directory there
        // contains the root.
        ".." => Some(parent(directory).to_owned()),
        _ => {
            let target = normalize_path(target.strip_prefix("{root}")?);
            (is_below(directory, &target) || target == directory).then_some(target)
        }
    }
}

/// Removes links until the AWS CLI can visit everything below the local locations of an operation
/// in a reasonable time. It follows links up to 40 times in each path, so a directory with two links
/// to itself contains 2⁴⁰ paths.
pub(super) fn shorten_walks(files: &mut BTreeMap<String, Node>, operation: &Operation) {
    let source = operation.is_recursive().then_some(&operation.source);
    let destination = (operation.verb == Verb::Sync).then_some(&operation.destination);
    for location in source.into_iter().chain(destination) {
        if !location.starts_with("s3://") {
            shorten_walk(files, location);
        }
    }
}

fn shorten_walk(files: &mut BTreeMap<String, Node>, location: &str) {
    let is_link = |node: &Node| matches!(node, Node::Link(_));
    while is_walk_too_long(files, location) {
        let links = files.iter().filter(|(_, node)| is_link(node));
        let Some(last) = links.map(|(path, _)| path.clone()).next_back() else {
            return;
        };
        files.remove(&last);
    }
}

/// The nodes by path. The paths begin with `root` or `outside`, the two directories of a sandbox.
struct Tree<'a> {
    nodes: BTreeMap<String, &'a Node>,
    /// The paths in each directory.
    children: BTreeMap<String, Vec<String>>,
}

fn is_walk_too_long(files: &BTreeMap<String, Node>, location: &str) -> bool {
    let tree = Tree::new(files);
    let start = normalize_path(&format!("root/{}", local_path(location)));
    let mut visits = 0;
    let mut directories: Vec<_> = tree.find_directory(&start, 0).into_iter().collect();
    while let Some((directory, links)) = directories.pop() {
        for child in tree.children.get(&directory).into_iter().flatten() {
            visits += 1;
            if visits > MAX_VISITS {
                return true;
            }
            directories.extend(tree.find_directory(child, links));
        }
    }
    false
}

impl<'a> Tree<'a> {
    fn new(files: &'a BTreeMap<String, Node>) -> Self {
        let mut nodes = BTreeMap::from([
            (String::new(), &Node::Directory),
            ("root".to_owned(), &Node::Directory),
            ("outside".to_owned(), &Node::Directory),
        ]);
        nodes.extend(
            files
                .iter()
                .map(|(path, node)| (format!("root/{path}"), node)),
        );
        let mut children: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for path in nodes.keys().filter(|path| !path.is_empty()) {
            let directory = parent(path).to_owned();
            children.entry(directory).or_default().push(path.clone());
        }
        Self { nodes, children }
    }

    /// Follows the links from a path to a directory. Returns the directory and the number of links
    /// on the whole way, or `None` if the path leads to no directory or through too many links.
    fn find_directory(&self, path: &str, links: usize) -> Option<(String, usize)> {
        let mut path = path.to_owned();
        for links in links..=MAX_LINKS {
            match self.nodes.get(&path)? {
                Node::Directory => return Some((path, links)),
                Node::Link(target) => path = link_target(&path, target),
                Node::File(..) | Node::Fifo => return None,
            }
        }
        None
    }
}

fn link_target(path: &str, target: &str) -> String {
    let target = match target.strip_prefix('{') {
        Some(absolute) => absolute.replacen('}', "", 1),
        None => format!("{}/{target}", parent(path)),
    };
    normalize_path(&target)
}

/// Returns the path of the directory that contains a path.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shortened(links: &[(&str, &str)], location: &str) -> Vec<String> {
        let directories = ["a", "b"].map(|path| (path.to_owned(), Node::Directory));
        let links = links
            .iter()
            .map(|(path, target)| ((*path).to_owned(), Node::Link((*target).to_owned())));
        let mut files: BTreeMap<_, _> = directories.into_iter().chain(links).collect();
        shorten_walk(&mut files, location);
        files.retain(|_, node| matches!(node, Node::Link(_)));
        files.into_keys().collect()
    }

    #[test]
    fn one_of_two_links_in_circles_stays() {
        for target in ["{root}", ".", ".."] {
            let links = [("link0", target), ("link1", "{root}/a/..")];
            assert_eq!(shortened(&links, "{root}"), ["link0"], "{target}");
        }
    }

    #[test]
    fn links_that_form_two_circles_together_are_found() {
        let links = [("a/link0", "{root}/b"), ("b/link1", "{root}")];
        assert_eq!(shortened(&links, "./"), ["a/link0"]);
    }

    #[test]
    fn links_that_no_walk_repeats_stay() {
        let circle = [("a/link0", "{root}/b"), ("b/link1", "{root}/a")];
        assert_eq!(shortened(&circle, "{root}"), ["a/link0", "b/link1"]);
        let two = [("a/link0", "."), ("a/link1", ".")];
        assert_eq!(shortened(&two, "{root}/b/"), ["a/link0", "a/link1"]);
        let others = [("link0", "{outside}"), ("link1", "link1"), ("link2", "no")];
        assert_eq!(shortened(&others, ""), ["link0", "link1", "link2"]);
    }
}
