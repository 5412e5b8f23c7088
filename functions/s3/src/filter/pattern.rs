//! Shell patterns with the semantics of Python's `fnmatch`, which the AWS CLI uses.
//!
//! The `glob` crate does not fit: it refuses `**`, does not support empty ranges, and recurses once
//! per star.

/// A pattern below a root.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug)]
enum Token {
    Star,
    Any,
    Char(char),
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Token {
    fn matches_char(&self, c: char) -> bool {
        match self {
            Self::Star | Self::Any => true,
            Self::Char(expected) => *expected == c,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|&(low, high)| low <= c && c <= high) != *negated
            }
        }
    }
}

impl Pattern {
    /// Parses `pattern` below `root`. They are joined like in `os.path.join`: a pattern with a
    /// leading slash is absolute. The root is literal.
    pub(super) fn parse_below(root: &str, pattern: &str) -> Self {
        let mut tokens = Vec::new();
        if !pattern.starts_with('/') {
            tokens.extend(root.chars().map(Token::Char));
            tokens.extend((!root.is_empty() && !root.ends_with('/')).then_some(Token::Char('/')));
        }

        let chars: Vec<char> = pattern.chars().collect();
        let mut rest = chars.as_slice();

        while let [first, after @ ..] = rest {
            rest = after;
            tokens.push(match first {
                '*' if matches!(tokens.last(), Some(Token::Star)) => continue,
                '*' => Token::Star,
                '?' => Token::Any,
                '[' => match find_set_end(after) {
                    Some(end) => {
                        rest = &after[end + 1..];
                        parse_set(&after[..end])
                    }
                    None => Token::Char('['),
                },
                other => Token::Char(*other),
            });
        }

        Self { tokens }
    }

    /// Whether the whole `text` matches. Only the last star is tried again, because the match
    /// before it can stay unchanged: the time is at most the pattern's length times the text's.
    pub(super) fn matches(&self, text: &str) -> bool {
        let (mut at, mut rest) = (0, text.chars());
        let mut last_star = None;

        loop {
            if let Some(Token::Star) = self.tokens.get(at) {
                at += 1;
                if at == self.tokens.len() {
                    return true;
                }
                last_star = Some((at, rest.clone()));
            }
            match (self.tokens.get(at), rest.next()) {
                (None, None) => return true,
                // Another attempt would leave even less text for the same tokens.
                (Some(_), None) => return false,
                (Some(token), Some(c)) if token.matches_char(c) => at += 1,
                _ => {
                    let Some((after_star, retry)) = &mut last_star else {
                        return false;
                    };
                    retry.next();
                    (at, rest) = (*after_star, retry.clone());
                }
            }
        }
    }
}

/// The position of the `]` that closes a set. `chars` follow the `[`. The first character in a set
/// never closes it.
fn find_set_end(chars: &[char]) -> Option<usize> {
    let first = usize::from(chars.first() == Some(&'!'));
    chars
        .iter()
        .enumerate()
        .skip(first + 1)
        .find(|(_, c)| **c == ']')
        .map(|(at, _)| at)
}

/// Parses the content of the brackets. Python splits it at the hyphens of ranges, then drops
/// reversed ranges, and only then looks for `!`. The order matters for sets like `[b-a!x]`, so this
/// function keeps it.
fn parse_set(inner: &[char]) -> Token {
    let mut chunks: Vec<Vec<char>> = Vec::new();
    let mut start = 0;
    let mut search_start = if inner.first() == Some(&'!') { 2 } else { 1 };
    while let Some(hyphen) = (search_start..inner.len()).find(|&at| inner[at] == '-') {
        chunks.push(inner[start..hyphen].to_vec());
        start = hyphen + 1;
        search_start = hyphen + 3;
    }
    match (&inner[start..], chunks.last_mut()) {
        ([], Some(last)) => last.push('-'),
        (rest, _) => chunks.push(rest.to_vec()),
    }

    for at in (1..chunks.len()).rev() {
        if chunks[at - 1].last() > chunks[at].first() {
            let after = chunks.remove(at);
            chunks[at - 1].pop();
            chunks[at - 1].extend(&after[1..]);
        }
    }

    let negated = chunks[0].first() == Some(&'!');
    if negated {
        chunks[0].remove(0);
    }

    let ends = chunks
        .windows(2)
        .map(|pair| match (pair[0].last(), pair[1].first()) {
            (Some(&low), Some(&high)) => (low, high),
            // A hyphen directly after the `!` is a character of the set.
            _ => ('-', '-'),
        });
    let ranges = ends
        .chain(chunks.iter().flatten().map(|&c| (c, c)))
        .collect();
    Token::Set { negated, ranges }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::parse_below("", pattern).matches(text)
    }

    #[test]
    fn results_match_pythons_fnmatch() {
        // Generated by fnmatch.py, next to it.
        let table = include_str!("fnmatch.jsonl");
        let rows: Vec<(String, String, bool)> = table
            .lines()
            .map(|row| serde_json::from_str(row).unwrap())
            .collect();
        assert_eq!(
            (rows.len(), rows.iter().filter(|row| row.2).count()),
            (400, 200)
        );
        for (pattern, text, expected) in rows {
            assert_eq!(
                matches(&pattern, &text),
                expected,
                "{pattern:?} against {text:?}"
            );
        }
    }

    #[test]
    fn a_star_matches_slashes_and_line_ends() {
        assert!(
            matches("a*z", "a/b\nc/z")
                && matches("a**z", "a/z")
                && matches("**", "")
                && matches("*", ".a")
        );
        assert!(!matches("a*z", "a/b"));
    }

    #[test]
    fn a_question_mark_matches_one_character() {
        assert!(matches("?", "é") && matches("?", "/") && !matches("?", "") && !matches("?", "ab"));
    }

    #[test]
    fn an_unclosed_bracket_is_a_character() {
        assert!(
            matches("a[b", "a[b")
                && matches("[", "[")
                && matches("[]", "[]")
                && matches("[!]", "[!]")
        );
        assert!(matches("[]]", "]") && matches("[!]]", "a") && !matches("[!]]", "]"));
    }

    #[test]
    fn a_reversed_range_is_empty() {
        assert!(
            !matches("[b-a]", "a")
                && !matches("[b-a]", "b")
                && matches("[!b-a]", "x")
                && matches("[b-ax]", "x")
        );
    }

    #[test]
    fn an_exclamation_mark_after_a_dropped_range_negates() {
        assert!(matches("[b-a!x]", "b") && matches("[b-a!x]", "!") && !matches("[b-a!x]", "x"));
        assert!(matches("[b-a!-z]", "b") && !matches("[b-a!-z]", "-") && !matches("[b-a!-z]", "z"));
    }

    #[test]
    fn patterns_are_case_sensitive() {
        assert!(!matches("A", "a") && !matches("[A-Z]", "a"));
    }

    #[test]
    fn a_malicious_pattern_takes_linear_time() {
        let started = Instant::now();
        for pattern in [
            "a*".repeat(40) + "b",
            "*a".repeat(40) + "b*",
            "*".repeat(2_000) + "b",
            "*?".repeat(900) + "b",
        ] {
            assert!(!matches(&pattern, &"a".repeat(1_000)));
        }
        assert!(matches(
            &("a*".repeat(40) + "b"),
            &("a".repeat(1_000) + "b")
        ));
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
    }
}
