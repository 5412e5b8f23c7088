//! Which names are meant: `exclude` and `include` as `aws s3` decides them.
//!
//! Its rules are in
//! <https://docs.aws.amazon.com/cli/latest/reference/s3/#use-of-exclude-and-include-filters>. One
//! is left out on purpose: there, a `[` or `*` in the path or prefix that is copied is read as a
//! pattern; here it is a character like any other.

mod pattern;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::StepError;
use stepward::model::input::require;

use self::pattern::Pattern;
use crate::local::lexical;

/// One rule: `{"exclude": "*.tmp"}` or `{"include": "logs/*"}`. Rules are read in order and the
/// last one that matches a name wins; a name that none matches is included. So an `include` only
/// brings back what an `exclude` before it took out: `[{"exclude": "*"}, {"include": "*.log"}]`
/// means the logs and nothing else.
///
/// A pattern is relative to the source and to the destination, as in the AWS CLI: `tmp/*` is
/// `s3://bucket/prefix/tmp/…` when `s3://bucket/prefix` is copied. `*` stands for any characters,
/// slashes too, so `*.log` is also met in folders below; `?` for one character, `[a-z]` for one of
/// several, `[!a-z]` for any other. Upper and lower case differ.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Leave out what matches.
    Exclude(String),
    /// Take what matches, also when a rule before left it out.
    Include(String),
}

impl Filter {
    fn pattern(&self) -> &str {
        let (Self::Exclude(pattern) | Self::Include(pattern)) = self;
        pattern
    }
}

/// Filters, read against the two ends of a transfer.
#[derive(Clone, Debug)]
pub struct Filters {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    include: bool,
    source: Pattern,
    destination: Pattern,
}

// A hostile pattern costs its length times a name's length, for each name; a list that a person
// wrote is far below these.
const MOST_FILTERS: usize = 1_000;
const LONGEST_PATTERN: usize = 4_096;

impl Filters {
    /// Reads `filters` relative to the roots of source and destination, from [`root_of_s3`] and
    /// [`root_of_local`].
    ///
    /// # Errors
    /// `InvalidInput` when there are too many or one is too long.
    pub fn new(
        filters: &[Filter],
        source_root: &str,
        destination_root: &str,
    ) -> Result<Self, StepError> {
        require(filters.len() <= MOST_FILTERS, || {
            format!(
                "filters has {} rules, and {MOST_FILTERS} is the most",
                filters.len()
            )
        })?;
        if let Some(long) = filters
            .iter()
            .position(|filter| filter.pattern().len() > LONGEST_PATTERN)
        {
            require(false, || {
                format!("filters[{long}] is longer than {LONGEST_PATTERN} bytes")
            })?;
        }
        let rule = |filter: &Filter| Rule {
            include: matches!(filter, Filter::Include(_)),
            source: Pattern::below(source_root, filter.pattern()),
            destination: Pattern::below(destination_root, filter.pattern()),
        };
        Ok(Self {
            rules: filters.iter().map(rule).collect(),
        })
    }

    /// Whether an entry of source or destination is meant. `path` is whole: `bucket/key` in S3, the
    /// absolute path of a file.
    #[must_use]
    pub fn accepts(&self, path: &str) -> bool {
        let last = self
            .rules
            .iter()
            .rev()
            .find(|rule| rule.source.matches(path) || rule.destination.matches(path));
        last.is_none_or(|rule| rule.include)
    }
}

/// What patterns are relative to in S3: the bucket and prefix, or, for a single object, what is
/// before its last slash.
#[must_use]
pub fn root_of_s3(bucket: &str, key: &str, recursive: bool) -> String {
    let directory = if recursive || key.ends_with('/') {
        key
    } else {
        key.rsplit_once('/').map_or("", |(up, _)| up)
    };
    format!("{bucket}/{directory}")
}

