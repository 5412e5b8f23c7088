//! Conversion of errors from SSM and from the other services that the SSM steps call.

use aws_sdk_s3::error::SdkError;
use stepward::model::s3_error::s3_error;
use stepward::{AwsError, Context, Service, StepError};

/// The header in which S3 names a bucket's Region, also in responses to requests that it rejects.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html>
const BUCKET_REGION_HEADER: &str = "x-amz-bucket-region";

const SSM: Service = Service {
    iam_prefix: "ssm",
    codes: |_, _| None,
};

/// Converts an error of a request to SSM.
pub(crate) fn ssm_error(error: impl AwsError<aws_sdk_ssm::Error>) -> StepError {
    error.into_step_error(&SSM)
}

/// Converts an error of a request to the bucket that a parameter names. S3 rejects requests for a
/// bucket in another Region, and the error of a `HeadObject` request has neither code nor message.
/// The step's Region is that of the nodes, so only another bucket helps.
pub(crate) fn bucket_error<E>(
    ctx: &Context,
    parameter: &str,
    bucket: &str,
    error: SdkError<E>,
) -> StepError
where
    SdkError<E>: AwsError<aws_sdk_s3::Error>,
{
    let bucket_region = error
        .raw_response()
        .and_then(|response| response.headers().get(BUCKET_REGION_HEADER))
        .map(str::to_owned);
    let error = s3_error(error);
    let region = &ctx.scope.region;
    match bucket_region.filter(|bucket_region| bucket_region != region) {
        Some(bucket_region) => StepError {
            name: stepward::ErrorName::InvalidInput,
            message: format!(
                "parameter \"{parameter}\": bucket {bucket:?} is in Region {bucket_region}, and \
                 the step works in {region}; pass a bucket in {region}"
            ),
            ..error
        },
        None => error,
    }
}

const EC2: Service = Service {
    iam_prefix: "ec2",
    codes: |_, _| None,
};

/// Converts an error of a request to EC2.
pub(crate) fn ec2_error(error: impl AwsError<aws_sdk_ec2::Error>) -> StepError {
    error.into_step_error(&EC2)
}

const LOGS: Service = Service {
    iam_prefix: "logs",
    codes: |_, _| None,
};

/// Converts an error of a request to CloudWatch Logs.
pub(crate) fn logs_error(error: impl AwsError<aws_sdk_cloudwatchlogs::Error>) -> StepError {
    error.into_step_error(&LOGS)
}

#[cfg(test)]
mod tests {
    use aws_sdk_ssm::operation::send_command::SendCommandError;
    use stepward::ErrorName;
    use stepward::testing::{assert_rejections_are_explained, service_error};

    use super::*;

    #[test]
    fn ssm_error_codes_map_to_error_names() {
        for (code, status, name) in [
            ("InvalidInstanceId", 400, ErrorName::InvalidInput),
            ("UnsupportedPlatformType", 400, ErrorName::StepFailed),
            ("DoesNotExistException", 400, ErrorName::StepFailed),
            ("InvalidCommandId", 400, ErrorName::InvalidInput),
            ("DuplicateInstanceId", 400, ErrorName::StepFailed),
            ("MaxDocumentSizeExceeded", 400, ErrorName::StepFailed),
            ("ThrottlingException", 400, ErrorName::Throttled),
            ("AccessDeniedException", 400, ErrorName::AccessDenied),
        ] {
            let error = ssm_error(service_error(SendCommandError::generic, code, status));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(SendCommandError::generic, ssm_error);
        assert_rejections_are_explained(
            aws_sdk_ec2::operation::describe_instances::DescribeInstancesError::generic,
            ec2_error,
        );
        assert_rejections_are_explained(
            aws_sdk_cloudwatchlogs::operation::get_log_events::GetLogEventsError::generic,
            logs_error,
        );
    }
}
