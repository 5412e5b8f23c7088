//! Keys in S3's listings, in log lines and in XML requests.

use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;
use stepward::{ErrorName, StepError};

/// Decodes a key, prefix or marker of a listing with `EncodingType=url`: form encoding, where `+`
/// is a space.
///
/// Every listing of this crate requests that encoding. A key can contain characters that XML cannot
/// represent, such as `\x01`. S3 puts them into a plain listing nevertheless, and no XML parser
/// accepts that listing.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html> (`EncodingType`)
///
/// # Errors
/// `Internal` if the key is not UTF-8, which every key in S3 is.
pub fn decode_key(text: &str) -> Result<String, StepError> {
    let spaced = text.replace('+', " ");
    let key = percent_decode_str(&spaced).decode_utf8().map(Into::into);
    key.map_err(|_| {
        ErrorName::Internal.with_message(format!(
            "S3 listed the key {text:?}, which is not UTF-8; report this as a bug"
        ))
    })
}

/// Decodes a key, prefix or marker of a page if the page is encoded. Some S3-compatible servers do
/// not encode every listing.
///
/// # Errors
/// The same errors as [`decode_key`].
pub fn decode_listed_key(
    encoding: Option<&EncodingType>,
    text: String,
) -> Result<String, StepError> {
    if encoding == Some(&EncodingType::Url) {
        decode_key(&text)
    } else {
        Ok(text)
    }
}

/// A key for a log line, with characters escaped that would break the line or control a terminal,
/// for example `a\nb`.
#[must_use]
pub fn escape_for_log(key: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    key.chars().map(escape).collect()
}

/// Whether an XML request can contain the key. XML cannot represent most control characters:
/// <https://www.w3.org/TR/xml/#charsets>
#[must_use]
pub fn is_valid_in_xml(key: &str) -> bool {
    // XML can contain line ends and tabs, but parsers normalize them.
    !key.chars()
        .any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_as_s3_encodes_them() {
        for (encoded, key) in [
            ("plain/key.txt", "plain/key.txt"),
            ("a+b%2Bc%20d", "a b+c d"),
            ("line%0Abreak%01%7F", "line\nbreak\u{1}\u{7f}"),
            ("caf%C3%A9/%F0%9F%AA%A3", "café/🪣"),
            ("100%25", "100%"),
            ("%252B", "%2B"),
            ("", ""),
        ] {
            assert_eq!(decode_key(encoded).unwrap(), key, "{encoded}");
        }
    }

    #[test]
    fn a_key_that_is_not_utf_8_is_an_error() {
        assert_eq!(decode_key("%FF").unwrap_err().name, ErrorName::Internal);
    }

    #[test]
    fn a_page_that_is_not_encoded_is_unchanged() {
        assert_eq!(
            decode_listed_key(None, "a+b%2Bc".into()).unwrap(),
            "a+b%2Bc"
        );
        assert_eq!(
            decode_listed_key(Some(&EncodingType::Url), "a+b%2Bc".into()).unwrap(),
            "a b+c"
        );
    }

    #[test]
    fn an_escaped_key_stays_on_one_line() {
        assert_eq!(escape_for_log("a\nb\u{1}\u{9b}\tc"), r"a\nb\u{1}\u{9b}\tc");
        assert_eq!(
            escape_for_log("café/🪣 'x' \\ \"y\""),
            "café/🪣 'x' \\ \"y\""
        );
    }

    #[test]
    fn keys_that_xml_cannot_contain_are_detected() {
        assert!(is_valid_in_xml("a/ü &<>\"'/🪣"));
        for key in ["a\nb", "a\rb", "a\u{1}", "\u{85}", "\u{ffff}"] {
            assert!(!is_valid_in_xml(key), "{key:?}");
        }
    }
}
