//! `stepward keys …`: the secrets behind `keys/…` paths, in Secrets Manager of the operator's account.

use std::io::{IsTerminal, Read};

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, Tag};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::json;
use stepward::access::keys::KeyPath;
use stepward::access::mask::SHORTEST;

use crate::args;
use crate::cloud::Cloud;
use crate::customers::really;
use crate::deploy::Deployment;
use crate::error::{Context, Error, Result};
use crate::onboarding;
use crate::output::{Format, table};

/// The largest secret, in bytes.
/// <https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html>
const LARGEST: u64 = 65_536;
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

/// `stepward keys …`
pub async fn command(cloud: &Cloud, deployment: &Deployment, command: args::Keys, format: Format) -> Result<u8> {
    match command {
        args::Keys::Set { path } => {
            let key = parse(&path)?;
            // A typing error would make a key that no job can use.
            let store = onboarding::store(cloud, deployment)?;
            store.customer(key.customer).await.map_err(|error| cloud.explain(&error))?;
            set(cloud, &key.secret_name(&deployment.stack), key.customer, &value(&path)?).await?;
            format.show(&json!({ "set": path }), || {
                format!("Stored {path}. Steps for {} take it in place of any text parameter.", key.customer)
            })?;
        }
        args::Keys::List { customer } => {
            let keys = list(cloud, deployment, customer.as_deref()).await?;
            let shown = |text: &Option<String>| text.clone().unwrap_or_default();
            let row = |key: &Key| [key.path.clone(), shown(&key.changed_at), shown(&key.last_read)];
            format.show(&keys, || table(&["key", "changed", "last read"], keys.iter().map(row)))?;
        }
        args::Keys::Remove { path, yes } => {
            let key = parse(&path)?;
            let what = format!("this would remove {path}; steps that use it would fail");
            really(yes, &what, &format!("{} keys remove {path}", cloud.command()))?;
            remove(cloud, &key.secret_name(&deployment.stack)).await?;
            format.show(&json!({ "removed": path }), || {
                format!("Removed {path}. `{} keys set {path}` stores a new value.", cloud.command())
            })?;
        }
    }
    Ok(0)
}

fn parse(path: &str) -> Result<KeyPath<'_>> {
    KeyPath::parse(path).map_err(|error| Error::not_asked(error.message))
}

/// Asks for the value where somebody types, else reads it from standard input: it is never an argument, which every
/// process on the machine could see.
fn value(path: &str) -> Result<SecretString> {
    let text = if std::io::stdin().is_terminal() {
        let terminal = console::Term::stderr();
        let ask = |prompt: String| {
            terminal.write_str(&prompt).and_then(|()| terminal.read_secure_line()).doing("reading the value")
        };
        let text = ask(format!("Value of {path}: "))?;
        if ask("Once more: ".into())? != text {
            return Err(Error::not_asked("the two values differ; nothing was stored"));
        }
        text
    } else {
        let mut text = String::new();
        std::io::stdin().take(LARGEST + 3).read_to_string(&mut text).doing("reading the value from standard input")?;
        text
    };
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.len() < SHORTEST || text.len() as u64 > LARGEST {
        let message = format!(
            "the value has {} bytes, and {SHORTEST} to {LARGEST} are taken: a shorter one could not be masked in logs",
            text.len()
        );
        return Err(Error::not_asked(message));
    }
    Ok(text.into())
}

async fn set(cloud: &Cloud, name: &str, customer: &str, value: &SecretString) -> Result<()> {
    let client = client(cloud);
    let text = value.expose_secret();
    let customer = Tag::builder().key("stepward:customer").value(customer).build();
    let created = client.create_secret().name(name).secret_string(text).tags(customer).send().await;
    let Err(error) = created else { return Ok(()) };
    if !matches!(error.code(), Some("ResourceExistsException" | "InvalidRequestException")) {
        return Err(cloud.error(error));
    }
    let put = || client.put_secret_value().secret_id(name).secret_string(text).send();
    match put().await {
        // One that was removed has its name still, until its recovery window is over.
        Err(error) if error.code() == Some("InvalidRequestException") => {
            client.restore_secret().secret_id(name).send().await.map_err(|error| cloud.error(error))?;
            if let Err(error) = put().await {
                // The old value is not to be read again.
                remove(cloud, name).await.map_err(|error| error.during("removing the old value again"))?;
                return Err(cloud.error(error));
            }
            Ok(())
        }
        put => put.map(|_| ()).map_err(|error| cloud.error(error)),
    }
}

/// The stored keys, of all customers or of one, by path.
pub(crate) async fn list(cloud: &Cloud, deployment: &Deployment, customer: Option<&str>) -> Result<Vec<Key>> {
    let prefix = format!("{}/", deployment.stack);
    let below = format!("{prefix}keys/{}", customer.map(|name| format!("{name}/")).unwrap_or_default());
    let filter = Filter::builder().key(FilterNameStringType::Name).values(&below).build();
    let mut pages = client(cloud).list_secrets().filters(filter).into_paginator().send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        for secret in page.map_err(|error| cloud.error(error))?.secret_list.unwrap_or_default() {
            // The filter looks at words of the name too.
            let name = secret.name.unwrap_or_default();
            if let Some(path) = name.strip_prefix(&prefix).filter(|_| name.starts_with(&below)) {
                let time = |time: Option<aws_smithy_types::DateTime>| time.map(|time| time.to_string());
                let (changed_at, last_read) = (time(secret.last_changed_date), time(secret.last_accessed_date));
                keys.push(Key { path: path.to_owned(), changed_at, last_read });
            }
        }
    }
    keys.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(keys)
}

async fn remove(cloud: &Cloud, name: &str) -> Result<()> {
    let request = client(cloud).delete_secret().secret_id(name).recovery_window_in_days(RECOVERY_DAYS);
    request.send().await.map_err(|error| {
        let missing = error.code() == Some("ResourceNotFoundException");
        let error = cloud.error(error);
        if missing { error.next(format!("`{} keys list` shows what there is", cloud.command())) } else { error }
    })?;
    Ok(())
}

fn client(cloud: &Cloud) -> Client {
    Client::new(&cloud.config)
}
