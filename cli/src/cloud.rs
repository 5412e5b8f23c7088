//! Which cloud a command speaks to, and as whom. Every client of this program is made here.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::timeout::TimeoutConfig;
use stepward::{ErrorName, Service, StepError};

use crate::error::{Error, Result};
use crate::local;

/// The Region of the local cloud where none is asked for.
const LOCAL_REGION: &str = "eu-west-1";

/// A cloud, an account of it, a Region, and the credentials for them.
#[derive(Clone, Debug)]
pub struct Cloud {
    /// What every client is made from.
    pub config: SdkConfig,
    /// The account that the credentials belong to.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The partition: `aws`, `aws-cn`, `aws-us-gov`.
    pub partition: String,
    /// Who the credentials belong to: what audit items and executions record.
    pub caller: String,
    /// The local cloud's port; none for AWS.
    pub local: Option<u16>,
    /// Options that a proposed command must have too, as in ` --stack staging`.
    pub options: String,
}

impl Cloud {
    /// An account on the local cloud, as its root user.
    #[must_use]
    pub fn local(port: u16, account: &str, region: Option<&str>) -> Self {
        let region = region.unwrap_or(LOCAL_REGION).to_owned();
        let credentials = Credentials::new(account, local::SECRET, None, None, "local cloud");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .endpoint_url(local::endpoint(port))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .timeout_config(timeouts())
            .build();
        Self {
            config,
            account: account.to_owned(),
            region,
            partition: "aws".into(),
            caller: format!("arn:aws:iam::{account}:root"),
            local: Some(port),
            options: String::new(),
        }
    }

    /// AWS, with the usual credential chain: environment, profile, single sign-on, instance role.
    pub async fn aws(region: Option<&str>) -> Result<Self> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the operator's own credentials; steps get theirs from `stepward`"
        )]
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts());
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        let config = loader.load().await;
        if let Some(url) = config.endpoint_url() {
            return Err(Error::not_asked(format!(
                "AWS_ENDPOINT_URL (or the profile) sends calls for AWS to {url}"
            ))
            .next("unset it to speak to AWS, or give --local to speak to the local cloud"));
        }
        let found = match config.credentials_provider() {
            Some(provider) => provider
                .provide_credentials()
                .await
                .map_err(|error| error.to_string()),
            None => Err("no credential provider".into()),
        };
        found.map_err(|error| {
            let first = error.lines().next().unwrap_or_default().trim_end_matches(':');
            Error::not_asked(format!("no credentials for AWS: {first}"))
                .next("set them up (`aws configure`, `aws sso login`, AWS_PROFILE); for the local cloud give --local")
        })?;
        let region = config.region().map(ToString::to_string).ok_or_else(|| {
            Error::not_asked("no Region is set for AWS")
                .next("give --region, set AWS_REGION, or set one in the profile; for the local cloud give --local")
        })?;
        let mut cloud = Self {
            config,
            account: String::new(),
            region,
            partition: String::new(),
            caller: String::new(),
            local: None,
            options: String::new(),
        };
        let me = cloud
            .sts()
            .get_caller_identity()
            .send()
            .await
            .map_err(|error| cloud.error(error))?;
        cloud.account = me.account.unwrap_or_default();
        cloud.caller = me.arn.unwrap_or_default();
        cloud.partition = cloud.caller.split(':').nth(1).unwrap_or("aws").to_owned();
        Ok(cloud)
    }

    /// Another account of the same local cloud.
    #[must_use]
    pub fn other_account(&self, account: &str) -> Self {
        Self::local(
            self.local.unwrap_or(local::DEFAULT_PORT),
            account,
            Some(&self.region),
        )
    }

    /// How errors call it.
    #[must_use]
    pub fn name(&self) -> String {
        match self.local {
            Some(port) => format!("the local cloud (port {port}, account {})", self.account),
            None if self.account.is_empty() => format!("AWS ({})", self.region),
            None => format!("AWS (account {}, {})", self.account, self.region),
        }
    }

    /// How commands that are proposed begin, so that they speak to this cloud and stack too.
    #[must_use]
    pub fn command(&self) -> String {
        let options = &self.options;
        match self.local {
            Some(local::DEFAULT_PORT) => format!("stepward --local{options}"),
            Some(port) => format!("stepward --local --port {port}{options}"),
            None => format!("stepward{options}"),
        }
    }

    /// How long to wait before looking again at something that changes.
    #[must_use]
    pub fn pause(&self) -> Duration {
        // AWS limits how often one may ask; on one's own machine an answer costs a millisecond.
        if self.local.is_some() {
            Duration::from_millis(200)
        } else {
            Duration::from_secs(2)
        }
    }

    /// What went wrong with a call, on which cloud, and what to do next.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers give the error away with `map_err`"
    )]
    pub fn error<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.explain(&service_of::<E>().step_error(&error))
    }

    /// As [`error`](Self::error), for an error that `stepward` has named already.
    #[must_use]
    pub fn explain(&self, error: &StepError) -> Error {
        let code = error
            .aws
            .as_ref()
            .map(|aws| aws.code.as_str())
            .unwrap_or_default();
        // The commands that it proposes shall speak to this cloud too.
        let said = error
            .to_string()
            .replace("`stepward ", &format!("`{} ", self.command()));
        let asked = Error::new(format!("{}: {said}", self.name()));
        match (error.name, code, self.local) {
            (_, "unreachable", Some(port)) => Error::not_asked(format!("{} does not answer", self.name()))
                .next(format!("start it with `stepward local up --port {port}`")),
            (
                _,
                "ExpiredToken" | "ExpiredTokenException" | "InvalidClientTokenId" | "UnrecognizedClientException",
                _,
            ) => asked.next("renew your credentials, as with `aws sso login`"),
            (ErrorName::Internal, "no usable answer", None) => asked.next(
                "see that credentials are there: `aws sts get-caller-identity`; for the local cloud give --local",
            ),
            (ErrorName::AccessDenied, ..) => {
                Error::new(format!("{} refused {}: {}", self.name(), operation(error), code))
                    .next("let your own role do that, or use another profile")
            }
            (ErrorName::Throttled | ErrorName::TimedOut, ..) => asked.next("try again"),
            _ => asked,
        }
    }

    /// CloudFormation.
    #[must_use]
    pub fn cloudformation(&self) -> aws_sdk_cloudformation::Client {
        aws_sdk_cloudformation::Client::new(&self.config)
    }

    /// DynamoDB.
    #[must_use]
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.config)
    }

    /// EC2.
    #[must_use]
    pub fn ec2(&self) -> aws_sdk_ec2::Client {
        aws_sdk_ec2::Client::new(&self.config)
    }

    /// S3; the local cloud has no host name for each bucket.
    #[must_use]
    pub fn s3(&self) -> aws_sdk_s3::Client {
        let config =
            aws_sdk_s3::config::Builder::from(&self.config).force_path_style(self.local.is_some());
        aws_sdk_s3::Client::from_conf(config.build())
    }

    /// Step Functions.
    #[must_use]
    pub fn sfn(&self) -> aws_sdk_sfn::Client {
        aws_sdk_sfn::Client::new(&self.config)
    }

    /// STS.
    #[must_use]
    pub fn sts(&self) -> aws_sdk_sts::Client {
        aws_sdk_sts::Client::new(&self.config)
    }
}

