//! `stepward keys set`

use std::io::{IsTerminal, Read};

use clap::Args;
use secrecy::SecretString;
use serde_json::json;
use stepward::access::mask::MIN_SECRET_LENGTH;

use crate::commands::help::with_examples;
use crate::error::{Context, Error, Result};
use crate::global::Global;
use crate::keys::{parse_path, store_value};
use crate::onboarding;
use crate::output::counted;

/// The largest secret, in bytes.
/// <https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html>
const MAX_BYTES: u64 = 65_536;

/// Store a secret; the command asks for the value, or reads it from standard input
#[derive(Args, Debug)]
#[command(
    after_help = "Steps for acme accept \"keys/acme/database-password\" as the value of any text \
                  parameter, and replace the secret by *** in logs and outputs. A line break at \
                  the end of the value is removed.",
    help_template = with_examples(
        "stepward keys set keys/acme/database-password
stepward keys set keys/acme/deploy-token < token.txt"
    )
)]
pub(crate) struct SetKey {
    /// The path of the key: keys/CUSTOMER/NAME
    path: String,
}

impl SetKey {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        let (path, key) = (&self.path, parse_path(&self.path)?);
        // Without this check, a typing error would create a key that no job can use.
        let store = onboarding::open_store(&cloud, &deployment)?;
        store
            .customer(key.customer)
            .await
            .map_err(|error| cloud.describe_error(&error))?;
        let value = read_value(path).map_err(Error::into_not_started)?;
        let name = key.secret_name(&deployment.stack);
        store_value(&cloud, &name, key.customer, &value).await?;
        global.output_format().show(&json!({ "set": path }), || {
            format!(
                "Stored {path}. Steps for {} accept this path as the value of any text parameter.",
                key.customer
            )
        })?;
        Ok(0)
    }
}

/// Asks for the value on a terminal, otherwise reads it from standard input. The value is never an
/// argument, because every process on the machine can see those.
fn read_value(path: &str) -> Result<SecretString> {
    let text = if std::io::stdin().is_terminal() {
        let terminal = console::Term::stderr();
        let ask = |prompt: &str| {
            terminal
                .write_str(prompt)
                .and_then(|()| terminal.read_secure_line())
                .context("cannot read the value")
        };
        let text = ask(&format!("Value of {path}: "))?;
        if ask("Repeat the value: ")? != text {
            return Err(
                Error::usage_error("the two values differ; nothing was stored")
                    .with_advice("run the command again and type the same value twice"),
            );
        }
        text
    } else {
        let mut text = String::new();
        std::io::stdin()
            .take(MAX_BYTES + 3)
            .read_to_string(&mut text)
            .context("cannot read the value from standard input")?;
        text
    };
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| {
        text.strip_suffix('\r').unwrap_or(text)
    });
    if text.len() < MIN_SECRET_LENGTH || text.len() as u64 > MAX_BYTES {
        let advice = if text.len() < MIN_SECRET_LENGTH {
            "pass a longer value; Stepward cannot mask a shorter one in logs"
        } else {
            "split the value over several keys"
        };
        return Err(Error::usage_error(format!(
            "key \"{path}\": expected a value of {MIN_SECRET_LENGTH} to {MAX_BYTES} bytes, got {}",
            counted(text.len(), "byte")
        ))
        .with_advice(advice));
    }
    Ok(text.into())
}
