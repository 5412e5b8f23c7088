//! Key storage: secrets that steps read with a `keys/…` path.
//!
//! The path `keys/<customer>/<name>` refers to the Secrets Manager secret
//! `<stack>/keys/<customer>/<name>`. Any string in a step's parameters can be a path. The secret is
//! read only when the step runs, and only for the customer in the path, so no envelope can bring
//! one customer's secret into another customer's account.
//!
//! A value that somebody else controls, such as a tag's value, can be the path of any key of the
//! job's customer. Do not let a job pass such a value as a parameter to a function that the same
//! person controls.

use aws_config::SdkConfig;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::access::mask::{MIN_SECRET_LENGTH, Secrets};
use crate::model::aws_error::{AwsError, Service};
use crate::model::customer::check_name;
use crate::model::error::{ErrorName, StepError};

/// The longest path, in bytes. Secrets Manager accepts names of up to 512 characters.
/// <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html>
const MAX_PATH_LENGTH: usize = 256;

/// The path of a key, such as `keys/acme/database-password`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyPath<'a> {
    /// The whole path.
    pub path: &'a str,
    /// The customer that the key belongs to.
    pub customer: &'a str,
}

impl<'a> KeyPath<'a> {
    /// Parses a path.
    ///
    /// # Errors
    /// `InvalidInput` if the path does not have the form `keys/<customer>/<name>`.
    pub fn parse(path: &'a str) -> Result<Self, StepError> {
        let is_valid_part = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let rest = path
            .strip_prefix("keys/")
            .filter(|_| path.len() <= MAX_PATH_LENGTH);
        if let Some((customer, name)) = rest.and_then(|rest| rest.split_once('/'))
            && check_name("customer", customer).is_ok()
            && name.split('/').all(is_valid_part)
        {
            return Ok(Self { path, customer });
        }
        Err(ErrorName::InvalidInput.with_message(format!(
            "{:?} is not a key path; expected keys/<customer>/<name>, such as \
             keys/acme/database-password, with letters, digits, `.`, `_` and `-`, and at most \
             {MAX_PATH_LENGTH} characters",
            path.chars().take(MAX_PATH_LENGTH).collect::<String>()
        )))
    }

    /// The name of the secret in Secrets Manager. It contains the stack's name, so several
    /// deployments in one account have separate keys.
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

/// Reads the secret of a key.
///
/// # Errors
/// `InvalidInput` if the path is not a key path or the secret is binary or too short, `NotFound` if
/// the key does not exist, or the error of the AWS call.
pub async fn read_secret(
    config: &SdkConfig,
    stack: &str,
    path: &str,
) -> Result<SecretString, StepError> {
    let key = KeyPath::parse(path)?;
    let client = aws_sdk_secretsmanager::Client::new(config);
    let response = client
        .get_secret_value()
        .secret_id(key.secret_name(stack))
        .send()
        .await
        .map_err(|error| read_error(secrets_manager_error(error), path))?;
    let secret = response
        .secret_string
        .map(SecretString::from)
        .ok_or_else(|| {
            ErrorName::InvalidInput
                .with_message(format!("key {path:?} has a binary value; store it as text"))
        })?;
    if secret.expose_secret().len() < MIN_SECRET_LENGTH {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "key {path:?} has fewer than {MIN_SECRET_LENGTH} bytes, which is too short to mask it in logs; \
             store a longer value"
        )));
    }
    Ok(secret)
}

/// Adds advice to the error of reading a key.
fn read_error(error: StepError, path: &str) -> StepError {
    match error.name {
        ErrorName::NotFound => StepError {
            message: format!(
                "key {path:?} does not exist; store it with `stepward keys set {path}`"
            ),
            ..error
        },
        // Secrets Manager keeps a removed secret during its recovery window, but refuses to read
        // it.
        ErrorName::InvalidInput if error.has_code("InvalidRequestException") => StepError {
            name: ErrorName::NotFound,
            message: format!(
                "key {path:?} was removed; store it again with `stepward keys set {path}`"
            ),
            ..error
        },
        ErrorName::AccessDenied if !error.rejects_credentials() => StepError {
            message: format!(
                "the broker role is not allowed to read key {path:?}; if the secret is encrypted \
                 with a customer managed KMS key, allow the broker role to decrypt with it"
            ),
            ..error
        },
        _ => error,
    }
}

/// Whether any string in the parameters is a key path.
#[must_use]
pub fn contains_key_path(params: &Value) -> bool {
    match params {
        Value::String(text) => text.starts_with("keys/"),
        Value::Array(items) => items.iter().any(contains_key_path),
        Value::Object(fields) => fields.values().any(contains_key_path),
        _ => false,
    }
}

/// Replaces key paths in the parameters with their secrets, and adds the secrets to `secrets`,
/// which masks them in responses and logs.
///
/// # Errors
/// The errors of [`read_secret`], and `AccessDenied` for a key of another customer.
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

/// Checks that a key belongs to the customer.
///
/// # Errors
/// `AccessDenied` if it belongs to another customer, `InvalidInput` if the path is not a key path.
pub(crate) fn check_owner(path: &str, customer: &str) -> Result<(), StepError> {
    let key = KeyPath::parse(path)?;
    if key.customer == customer {
        return Ok(());
    }
    Err(ErrorName::AccessDenied.with_message(format!(
        "key {path:?} belongs to customer {:?}; \
         jobs of {customer:?} can use only keys/{customer}/…",
        key.customer
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_contains_its_customer() {
        let key = KeyPath::parse("keys/acme/db/password.v2").unwrap();
        assert_eq!(
            (key.customer, key.secret_name("stepward").as_str()),
            ("acme", "stepward/keys/acme/db/password.v2")
        );
        for invalid in [
            "keys/",
            "keys/acme",
            "keys/acme/",
            "keys//x",
            "keys/acme/../globex/x",
            "key/acme/x",
            "keys/acme/a b",
        ] {
            assert_eq!(
                KeyPath::parse(invalid).unwrap_err().name,
                ErrorName::InvalidInput,
                "{invalid}"
            );
        }
        assert!(KeyPath::parse(&format!("keys/acme/{}", "x".repeat(250))).is_err());
    }

    #[test]
    fn key_paths_are_found_at_any_depth() {
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
        for foreign_path in ["keys/globex/x", "keys/acme-2/x"] {
            let error = check_owner(foreign_path, "acme").unwrap_err();
            assert_eq!(error.name, ErrorName::AccessDenied);
            assert!(error.message.contains("keys/acme/…"), "{error}");
        }
    }
}
