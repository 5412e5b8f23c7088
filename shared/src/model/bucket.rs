//! Checks names of S3 buckets and parses S3 URIs.

use super::error::StepError;
use super::input::require;

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

/// Checks a parameter that names a bucket. `None` is valid.
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
