//! `stepward keys set`

use std::io::{IsTerminal, Read};

use clap::Args;
use secrecy::SecretString;
use serde_json::json;
use stepward::access::mask::SHORTEST;

use crate::error::{Context, Error, Result};
use crate::global::Global;
use crate::keys::{parse, set};
use crate::onboarding;

/// The largest secret, in bytes.
/// <https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html>
const LARGEST: u64 = 65_536;
/// Store a secret; its value is asked for, or read from standard input
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward keys set keys/acme/database-password
  stepward keys set keys/acme/deploy-token < token.txt

A step for acme takes \"keys/acme/database-password\" in place of any text parameter, and shows *** wherever it would be seen.
One line break at the end of the value is not part of it.")]
pub(crate) struct SetKey {
    /// Where: keys/CUSTOMER/NAME
    path: String,
}

impl SetKey {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        let (path, key) = (&self.path, parse(&self.path)?);
        // A typing error would make a key that no job can use.
        let store = onboarding::store(&cloud, &deployment)?;
        store
            .customer(key.customer)
            .await
            .map_err(|error| cloud.explain(&error))?;
        set(
            &cloud,
            &key.secret_name(&deployment.stack),
            key.customer,
            &value(path)?,
        )
        .await?;
        global.format().show(&json!({ "set": path }), || {
            format!(
                "Stored {path}. Steps for {} take it in place of any text parameter.",
                key.customer
            )
        })?;
        Ok(0)
    }
}

/// Asks for the value where somebody types, else reads it from standard input: it is never an
/// argument, which every process on the machine could see.
fn value(path: &str) -> Result<SecretString> {
    let text = if std::io::stdin().is_terminal() {
        let terminal = console::Term::stderr();
        let ask = |prompt: String| {
            terminal
                .write_str(&prompt)
                .and_then(|()| terminal.read_secure_line())
                .doing("reading the value")
        };
        let text = ask(format!("Value of {path}: "))?;
        if ask("Once more: ".into())? != text {
            return Err(Error::not_asked(
                "the two values differ; nothing was stored",
            ));
        }
        text
    } else {
        let mut text = String::new();
        std::io::stdin()
            .take(LARGEST + 3)
            .read_to_string(&mut text)
            .doing("reading the value from standard input")?;
        text
    };
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| {
        text.strip_suffix('\r').unwrap_or(text)
    });
    if text.len() < SHORTEST || text.len() as u64 > LARGEST {
        let message = format!(
            "the value has {} bytes, and {SHORTEST} to {LARGEST} are taken: a shorter one could not be masked in logs",
            text.len()
        );
        return Err(Error::not_asked(message));
    }
    Ok(text.into())
}
