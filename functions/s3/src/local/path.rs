//! Paths as text.

/// The parts of a path without `.`, `..` and empty ones, or `None` if a `..` climbs above where it
/// begins.
pub(crate) fn lexical(path: &str) -> Option<Vec<&str>> {
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

/// The directory that a path is in, and its name there.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
