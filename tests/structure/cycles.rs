//! Finds import cycles among the files of a package.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::imports::Import;

/// A group of files that import each other, directly or through other files of the group.
pub(crate) struct Cycle<'a> {
    /// The shortest cycle of the group, as its imports in order.
    pub(crate) shortest: Vec<&'a Import>,
    /// The number of files in the group.
    pub(crate) files: usize,
}

/// Returns every group of files that import each other.
pub(crate) fn cycles(imports: &[Import]) -> Vec<Cycle<'_>> {
    let mut from: BTreeMap<&str, Vec<&Import>> = BTreeMap::new();
    for import in imports {
        from.entry(&import.from).or_default().push(import);
    }
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for file in from.keys() {
        if seen.contains(file) {
            continue;
        }
        let reaches_file = |other: &&str| shortest_path(&from, other, file).is_some();
        let is_reached = |other: &&str| shortest_path(&from, file, other).is_some();
        let group: Vec<_> = from
            .keys()
            .copied()
            .filter(is_reached)
            .filter(reaches_file)
            .collect();
        let shortest = group
            .iter()
            .filter_map(|file| shortest_path(&from, file, file))
            .min_by_key(Vec::len);
        found.extend(shortest.map(|shortest| Cycle {
            shortest,
            files: group.len(),
        }));
        seen.extend(group);
    }
    found
}

/// Returns the shortest path from one file to another that has at least one import.
fn shortest_path<'a>(
    from: &BTreeMap<&str, Vec<&'a Import>>,
    start: &str,
    end: &str,
) -> Option<Vec<&'a Import>> {
    let mut reached: BTreeMap<&str, &Import> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(file) = next.pop_front() {
        for import in from.get(file).into_iter().flatten().copied() {
            if reached.contains_key(import.to.as_str()) {
                continue;
            }
            reached.insert(&import.to, import);
            next.push_back(&import.to);
        }
        if reached.contains_key(end) {
            break;
        }
    }
    let mut path = vec![*reached.get(end)?];
    while let Some(first) = path.last().filter(|import| import.from != start) {
        path.push(reached[first.from.as_str()]);
    }
    path.reverse();
    Some(path)
}
