//! Secrets that must not be shown, in all the forms in which they could be seen.

use std::cmp::Reverse;
use std::fmt::Write;

use aws_smithy_types::base64;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// The shortest secret, in bytes: a shorter one could not be masked without masking half of every
/// log.
pub const SHORTEST: usize = 8;
/// What stands where a secret was.
const MASK: &str = "***";

/// Secrets that must not be shown; longest first, so that a secret within another leaves no rest of
/// the longer one.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<SecretString>);

impl Secrets {
    /// Adds a secret: the whole of it; its lines, because logs are lines; where it is JSON the
    /// texts in it, because programs take it apart; and each as JSON, Rust and Base64 write it.
    pub fn add(&mut self, secret: &str) {
        let mut parts = vec![secret.to_owned()];
        parts.extend(secret.lines().map(|line| line.trim().to_owned()));
        if let Ok(value) = serde_json::from_str(secret) {
            texts(&value, &mut parts);
        }
        parts.retain(|part| part == secret || part.len() >= SHORTEST);
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let json = Value::from(part.as_str()).to_string();
            let debug = format!("{part:?}");
            self.take([
                part,
                inner(&json),
                &ascii(inner(&json)),
                inner(&debug),
                &base64::encode(part),
            ]);
        }
    }

    /// Adds the secrets of another.
    pub fn join(&mut self, other: &Self) {
        self.take(other.0.iter().map(SecretString::expose_secret));
    }

    fn take<'a>(&mut self, forms: impl IntoIterator<Item = &'a str>) {
        for form in forms {
            if !self.is(form) {
                self.0.push(form.into());
            }
        }
        self.0
            .sort_by_key(|form| Reverse(form.expose_secret().len()));
    }

    /// The text with every secret masked.
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

    /// The value with every secret in its texts, numbers and field names masked.
    #[must_use]
    pub fn mask_json(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.mask(&text)),
            Value::Number(number) if self.is(&number.to_string()) => MASK.into(),
            Value::Array(items) => items.into_iter().map(|item| self.mask_json(item)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (self.mask(&name), self.mask_json(value)))
                .collect(),
            other => other,
        }
    }

    fn is(&self, text: &str) -> bool {
        self.0.iter().any(|secret| secret.expose_secret() == text)
    }
}

impl<'a> FromIterator<&'a str> for Secrets {
    fn from_iter<I: IntoIterator<Item = &'a str>>(secrets: I) -> Self {
        let mut all = Self::default();
        secrets.into_iter().for_each(|secret| all.add(secret));
        all
    }
}

fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// Without the quotes around it.
fn inner(quoted: &str) -> &str {
    quoted.get(1..quoted.len() - 1).unwrap_or(quoted)
}

/// JSON text as writers that keep to ASCII make it, Python's among them.
fn ascii(json: &str) -> String {
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

    fn of(secrets: &[&str]) -> Secrets {
        secrets.iter().copied().collect()
    }

    #[test]
    fn secrets_are_masked_in_names_values_and_line_by_line() {
        let secrets = of(&["first line of it\nsecond \"line\""]);
        let masked = secrets.mask_json(json!({ "first line of it": ["x second \"line\" y", 5] }));
        assert_eq!(masked, json!({ "***": ["x *** y", 5] }));
        assert_eq!(secrets.mask("first line of it\nsecond \"line\"!"), "***!");
    }

    #[test]
    fn secrets_are_masked_however_they_are_written() {
        let secret = "cor\"rect\\hörse";
        let secrets = of(&[secret]);
        for seen in [
            secret,
            r#"cor\"rect\\hörse"#,
            r#"cor\"rect\\h\u00f6rse"#,
            &base64::encode(secret),
            &format!("{secret:?}"),
        ] {
            let masked = secrets.mask(&format!("got {seen} here"));
            assert!(
                masked == "got *** here" || masked == "got \"***\" here",
                "{masked}"
            );
        }
    }

    #[test]
    fn the_parts_of_a_secret_in_json_are_secrets_too() {
        let secrets = of(&[r#"{"username": "owner", "password": "hunter2hunter2"}"#]);
        assert_eq!(secrets.mask("owner has hunter2hunter2"), "owner has ***");
    }

    #[test]
    fn a_secret_within_another_leaves_no_rest_of_it() {
        let secrets = of(&["hunter2hunter2", "hunter2hunter2-prod"]);
        assert_eq!(
            secrets.mask("hunter2hunter2-prod hunter2hunter2"),
            "*** ***"
        );
        assert_eq!(
            of(&["1234567890"]).mask_json(json!([1_234_567_890, 5])),
            json!(["***", 5])
        );
    }
}
