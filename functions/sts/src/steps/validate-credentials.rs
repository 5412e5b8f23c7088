//! The step `validate-credentials`.

use crate::error::sts_error;
use aws_sdk_sts::Client;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::access::trust::TrustProof;
use stepward::model::permissions::Permissions;
use stepward::{Context, ErrorName, Example, Progress, Resume, RundeckPlugin, Step, StepError};

/// Check that Stepward can work in an account and that its role refuses all other callers.
///
/// Use this step after you add an account, after a change to the role's trust policy, or as the
/// first step of a job, to stop the job early if the access is broken. It changes nothing in the
/// account.
///
/// # Behavior
///
/// The step takes the same path to the account as every other step:
///
/// - It reads the record of the customer and the account, and gets credentials from the credential
///   provider.
/// - It assumes the role with the external ID and a session policy.
/// - It calls `GetCallerIdentity` and returns the account ID and the ARN of the session.
///
/// In parallel it probes the role's trust policy. The role must refuse a call without an external
/// ID and a call with a wrong external ID, and it must accept a call with the right one. During a
/// rotation of the external ID the step also probes the next one. The step succeeds only if all
/// probes have the expected response, or if an operator has overridden a failed trust proof with
/// `stepward account override-trust`; the log then says so. A credential provider that does not
/// assume a role has no trust policy to probe.
///
/// A retry repeats the check. The step has nothing to stop when the job is stopped.
///
/// # Failures
///
/// The name of the error says which part failed:
///
/// - `NotFound` or `Conflict`: the record.
/// - `AccessDenied`: the role refuses Stepward, or AWS rejects the credentials, for example in a
///   Region that the account has not enabled.
/// - `TrustBroken`: the role accepts callers without the right external ID, or the credentials
///   belong to another account.
/// - `TimedOut`: an AssumeRole call of the trust proof failed without a clear result.
///
/// The customer's CloudTrail shows four refused `AssumeRole` calls for each run: two without an
/// external ID and two with a wrong one. These are the probes, not an attack.
///
/// # Cost
///
/// This step itself has no charge; AWS does not charge for calls to STS.
///
/// # Proof
///
/// Proven on the local cloud with IAM enforced. Unlike AWS, the local cloud does not require
/// `sts:SetSourceIdentity` in the trust policy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateCredentials {}

/// Stepward's identity in the account.
#[derive(Debug, JsonSchema, Serialize)]
pub struct CallerIdentity {
    /// The 12-digit account ID.
    account_id: String,
    /// The ARN of the session.
    arn: String,
    /// The result of each probe of the trust policy. Null if the credential provider does not
    /// assume a role.
    trust: Option<TrustProof>,
}