/// The service of an operation's error, from the name of its SDK crate. Commands act on codes, so
/// none needs a name of its own here.
fn service_of<E>() -> Service {
    let sdk_crate = std::any::type_name::<E>()
        .split("::")
        .next()
        .unwrap_or_default();
    let iam_prefix = match sdk_crate.strip_prefix("aws_sdk_").unwrap_or(sdk_crate) {
        "sfn" => "states",
        service => service,
    };
    Service {
        iam_prefix,
        codes: |_, _| None,
    }
}

fn operation(error: &StepError) -> &str {
    error.aws.as_ref().map_or("the call", |aws| &aws.operation)
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(Duration::from_mins(2))
        .operation_timeout(Duration::from_mins(5))
        .build()
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudformation::operation::create_stack::CreateStackError;
    use aws_sdk_sfn::operation::start_execution::StartExecutionError;
    use stepward::testing::service_error;

    use super::*;

    #[test]
    fn a_refusal_names_the_action_as_iam_does() {
        let cloud = Cloud::local(1, local::OPERATOR, None);
        let start = cloud
            .error(service_error(
                StartExecutionError::generic,
                "AccessDeniedException",
                400,
            ))
            .to_string();
        assert!(start.contains("refused states:StartExecution"), "{start}");
        let create = cloud
            .error(service_error(
                CreateStackError::generic,
                "AccessDenied",
                403,
            ))
            .to_string();
        assert!(
            create.contains("refused cloudformation:CreateStack"),
            "{create}"
        );
    }

    #[tokio::test]
    async fn a_local_cloud_that_is_not_there_is_named_with_the_command_that_starts_it() {
        let port = local::process::free_port().unwrap();
        let cloud = Cloud::local(port, local::OPERATOR, None);
        let error = cloud
            .sts()
            .get_caller_identity()
            .send()
            .await
            .map_err(|e| cloud.error(e))
            .unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("the local cloud") && said.contains("stepward local up"),
            "{said}"
        );
        assert_eq!(error.code(), crate::error::NOT_ASKED);
    }
}
