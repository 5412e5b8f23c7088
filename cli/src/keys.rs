//! The secrets behind `keys/…` paths, stored in Secrets Manager of the operator's account.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, Tag};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use stepward::access::keys::KeyPath;

use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::{Error, Result};

/// How many days a removed key can be restored: Secrets Manager's maximum.
/// <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_DeleteSecret.html>
const RECOVERY_DAYS: i64 = 30;

/// A stored key, without its value.
#[derive(Debug, Serialize)]
pub struct Key {
    /// Its path.
    pub path: String,
    /// When its value was last set, as RFC 3339.
    pub changed_at: Option<String>,
    /// The day on which a value was last read.
    pub last_read: Option<String>,
}

/// Reads the path of a key.
pub(crate) fn parse_path(path: &str) -> Result<KeyPath<'_>> {
    KeyPath::parse(path).map_err(|error| Error::usage_error(error.message))
}

/// Stores a value as the secret of this name.
pub(crate) async fn store_value(
    cloud: &Cloud,
    name: &str,
    customer: &str,
    value: &SecretString,
) -> Result<()> {
    let client = secrets_client(cloud);
    let text = value.expose_secret();
    let customer = Tag::builder()
        .key("stepward:customer")
        .value(customer)
        .build();
    let created = client
        .create_secret()
        .name(name)
        .secret_string(text)
        .tags(customer)
        .send()
        .await;
    let Err(error) = created else { return Ok(()) };
    if !matches!(
        error.code(),
        Some("ResourceExistsException" | "InvalidRequestException")
    ) {
        return Err(cloud.error(error));
    }

    let put_value = || {
        client
            .put_secret_value()
            .secret_id(name)
            .secret_string(text)
            .send()
    };
    match put_value().await {
        // A removed secret keeps its name until its recovery window ends.
        Err(error) if error.code() == Some("InvalidRequestException") => {
            client
                .restore_secret()
                .secret_id(name)
                .send()
                .await
                .map_err(|error| cloud.error(error))?;
            if let Err(error) = put_value().await {
                // Steps must not be able to read the old value, which has been restored.
                let path = name.split_once('/').map_or(name, |(_, path)| path);
                remove_key(cloud, name).await.map_err(|error| {
                    error
                        .into_started()
                        .with_context(
                            "the new value was not stored; the old value, which had been removed, is \
                             back, and steps can read it",
                        )
                        .with_advice(format!(
                            "remove it with `stepward keys remove {path} --yes`"
                        ))
                })?;
                return Err(cloud.error(error));
            }
            Ok(())
        }
        result => result.map(|_| ()).map_err(|error| cloud.error(error)),
    }
}

/// The stored keys, of all customers or of one, sorted by path.
pub(crate) async fn list_keys(
    cloud: &Cloud,
    deployment: &Deployment,
    customer: Option<&str>,
) -> Result<Vec<Key>> {
    let stack_prefix = format!("{}/", deployment.stack);
    let name_prefix = format!(
        "{stack_prefix}keys/{}",
        customer.map(|name| format!("{name}/")).unwrap_or_default()
    );
    let filter = Filter::builder()
        .key(FilterNameStringType::Name)
        .values(&name_prefix)
        .build();
    let mut pages = secrets_client(cloud)
        .list_secrets()
        .filters(filter)
        .into_paginator()
        .send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| cloud.error(error))?;
        for secret in page.secret_list.unwrap_or_default() {
            // Secrets Manager's filter also matches single words of a name.
            let name = secret.name.unwrap_or_default();
            if !name.starts_with(&name_prefix) {
                continue;
            }
            let Some(path) = name.strip_prefix(&stack_prefix) else {
                continue;
            };
            let rfc3339 = |time: aws_smithy_types::DateTime| time.to_string();
            keys.push(Key {
                path: path.to_owned(),
                changed_at: secret.last_changed_date.map(rfc3339),
                last_read: secret.last_accessed_date.map(rfc3339),
            });
        }
    }
    keys.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(keys)
}

/// Removes a secret.
pub(crate) async fn remove_key(cloud: &Cloud, name: &str) -> Result<()> {
    let request = secrets_client(cloud)
        .delete_secret()
        .secret_id(name)
        .recovery_window_in_days(RECOVERY_DAYS);
    request.send().await.map_err(|error| {
        let is_missing = error.code() == Some("ResourceNotFoundException");
        let error = cloud.error(error);
        if is_missing {
            error.with_advice("`stepward keys list` shows the existing keys")
        } else {
            error
        }
    })?;
    Ok(())
}

fn secrets_client(cloud: &Cloud) -> Client {
    Client::new(&cloud.config)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_path_is_read_or_refused(path in "(keys/)?[a-z0-9/._-]{0,40}|\\PC*") {
            if let Ok(key) = parse_path(&path) {
                let folder = format!("keys/{}/", key.customer);
                prop_assert!(path.starts_with(&folder));
                prop_assert_eq!(key.secret_name("stepward"), format!("stepward/{path}"));
            }
        }
    }
}
