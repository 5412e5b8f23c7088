//! Conversion of errors from Step Functions. Errors from Lambda and S3 are converted by the crates
//! that mainly use these services.

use stepward::{AwsError, ErrorName, Service, StepError};

/// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html#API_StartExecution_Errors>
const STEP_FUNCTIONS: Service = Service {
    iam_prefix: "states",
    codes: |code, _| match code {
        "ExecutionDoesNotExist" | "StateMachineDoesNotExist" => Some(ErrorName::NotFound),
        _ => None,
    },
};

/// Converts an error of a request to Step Functions.
pub(crate) fn step_functions_error(error: impl AwsError<aws_sdk_sfn::Error>) -> StepError {
    error.into_step_error(&STEP_FUNCTIONS)
}

#[cfg(test)]
mod tests {
    use aws_sdk_sfn::operation::start_execution::StartExecutionError;
    use stepward::testing::{assert_rejections_are_explained, service_error};

    use super::*;

    #[test]
    fn step_functions_error_codes_map_to_error_names() {
        for (code, status, name) in [
            ("ExecutionDoesNotExist", 400, ErrorName::NotFound),
            ("StateMachineDoesNotExist", 400, ErrorName::NotFound),
            ("ExecutionAlreadyExists", 400, ErrorName::Conflict),
            ("InvalidArn", 400, ErrorName::InvalidInput),
            ("ThrottlingException", 400, ErrorName::Throttled),
            ("AccessDeniedException", 400, ErrorName::AccessDenied),
        ] {
            let error =
                step_functions_error(service_error(StartExecutionError::generic, code, status));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(StartExecutionError::generic, step_functions_error);
    }
}
