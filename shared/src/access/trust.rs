//! The trust proof: three AssumeRole calls that show that a customer's role accepts Stepward only
//! with the right external ID.
//!
//! Without an external ID in the trust policy, another customer could make Stepward use the role by
//! naming its ARN. This is the confused deputy problem:
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/confused-deputy.html>.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::assume::{Attribution, assume_role, is_role_refusal, require_role_arn};
use crate::model::customer::{Account, ExternalId};
use crate::model::error::{ErrorName, StepError};

/// The session policy of all probes, so a session of the proof can do nothing.
const DENY_ALL: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#;

/// The result of each probe: an AssumeRole call with or without an external ID.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct TrustProof {
    /// AssumeRole without an external ID. The role must refuse it.
    pub without_external_id: TrustVerdict,
    /// AssumeRole with a random external ID. The role must refuse it.
    pub wrong_external_id: TrustVerdict,
    /// AssumeRole with the account's external ID. The role must accept it, and the session must
    /// belong to the account on record.
    pub right_external_id: TrustVerdict,
    /// AssumeRole with the new external ID, during a rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_external_id: Option<TrustVerdict>,
}

/// The result of one probe.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustVerdict {
    /// STS returned `AccessDenied`.
    Refused,
    /// STS returned credentials.
    Accepted,
    /// The call failed for another reason, such as throttling or a network error. The proof then
    /// does not succeed.
    Unknown(String),
}

/// Probes the account's role.
///
/// # Errors
/// `InvalidInput` if the account has no role, `Internal` if the operating system provides no random
/// bytes. Errors of STS are part of the proof and not returned as errors.
pub async fn prove_trust(
    sts: &aws_sdk_sts::Client,
    account: &Account,
    attribution: &Attribution,
) -> Result<TrustProof, StepError> {
    let role_arn = require_role_arn(account)?;
    let wrong_id = ExternalId::generate()?;
    let without_source_identity = Attribution {
        source_identity: None,
        ..attribution.clone()
    };
    let probe = async |external_id: Option<&str>, attribution: &Attribution| match assume_role(
        sts,
        role_arn,
        &account.account_id,
        external_id,
        attribution,
        DENY_ALL,
    )
    .await
    {
        Ok(_) => TrustVerdict::Accepted,
        Err(error) if is_role_refusal(&error) => TrustVerdict::Refused,
        Err(error) => TrustVerdict::Unknown(error.to_string()),
    };
    // One statement of a trust policy can require the external ID while another accepts callers
    // without a source identity. So a call that must be refused is also sent without one.
    let probe_as_stranger = async |external_id: Option<&str>| match tokio::join!(
        probe(external_id, attribution),
        probe(external_id, &without_source_identity)
    ) {
        (TrustVerdict::Accepted, _) | (_, TrustVerdict::Accepted) => TrustVerdict::Accepted,
        (TrustVerdict::Refused, verdict) | (verdict, TrustVerdict::Refused) => verdict,
        (unknown, _) => unknown,
    };
    let (without, wrong, right, next) = tokio::join!(
        probe_as_stranger(None),
        probe_as_stranger(Some(wrong_id.expose())),
        probe(Some(account.external_id.expose()), attribution),
        async {
            let next_id = account.next_external_id.as_ref()?;
            Some(probe(Some(next_id.expose()), attribution).await)
        },
    );
    Ok(TrustProof {
        without_external_id: without,
        wrong_external_id: wrong,
        right_external_id: right,
        next_external_id: next,
    })
}

impl TrustProof {
    /// Returns `Ok` if the role refused the calls without the right external ID, and accepted the
    /// right one or, during a rotation, the new one.
    ///
    /// # Errors
    /// `TrustBroken` if the role accepted another call, `AccessDenied` if it refused Stepward,
    /// `TimedOut` if the result of a probe is unknown.
    pub fn verdict(&self) -> Result<(), StepError> {
        let must_refuse = [
            ("no", &self.without_external_id),
            ("a wrong", &self.wrong_external_id),
        ];
        for (kind, verdict) in must_refuse {
            if *verdict == TrustVerdict::Accepted {
                return Err(ErrorName::TrustBroken.with_message(format!(
                    "the role accepts a caller with {kind} external ID, so anybody who knows its \
                     ARN could make Stepward use it; add the condition StringEquals \
                     sts:ExternalId to its trust policy, then check the account again"
                )));
            }
        }

        let must_accept_one = [
            Some(&self.right_external_id),
            self.next_external_id.as_ref(),
        ];
        let verdicts = must_refuse
            .map(|(_, verdict)| verdict)
            .into_iter()
            .chain(must_accept_one.into_iter().flatten());
        for verdict in verdicts {
            if let TrustVerdict::Unknown(reason) = verdict {
                return Err(ErrorName::TimedOut.with_message(format!(
                    "the trust proof did not finish: AssumeRole failed ({reason}); try again"
                )));
            }
        }

        if must_accept_one
            .into_iter()
            .flatten()
            .any(|verdict| *verdict == TrustVerdict::Accepted)
        {
            return Ok(());
        }
        Err(ErrorName::AccessDenied.with_message(
            "the role refuses Stepward with the right external ID; its trust policy must allow \
             sts:AssumeRole and sts:SetSourceIdentity for the broker role with this external ID \
             (`stepward account show` prints this policy)",
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
    fn a_role_must_refuse_missing_and_wrong_external_ids() {
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
    fn during_a_rotation_either_external_id_suffices() {
        let mut rotating = proof(
            TrustVerdict::Refused,
            TrustVerdict::Refused,
            TrustVerdict::Refused,
        );
        rotating.next_external_id = Some(TrustVerdict::Accepted);
        assert_eq!(rotating.verdict(), Ok(()));
    }
}
