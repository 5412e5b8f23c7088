//! A step that violates the rules, for tests that check that it fails safely. It is deployed only
//! in tests.

use std::process::ExitCode;

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, Permissions, Progress, Resume, Service, Step, StepError};

const EC2: Service = Service {
    iam_prefix: "ec2",
    codes: |_, _| None,
};

/// Violate a rule of Stepward.
///
/// For Stepward's own tests. The code around the step must prevent or mask each violation.
///
/// # Behavior
///
/// The step commits the violation that the parameter names.
///
/// # Cost
///
/// This step itself has no charge; it is deployed only in tests.
///
/// # Proof
///
/// Proven by `tests/steps.rs` and `tests/e2e/boundary.rs`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RogueStep {
    /// The violation.
    r#do: Violation,
    /// The instance that `undeclared` tries to stop.
    #[serde(default = "sample_instance_id")]
    instance_id: String,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Violation {
    /// Panic.
    Panic,
    /// Call an action that the step does not declare.
    Undeclared,
    /// Use the function's own credentials instead of the customer's session.
    AsBroker,
    /// Return an output of 100 KiB.
    BigOutput,
    /// Log and return the credentials.
    SaySecrets,
    /// Fail with the credentials in the message.
    FailWithSecrets,
}

/// The result of the violation.
#[derive(Debug, JsonSchema, Serialize)]
struct ViolationOutput {
    /// Text that may contain secrets.
    said: String,
}

fn sample_instance_id() -> String {
    "i-0123456789abcdef0".into()
}

impl Step for RogueStep {
    const NAME: &'static str = "rogue-step";
    const RUNDECK: &'static [stepward::RundeckPlugin] = &[];
    const EXAMPLES: &'static [stepward::Example] = &[stepward::Example {
        title: "Return a large output",
        parameters: r#"{ "do": "big-output" }"#,
        output: r#"{ "said": "0123456789abcdef" }"#,
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[];
    type Output = ViolationOutput;

    fn permissions(&self) -> Permissions {
        Permissions::default().allow("list the instances", &["ec2:DescribeInstances"], ["*"])
    }

    async fn run(
        &self,
        ctx: &Context,
        _: Option<Resume>,
    ) -> Result<Progress<ViolationOutput>, StepError> {
        let said = match self.r#do {
            #[expect(clippy::panic, reason = "a test checks how Stepward handles a panic")]
            Violation::Panic => panic!(
                "a panic message that must not be shown: {}",
                read_credentials(ctx).await?
            ),
            Violation::Undeclared => {
                let ec2 = ctx.client(aws_sdk_ec2::Client::new);
                let stop = ec2.stop_instances().instance_ids(&self.instance_id);
                stop.send().await.map_err(|error| EC2.step_error(&error))?;
                "stopped an instance without permission".into()
            }
            Violation::AsBroker => {
                let broker_config =
                    stepward::access::session::aws_config(Some(ctx.scope.region.clone())).await;
                let describe = aws_sdk_ec2::Client::new(&broker_config).describe_instances();
                describe
                    .send()
                    .await
                    .map_err(|error| EC2.step_error(&error))?;
                "described instances as the broker".into()
            }
            Violation::BigOutput => "0123456789abcdef".repeat(100 * 1024 / 16),
            Violation::SaySecrets => {
                let secrets = read_credentials(ctx).await?;
                ctx.log(&secrets);
                secrets
            }
            Violation::FailWithSecrets => {
                return Err(ErrorName::StepFailed.with_message(read_credentials(ctx).await?));
            }
        };
        Ok(Progress::Done(ViolationOutput { said }))
    }
}

/// Returns everything that a step can read of its credentials.
async fn read_credentials(ctx: &Context) -> Result<String, StepError> {
    let config = ctx.client(SdkConfig::clone);
    let missing = || ErrorName::Internal.with_message("the session has no credentials");
    let provider = config.credentials_provider().ok_or_else(missing)?;
    let credentials = provider
        .provide_credentials()
        .await
        .map_err(|_| missing())?;
    let token = credentials.session_token().unwrap_or_default();
    Ok(format!(
        "key {} secret {} token {token}",
        credentials.access_key_id(),
        credentials.secret_access_key()
    ))
}

fn main() -> ExitCode {
    stepward::serve::<RogueStep>()
}
