//! Masks secrets in texts and JSON values, in every form in which they can appear.

use std::cmp::Reverse;
use std::fmt::Write;

use aws_smithy_types::base64;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// The shortest secret, in bytes. Masking a shorter one would also mask large parts of every log.
pub const MIN_SECRET_LENGTH: usize = 8;
/// The text that replaces a secret.
const MASK: &str = "***";

/// Secrets to mask, the longest first. If one secret contains another, the longer one is therefore
/// masked as a whole.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<SecretString>);

impl Secrets {
    /// Adds a secret with its parts, in all forms:
    ///
    /// - the whole secret;
    /// - each line, because logs consist of lines;
    /// - each string in it, if it is JSON, because programs extract these strings;
    /// - each of these as JSON, Rust's `Debug` and Base64 write it.
    pub fn add(&mut self, secret: &str) {
        let mut parts = vec![secret.to_owned()];
        parts.extend(secret.lines().map(|line| line.trim().to_owned()));
        if let Ok(value) = serde_json::from_str(secret) {
            collect_strings(&value, &mut parts);
        }
        parts.retain(|part| part == secret || part.len() >= MIN_SECRET_LENGTH);
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let json = Value::from(part.as_str()).to_string();
            let debug = format!("{part:?}");
            self.add_forms([
                part,
                without_quotes(&json),
                &escape_non_ascii(without_quotes(&json)),
                without_quotes(&debug),
                &base64::encode(part),
            ]);
        }
    }

    /// Adds all secrets of `other`.
    pub fn add_all(&mut self, other: &Self) {
        self.add_forms(other.0.iter().map(SecretString::expose_secret));
    }

    fn add_forms<'a>(&mut self, forms: impl IntoIterator<Item = &'a str>) {
        for form in forms {
            if !self.contains(form) {
                self.0.push(form.into());
            }
        }
        self.0
            .sort_by_key(|form| Reverse(form.expose_secret().len()));
    }

    /// Masks every secret in a text.
    #[must_use]
    pub fn mask(&self, text: &str) -> String {
        self.0
            .iter()
            .map(SecretString::expose_secret)
            .fold(text.to_owned(), |text, secret| {
                if text.contains(secret) {
                    text.replace(secret, MASK)
                } else {
                    text
                }
            })
    }

    /// Masks every secret in the strings, numbers and field names of a value.
    #[must_use]
    pub fn mask_json(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.mask(&text)),
            Value::Number(number) if self.contains(&number.to_string()) => MASK.into(),
            Value::Array(items) => items.into_iter().map(|item| self.mask_json(item)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (self.mask(&name), self.mask_json(value)))
                .collect(),
            value => value,
        }
    }

    fn contains(&self, text: &str) -> bool {
        self.0.iter().any(|secret| secret.expose_secret() == text)
    }
}

impl<'a> FromIterator<&'a str> for Secrets {
    fn from_iter<I: IntoIterator<Item = &'a str>>(secrets: I) -> Self {
        let mut collected = Self::default();
        secrets.into_iter().for_each(|secret| collected.add(secret));
        collected
    }
}

fn collect_strings(value: &Value, strings: &mut Vec<String>) {
    match value {
        Value::String(text) => strings.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect_strings(item, strings)),
        Value::Object(fields) => fields
            .values()
            .for_each(|value| collect_strings(value, strings)),
        _ => {}
    }
}

fn without_quotes(quoted: &str) -> &str {
    quoted.get(1..quoted.len() - 1).unwrap_or(quoted)
}

/// Escapes non-ASCII characters as JSON writers do that produce only ASCII, such as Python's.
fn escape_non_ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secrets_from(secrets: &[&str]) -> Secrets {
        secrets.iter().copied().collect()
    }

    #[test]
    fn names_values_and_single_lines_are_masked() {
        let secrets = secrets_from(&["first line of it\nsecond \"line\""]);
        let masked = secrets.mask_json(json!({ "first line of it": ["x second \"line\" y", 5] }));
        assert_eq!(masked, json!({ "***": ["x *** y", 5] }));
        assert_eq!(secrets.mask("first line of it\nsecond \"line\"!"), "***!");
    }

    #[test]
    fn escaped_and_encoded_secrets_are_masked() {
        let secret = "cor\"rect\\hörse";
        let secrets = secrets_from(&[secret]);
        for form in [
            secret,
            r#"cor\"rect\\hörse"#,
            r#"cor\"rect\\h\u00f6rse"#,
            &base64::encode(secret),
            &format!("{secret:?}"),
        ] {
            let masked = secrets.mask(&format!("got {form} here"));
            assert!(
                masked == "got *** here" || masked == "got \"***\" here",
                "{masked}"
            );
        }
    }

    #[test]
    fn the_strings_of_a_json_secret_are_masked() {
        let secrets = secrets_from(&[r#"{"username": "owner", "password": "hunter2hunter2"}"#]);
        assert_eq!(secrets.mask("owner has hunter2hunter2"), "owner has ***");
    }

    #[test]
    fn a_secret_that_contains_another_is_masked_whole() {
        let secrets = secrets_from(&["hunter2hunter2", "hunter2hunter2-prod"]);
        assert_eq!(
            secrets.mask("hunter2hunter2-prod hunter2hunter2"),
            "*** ***"
        );
        assert_eq!(
            secrets_from(&["1234567890"]).mask_json(json!([1_234_567_890, 5])),
            json!(["***", 5])
        );
    }
}
