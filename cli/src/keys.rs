//! The secrets behind `keys/…` paths, in Secrets Manager of the operator's account.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, Tag};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use stepward::access::keys::KeyPath;

use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::{Error, Result};

/// How long a removed key can be brought back: Secrets Manager's longest.
/// <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_DeleteSecret.html>
const RECOVERY_DAYS: i64 = 30;

/// A stored key, without its value.
#[derive(Debug, Serialize)]
pub struct Key {
    /// Its path.
    pub path: String,
    /// When its value was last set, RFC 3339.
    pub changed_at: Option<String>,
    /// The day on which a value was last read.
    pub last_read: Option<String>,
}

/// Reads a key's path.
pub(crate) fn parse(path: &str) -> Result<KeyPath<'_>> {
    KeyPath::parse(path).map_err(|error| Error::not_asked(error.message))
}

/// Stores a value under a secret's name.
pub(crate) async fn set(
    cloud: &Cloud,
    name: &str,
    customer: &str,
    value: &SecretString,
) -> Result<()> {
    let client = client(cloud);
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
    let put = || {
        client
            .put_secret_value()
            .secret_id(name)
            .secret_string(text)
            .send()
    };
    match put().await {
        // One that was removed has its name still, until its recovery window is over.
        Err(error) if error.code() == Some("InvalidRequestException") => {
            client
                .restore_secret()
                .secret_id(name)
                .send()
                .await
                .map_err(|error| cloud.error(error))?;
            if let Err(error) = put().await {
                // The old value is not to be read again.
                remove(cloud, name)
                    .await
                    .map_err(|error| error.during("removing the old value again"))?;
                return Err(cloud.error(error));
            }
            Ok(())
        }
        put => put.map(|_| ()).map_err(|error| cloud.error(error)),
    }
}

/// The stored keys, of all customers or of one, by path.
pub(crate) async fn list(
    cloud: &Cloud,
    deployment: &Deployment,
    customer: Option<&str>,
) -> Result<Vec<Key>> {
    let prefix = format!("{}/", deployment.stack);
    let below = format!(
        "{prefix}keys/{}",
        customer.map(|name| format!("{name}/")).unwrap_or_default()
    );
    let filter = Filter::builder()
        .key(FilterNameStringType::Name)
        .values(&below)
        .build();
    let mut pages = client(cloud)
        .list_secrets()
        .filters(filter)
        .into_paginator()
        .send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        for secret in page
            .map_err(|error| cloud.error(error))?
            .secret_list
            .unwrap_or_default()
        {
            // The filter looks at words of the name too.
            let name = secret.name.unwrap_or_default();
            if let Some(path) = name
                .strip_prefix(&prefix)
                .filter(|_| name.starts_with(&below))
            {
                let time =
                    |time: Option<aws_smithy_types::DateTime>| time.map(|time| time.to_string());
                let (changed_at, last_read) = (
                    time(secret.last_changed_date),
                    time(secret.last_accessed_date),
                );
                keys.push(Key {
                    path: path.to_owned(),
                    changed_at,
                    last_read,
                });
            }
        }
    }
    keys.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(keys)
}

/// Removes a secret.
pub(crate) async fn remove(cloud: &Cloud, name: &str) -> Result<()> {
    let request = client(cloud)
        .delete_secret()
        .secret_id(name)
        .recovery_window_in_days(RECOVERY_DAYS);
    request.send().await.map_err(|error| {
        let missing = error.code() == Some("ResourceNotFoundException");
        let error = cloud.error(error);
        if missing {
            error.next(format!(
                "`{} keys list` shows what there is",
                cloud.command()
            ))
        } else {
            error
        }
    })?;
    Ok(())
}

fn client(cloud: &Cloud) -> Client {
    Client::new(&cloud.config)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_path_is_read_or_refused(path in "(keys/)?[a-z0-9/._-]{0,40}|\\PC*") {
            if let Ok(key) = parse(&path) {
                let folder = format!("keys/{}/", key.customer);
                prop_assert!(path.starts_with(&folder));
                prop_assert_eq!(key.secret_name("stepward"), format!("stepward/{path}"));
            }
        }
    }
}
