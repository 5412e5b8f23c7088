//! Conversion of errors from CloudWatch Logs.

use stepward::{AwsError, ErrorName, Service, StepError};

/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogGroup.html>
const LOGS: Service = Service {
    iam_prefix: "logs",
    codes: |code, _| match code {
        "OperationAbortedException" => Some(ErrorName::Conflict),
        _ => None,
    },
};

/// Converts an error from a call to CloudWatch Logs.
pub(crate) fn logs_error(error: impl AwsError<aws_sdk_cloudwatchlogs::Error>) -> StepError {
    error.into_step_error(&LOGS)
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudwatchlogs::operation::start_query::StartQueryError;
    use stepward::testing::{assert_rejections_are_explained, service_error};

    use super::*;

    #[test]
    fn cloudwatch_logs_error_codes_map_to_error_names() {
        for (code, status, name) in [
            ("OperationAbortedException", 400, ErrorName::Conflict),
            ("ResourceAlreadyExistsException", 400, ErrorName::Conflict),
            ("ResourceNotFoundException", 400, ErrorName::NotFound),
            ("LimitExceededException", 400, ErrorName::Throttled),
            ("MalformedQueryException", 400, ErrorName::InvalidInput),
            ("InvalidParameterException", 400, ErrorName::InvalidInput),
            ("ThrottlingException", 400, ErrorName::Throttled),
            ("AccessDeniedException", 400, ErrorName::AccessDenied),
        ] {
            let error = logs_error(service_error(StartQueryError::generic, code, status));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(StartQueryError::generic, logs_error);
    }
}
