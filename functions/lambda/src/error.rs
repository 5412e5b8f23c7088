//! Conversion of errors from Lambda.

use stepward::{AwsError, ErrorName, Service, StepError};

/// <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors>
const LAMBDA: Service = Service {
    iam_prefix: "lambda",
    codes: |code, _| match code {
        "ResourceConflictException" => Some(ErrorName::Conflict),
        "RequestTooLargeException" => Some(ErrorName::InvalidInput),
        _ => None,
    },
};

/// Converts an error from a call to Lambda.
pub fn lambda_error(error: impl AwsError<aws_sdk_lambda::Error>) -> StepError {
    error.into_step_error(&LAMBDA)
}

#[cfg(test)]
mod tests {
    use aws_sdk_lambda::operation::invoke::InvokeError;
    use stepward::testing::{assert_rejections_are_explained, service_error};

    use super::*;

    #[test]
    fn lambda_error_codes_map_to_error_names() {
        for (code, status, name) in [
            ("ResourceConflictException", 409, ErrorName::Conflict),
            ("RequestTooLargeException", 413, ErrorName::InvalidInput),
            ("ResourceNotFoundException", 404, ErrorName::NotFound),
            ("ResourceInUseException", 400, ErrorName::Conflict),
            ("TooManyRequestsException", 429, ErrorName::Throttled),
            ("EC2ThrottledException", 502, ErrorName::Throttled),
            (
                "InvalidParameterValueException",
                400,
                ErrorName::InvalidInput,
            ),
            ("CodeStorageExceededException", 400, ErrorName::StepFailed),
            ("AccessDeniedException", 403, ErrorName::AccessDenied),
            ("ServiceException", 500, ErrorName::Internal),
        ] {
            let error = lambda_error(service_error(InvokeError::generic, code, status));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(InvokeError::generic, lambda_error);
    }
}
