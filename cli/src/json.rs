//! JSON that an operator types or writes to a file.

use serde_json::Value;

use crate::error::{Error, Result};

/// The characters that a JSON object, list or text begins with.
const BEGINNINGS: [char; 3] = ['{', '[', '"'];

/// This many significant digits identify every 64-bit floating-point number.
const FRACTION_DIGITS: usize = 17;

/// Reads a typed value as JSON, or as text if it is not JSON. A value that begins like JSON and is
/// not valid is refused: the operator has meant JSON. `option` names the value in an error, for
/// example `--option tags`.
pub(crate) fn parse_json_or_text(option: &str, text: &str) -> Result<Value> {
    match serde_json::from_str(text) {
        Ok(value) => {
            check_numbers(option, text)?;
            Ok(value)
        }
        Err(error) if text.trim_start().starts_with(BEGINNINGS) => {
            Err(broken_json(option, text, &error))
        }
        Err(_) => Ok(text.into()),
    }
}

/// The error of a value that begins like JSON and is not valid.
pub(crate) fn broken_json(option: &str, text: &str, error: &serde_json::Error) -> Error {
    Error::usage_error(format!(
        "{option}: the value begins like JSON, but is not valid: {error}: {text}"
    ))
    .with_advice(format!(
        "correct the JSON; to pass the value as text, write a JSON string: {}",
        Value::from(text)
    ))
}

/// Refuses JSON with a number that would be rounded: Step Functions and many programs store numbers
/// with 53 bits.
/// <https://www.rfc-editor.org/rfc/rfc8259#section-6>
pub(crate) fn check_numbers(option: &str, json: &str) -> Result<()> {
    match numbers(json).find(|number| is_rounded(number)) {
        None => Ok(()),
        Some(number) => Err(Error::usage_error(format!(
            "{option}: the number {number} would be rounded"
        ))
        .with_advice(format!("pass it as text: \"{number}\""))),
    }
}

/// The texts of the numbers in a JSON document.
fn numbers(json: &str) -> impl Iterator<Item = &str> {
    let mut rest = json;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())?;
            rest = &rest[start..];
            if let Some(text) = rest.strip_prefix('"') {
                rest = after_string(text);
                continue;
            }
            let is_other = |c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c));
            let (number, after) = rest.split_at(rest.find(is_other).unwrap_or(rest.len()));
            rest = after;
            return Some(number);
        }
    })
}

/// What follows a JSON string, given its text after the opening quote.
fn after_string(text: &str) -> &str {
    let mut is_escaped = false;
    for (position, c) in text.char_indices() {
        if c == '"' && !is_escaped {
            return &text[position + 1..];
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    ""
}

/// Whether a number has more digits than a 64-bit floating-point number keeps.
fn is_rounded(number: &str) -> bool {
    match normalized(number) {
        // Several texts of this length can mean the same stored fraction, so they are not compared.
        Some((digits, exponent)) if exponent < 0 => digits.len() > FRACTION_DIGITS,
        integer => {
            let stored = number.parse::<f64>().unwrap_or(f64::NAN);
            integer != normalized(&format!("{stored:e}"))
        }
    }
}

/// The significant digits of a number without zeros at both ends, and the exponent of the last one.
fn normalized(number: &str) -> Option<(String, i64)> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some((String::new(), 0));
    }
    let exponent = exponent.trim_start_matches('+').parse::<i64>().ok()?;
    let zeros = i64::try_from(digits.len() - significant.len()).ok()?;
    let exponent = exponent - i64::try_from(fraction.len()).ok()? + zeros;
    Some((significant.trim_start_matches('0').to_owned(), exponent))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::error::NOT_STARTED;

    #[test]
    fn a_value_is_json_or_text() {
        for (text, value) in [
            ("3", json!(3)),
            ("{\"a\":[1,null]}", json!({ "a": [1, null] })),
            ("\"3\"", json!("3")),
            ("hello world", json!("hello world")),
            ("SELECT \"a\" FROM b", json!("SELECT \"a\" FROM b")),
            ("", json!("")),
        ] {
            assert_eq!(parse_json_or_text("-o a", text).unwrap(), value);
        }
    }

    #[test]
    fn json_that_was_begun_must_be_valid() {
        for text in ["{\"a\":1", " [1,]", "\"a", "{a: 1}", "[a-z]+", "{}x"] {
            let refused = parse_json_or_text("-o a", text).unwrap_err();
            assert_eq!(refused.code(), NOT_STARTED);
            let message = refused.to_string();
            assert!(
                message.starts_with("-o a: ") && message.contains(text),
                "{message}"
            );
        }
        let advice = parse_json_or_text("-o a", "[a-z]+")
            .unwrap_err()
            .to_string();
        assert!(
            advice.ends_with("write a JSON string: \"[a-z]+\""),
            "{advice}"
        );
    }

    #[test]
    fn a_number_that_would_be_rounded_is_refused() {
        for exact in [
            "9007199254740992",
            "-9007199254740991",
            "0",
            "-0.0",
            "0.1",
            "1.50",
            "100000000000000000000",
            "1E+5",
            "5e-324",
            "1450217882466214.2",
            "{\"9007199254740993\":\"\\\"9007199254740993\",\"b\":[1,-2.5e3]}",
        ] {
            parse_json_or_text("-o a", exact).unwrap();
        }
        for rounded in [
            "9007199254740993",
            "-12345678901234567890",
            "123456789012345678901234",
            "0.12345678901234567890",
            "{\"a\":[\"\\\\\",9007199254740993]}",
        ] {
            let refused = parse_json_or_text("-o a", rounded).unwrap_err();
            assert_eq!(refused.code(), NOT_STARTED);
            assert!(
                refused.to_string().contains("would be rounded"),
                "{refused}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_number_that_is_stored_is_exact(number in any::<f64>(), small in any::<i32>()) {
            prop_assume!(number.is_finite());
            for text in [json!(number).to_string(), small.to_string()] {
                prop_assert!(parse_json_or_text("-o a", &text).is_ok(), "{text}");
            }
        }
    }
}
