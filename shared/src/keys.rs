//! Key storage: `keys/…` paths that stand for secrets.
//!
//! A path `keys/<customer>/<name>` is the Secrets Manager secret `stepward/keys/<customer>/<name>`. Any string of a step's
//! parameters may be one. It is read when the step runs and nowhere else, and only for the customer whose name it has: no
//! envelope can bring one customer's secret into another's account.

use aws_config::SdkConfig;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::customer::check_name;
use crate::error::{ErrorName, StepError};

/// What a secret's name in Secrets Manager begins with.
pub const PREFIX: &str = "stepward/";
/// The shortest secret, in bytes: a shorter one could not be masked without masking half of every log.
pub const SHORTEST: usize = 8;
/// The longest path, in bytes. Secrets Manager takes names of 512 characters.
/// <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html>
const LONGEST_PATH: usize = 256;

/// A key's path, as in `keys/acme/database-password`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyPath<'a> {
    /// The whole path.
    pub path: &'a str,
    /// The customer that it belongs to.
    pub customer: &'a str,
}

impl<'a> KeyPath<'a> {
    /// Reads a path.
    ///
    /// # Errors
    /// `InvalidInput` where it is not `keys/<customer>/<name>`.
    pub fn parse(path: &'a str) -> Result<Self, StepError> {
        let legal = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let rest = path.strip_prefix("keys/").filter(|_| path.len() <= LONGEST_PATH);
        match rest.and_then(|rest| rest.split_once('/')) {
            Some((customer, name)) if check_name("customer", customer).is_ok() && name.split('/').all(legal) => {
                Ok(Self { path, customer })
            }
            _ => Err(ErrorName::InvalidInput.because(format!(
                "{path:?} is not a key path: keys/<customer>/<name>, as in keys/acme/database-password, of letters, digits, \
                 `.`, `_` and `-`, {LONGEST_PATH} characters at most"
            ))),
        }
    }

    /// The secret's name in Secrets Manager.
    #[must_use]
    pub fn secret_name(&self) -> String {
        format!("{PREFIX}{}", self.path)
    }
}

/// Reads the secret that a path stands for.
///
/// # Errors
/// `InvalidInput` for a path that is none, `NotFound` where there is no such secret, or why AWS refused.
pub async fn secret(config: &SdkConfig, path: &str) -> Result<SecretString, StepError> {
    let key = KeyPath::parse(path)?;
    let client = aws_sdk_secretsmanager::Client::new(config);
    let answer = client.get_secret_value().secret_id(key.secret_name()).send().await.map_err(|error| {
        let error = StepError::from(error);
        match error.name {
            ErrorName::NotFound => StepError {
                message: format!("there is no key {path}; store it with `stepward keys set {path}`"),
                ..error
            },
            // What was removed stays recoverable for a while, and cannot be read.
            ErrorName::InvalidInput if error.has_code("InvalidRequestException") => StepError {
                name: ErrorName::NotFound,
                message: format!("the key {path} was removed; store it anew with `stepward keys set {path}`"),
                ..error
            },
            _ => error,
        }
    })?;
    let secret = answer
        .secret_string
        .map(SecretString::from)
        .ok_or_else(|| ErrorName::InvalidInput.because(format!("the key {path} is binary; store it as text")))?;
    if secret.expose_secret().len() < SHORTEST {
        return Err(ErrorName::InvalidInput.because(format!(
            "the key {path} has fewer than {SHORTEST} characters, too few to be masked in logs; store a longer one"
        )));
    }
    Ok(secret)
}

/// Whether any string of these parameters is a key's path.
#[must_use]
pub fn any_in(params: &Value) -> bool {
    match params {
        Value::String(text) => text.starts_with("keys/"),
        Value::Array(items) => items.iter().any(any_in),
        Value::Object(fields) => fields.values().any(any_in),
        _ => false,
    }
}

