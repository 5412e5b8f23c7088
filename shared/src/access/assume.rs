//! AssumeRole: requests credentials for a customer's role, and checks whether the role may be used.

use aws_credential_types::Credentials;

use crate::model::aws_error::{AwsError, Service};
use crate::model::customer::{Account, Configuration, Provider, Trust};
use crate::model::envelope::Execution;
use crate::model::error::{ErrorName, StepError};

/// The lifetime of the credentials, in seconds. For role chaining, STS allows at most one hour.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles.html#iam-term-role-chaining>
const SESSION_SECONDS: i32 = 3600;

/// The identity of a session, as the customer's CloudTrail shows it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Attribution {
    /// The role session name: customer and execution.
    pub session_name: String,
    /// The source identity: who started the job. Only the trust proof also sends requests without
    /// it.
    pub source_identity: Option<String>,
}

/// The ARN of the account's role.
///
/// # Errors
/// `InvalidInput` if the account has no role.
pub(crate) fn require_role_arn(account: &Account) -> Result<&str, StepError> {
    account.role_arn.as_deref().ok_or_else(|| {
        ErrorName::InvalidInput.with_message(format!(
            "no role is set for account {1:?}; after the customer has created the role, \
             run `stepward account set-role {0} {1} ROLE_ARN`",
            account.customer, account.name
        ))
    })
}

/// Calls AssumeRole, and returns the credentials and the ARN of the session.
///
/// # Errors
/// `AccessDenied` if the role refuses Stepward, `TrustBroken` if the session belongs to another
/// account than the record says.
pub(crate) async fn assume_role(
    sts: &aws_sdk_sts::Client,
    role_arn: &str,
    account_id: &str,
    external_id: Option<&str>,
    attribution: &Attribution,
    policy: &str,
) -> Result<(Credentials, String), StepError> {
    let response = sts
        .assume_role()
        .role_arn(role_arn)
        .set_external_id(external_id.map(str::to_owned))
        .role_session_name(&attribution.session_name)
        .set_source_identity(attribution.source_identity.clone())
        .policy(policy)
        .duration_seconds(SESSION_SECONDS)
        .send()
        .await
        .map_err(|error| match sts_error(error) {
            error if is_role_refusal(&error) => StepError {
                message: ROLE_REFUSED.into(),
                ..error
            },
            error => error,
        })?;

    let arn = response
        .assumed_role_user
        .map(|user| user.arn)
        .unwrap_or_default();
    check_session_account(arn.split(':').nth(4).unwrap_or_default(), account_id)?;

    let issued = response.credentials.ok_or_else(|| {
        ErrorName::Internal
            .with_message("STS accepted the role but returned no credentials; try again")
    })?;
    let credentials = Credentials::new(
        issued.access_key_id,
        issued.secret_access_key,
        Some(issued.session_token),
        issued.expiration.try_into().ok(),
        "stepward",
    );
    Ok((credentials, arn))
}

const ROLE_REFUSED: &str = "the customer's role refuses Stepward; its trust policy must allow \
                            sts:AssumeRole and sts:SetSourceIdentity for the broker role with the \
                            external ID on record (`stepward account show` prints this policy)";

/// Whether the role refuses the call. An error about Stepward's own credentials or about the Region
/// also has the name `AccessDenied`, but another code, and it proves nothing about the role.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html>
pub(crate) fn is_role_refusal(error: &StepError) -> bool {
    error.has_code("AccessDenied")
}

const STS: Service = Service {
    iam_prefix: "sts",
    codes: |_, _| None,
};

pub(crate) fn sts_error(error: impl AwsError<aws_sdk_sts::Error>) -> StepError {
    error.into_step_error(&STS)
}

