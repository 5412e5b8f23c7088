//! `stepward account check`

use clap::Args;
use serde_json::json;

use crate::cloud::Cloud;
use crate::commands::records::{AccountName, AccountView, account_table};
use crate::error::{Error, FAILED, Result};
use crate::global::Global;
use crate::onboarding::{Checked, check};
use crate::output::{Format, print};

/// Prove again that the role lets Stepward in, and nobody else; ends a rotation
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  stepward account check acme prod")]
pub(crate) struct CheckAccount {
    #[command(flatten)]
    name: AccountName,
}

impl CheckAccount {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        let checked = check(&cloud, &deployment, &self.name.customer, &self.name.account).await?;
        show_check(&cloud, &checked, global.format())
    }
}

/// Shows what a check found; the exit code.
pub(crate) fn show_check(cloud: &Cloud, checked: &Checked, format: Format) -> Result<u8> {
    let (account, finished) = (&checked.account, &checked.finished);
    let name = format!("{} {}", account.customer, account.name);
    let shown = AccountView::from(account);
    format.show(&json!({ "account": shown, "passed": checked.passed(), "check": finished }), || {
        let mut text = account_table(std::slice::from_ref(&shown));
        if checked.passed() {
            text.push_str("\n\nThe role lets Stepward in, and nobody without the external ID.");
        }
        if checked.rotated {
            text.push_str("\nThe new external ID is now the only one; the old one can leave the trust policy.");
        } else if checked.passed() && account.next_external_id.is_some() {
            text.push_str("\nThe role does not take the new external ID yet; `account show` prints what to change.");
        }
        text
    })?;
    if checked.passed() {
        return Ok(0);
    }
    let error = finished.error.as_deref().unwrap_or(&finished.status);
    let cause = finished.cause.as_deref().unwrap_or("no reason was given");
    let advice = format!(
        "have that mended in the account, then `{} account check {name}`",
        cloud.command()
    );
    print("")?;
    eprintln!("{}", Error::new(format!("{error}: {cause}")).next(advice));
    Ok(FAILED)
}