/// What patterns are relative to below the local root: the directory `given`, or, for a single
/// file, the one that it is in. `given` is the parameter as the operator wrote it, because `logs/`
/// is a directory where `logs` is a file in one.
#[must_use]
pub fn root_of_local(local_root: &Path, given: &str, recursive: bool) -> String {
    let whole = local_root.join(given).to_string_lossy().into_owned();
    let directory = if recursive {
        &whole
    } else {
        whole.rsplit_once('/').map_or("", |(up, _)| up)
    };
    format!("/{}", lexical(directory).unwrap_or_default().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exclude(pattern: &str) -> Filter {
        Filter::Exclude(pattern.into())
    }

    fn include(pattern: &str) -> Filter {
        Filter::Include(pattern.into())
    }

    fn between(filters: &[Filter]) -> Filters {
        Filters::new(filters, "bucket/prefix/", "/mnt/data/in").unwrap()
    }

    #[test]
    fn a_name_that_no_filter_matches_is_meant() {
        assert!(between(&[]).accepts("bucket/prefix/a"));
        assert!(between(&[exclude("b")]).accepts("bucket/prefix/a"));
    }

    #[test]
    fn the_last_filter_that_matches_wins() {
        let filters = between(&[exclude("*"), include("*.log")]);
        assert!(filters.accepts("bucket/prefix/a.log") && !filters.accepts("bucket/prefix/a.txt"));
        let filters = between(&[include("*.log"), exclude("*")]);
        assert!(!filters.accepts("bucket/prefix/a.log"));
    }

    #[test]
    fn patterns_are_relative_to_both_ends_and_each_end_is_tested_for_every_entry() {
        let filters = between(&[exclude("tmp/*")]);
        assert!(!filters.accepts("bucket/prefix/tmp/a") && !filters.accepts("/mnt/data/in/tmp/a"));
        assert!(filters.accepts("bucket/tmp/a") && filters.accepts("bucket/prefix/x/tmp/a"));
    }

    #[test]
    fn a_pattern_that_begins_with_a_slash_is_a_whole_path() {
        let filters = between(&[exclude("/mnt/data/in/a*")]);
        assert!(!filters.accepts("/mnt/data/in/abc") && filters.accepts("bucket/prefix/abc"));
    }

    #[test]
    fn pattern_characters_in_a_root_are_only_characters() {
        let filters = Filters::new(&[exclude("*.tmp")], "bucket/[ab]*/", "/mnt/?").unwrap();
        assert!(!filters.accepts("bucket/[ab]*/x.tmp") && !filters.accepts("/mnt/?/x.tmp"));
        assert!(filters.accepts("bucket/a/x.tmp") && filters.accepts("/mnt/y/x.tmp"));
    }

    #[test]
    fn roots_are_those_of_the_aws_cli() {
        for (key, recursive, root) in [
            ("", true, "b/"),
            ("", false, "b/"),
            ("a/b", true, "b/a/b"),
            ("a/b/", true, "b/a/b/"),
            ("a/b", false, "b/a"),
            ("a/b/", false, "b/a/b/"),
            ("a", false, "b/"),
            ("a//b", false, "b/a/"),
        ] {
            assert_eq!(root_of_s3("b", key, recursive), root, "{key:?} {recursive}");
        }
        for (given, recursive, root) in [
            ("in", true, "/mnt/data/in"),
            ("in/", true, "/mnt/data/in"),
            ("in", false, "/mnt/data"),
            ("in/", false, "/mnt/data/in"),
            (".", false, "/mnt/data"),
            ("a//b/../c", false, "/mnt/data/a"),
            ("/mnt/data/a/b", false, "/mnt/data/a"),
            ("/mnt/data", false, "/mnt"),
        ] {
            assert_eq!(
                root_of_local(Path::new("/mnt/data"), given, recursive),
                root,
                "{given:?} {recursive}"
            );
        }
    }

    #[test]
    fn filters_are_read_as_objects_with_one_key() {
        let filters: Vec<Filter> =
            serde_json::from_str(r#"[{"exclude":"*"},{"include":"*.log"}]"#).unwrap();
        assert_eq!(filters, [exclude("*"), include("*.log")]);
        assert!(serde_json::from_str::<Filter>(r#"{"exclude":"*","include":"a"}"#).is_err());
    }

    #[test]
    fn too_many_or_too_long_filters_are_refused() {
        let error = Filters::new(&vec![exclude("a"); 1_001], "b/", "b/").unwrap_err();
        assert!(error.message.contains("1001 rules"), "{error}");
        let error =
            Filters::new(&[exclude("a"), exclude(&"a".repeat(4_097))], "b/", "b/").unwrap_err();
        assert!(error.message.contains("filters[1]"), "{error}");
    }
}