/// Checks that credentials belong to the account on record.
///
/// # Errors
/// `TrustBroken` if they belong to another account.
pub(crate) fn check_session_account(
    session_account_id: &str,
    account_id: &str,
) -> Result<(), StepError> {
    if session_account_id == account_id {
        return Ok(());
    }
    Err(ErrorName::TrustBroken.with_message(format!(
        "the credentials belong to account {session_account_id:?}, but the account's record has \
         {account_id:?}, so nothing was done; correct the account's role or credential provider"
    )))
}

/// Checks that the account's role is proven to refuse callers without the right external ID, or
/// that an operator has overridden this check.
///
/// # Errors
/// `TrustBroken` if neither is the case.
pub(crate) fn check_trust(record: &Configuration) -> Result<(), StepError> {
    let (customer, account) = (&record.account.customer, &record.account.name);
    let problem = match record.account.trust {
        _ if record.provider() != Provider::AssumeRole => return Ok(()),
        Trust::Proven | Trust::Overridden => return Ok(()),
        Trust::Open => {
            "accepts callers without the right external ID; fix its trust policy, then run"
        }
        Trust::Unproven => "is not proven to refuse callers without the right external ID; run",
    };
    Err(ErrorName::TrustBroken.with_message(format!(
        "the customer's role {problem} `stepward account check {customer} {account}`"
    )))
}

impl Attribution {
    /// Creates the attribution of an execution. STS accepts 2 to 64 letters, digits and `_+=,.@-`
    /// for each value.
    /// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>
    #[must_use]
    pub fn new(customer: &str, execution: &Execution) -> Self {
        // The last part of an ARN names the person.
        let started_by = execution.started_by.as_str();
        let person = if started_by.starts_with("arn:") {
            started_by.rsplit(['/', ':']).next().unwrap_or(started_by)
        } else {
            started_by
        };

        // The end of a long execution name is unique, so cut it at the beginning.
        let available_length = MAX_STS_NAME.saturating_sub(customer.len() + 1);
        let excess = execution
            .id
            .chars()
            .count()
            .saturating_sub(available_length);
        let execution: String = execution.id.chars().skip(excess).collect();
        Self {
            session_name: to_sts_name(&format!("{customer}@{execution}")),
            source_identity: Some(to_sts_name(person)),
        }
    }
}

/// The longest session name and source identity, in characters.
const MAX_STS_NAME: usize = 64;

/// Replaces characters that STS does not accept, and adjusts the length.
fn to_sts_name(text: &str) -> String {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let name: String = text
        .chars()
        .map(|c| if is_allowed(c) { c } else { '-' })
        .take(MAX_STS_NAME)
        .collect();
    if name.len() < 2 {
        format!("{name}-stepward")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{account_record, attribution};

    #[test]
    fn only_proven_or_overridden_roles_are_used() {
        for (trust, is_usable) in [
            (Trust::Unproven, false),
            (Trust::Open, false),
            (Trust::Proven, true),
            (Trust::Overridden, true),
        ] {
            let mut record = account_record("acme");
            record.account.trust = trust;
            assert_eq!(check_trust(&record).is_ok(), is_usable, "{trust:?}");
        }
    }

    #[test]
    fn session_names_and_source_identities_fit_sts() {
        let person = attribution(
            "arn:aws:states:execution/ä",
            "arn:aws:sts::111111111111:assumed-role/Operators/ann",
        );
        assert_eq!(person.source_identity.as_deref(), Some("ann"));
        assert_eq!(person.session_name, "acme@arn-aws-states-execution--");
        let schedule = attribution(
            &format!("{}-5f00ba", "x".repeat(80)),
            "schedule/morning-check",
        );
        assert_eq!(
            (
                schedule.session_name.len(),
                schedule.session_name.ends_with("-5f00ba")
            ),
            (64, true)
        );
        assert_eq!(
            schedule.source_identity.as_deref(),
            Some("schedule-morning-check")
        );
        assert_eq!(
            attribution("e", "a").source_identity.as_deref(),
            Some("a-stepward")
        );
    }
}
