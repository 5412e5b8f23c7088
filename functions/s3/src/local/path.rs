//! Paths as text.

/// The parts of a path without `.`, `..` and empty parts. `None` if a `..` climbs above the start
/// of the path.
pub(crate) fn clean_path(path: &str) -> Option<Vec<&str>> {
    let mut clean = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(clean.pop()?),
            name => clean.push(name),
        }
    }
    Some(clean)
}

/// The directory of a path, and the name in it.
pub(super) fn split_parent(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
