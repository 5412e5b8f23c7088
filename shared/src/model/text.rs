//! Texts for people.

/// A number with its noun: `1 node`, `2 nodes`, `3 policies`.
#[must_use]
pub fn counted(count: usize, singular: &str) -> String {
    if count == 1 {
        return format!("{count} {singular}");
    }
    let ends_in_consonant_and_y = |stem: &&str| !stem.ends_with(['a', 'e', 'o', 'u']);
    match singular.strip_suffix('y').filter(ends_in_consonant_and_y) {
        Some(stem) => format!("{count} {stem}ies"),
        None => format!("{count} {singular}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_has_the_noun_in_singular_or_plural() {
        assert_eq!(counted(1, "node"), "1 node");
        assert_eq!(counted(0, "other node"), "0 other nodes");
        assert_eq!(counted(2, "policy"), "2 policies");
        assert_eq!(counted(2, "key"), "2 keys");
    }
}
