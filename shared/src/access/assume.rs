//! One AssumeRole: who asks, for whom, and whether the role may be used at all.

use aws_credential_types::Credentials;

use crate::model::aws_error::{AwsError, Service};
use crate::model::customer::{Account, Configuration, Provider, Trust};
use crate::model::envelope::Execution;
use crate::model::error::{ErrorName, StepError};

/// How long STS lets credentials live that one role gets with another's: one hour.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles.html#iam-term-role-chaining>
const SESSION_SECONDS: i32 = 3600;
/// Who a session is for, as the customer's CloudTrail shows it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Attribution {
    /// Role session name: customer and execution.
    pub session_name: String,
    /// Source identity: who started the job. Only the trust proof also asks without one.
    pub source_identity: Option<String>,
}

/// The account's role.
///
/// # Errors
/// `InvalidInput` when none has been set.
pub(crate) fn role_of(account: &Account) -> Result<&str, StepError> {
    account.role_arn.as_deref().ok_or_else(|| {
        ErrorName::InvalidInput.with_message(format!(
            "no role is set; once the customer has made it: `stepward account set-role {} {} ROLE_ARN`",
            account.customer, account.name
        ))
    })
}

/// One AssumeRole: credentials, and the ARN of the session.
///
/// # Errors
/// `AccessDenied` when the role refuses, `TrustBroken` when the session is in another account than
/// the one on record.
pub(crate) async fn assume(
    sts: &aws_sdk_sts::Client,
    role_arn: &str,
    account_id: &str,
    external_id: Option<&str>,
    attribution: &Attribution,
    policy: &str,
) -> Result<(Credentials, String), StepError> {
    let answer = sts
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
            error if error.name == ErrorName::AccessDenied => StepError {
                message: "the customer's role refuses Stepward: its trust policy must name the broker's ARN and the external \
                          ID on record, and allow sts:AssumeRole and sts:SetSourceIdentity; `stepward account check` \
                          tells which part is wrong"
                    .into(),
                ..error
            },
            error => error,
        })?;
    let arn = answer
        .assumed_role_user
        .map(|user| user.arn)
        .unwrap_or_default();
    check_landed(arn.split(':').nth(4).unwrap_or_default(), account_id)?;
    let given = answer.credentials.ok_or_else(|| {
        ErrorName::Internal.with_message("STS accepted the role but gave no credentials; try again")
    })?;
    let expiry = given.expiration.try_into().ok();
    let (id, secret, token) = (
        given.access_key_id,
        given.secret_access_key,
        given.session_token,
    );
    Ok((
        Credentials::new(id, secret, Some(token), expiry, "stepward"),
        arn,
    ))
}

const STS: Service = Service {
    iam_prefix: "sts",
    codes: |_, _| None,
};

pub(crate) fn sts_error(error: impl AwsError<aws_sdk_sts::Error>) -> StepError {
    error.into_step_error(&STS)
}

pub(crate) fn check_landed(landed: &str, account_id: &str) -> Result<(), StepError> {
    if landed == account_id {
        return Ok(());
    }
    Err(ErrorName::TrustBroken.with_message(format!(
        "the credentials are for account {landed}, but this account's record says {account_id}; nothing was done"
    )))
}

/// Refuses to run on a role whose trust policy is not known to keep strangers out.
///
/// # Errors
/// `TrustBroken`.
pub(crate) fn check_trust(record: &Configuration) -> Result<(), StepError> {
    let (customer, account) = (&record.account.customer, &record.account.name);
    let state = match record.account.trust {
        _ if record.provider() != Provider::AssumeRole => return Ok(()),
        Trust::Proven | Trust::Overridden => return Ok(()),
        Trust::Open => {
            "lets somebody in without the right external ID: mend its trust policy, then run"
        }
        Trust::Unproven => "has not been proven to keep strangers out: run",
    };
    Err(ErrorName::TrustBroken.with_message(format!(
        "the customer's role {state} `stepward account check {customer} {account}`"
    )))
}

impl Attribution {
    /// Who acts for whom, within what STS takes: 2 to 64 letters, digits and `_+=,.@-`.
    /// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>
    #[must_use]
    pub fn new(customer: &str, execution: &Execution) -> Self {
        // Of an ARN only what names the person: its last part.
        let by = execution.started_by.as_str();
        let person = if by.starts_with("arn:") {
            by.rsplit(['/', ':']).next().unwrap_or(by)
        } else {
            by
        };
        // Of a long execution name the end, which has what tells it from others.
        let room = STS_NAME.saturating_sub(customer.len() + 1);
        let skip = execution.id.chars().count().saturating_sub(room);
        let execution: String = execution.id.chars().skip(skip).collect();
        Self {
            session_name: sts_name(&format!("{customer}@{execution}")),
            source_identity: Some(sts_name(person)),
        }
    }
}

/// The longest session name and source identity, in characters.
const STS_NAME: usize = 64;

fn sts_name(text: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let name: String = text
        .chars()
        .map(|c| if legal(c) { c } else { '-' })
        .take(STS_NAME)
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
    use crate::testing::{attribution, record};

    #[test]
    fn a_role_that_is_not_proven_is_not_used() {
        for (trust, runs) in [
            (Trust::Unproven, false),
            (Trust::Open, false),
            (Trust::Proven, true),
            (Trust::Overridden, true),
        ] {
            let mut record = record("acme");
            record.account.trust = trust;
            assert_eq!(check_trust(&record).is_ok(), runs, "{trust:?}");
        }
    }

    #[test]
    fn names_for_sts_are_within_what_it_takes() {
        let who = attribution(
            "arn:aws:states:execution/ä",
            "arn:aws:sts::111111111111:assumed-role/Operators/ann",
        );
        assert_eq!(who.source_identity.as_deref(), Some("ann"));
        assert_eq!(who.session_name, "acme@arn-aws-states-execution--");
        let long = attribution(
            &format!("{}-5f00ba", "x".repeat(80)),
            "schedule/morning-check",
        );
        assert_eq!(
            (
                long.session_name.len(),
                long.session_name.ends_with("-5f00ba")
            ),
            (64, true)
        );
        assert_eq!(
            long.source_identity.as_deref(),
            Some("schedule-morning-check")
        );
        assert_eq!(
            attribution("e", "a").source_identity.as_deref(),
            Some("a-stepward")
        );
    }
}
