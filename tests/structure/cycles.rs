//! Files that import each other, found among the imports of a package.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::imports::Import;

/// Files that import each other, directly or through others of the group.
pub(crate) struct Cycle<'a> {
    /// The shortest cycle among them, as the imports in their order.
    pub(crate) shortest: Vec<&'a Import>,
    /// How many files the group has.
    pub(crate) files: usize,
}

/// Every group of files that import each other.
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
        let reaches_file = |other: &&str| path(&from, other, file).is_some();
        let is_reached = |other: &&str| path(&from, file, other).is_some();
        let group: Vec<_> = from
            .keys()
            .copied()
            .filter(is_reached)
            .filter(reaches_file)
            .collect();
        let shortest = group
            .iter()
            .filter_map(|file| path(&from, file, file))
            .min_by_key(Vec::len);
        found.extend(shortest.map(|shortest| Cycle {
            shortest,
            files: group.len(),
        }));
        seen.extend(group);
    }
    found
}

/// The shortest way from one file to another over at least one import.
fn path<'a>(
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
    let mut way = vec![*reached.get(end)?];
    while let Some(first) = way.last().filter(|import| import.from != start) {
        way.push(reached[first.from.as_str()]);
    }
    way.reverse();
    Some(way)
}
