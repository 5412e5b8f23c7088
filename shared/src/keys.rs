//! Key storage: `keys/…` paths that stand for secrets.

use aws_config::SdkConfig;
use secrecy::SecretString;

use crate::error::{ErrorName, StepError};

/// Reads the secret that a key path stands for: `keys/acme/prod` is the Secrets Manager secret
/// `stepward/keys/acme/prod`. Read at use, never kept beyond it.
///
/// # Errors
/// `InvalidInput` for a path that is not `keys/…`, `NotFound` where there is no such secret, or why AWS refused.
pub async fn secret(config: &SdkConfig, path: &str) -> Result<SecretString, StepError> {
    if !path.starts_with("keys/") || path.len() < 6 {
        return Err(ErrorName::InvalidInput.because(format!("{path:?} is not a key path, as in keys/acme/prod")));
    }
    let client = aws_sdk_secretsmanager::Client::new(config);
    let answer = client.get_secret_value().secret_id(format!("stepward/{path}")).send().await?;
    answer
        .secret_string
        .map(SecretString::from)
        .ok_or_else(|| ErrorName::InvalidInput.because(format!("the secret at {path} is binary; store it as text")))
}
