//! Conversion of errors from Athena.

use stepward::{AwsError, Service, StepError};

const ATHENA: Service = Service {
    iam_prefix: "athena",
    codes: |_, _| None,
};

/// Converts an error from a call to Athena.
pub(crate) fn athena_error(error: impl AwsError<aws_sdk_athena::Error>) -> StepError {
    error.into_step_error(&ATHENA)
}

#[cfg(test)]
mod tests {
    use aws_sdk_athena::operation::start_query_execution::StartQueryExecutionError;
    use stepward::ErrorName;
    use stepward::testing::{assert_rejections_are_explained, service_error};

    use super::*;

    #[test]
    fn athena_error_codes_map_to_error_names() {
        for (code, status, name) in [
            ("InvalidRequestException", 400, ErrorName::InvalidInput),
            ("TooManyRequestsException", 400, ErrorName::Throttled),
            ("ResourceNotFoundException", 400, ErrorName::NotFound),
            ("AccessDeniedException", 400, ErrorName::AccessDenied),
            ("InternalServerException", 500, ErrorName::Internal),
        ] {
            let error = athena_error(service_error(
                StartQueryExecutionError::generic,
                code,
                status,
            ));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(StartQueryExecutionError::generic, athena_error);
    }
}
