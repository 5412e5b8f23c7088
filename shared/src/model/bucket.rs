//! Checks names of S3 buckets and parses S3 URIs.

use super::error::StepError;
use super::input::require;

/// The end of an access point's alias:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-points-naming.html>
pub const ALIAS_SUFFIX: &str = "-s3alias";
/// The reserved ends of names that are neither a bucket nor an access point of one:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>
const RESERVED_SUFFIXES: [(&str, &str); 6] = [
    ("--ol-s3", "an S3 Object Lambda access point"),
    ("--op-s3", "an access point of S3 on Outposts"),
    ("--x-s3", "a directory bucket"),
    ("--xa-s3", "an access point of a directory bucket"),
    ("--table-s3", "a table bucket"),
    (".mrap", "a Multi-Region Access Point"),
];

/// Whether a bucket can have this name, by its length and characters.
///
/// S3 has more rules, for example about adjacent periods. S3 itself refuses a name that breaks
/// them.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>
#[must_use]
pub fn is_bucket_name(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    (3..=63).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// What a name with a reserved end stands for. It is neither a general purpose bucket nor an access
/// point of one.
#[must_use]
pub fn reserved_kind(name: &str) -> Option<&'static str> {
    let mut suffixes = RESERVED_SUFFIXES.iter();
    suffixes
        .find(|(suffix, _)| name.ends_with(suffix))
        .map(|(_, kind)| *kind)
}

/// Checks a parameter that names a general purpose bucket. `None` is valid.
///
/// The alias of an access point is refused. S3 compares the ARN of the access point with a policy,
/// and the alias does not contain this ARN, so a session policy for the alias allows nothing:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-points-policies.html>
///
/// # Errors
/// `InvalidInput`, with the name of the parameter.
pub fn check_bucket_name(parameter: &str, name: Option<&str>) -> Result<(), StepError> {
    let invalid_name = name.filter(|name| !is_bucket_name(name));
    require(invalid_name.is_none(), || {
        let name = invalid_name.unwrap_or_default();
        format!(
            "{parameter}: {name:?} is not a bucket name; \
             use 3 to 63 lowercase letters, digits, periods and hyphens"
        )
    })?;
    let other_kind = name.and_then(|name| {
        let is_alias = name.ends_with(ALIAS_SUFFIX);
        let alias = is_alias.then_some("the alias of an access point");
        Some((name, alias.or_else(|| reserved_kind(name))?))
    });
    require(other_kind.is_none(), || {
        let (name, kind) = other_kind.unwrap_or_default();
        format!(
            "{parameter}: {name:?} is {kind}, and the permissions of this step can name only a \
             general purpose bucket; pass the name of the bucket"
        )
    })
}

/// Returns the bucket and the key of `s3://bucket/key`. The key is empty if the URI names only a
/// bucket.
#[must_use]
pub fn parse_s3_uri(uri: &str) -> Option<(&str, &str)> {
    let path = uri.strip_prefix("s3://")?;
    let (name, key) = path.split_once('/').unwrap_or((path, ""));
    is_bucket_name(name).then_some((name, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::ErrorName;

    #[test]
    fn a_name_has_allowed_length_and_characters() {
        for name in ["abc", "my.bucket-1", &"a".repeat(63)] {
            assert!(is_bucket_name(name), "{name}");
        }
        for name in [
            "",
            "ab",
            &"a".repeat(64),
            "Bucket",
            "a_b",
            "a/b",
            "a b",
            "bücket",
            "a\0b",
            "*",
        ] {
            assert!(!is_bucket_name(name), "{name}");
        }
    }

    #[test]
    fn an_invalid_name_is_refused_with_its_parameter() {
        assert!(
            check_bucket_name("bucket", None).is_ok()
                && check_bucket_name("bucket", Some("files")).is_ok()
        );
        let error = check_bucket_name("output_bucket", Some("Files")).unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(
            error
                .message
                .starts_with("output_bucket: \"Files\" is not a bucket name"),
            "{error}"
        );
    }

    #[test]
    fn a_name_that_is_no_bucket_is_refused_by_kind() {
        for (name, kind) in [
            (
                "points-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias",
                "the alias of an access point",
            ),
            ("x--ol-s3", "an S3 Object Lambda access point"),
            ("x--op-s3", "an access point of S3 on Outposts"),
            ("x--euw1-az1--x-s3", "a directory bucket"),
            (
                "x--euw1-az1--xa-s3",
                "an access point of a directory bucket",
            ),
            ("x--table-s3", "a table bucket"),
            ("m123.mrap", "a Multi-Region Access Point"),
        ] {
            let error = check_bucket_name("bucket", Some(name)).unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            let expected = format!("bucket: {name:?} is {kind}, and the permissions");
            assert!(error.message.starts_with(&expected), "{error}");
        }
        check_bucket_name("bucket", Some("files-s3")).unwrap();
    }

    #[test]
    fn a_uri_has_a_bucket_and_possibly_a_key() {
        for (uri, parts) in [
            ("s3://files/a/b", Some(("files", "a/b"))),
            ("s3://files/", Some(("files", ""))),
            ("s3://files", Some(("files", ""))),
            ("s3://Files/a", None),
            ("s3:///a", None),
            ("files/a", None),
        ] {
            assert_eq!(parse_s3_uri(uri), parts, "{uri}");
        }
    }
}
