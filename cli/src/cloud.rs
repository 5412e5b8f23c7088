//! The cloud that a command uses, and the credentials for it. This module makes every client of
//! this program.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_sfn::operation::describe_execution::{DescribeExecutionError, DescribeExecutionOutput};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::timeout::TimeoutConfig;
use stepward::{ErrorName, Service, StepError};

use crate::error::{Error, Result};
use crate::local;

/// The Region of the local cloud if the operator gives none.
const LOCAL_REGION: &str = "eu-west-1";

/// A cloud, an account and a Region, with credentials for them.
#[derive(Clone, Debug)]
pub struct Cloud {
    /// The configuration of every client.
    pub config: SdkConfig,
    /// The account that the credentials belong to.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The partition: `aws`, `aws-cn` or `aws-us-gov`.
    pub partition: String,
    /// The ARN that the credentials belong to. Audit items and executions record it.
    pub caller: String,
    /// The port of the local cloud; none for AWS.
    pub local: Option<u16>,
    /// Global options that a proposed command repeats, for example ` --local --stack staging`.
    pub options: String,
}

impl Cloud {
    /// An account on the local cloud, with the credentials of its root user.
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
            options: local_options(true, port),
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
            return Err(Error::usage_error(format!(
                "AWS_ENDPOINT_URL, or endpoint_url in the AWS profile, is set to \"{url}\""
            ))
            .with_advice("remove this setting to use AWS, or add --local to use the local cloud"));
        }

        let credentials = match config.credentials_provider() {
            Some(provider) => provider
                .provide_credentials()
                .await
                .map_err(|error| error.to_string()),
            None => Err("no credential provider".into()),
        };
        credentials.map_err(|error| {
            let first_line = error
                .lines()
                .next()
                .unwrap_or_default()
                .trim_end_matches(':');
            Error::usage_error(format!("no credentials for AWS: {first_line}")).with_advice(
                "set up credentials with `aws configure`, `aws sso login` or AWS_PROFILE; add \
                 --local to use the local cloud",
            )
        })?;

        let region = config.region().map(ToString::to_string).ok_or_else(|| {
            Error::usage_error("no Region is set for AWS").with_advice(
                "add --region, set AWS_REGION, or set a Region in the AWS profile; add --local to \
                 use the local cloud",
            )
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
        let identity = cloud
            .sts()
            .get_caller_identity()
            .send()
            .await
            .map_err(|error| cloud.error(error))?;
        cloud.account = identity.account.unwrap_or_default();
        cloud.caller = identity.arn.unwrap_or_default();
        let partition = cloud.caller.split(':').nth(1);
        cloud.partition = partition.unwrap_or("aws").to_owned();
        Ok(cloud)
    }

    /// The AWS CLI with what it needs to reach this cloud, for commands that an operator can copy.
    #[must_use]
    pub fn aws_cli(&self) -> String {
        let Self {
            account, region, ..
        } = self;
        match self.local {
            // On the local cloud an account's ID is also its access key.
            Some(port) => format!(
                "AWS_ACCESS_KEY_ID={account} AWS_SECRET_ACCESS_KEY={} aws --endpoint-url {} \
                 --region {region}",
                local::SECRET,
                local::endpoint(port)
            ),
            None => format!("aws --region {region}"),
        }
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

    /// The cloud's name in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self.local {
            Some(port) => format!("the local cloud (port {port}, account {})", self.account),
            None if self.account.is_empty() => format!("AWS ({})", self.region),
            None => format!("AWS (account {}, {})", self.account, self.region),
        }
    }

    /// How a proposed command begins, so that it uses the same cloud and stack. Errors do not need
    /// this: [`Error::with_options`] adds the options to the commands that they propose.
    #[must_use]
    pub fn command(&self) -> String {
        format!("stepward{}", self.options)
    }

    /// How long to wait between two polls.
    #[must_use]
    pub fn poll_interval(&self) -> Duration {
        // AWS limits the rate of calls. The local cloud responds within a millisecond.
        if self.local.is_some() {
            Duration::from_millis(200)
        } else {
            Duration::from_secs(2)
        }
    }

    /// The failure of an AWS call: what failed, on which cloud, and what to do next.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass the error on with `map_err`"
    )]
    pub fn error<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.describe_error(&service_of::<E>().step_error(&error))
    }

    /// Like [`error`](Self::error), for an error that `stepward` has already named.
    #[must_use]
    pub fn describe_error(&self, error: &StepError) -> Error {
        let code = error
            .aws
            .as_ref()
            .map(|aws| aws.code.as_str())
            .unwrap_or_default();
        let failed_call = Error::new(format!("{}: {error}", self.name())).with_code_of(error);
        match (error.name, code, self.local) {
            _ if error.rejects_credentials() => {
                failed_call.with_advice("renew your credentials, for example with `aws sso login`")
            }
            (_, "unreachable", Some(_)) => {
                Error::usage_error(format!("{} does not respond", self.name()))
                    .with_advice("start it with `stepward local up`")
            }
            (ErrorName::Internal, "no usable response", None) => failed_call.with_advice(
                "check your credentials with `aws sts get-caller-identity`; add --local to use the \
                 local cloud",
            ),
            (ErrorName::AccessDenied, ..) => {
                let operation = operation_name(error);
                let reason = error.aws.as_ref().and_then(|aws| aws.reason.as_ref());
                let reason = reason.map_or_else(String::new, |reason| format!(" (AWS: {reason})"));
                Error::new(format!(
                    "{} refused {operation}: {code}{reason}",
                    self.name()
                ))
                .with_advice(format!(
                    "allow {operation} in the IAM policies of {}, or use another profile",
                    self.caller_name()
                ))
                .with_code_of(error)
            }
            (ErrorName::Throttled | ErrorName::TimedOut, ..) => {
                failed_call.with_advice("wait a minute, then run the command again")
            }
            _ => failed_call,
        }
    }

    /// The operator's identity in messages.
    fn caller_name(&self) -> &str {
        if self.caller.is_empty() {
            "your role"
        } else {
            &self.caller
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

    /// S3. The local cloud has no host name for each bucket.
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

    /// Describes an execution, which is given by its ARN.
    pub(crate) async fn describe_execution(
        &self,
        execution: &str,
    ) -> Result<DescribeExecutionOutput, SdkError<DescribeExecutionError, HttpResponse>> {
        let request = self.sfn().describe_execution();
        request.execution_arn(execution).send().await
    }

    /// STS.
    #[must_use]
    pub fn sts(&self) -> aws_sdk_sts::Client {
        aws_sdk_sts::Client::new(&self.config)
    }
}

/// The options that select the local cloud, for example ` --local --port 4600`.
pub(crate) fn local_options(is_local: bool, port: u16) -> String {
    let local = if is_local { " --local" } else { "" };
    if port == local::DEFAULT_PORT {
        local.to_owned()
    } else {
        format!("{local} --port {port}")
    }
}

/// The service of an operation's error, from the name of its SDK crate. Commands decide by AWS's
/// error codes, so no code needs an `ErrorName` of its own here.
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

fn operation_name(error: &StepError) -> &str {
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
    use aws_smithy_types::error::ErrorMetadata;
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

    #[test]
    fn a_refusal_contains_the_sentence_of_aws() {
        let sentence = |caller: &str| {
            format!(
                "User: {caller} is not authorized to perform: states:StartExecution with an \
                 explicit deny in a service control policy"
            )
        };
        let metadata = ErrorMetadata::builder()
            .code("AccessDeniedException")
            .message(sentence("arn:aws:sts::222222222222:assumed-role/admin/me"));
        let error = Cloud::local(1, local::OPERATOR, None).error(SdkError::service_error(
            StartExecutionError::generic(metadata.build()),
            HttpResponse::new(400.try_into().unwrap(), "".into()),
        ));
        let expected = format!("AccessDeniedException (AWS: {})", sentence("the role"));
        assert!(error.to_string().contains(&expected), "{error}");
    }

    #[tokio::test]
    async fn an_unreachable_local_cloud_is_named_with_its_start_command() {
        let port = local::process::free_port().unwrap();
        let cloud = Cloud::local(port, local::OPERATOR, None);
        let error = cloud
            .sts()
            .get_caller_identity()
            .send()
            .await
            .map_err(|error| cloud.error(error))
            .unwrap_err()
            .with_options(&cloud.options);
        let text = error.to_string();
        assert!(
            text.contains("the local cloud")
                && text.contains(&format!("`stepward --local --port {port} local up`")),
            "{text}"
        );
        assert_eq!(error.code(), crate::error::NOT_STARTED);
    }
}