/// Puts secrets in the places of their paths, and gives them beside, to be masked.
///
/// # Errors
/// As [`secret`]; `AccessDenied` for a key of another customer.
pub(crate) fn resolve<'a>(
    config: &'a SdkConfig,
    customer: &'a str,
    params: &'a mut Value,
    secrets: &'a mut Vec<SecretString>,
) -> BoxFuture<'a, Result<(), StepError>> {
    async move {
        match params {
            Value::String(text) if text.starts_with("keys/") => {
                let key = KeyPath::parse(text)?;
                if key.customer != customer {
                    return Err(ErrorName::AccessDenied.because(format!(
                        "the key {text} belongs to {}, and a job for {customer} may use keys/{customer}/… only",
                        key.customer
                    )));
                }
                let secret = secret(config, text).await?;
                secret.expose_secret().clone_into(text);
                secrets.push(secret);
            }
            Value::Array(items) => {
                for item in items {
                    resolve(config, customer, item, secrets).await?;
                }
            }
            Value::Object(fields) => {
                for field in fields.values_mut() {
                    resolve(config, customer, field, secrets).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }
    .boxed()
}

/// What to mask for a secret: the whole of it, and the lines of one that has several, because logs are lines.
pub(crate) fn to_mask(secret: &SecretString) -> Vec<SecretString> {
    let text = secret.expose_secret();
    let lines = text.lines().map(str::trim).filter(|line| line.len() >= SHORTEST && *line != text);
    std::iter::once(text).chain(lines).map(SecretString::from).collect()
}

/// The text with every secret masked.
pub(crate) fn mask(secrets: &[SecretString], text: &str) -> String {
    secrets
        .iter()
        .map(SecretString::expose_secret)
        .filter(|secret| !secret.is_empty())
        .fold(text.to_owned(), |text, secret| if text.contains(secret) { text.replace(secret, "***") } else { text })
}

/// The value with every secret in its strings and field names masked.
pub(crate) fn mask_in(secrets: &[SecretString], value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(mask(secrets, &text)),
        Value::Array(items) => items.into_iter().map(|item| mask_in(secrets, item)).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (mask(secrets, &name), mask_in(secrets, value))).collect()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_names_its_customer() {
        let key = KeyPath::parse("keys/acme/db/password.v2").unwrap();
        assert_eq!((key.customer, key.secret_name().as_str()), ("acme", "stepward/keys/acme/db/password.v2"));
        for wrong in
            ["keys/", "keys/acme", "keys/acme/", "keys//x", "keys/acme/../globex/x", "key/acme/x", "keys/acme/a b"]
        {
            assert_eq!(KeyPath::parse(wrong).unwrap_err().name, ErrorName::InvalidInput, "{wrong}");
        }
        assert!(KeyPath::parse(&format!("keys/acme/{}", "x".repeat(250))).is_err());
    }

    #[test]
    fn references_are_found_however_deep() {
        assert!(any_in(&json!({ "payload": { "list": ["a", "keys/acme/x"] } })));
        assert!(!any_in(&json!({ "keys/acme/x": "a", "b": ["s3://keys/acme/x"] })));
    }

    #[tokio::test]
    async fn another_customers_key_is_refused_before_it_is_read() {
        let config = SdkConfig::builder().build();
        let (mut params, mut secrets) = (json!({ "a": ["keys/globex/x"] }), Vec::new());
        let error = resolve(&config, "acme", &mut params, &mut secrets).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(error.message.contains("keys/acme/…"), "{error}");
    }

    #[test]
    fn secrets_are_masked_in_names_values_and_line_by_line() {
        let secrets = to_mask(&"first line of it\nsecond \"line\"".into());
        let masked = mask_in(&secrets, json!({ "first line of it": ["x second \"line\" y", 5] }));
        assert_eq!(masked, json!({ "***": ["x *** y", 5] }));
        assert_eq!(mask(&secrets, "first line of it\nsecond \"line\"!"), "***!");
    }
}
