//! `stepward account check`

use clap::Args;
use serde_json::json;
use stepward::access::trust::TrustProof;

use crate::cloud::Cloud;
use crate::commands::help::with_examples;
use crate::commands::records::{AccountName, AccountView, account_table};
use crate::error::{Error, FAILED, Result};
use crate::global::Global;
use crate::onboarding::{Checked, check_account, rejects_credentials};
use crate::output::{Format, print, print_error};

/// Prove that the role accepts Stepward and requires the external ID; completes a rotation
#[derive(Args, Debug)]
#[command(help_template = with_examples("stepward account check acme prod"))]
pub(crate) struct CheckAccount {
    #[command(flatten)]
    name: AccountName,
}

impl CheckAccount {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        let checked =
            check_account(&cloud, &deployment, &self.name.customer, &self.name.account).await?;
        show_check(&cloud, &checked, global.output_format())
    }
}

/// Shows the result of a check and returns the exit code.
pub(crate) fn show_check(cloud: &Cloud, checked: &Checked, format: Format) -> Result<u8> {
    let account = &checked.account;
    let view = AccountView::from(account);
    let json = json!({ "account": view, "passed": checked.passed(), "check": checked.finished });
    format.show(&json, || {
        let mut lines = vec![account_table(std::slice::from_ref(&view))];
        if checked.passed() {
            lines.push(format!("\n{}", conclusion(checked.proof().as_ref())));
        }
        if checked.rotated {
            lines.push(
                "The new external ID is now the only one. The owner of the account can remove the \
                 old one from the trust policy."
                    .into(),
            );
        } else if checked.passed() && account.next_external_id.is_some() {
            lines.push(format!(
                "The role does not accept the new external ID yet. `{} account show {} {}` prints \
                 the trust policy that accepts both.",
                cloud.command(),
                account.customer,
                account.name
            ));
        }
        lines.join("\n")
    })?;
    if checked.passed() {
        return Ok(0);
    }

    print("")?;
    print_error(&failure(checked).with_options(&cloud.options).to_string());
    Ok(FAILED)
}

/// What a check that passed has shown.
fn conclusion(proof: Option<&TrustProof>) -> String {
    match proof.map(TrustProof::verdict) {
        Some(Ok(())) => {
            "The role accepts Stepward, and refuses callers without the external ID.".into()
        }
        Some(Err(error)) => {
            format!("Steps may use the role because an operator has overridden this error: {error}")
        }
        None => "The credentials belong to the account. Its credential provider does not assume a \
                 role, so there is no trust policy to test."
            .into(),
    }
}

/// The reason why a check did not pass, and what the operator can do.
fn failure(checked: &Checked) -> Error {
    let (account, finished) = (&checked.account, &checked.finished);
    let name = format!("{} {}", account.customer, account.name);
    let error = finished.error.as_deref().unwrap_or(&finished.status);
    let cause = finished.cause.as_deref().unwrap_or("no reason was given");
    let advice = match finished.error.as_deref() {
        // The cause itself says what to do. It is not about the role.
        Some("AccessDenied") if rejects_credentials(finished) => {
            return Error::new(format!("{error}: {cause}"));
        }
        Some("TrustBroken" | "AccessDenied") if account.role_arn.is_none() => format!(
            "`stepward account set-role {name} ROLE_ARN` sets the role that the owner of the \
             account has created"
        ),
        Some("TrustBroken" | "AccessDenied") => format!(
            "ask the owner of the account to replace the role's trust policy with the one that \
             `stepward account show {name}` prints"
        ),
        Some("Throttled" | "TimedOut") => "wait a minute, then check the account again".into(),
        _ => format!(
            "read the log of the execution: `stepward job watch {}`",
            crate::jobs::execution_name(&finished.execution_arn)
        ),
    };
    Error::new(format!("{error}: {cause}")).with_advice(advice)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use stepward::model::customer::Account;

    use super::*;
    use crate::jobs::{Finished, Outcome};

    fn checked(error: &str, cause: &str, role_arn: Option<&str>) -> Checked {
        let account: Account = serde_json::from_value(json!({
            "customer": "acme", "name": "prod", "account_id": "222222222222",
            "external_id": "stepward-0123456789abcdef0123456789abcdef", "role_arn": role_arn,
            "regions": ["eu-west-1"], "trust": "unproven", "version": 1,
        }))
        .unwrap();
        Checked {
            account,
            finished: Finished {
                execution_arn: "arn:aws:states:eu-west-1:1:execution:check:nightly".into(),
                status: "FAILED".into(),
                outcome: Outcome::Failed,
                output: Value::Null,
                error: Some(error.into()),
                cause: Some(cause.into()),
            },
            rotated: false,
        }
    }

    #[test]
    fn a_check_that_passed_reports_what_its_proof_shows() {
        let text = |without: &str| {
            let proof = serde_json::from_value::<TrustProof>(json!({
                "without_external_id": without, "wrong_external_id": "refused",
                "right_external_id": "accepted",
            }));
            conclusion(Some(&proof.unwrap()))
        };
        assert!(text("refused").contains("refuses callers without the external ID"));
        let overridden = text("accepted");
        assert!(
            overridden.contains("overridden") && overridden.contains("accepts a caller with no"),
            "{overridden}"
        );
        assert!(!overridden.contains("refuses callers"), "{overridden}");
        assert!(conclusion(None).contains("no trust policy to test"));
    }

    #[test]
    fn rejected_credentials_are_no_reason_to_change_the_role() {
        let cause = "AWS rejected the credentials in eu-south-1 (AWS: no); enable it";
        let role = Some("arn:aws:iam::222222222222:role/stepward/Stepward");
        let text = failure(&checked("AccessDenied", cause, role)).to_string();
        assert_eq!(text, format!("AccessDenied: {cause}"));
    }

    #[test]
    fn a_failed_check_never_advises_to_check() {
        let cause = "the role refuses Stepward";
        let role = Some("arn:aws:iam::222222222222:role/stepward/Stepward");
        for (error, role, advice) in [
            (
                "AccessDenied",
                role,
                "`stepward --local account show acme prod`",
            ),
            (
                "TrustBroken",
                role,
                "`stepward --local account show acme prod`",
            ),
            (
                "TrustBroken",
                None,
                "`stepward --local account set-role acme prod",
            ),
            ("Throttled", role, "wait a minute"),
            ("Internal", role, "`stepward --local job watch nightly`"),
        ] {
            let text = failure(&checked(error, cause, role))
                .with_options(" --local")
                .to_string();
            assert!(
                text.starts_with(&format!("{error}: the role refuses Stepward\n")),
                "{text}"
            );
            assert!(
                text.contains(advice) && !text.contains("account check"),
                "{text}"
            );
        }
    }
}
