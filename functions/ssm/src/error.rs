//! Conversion of errors from SSM and from the other services that the SSM steps call.

use stepward::model::s3_error::{bucket_region, s3_error};
use stepward::{AwsError, Context, Service, StepError};

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
pub(crate) fn bucket_error(
    ctx: &Context,
    parameter: &str,
    bucket: &str,
    error: impl AwsError<aws_sdk_s3::Error>,
) -> StepError {
    let region_of_bucket = bucket_region(&error);
    let error = s3_error(error);
    let region = &ctx.scope.region;
    match region_of_bucket.filter(|bucket_region| bucket_region != region) {
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
