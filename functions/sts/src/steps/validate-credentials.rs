//! The step `validate-credentials`.

use crate::error::sts_error;
use aws_sdk_sts::Client;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::access::trust::TrustProof;
use stepward::model::permissions::Permissions;
use stepward::{Context, ErrorName, Example, Progress, Resume, RundeckPlugin, Step, StepError};

/// Check that Stepward reaches an account, and that nobody else can through it.
///
/// Goes the whole way that every step goes: the customer's record, the credential provider,
/// AssumeRole with the external ID and a session policy, then GetCallerIdentity. Beside that it
/// probes the role three ways: without an external ID and with a wrong one it must be refused, with
/// the right one accepted. It fails naming the part that failed: `NotFound` or `Conflict` for the
/// record, `AccessDenied` when the role refuses Stepward, `TrustBroken` when it lets strangers in
/// or the credentials belong to another account, `TimedOut` when a probe got no clear answer.
///
/// It changes nothing, and needs no permission in the account. The probes show in the account's
/// CloudTrail as four refused AssumeRole calls.
///
/// Proven on the local cloud with IAM enforced; it does not ask for `sts:SetSourceIdentity` as AWS
/// does.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateCredentials {}

/// Who Stepward is in the account.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Validated {
    /// The 12-digit account ID.
    account_id: String,
    /// The ARN of the session.
    arn: String,
    /// What STS answered to each probe; absent for a credential provider that assumes no role.
    trust: Option<TrustProof>,
}

impl Step for ValidateCredentials {
    const NAME: &'static str = "validate-credentials";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-validate-credentials-step",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "TODO",
        parameters: "{}",
        output: "null",
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "No such customer or account is on record.",
        ),
        (ErrorName::Conflict, "The customer is suspended."),
        (
            ErrorName::AccessDenied,
            "The role refuses Stepward: its trust policy lacks the broker or the external ID.",
        ),
        (
            ErrorName::TrustBroken,
            "The role lets strangers in, or the credentials belong to another account.",
        ),
        (
            ErrorName::TimedOut,
            "A probe got no clear answer; nothing is known of the role's trust.",
        ),
    ];
    const PROVES_TRUST: bool = true;
    type Output = Validated;

    fn permissions(&self) -> Permissions {
        // Every caller may ask who it is, whatever its policies say; it is declared so that the
        // page tells.
        // https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
        Permissions::default().allow("TODO", &["sts:GetCallerIdentity"], ["*"])
    }

    async fn run(
        &self,
        ctx: &Context,
        _: Option<Resume>,
    ) -> Result<Progress<Validated>, StepError> {
        let sts = ctx.client(Client::new);
        // Neither needs the other's answer.
        let (identity, trust) = tokio::join!(sts.get_caller_identity().send(), ctx.prove_trust());
        let identity = identity.map_err(sts_error)?;
        let (Some(account_id), Some(arn)) = (identity.account, identity.arn) else {
            return Err(ErrorName::Internal
                .with_message("GetCallerIdentity answered without account or ARN; try again"));
        };
        ctx.log(format_args!("Reached account {account_id}"));
        let trust = trust?;
        match &trust {
            Some(proof) => match proof.verdict() {
                Ok(()) => ctx.log(
                    "The role refuses callers without the external ID and with a wrong one, and takes the right one",
                ),
                Err(error) if error.name == ErrorName::TrustBroken && ctx.trust_is_overridden() => {
                    ctx.log(format_args!("An operator has overridden this: {error}"));
                }
                Err(error) => return Err(error),
            },
            None => ctx.log("This credential provider assumes no role, so there is no trust policy to prove"),
        }
        Ok(Progress::Done(Validated {
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
    use aws_smithy_mocks::{RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::testing;
    use stepward_testkit::proof::prove;

    use super::*;

    const ARN: &str = "arn:aws:sts::222222222222:assumed-role/Stepward/acme-execution-1";

    fn identity() -> GetCallerIdentityOutput {
        GetCallerIdentityOutput::builder()
            .account("222222222222")
            .arn(ARN)
            .build()
    }

    fn refusal(code: &str) -> GetCallerIdentityError {
        GetCallerIdentityError::generic(ErrorMetadata::builder().code(code).message("no").build())
    }

    // The probes themselves are proven where they are, in the tests of `stepward::access::trust`
    // and end to end.
    #[tokio::test]
    async fn done_tells_who_it_is_and_that_no_role_was_probed() {
        let ask = mock!(Client::get_caller_identity).then_output(identity);
        let ctx = testing::context(mock_client!(aws_sdk_sts, [&ask]));
        let Progress::Done(output) = ValidateCredentials {}.run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(
            (output.account_id.as_str(), output.arn.as_str()),
            ("222222222222", ARN)
        );
        assert!(output.trust.is_none());
        assert_eq!(
            testing::log(&ctx),
            [
                "Reached account 222222222222",
                "This credential provider assumes no role, so there is no trust policy to prove",
            ]
        );
    }

    // no proof of already: it changes nothing, so there is no state to be in already. no proof of
    // not_found: the record is looked up before the step runs, and the step itself names no
    // resource. no proof of pending: it is over after one call.

    #[test]
    fn invalid_is_any_parameter() {
        let error = serde_json::from_value::<ValidateCredentials>(json!({ "region": "eu-west-1" }))
            .unwrap_err();
        assert!(error.to_string().contains("region"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_tried_again_by_the_sdk() {
        let ask = mock!(Client::get_caller_identity)
            .sequence()
            .error(|| refusal("Throttling"))
            .output(identity)
            .build();
        let ctx = testing::context(mock_client!(aws_sdk_sts, RuleMode::MatchAny, [&ask]));
        ValidateCredentials {}.run(&ctx, None).await.unwrap();
        assert_eq!(ask.num_calls(), 2);
    }

    #[tokio::test]
    async fn failed_credentials_are_access_denied_and_an_empty_answer_is_internal() {
        let refused =
            mock!(Client::get_caller_identity).then_error(|| refusal("InvalidClientTokenId"));
        let empty = mock!(Client::get_caller_identity)
            .then_output(|| GetCallerIdentityOutput::builder().build());
        for (ask, name) in [
            (refused, ErrorName::AccessDenied),
            (empty, ErrorName::Internal),
        ] {
            let ctx = testing::context(mock_client!(aws_sdk_sts, [&ask]));
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
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let idle = [(
            "sts:GetCallerIdentity",
            "AWS answers it whatever the policies say, and so does the local cloud.",
        )];
        prove::<ValidateCredentials>(&idle, async |_| json!({}));
    }
}
