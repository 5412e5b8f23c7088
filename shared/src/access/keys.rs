//! Key storage: `keys/…` paths that stand for secrets.
//!
//! A path `keys/<customer>/<name>` is the Secrets Manager secret `<stack>/keys/<customer>/<name>`.
//! Any string of a step's parameters may be one. It is read when the step runs and nowhere else,
//! and only for the customer whose name it has: no envelope can bring one customer's secret into
//! another's account.
//!
//! Whoever chooses a parameter's whole value, then, chooses a key of the job's customer: a job
//! should not pass on as a parameter what strangers wrote, such as a tag's value, to a function of
//! theirs.

use aws_config::SdkConfig;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::access::mask::{SHORTEST, Secrets};
use crate::model::aws_error::{AwsError, Service};
use crate::model::customer::check_name;
use crate::model::error::{ErrorName, StepError};

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
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let rest = path
            .strip_prefix("keys/")
            .filter(|_| path.len() <= LONGEST_PATH);
        match rest.and_then(|rest| rest.split_once('/')) {
            Some((customer, name)) if check_name("customer", customer).is_ok() && name.split('/').all(legal) => {
                Ok(Self { path, customer })
            }
            _ => Err(ErrorName::InvalidInput.with_message(format!(
                "{:?} is not a key path: keys/<customer>/<name>, as in keys/acme/database-password, of letters, digits, \
                 `.`, `_` and `-`, {LONGEST_PATH} characters at most",
                path.chars().take(LONGEST_PATH).collect::<String>()
            ))),
        }
    }

    /// The secret's name in Secrets Manager. Deployments beside each other have keys of their own.
    #[must_use]
    pub fn secret_name(&self, stack: &str) -> String {
        format!("{stack}/{}", self.path)
    }
}

const SECRETS_MANAGER: Service = Service {
    iam_prefix: "secretsmanager",
    codes: |_, _| None,
};

fn secrets_manager_error(error: impl AwsError<aws_sdk_secretsmanager::Error>) -> StepError {
    error.into_step_error(&SECRETS_MANAGER)
}

/// Reads the secret that a path stands for.
///
/// # Errors
/// `InvalidInput` for a path that is none, `NotFound` where there is no such secret, or why AWS
/// refused.
pub async fn read_secret(
    config: &SdkConfig,
    stack: &str,
    path: &str,
) -> Result<SecretString, StepError> {
    let key = KeyPath::parse(path)?;
    let client = aws_sdk_secretsmanager::Client::new(config);
    let answer = client.get_secret_value().secret_id(key.secret_name(stack)).send().await.map_err(|error| {
        let error = secrets_manager_error(error);
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
            ErrorName::AccessDenied => StepError {
                message: format!("the broker may not read the key {path}; is it encrypted with a KMS key of its own?"),
                ..error
            },
            _ => error,
        }
    })?;
    let secret = answer
        .secret_string
        .map(SecretString::from)
        .ok_or_else(|| {
            ErrorName::InvalidInput
                .with_message(format!("the key {path} is binary; store it as text"))
        })?;
    if secret.expose_secret().len() < SHORTEST {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "the key {path} has fewer than {SHORTEST} characters, too few to be masked in logs; store a longer one"
        )));
    }
    Ok(secret)
}

/// Whether any string of these parameters is a key's path.
#[must_use]
pub fn contains_key_path(params: &Value) -> bool {
    match params {
        Value::String(text) => text.starts_with("keys/"),
        Value::Array(items) => items.iter().any(contains_key_path),
        Value::Object(fields) => fields.values().any(contains_key_path),
        _ => false,
    }
}

/// Puts secrets in the places of their paths, and gives them beside, to be masked.
///
/// # Errors
/// As [`secret`]; `AccessDenied` for a key of another customer.
pub(crate) fn resolve_key_paths<'a>(
    config: &'a SdkConfig,
    stack: &'a str,
    customer: &'a str,
    params: &'a mut Value,
    secrets: &'a mut Secrets,
) -> BoxFuture<'a, Result<(), StepError>> {
    async move {
        match params {
            Value::String(text) if text.starts_with("keys/") => {
                check_owner(text, customer)?;
                let secret = read_secret(config, stack, text).await?;
                secret.expose_secret().clone_into(text);
                secrets.add(secret.expose_secret());
            }
            Value::Array(items) => {
                for item in items {
                    resolve_key_paths(config, stack, customer, item, secrets).await?;
                }
            }
            Value::Object(fields) => {
                for field in fields.values_mut() {
                    resolve_key_paths(config, stack, customer, field, secrets).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }
    .boxed()
}

/// Refuses a key of another customer.
///
/// # Errors
/// `AccessDenied`, or `InvalidInput` for a path that is none.
pub(crate) fn check_owner(path: &str, customer: &str) -> Result<(), StepError> {
    let key = KeyPath::parse(path)?;
    if key.customer == customer {
        return Ok(());
    }
    Err(ErrorName::AccessDenied.with_message(format!(
        "the key {path} belongs to {}, and {customer} may use keys/{customer}/… only",
        key.customer
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_names_its_customer() {
        let key = KeyPath::parse("keys/acme/db/password.v2").unwrap();
        assert_eq!(
            (key.customer, key.secret_name("stepward").as_str()),
            ("acme", "stepward/keys/acme/db/password.v2")
        );
        for wrong in [
            "keys/",
            "keys/acme",
            "keys/acme/",
            "keys//x",
            "keys/acme/../globex/x",
            "key/acme/x",
            "keys/acme/a b",
        ] {
            assert_eq!(
                KeyPath::parse(wrong).unwrap_err().name,
                ErrorName::InvalidInput,
                "{wrong}"
            );
        }
        assert!(KeyPath::parse(&format!("keys/acme/{}", "x".repeat(250))).is_err());
    }

    #[test]
    fn references_are_found_however_deep() {
        assert!(contains_key_path(
            &json!({ "payload": { "list": ["a", "keys/acme/x"] } })
        ));
        assert!(!contains_key_path(
            &json!({ "keys/acme/x": "a", "b": ["s3://keys/acme/x"] })
        ));
    }

    #[test]
    fn another_customers_key_is_refused() {
        check_owner("keys/acme/x", "acme").unwrap();
        for other in ["keys/globex/x", "keys/acme-2/x"] {
            let error = check_owner(other, "acme").unwrap_err();
            assert_eq!(error.name, ErrorName::AccessDenied);
            assert!(error.message.contains("keys/acme/…"), "{error}");
        }
    }
}
