//! A step that does what none should, for tests that see it fail safely. It is deployed in tests
//! only.

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

/// Misbehave.
///
/// For Stepward's own tests: each kind of misbehaviour must be caught by what is around the step.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rogue {
    /// What to do.
    r#do: Misdeed,
    /// The instance that `undeclared` tries to stop.
    #[serde(default = "some_instance")]
    instance_id: String,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Misdeed {
    /// Panic.
    Panic,
    /// Call an action that the step does not declare.
    Undeclared,
    /// Use the function's own credentials in the customer's stead.
    AsBroker,
    /// Answer 100 KiB.
    BigOutput,
    /// Log and answer the credentials.
    SaySecrets,
    /// Fail with the credentials in the message.
    FailWithSecrets,
}

/// What came of it.
#[derive(Debug, JsonSchema, Serialize)]
struct Said {
    /// Anything.
    said: String,
}

fn some_instance() -> String {
    "i-0123456789abcdef0".into()
}

impl Step for Rogue {
    const NAME: &'static str = "rogue-step";
    const RUNDECK: &'static [stepward::RundeckPlugin] = &[];
    const EXAMPLES: &'static [stepward::Example] = &[stepward::Example {
        title: "Run it",
        parameters: r#"{ "do": "big-output" }"#,
        output: "null",
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[];
    type Output = Said;

    fn permissions(&self) -> Permissions {
        Permissions::default().allow("TODO", &["ec2:DescribeInstances"], ["*"])
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Said>, StepError> {
        let said = match self.r#do {
            #[expect(clippy::panic, reason = "a test wants to see one")]
            Misdeed::Panic => panic!(
                "a panic whose message nobody should see: {}",
                credentials(ctx).await?
            ),
            Misdeed::Undeclared => {
                let ec2 = ctx.client(aws_sdk_ec2::Client::new);
                let stop = ec2.stop_instances().instance_ids(&self.instance_id);
                stop.send().await.map_err(|error| EC2.step_error(&error))?;
                "stopped an instance without permission".into()
            }
            Misdeed::AsBroker => {
                let own =
                    stepward::access::session::aws_config(Some(ctx.place.region.clone())).await;
                let describe = aws_sdk_ec2::Client::new(&own).describe_instances();
                describe
                    .send()
                    .await
                    .map_err(|error| EC2.step_error(&error))?;
                "described instances as the broker".into()
            }
            Misdeed::BigOutput => "0123456789abcdef".repeat(100 * 1024 / 16),
            Misdeed::SaySecrets => {
                let secrets = credentials(ctx).await?;
                ctx.log(&secrets);
                secrets
            }
            Misdeed::FailWithSecrets => {
                return Err(ErrorName::StepFailed.with_message(credentials(ctx).await?));
            }
        };
        Ok(Progress::Done(Said { said }))
    }
}

/// What a step can get of its credentials.
async fn credentials(ctx: &Context) -> Result<String, StepError> {
    let config = ctx.client(SdkConfig::clone);
    let nothing = || ErrorName::Internal.with_message("the session has no credentials");
    let provider = config.credentials_provider().ok_or_else(nothing)?;
    let found = provider
        .provide_credentials()
        .await
        .map_err(|_| nothing())?;
    let token = found.session_token().unwrap_or_default();
    Ok(format!(
        "key {} secret {} token {token}",
        found.access_key_id(),
        found.secret_access_key()
    ))
}

fn main() -> ExitCode {
    stepward::serve::<Rogue>()
}
