//! Selects names by `exclude` and `include`, as `aws s3` does.
//!
//! The rules are in
//! <https://docs.aws.amazon.com/cli/latest/reference/s3/#use-of-exclude-and-include-filters>. One
//! rule is omitted intentionally: the AWS CLI reads `[` or `*` in the transferred path or prefix as
//! a pattern; here they are ordinary characters.

mod pattern;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::StepError;
use stepward::model::input::require;

use self::pattern::Pattern;
use crate::local::clean_path;

/// One rule: `{"exclude": "*.tmp"}` or `{"include": "logs/*"}`. Rules apply in order, and the last
/// one that matches a name decides. A name that no rule matches is included, so an `include` only
/// restores what an earlier `exclude` removed: `[{"exclude": "*"}, {"include": "*.log"}]` selects
/// the logs and nothing else.
///
/// A pattern is relative to the source and to the destination, as in the AWS CLI: if
/// `s3://bucket/prefix` is copied, `tmp/*` matches `s3://bucket/prefix/tmp/…`. `*` matches any
/// characters, also slashes, so `*.log` matches files in directories below, too. `?` matches one
/// character, `[a-z]` one of several, `[!a-z]` any other. Patterns are case-sensitive.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Exclude the names that match.
    Exclude(String),
    /// Include the names that match, even if an earlier rule excluded them.
    Include(String),
}

impl Filter {
    fn pattern(&self) -> &str {
        let (Self::Exclude(pattern) | Self::Include(pattern)) = self;
        pattern
    }
}

/// The rules of a transfer, relative to its source and destination.
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

// A malicious pattern costs its length times the name's length for each name. Lists written by
// people are far below these limits.
const MAX_FILTERS: usize = 1_000;
const MAX_PATTERN_BYTES: usize = 4_096;

impl Filters {
    /// Reads `filters` relative to the roots of source and destination, from [`s3_filter_root`] and
    /// [`local_filter_root`].
    ///
    /// # Errors
    /// `InvalidInput` if there are too many filters or one is too long.
    pub fn new(
        filters: &[Filter],
        source_root: &str,
        destination_root: &str,
    ) -> Result<Self, StepError> {
        require(filters.len() <= MAX_FILTERS, || {
            format!(
                "parameter \"filters\": expected at most {MAX_FILTERS} rules, got {}; use \
                 wildcards",
                filters.len()
            )
        })?;
        if let Some(index) = filters
            .iter()
            .position(|filter| filter.pattern().len() > MAX_PATTERN_BYTES)
        {
            require(false, || {
                format!(
                    "parameter \"filters[{index}]\": expected a pattern of at most \
                     {MAX_PATTERN_BYTES} bytes; shorten it"
                )
            })?;
        }

        let rule = |filter: &Filter| Rule {
            include: matches!(filter, Filter::Include(_)),
            source: Pattern::parse_below(source_root, filter.pattern()),
            destination: Pattern::parse_below(destination_root, filter.pattern()),
        };

        Ok(Self {
            rules: filters.iter().map(rule).collect(),
        })
    }

    /// Whether a name of the source or destination is selected. `path` is the full path:
    /// `bucket/key` in S3, the absolute path of a file.
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

/// The root of patterns in S3: the bucket and prefix or, for a single object, everything before its
/// last slash.
#[must_use]
pub fn s3_filter_root(bucket: &str, key: &str, recursive: bool) -> String {
    let directory = if recursive || key.ends_with('/') {
        key
    } else {
        key.rsplit_once('/').map_or("", |(parent, _)| parent)
    };
    format!("{bucket}/{directory}")
}

/// The root of patterns below the local root: the directory `parameter` or, for a single file, its
/// parent directory. `parameter` is the original text, because `logs/` is a directory but `logs` a
/// file in one.
#[must_use]
pub fn local_filter_root(local_root: &Path, parameter: &str, recursive: bool) -> String {
    let full_path = local_root.join(parameter).to_string_lossy().into_owned();
    let directory = if recursive {
        &full_path
    } else {
        full_path.rsplit_once('/').map_or("", |(parent, _)| parent)
    };
    format!("/{}", clean_path(directory).unwrap_or_default().join("/"))
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

    fn filters_between(filters: &[Filter]) -> Filters {
        Filters::new(filters, "bucket/prefix/", "/mnt/data/in").unwrap()
    }

    #[test]
    fn a_name_that_no_filter_matches_is_selected() {
        assert!(filters_between(&[]).accepts("bucket/prefix/a"));
        assert!(filters_between(&[exclude("b")]).accepts("bucket/prefix/a"));
    }

    #[test]
    fn the_last_filter_that_matches_wins() {
        let filters = filters_between(&[exclude("*"), include("*.log")]);
        assert!(filters.accepts("bucket/prefix/a.log") && !filters.accepts("bucket/prefix/a.txt"));
        let filters = filters_between(&[include("*.log"), exclude("*")]);
        assert!(!filters.accepts("bucket/prefix/a.log"));
    }

    #[test]
    fn patterns_are_relative_to_source_and_destination() {
        let filters = filters_between(&[exclude("tmp/*")]);
        assert!(!filters.accepts("bucket/prefix/tmp/a") && !filters.accepts("/mnt/data/in/tmp/a"));
        assert!(filters.accepts("bucket/tmp/a") && filters.accepts("bucket/prefix/x/tmp/a"));
    }

    #[test]
    fn a_pattern_with_a_leading_slash_is_absolute() {
        let filters = filters_between(&[exclude("/mnt/data/in/a*")]);
        assert!(!filters.accepts("/mnt/data/in/abc") && filters.accepts("bucket/prefix/abc"));
    }

    #[test]
    fn pattern_characters_in_a_root_are_literal() {
        let filters = Filters::new(&[exclude("*.tmp")], "bucket/[ab]*/", "/mnt/?").unwrap();
        assert!(!filters.accepts("bucket/[ab]*/x.tmp") && !filters.accepts("/mnt/?/x.tmp"));
        assert!(filters.accepts("bucket/a/x.tmp") && filters.accepts("/mnt/y/x.tmp"));
    }

    #[test]
    fn roots_match_the_aws_cli() {
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
            assert_eq!(
                s3_filter_root("b", key, recursive),
                root,
                "{key:?} {recursive}"
            );
        }
        for (parameter, recursive, root) in [
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
                local_filter_root(Path::new("/mnt/data"), parameter, recursive),
                root,
                "{parameter:?} {recursive}"
            );
        }
    }

    #[test]
    fn filters_are_objects_with_one_key() {
        let filters: Vec<Filter> =
            serde_json::from_str(r#"[{"exclude":"*"},{"include":"*.log"}]"#).unwrap();
        assert_eq!(filters, [exclude("*"), include("*.log")]);
        assert!(serde_json::from_str::<Filter>(r#"{"exclude":"*","include":"a"}"#).is_err());
    }

    #[test]
    fn too_many_or_too_long_filters_are_refused() {
        let error = Filters::new(&vec![exclude("a"); 1_001], "b/", "b/").unwrap_err();
        assert!(error.message.contains("got 1001"), "{error}");
        let error =
            Filters::new(&[exclude("a"), exclude(&"a".repeat(4_097))], "b/", "b/").unwrap_err();
        assert!(error.message.contains("filters[1]"), "{error}");
    }
}
