//! The three-way proof that a customer's role lets Stepward in, and nobody else who merely knows
//! its ARN.
//!
//! Without an external ID in the trust policy, anybody whom the broker serves could name the role:
//! the confused deputy of <https://docs.aws.amazon.com/IAM/latest/UserGuide/confused-deputy.html>.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::assume::{Attribution, assume, role_of};
use crate::model::customer::{Account, ExternalId};
use crate::model::error::{ErrorName, StepError};

/// Whoever gets in during a probe can do nothing there.
const DENY_ALL: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#;

/// What STS answered to each probe.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct TrustProof {
    /// AssumeRole without an external ID; must be refused.
    pub without_external_id: TrustVerdict,
    /// AssumeRole with a random external ID; must be refused.
    pub wrong_external_id: TrustVerdict,
    /// AssumeRole with the account's external ID; must be accepted, in the account on record.
    pub right_external_id: TrustVerdict,
    /// During a rotation: AssumeRole with the next external ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_external_id: Option<TrustVerdict>,
}

/// What STS answered to one probe.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustVerdict {
    /// `AccessDenied`.
    Refused,
    /// Credentials.
    Accepted,
    /// Neither: throttling, network trouble, a fault. Never counts as a pass.
    Unknown(String),
}

/// Probes the account's role.
///
/// # Errors
/// `InvalidInput` when the account has no role, `Internal` when there is no randomness. What STS
/// answers is never an error here, but part of the proof.
pub async fn prove(
    sts: &aws_sdk_sts::Client,
    account: &Account,
    attribution: &Attribution,
) -> Result<TrustProof, StepError> {
    let role = role_of(account)?;
    let wrong = ExternalId::generate()?;
    let anonymous = Attribution {
        source_identity: None,
        ..attribution.clone()
    };
    let probe = async |external_id: Option<&str>, attribution: &Attribution| match assume(
        sts,
        role,
        &account.account_id,
        external_id,
        attribution,
        DENY_ALL,
    )
    .await
    {
        Ok(_) => TrustVerdict::Accepted,
        Err(error) if error.name == ErrorName::AccessDenied => TrustVerdict::Refused,
        Err(error) => TrustVerdict::Unknown(error.to_string()),
    };
    // A trust policy can ask for the external ID in one statement and let in whoever sets no source
    // identity by another.
    let stranger = async |external_id: Option<&str>| match tokio::join!(
        probe(external_id, attribution),
        probe(external_id, &anonymous)
    ) {
        (TrustVerdict::Accepted, _) | (_, TrustVerdict::Accepted) => TrustVerdict::Accepted,
        (TrustVerdict::Refused, other) | (other, TrustVerdict::Refused) => other,
        (unknown, _) => unknown,
    };
    let (without_external_id, wrong_external_id, right_external_id, next_external_id) = tokio::join!(
        stranger(None),
        stranger(Some(wrong.expose())),
        probe(Some(account.external_id.expose()), attribution),
        async {
            Some(
                probe(
                    Some(account.next_external_id.as_ref()?.expose()),
                    attribution,
                )
                .await,
            )
        },
    );
    Ok(TrustProof {
        without_external_id,
        wrong_external_id,
        right_external_id,
        next_external_id,
    })
}

impl TrustProof {
    /// `Ok` only if strangers were refused and the right external ID, or during a rotation the next
    /// one, was accepted.
    ///
    /// # Errors
    /// `TrustBroken` for a role that lets strangers in, `AccessDenied` for one that keeps Stepward
    /// out, `TimedOut` where a probe got no clear answer.
    pub fn verdict(&self) -> Result<(), StepError> {
        let strangers = [
            ("no", &self.without_external_id),
            ("a wrong", &self.wrong_external_id),
        ];
        for (kind, verdict) in strangers {
            if *verdict == TrustVerdict::Accepted {
                return Err(ErrorName::TrustBroken.with_message(format!(
                    "the role lets in a caller with {kind} external ID: anybody who learns its ARN could have it used. Add the \
                     condition StringEquals sts:ExternalId to its trust policy, then `stepward account check`"
                )));
            }
        }
        let own = [
            Some(&self.right_external_id),
            self.next_external_id.as_ref(),
        ];
        let all = strangers
            .map(|(_, verdict)| verdict)
            .into_iter()
            .chain(own.into_iter().flatten());
        for verdict in all {
            if let TrustVerdict::Unknown(why) = verdict {
                return Err(ErrorName::TimedOut.with_message(format!(
                    "the trust policy could not be proven, try again: a probe got no clear answer: {why}"
                )));
            }
        }
        if own
            .into_iter()
            .flatten()
            .any(|verdict| *verdict == TrustVerdict::Accepted)
        {
            return Ok(());
        }
        Err(ErrorName::AccessDenied.with_message(
            "the role refuses Stepward with the right external ID: its trust policy must allow the broker's ARN \
             sts:AssumeRole and sts:SetSourceIdentity with this external ID (`stepward account show` prints all three)",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(without: TrustVerdict, wrong: TrustVerdict, right: TrustVerdict) -> TrustProof {
        TrustProof {
            without_external_id: without,
            wrong_external_id: wrong,
            right_external_id: right,
            next_external_id: None,
        }
    }

    #[test]
    fn only_a_role_that_refuses_both_strangers_passes() {
        use TrustVerdict::{Accepted, Refused, Unknown};
        assert_eq!(proof(Refused, Refused, Accepted).verdict(), Ok(()));
        let unknown = || Unknown("throttled".into());
        for (proof, name) in [
            (proof(Accepted, Refused, Accepted), ErrorName::TrustBroken),
            (proof(Refused, Accepted, Accepted), ErrorName::TrustBroken),
            (
                proof(Accepted, unknown(), unknown()),
                ErrorName::TrustBroken,
            ),
            (proof(Refused, Refused, Refused), ErrorName::AccessDenied),
            (proof(unknown(), Refused, Accepted), ErrorName::TimedOut),
            (proof(Refused, unknown(), Accepted), ErrorName::TimedOut),
            (proof(Refused, Refused, unknown()), ErrorName::TimedOut),
        ] {
            assert_eq!(proof.verdict().unwrap_err().name, name, "{proof:?}");
        }
    }

    #[test]
    fn during_a_rotation_either_external_id_will_do() {
        let mut rotating = proof(
            TrustVerdict::Refused,
            TrustVerdict::Refused,
            TrustVerdict::Refused,
        );
        rotating.next_external_id = Some(TrustVerdict::Accepted);
        assert_eq!(rotating.verdict(), Ok(()));
    }
}
