//! The step `validate-credentials`.

use std::process::ExitCode;

use aws_sdk_sts::Client;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::permissions::Permissions;
use stepward::trust::Proof;
use stepward::{Context, ErrorName, Progress, Resume, Step, StepError};

/// Check that Stepward reaches an account, and that nobody else can through it.
///
/// Goes the whole way that every step goes: the customer's record, the credential provider, AssumeRole with the external
/// ID and a session policy, then GetCallerIdentity. Beside that it probes the role three ways: without an external ID and
/// with a wrong one it must be refused, with the right one accepted. It fails naming the part that failed: `NotFound` or
/// `Conflict` for the record, `AccessDenied` when the role refuses Stepward, `TrustBroken` when it lets strangers in or
/// the credentials belong to another account, `TimedOut` when a probe got no clear answer.
///
/// It changes nothing, and needs no permission in the account. The probes show in the account's CloudTrail as four refused
/// AssumeRole calls.
///
/// Proven on the local cloud with IAM enforced; it does not ask for `sts:SetSourceIdentity` as AWS does.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ValidateCredentials {}

/// Who Stepward is in the account.
#[derive(Debug, JsonSchema, Serialize)]
struct Validated {
    /// The 12-digit account ID.
    account_id: String,
    /// The ARN of the session.
    arn: String,
    /// What STS answered to each probe; absent for a credential provider that assumes no role.
    trust: Option<Proof>,
}

impl Step for ValidateCredentials {
    const NAME: &'static str = "validate-credentials";
    const RUNDECK: &'static [&'static str] = &["aws-validate-credentials-step"];
    const EXAMPLE: &'static str = "{}";
    const PROVES_TRUST: bool = true;
    type Output = Validated;

    fn permissions(&self) -> Permissions {
        // Every caller may ask who it is, whatever its policies say; it is declared so that the page tells.
        // https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
        Permissions::default().allow(&["sts:GetCallerIdentity"], ["*"])
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Validated>, StepError> {
        let sts = ctx.client(Client::new);
        // Neither needs the other's answer.
        let (identity, trust) = tokio::join!(sts.get_caller_identity().send(), ctx.prove_trust());
        let identity = identity?;
        let (Some(account_id), Some(arn)) = (identity.account, identity.arn) else {
            return Err(ErrorName::Internal.because("GetCallerIdentity answered without account or ARN; try again"));
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
        Ok(Progress::Done(Validated { account_id, arn, trust }))
    }
}

fn main() -> ExitCode {
    stepward::serve::<ValidateCredentials>()
}
