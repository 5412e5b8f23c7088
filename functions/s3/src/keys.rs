//! Keys as S3's listings write them.

use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;
use stepward::{ErrorName, StepError};

/// The key, prefix or marker that a listing with `EncodingType=url` means: form encoding, where `+`
/// is a space.
///
/// Every listing of ours asks for that encoding. A key may hold characters that XML has no way to
/// write, such as `\x01`; S3 puts them into a plain listing all the same, and no XML reader takes
/// it then.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html> (`EncodingType`)
///
/// # Errors
/// `Internal` where it is no UTF-8, as every key is.
pub fn decoded(text: &str) -> Result<String, StepError> {
    let spaced = text.replace('+', " ");
    let key = percent_decode_str(&spaced).decode_utf8().map(Into::into);
    key.map_err(|_| {
        ErrorName::Internal.with_message(format!(
            "S3 listed the key {text:?}, which is no UTF-8; please report it"
        ))
    })
}

/// The key, prefix or marker that a page of a listing means: decoded where the page says that it is
/// encoded. Some servers that speak S3 do not know the encoding for every listing.
///
/// # Errors
/// As [`decoded`].
pub fn listed(encoding: Option<&EncodingType>, text: String) -> Result<String, StepError> {
    if encoding == Some(&EncodingType::Url) {
        decoded(&text)
    } else {
        Ok(text)
    }
}

/// The key for a line of the log: what would break the line, or act on a terminal, is escaped, as
/// in `a\nb`.
#[must_use]
pub fn shown(key: &str) -> String {
    let escaped = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    key.chars().map(escaped).collect()
}

/// Whether a request in XML can carry the key: there is no way to write most control characters in
/// it.
/// <https://www.w3.org/TR/xml/#charsets>
#[must_use]
pub fn fits_xml(key: &str) -> bool {
    // Line ends and tabs can be written, but readers make others of them.
    !key.chars()
        .any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_s3_writes_it() {
        for (written, key) in [
            ("plain/key.txt", "plain/key.txt"),
            ("a+b%2Bc%20d", "a b+c d"),
            ("line%0Abreak%01%7F", "line\nbreak\u{1}\u{7f}"),
            ("caf%C3%A9/%F0%9F%AA%A3", "café/🪣"),
            ("100%25", "100%"),
            ("%252B", "%2B"),
            ("", ""),
        ] {
            assert_eq!(decoded(written).unwrap(), key, "{written}");
        }
    }

    #[test]
    fn what_is_no_utf_8_is_an_error_and_no_other_key() {
        assert_eq!(decoded("%FF").unwrap_err().name, ErrorName::Internal);
    }

    #[test]
    fn a_page_that_is_not_encoded_is_left_as_it_is() {
        assert_eq!(listed(None, "a+b%2Bc".into()).unwrap(), "a+b%2Bc");
        assert_eq!(
            listed(Some(&EncodingType::Url), "a+b%2Bc".into()).unwrap(),
            "a b+c"
        );
    }

    #[test]
    fn a_line_of_the_log_stays_one_line() {
        assert_eq!(shown("a\nb\u{1}\u{9b}\tc"), r"a\nb\u{1}\u{9b}\tc");
        assert_eq!(shown("café/🪣 'x' \\ \"y\""), "café/🪣 'x' \\ \"y\"");
    }

    #[test]
    fn keys_that_xml_cannot_carry_are_known() {
        assert!(fits_xml("a/ü &<>\"'/🪣"));
        for key in ["a\nb", "a\rb", "a\u{1}", "\u{85}", "\u{ffff}"] {
            assert!(!fits_xml(key), "{key:?}");
        }
    }
}