impl Step for ValidateCredentials {
    const NAME: &'static str = "validate-credentials";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-validate-credentials-step",
        fields: &[("region", "region")],
    }];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "Check the access to an account",
        parameters: "{}",
        output: r#"{
            "account_id": "222222222222",
            "arn": "arn:aws:sts::222222222222:assumed-role/Stepward/acme@morning-check-7f3a91c2",
            "trust": {
                "without_external_id": "refused",
                "wrong_external_id": "refused",
                "right_external_id": "accepted"
            }
        }"#,
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The customer or the account is not on record. Correct its name, or add it.",
        ),
        (
            ErrorName::Conflict,
            "The customer is suspended. Resume the customer before you run the job again.",
        ),
        (
            ErrorName::AccessDenied,
            "The role refuses Stepward, or AWS rejected the credentials. The message says which. \
             Add Stepward's broker role and the external ID to the trust policy, or enable the \
             Region in the account.",
        ),
        (
            ErrorName::TrustBroken,
            "The role accepts callers without the right external ID, or the credentials belong to \
             another account. Require the external ID in the trust policy, or correct the \
             account's record.",
        ),
        (
            ErrorName::TimedOut,
            "An AssumeRole call of the trust proof failed without a clear result, for example \
             because of a timeout or throttling, so the trust policy is not proven. Run the step \
             again.",
        ),
    ];
    const PROVES_TRUST: bool = true;
    type Output = CallerIdentity;

    fn permissions(&self) -> Permissions {
        // AWS responds to this call even if a policy denies it. It is declared because the step's
        // page lists every call.
        // https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
        Permissions::default().allow(
            "read the account and the session that the credentials belong to",
            &["sts:GetCallerIdentity"],
            ["*"],
        )
    }

    async fn run(
        &self,
        ctx: &Context,
        _: Option<Resume>,
    ) -> Result<Progress<CallerIdentity>, StepError> {
        let sts = ctx.client(Client::new);
        // The two are independent of each other.
        let (identity, trust) = tokio::join!(sts.get_caller_identity().send(), ctx.prove_trust());

        let identity = identity.map_err(sts_error)?;
        let (Some(account_id), Some(arn)) = (identity.account, identity.arn) else {
            return Err(ErrorName::Internal
                .with_message("GetCallerIdentity returned no account ID or no ARN; try again"));
        };
        ctx.log(format_args!("Reached account {account_id}"));

        let trust = trust?;
        match &trust {
            Some(proof) => match proof.verdict() {
                Ok(()) => ctx.log(
                    "The role refuses callers that send no external ID or a wrong one, and accepts \
                     callers that send the right one",
                ),
                Err(error) if error.name == ErrorName::TrustBroken && ctx.trust_is_overridden() => {
                    ctx.log(format_args!(
                        "An operator has overridden this error: {error}"
                    ));
                }
                Err(error) => return Err(error),
            },
            None => ctx.log(
                "This credential provider does not assume a role, so there is no trust policy to \
                 prove",
            ),
        }
        Ok(Progress::Done(CallerIdentity {
            account_id,
            arn,
            trust,
        }))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sts::operation::get_caller_identity::{
        GetCallerIdentityError, GetCallerIdentityOutput,
    };
    use aws_smithy_mocks::{RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::testing;
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const ARN: &str = "arn:aws:sts::222222222222:assumed-role/Stepward/acme-execution-1";

    fn identity_output() -> GetCallerIdentityOutput {
        GetCallerIdentityOutput::builder()
            .account("222222222222")
            .arn(ARN)
            .build()
    }

    fn identity_error(code: &str) -> GetCallerIdentityError {
        GetCallerIdentityError::generic(ErrorMetadata::builder().code(code).message("no").build())
    }

    // The tests of `stepward::access::trust` and the end-to-end tests prove the probes themselves.
    #[tokio::test]
    async fn done_returns_the_identity_without_a_trust_proof() {
        let get_identity = mock!(Client::get_caller_identity).then_output(identity_output);
        let ctx = testing::context(mock_client!(aws_sdk_sts, [&get_identity]));
        let Progress::Done(output) = ValidateCredentials {}.run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(
            (output.account_id.as_str(), output.arn.as_str()),
            ("222222222222", ARN)
        );
        assert!(output.trust.is_none());
        assert_eq!(
            testing::log_lines(&ctx),
            [
                "Reached account 222222222222",
                "This credential provider does not assume a role, so there is no trust policy to \
                 prove",
            ]
        );
    }

    // no proof of already: the step changes nothing.

    // no proof of not_found: Stepward reads the record before the step runs, and the step itself
    // does not name a resource.

    // no proof of pending: the step finishes in one call.

    #[test]
    fn invalid_is_any_parameter_because_the_step_has_none() {
        let error = serde_json::from_value::<ValidateCredentials>(json!({ "region": "eu-west-1" }))
            .unwrap_err();
        assert!(error.to_string().contains("region"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_retried_by_the_sdk() {
        let get_identity = mock!(Client::get_caller_identity)
            .sequence()
            .error(|| identity_error("Throttling"))
            .output(identity_output)
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_sts,
            RuleMode::MatchAny,
            [&get_identity]
        ));
        ValidateCredentials {}.run(&ctx, None).await.unwrap();
        assert_eq!(get_identity.num_calls(), 2);
    }

    #[tokio::test]
    async fn failed_credentials_are_denied_and_empty_responses_are_internal() {
        let refused = mock!(Client::get_caller_identity)
            .then_error(|| identity_error("InvalidClientTokenId"));
        let empty = mock!(Client::get_caller_identity)
            .then_output(|| GetCallerIdentityOutput::builder().build());
        for (get_identity, name) in [
            (refused, ErrorName::AccessDenied),
            (empty, ErrorName::Internal),
        ] {
            let ctx = testing::context(mock_client!(aws_sdk_sts, [&get_identity]));
            assert_eq!(
                ValidateCredentials {}
                    .run(&ctx, None)
                    .await
                    .unwrap_err()
                    .name,
                name
            );
        }
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        let unenforced = [(
            "sts:GetCallerIdentity",
            "AWS responds to this call even if a policy denies it, and so does the local cloud.",
        )];
        prove_permissions::<ValidateCredentials>(&unenforced, async |_| json!({}));
    }
}
