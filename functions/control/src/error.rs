//! The errors of the services that Stepward's own functions call.

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

/// Converts the error of a call of Lambda.
pub(crate) fn lambda_error(error: impl AwsError<aws_sdk_lambda::Error>) -> StepError {
    error.into_step_error(&LAMBDA)
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html#API_GetObject_Errors>
const S3: Service = Service {
    iam_prefix: "s3",
    codes: |code, _| match code {
        "OperationAborted" => Some(ErrorName::Conflict),
        "NoSuchBucket" | "NoSuchKey" => Some(ErrorName::NotFound),
        _ => None,
    },
};

/// Converts the error of a call of S3.
pub(crate) fn s3_error(error: impl AwsError<aws_sdk_s3::Error>) -> StepError {
    error.into_step_error(&S3)
}

/// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html#API_StartExecution_Errors>
const STEP_FUNCTIONS: Service = Service {
    iam_prefix: "states",
    codes: |code, _| match code {
        "ExecutionDoesNotExist" | "StateMachineDoesNotExist" => Some(ErrorName::NotFound),
        _ => None,
    },
};

/// Converts the error of a call of Step Functions.
pub(crate) fn states_error(error: impl AwsError<aws_sdk_sfn::Error>) -> StepError {
    error.into_step_error(&STEP_FUNCTIONS)
}

#[cfg(test)]
mod tests {
    use aws_sdk_lambda::operation::invoke::InvokeError;
    use aws_sdk_s3::operation::get_object::GetObjectError;
    use aws_sdk_sfn::operation::start_execution::StartExecutionError;
    use stepward::testing::service_error;

    use super::*;

    #[test]
    fn step_functions_codes_get_their_name() {
        for (code, status, name) in [
            ("ExecutionDoesNotExist", 400, ErrorName::NotFound),
            ("StateMachineDoesNotExist", 400, ErrorName::NotFound),
            ("ExecutionAlreadyExists", 400, ErrorName::Conflict),
            ("InvalidArn", 400, ErrorName::InvalidInput),
            ("ThrottlingException", 400, ErrorName::Throttled),
            ("AccessDeniedException", 400, ErrorName::AccessDenied),
        ] {
            let error = states_error(service_error(StartExecutionError::generic, code, status));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn codes_of_invocations_and_of_stored_objects_get_their_name() {
        let lambda = |code, status| lambda_error(service_error(InvokeError::generic, code, status)).name;
        assert_eq!(lambda("ResourceConflictException", 409), ErrorName::Conflict);
        assert_eq!(lambda("RequestTooLargeException", 413), ErrorName::InvalidInput);
        assert_eq!(lambda("ResourceNotFoundException", 404), ErrorName::NotFound);
        // By the code alone: the status would say the same with 404.
        let s3 = |code| s3_error(service_error(GetObjectError::generic, code, 400)).name;
        assert_eq!([s3("NoSuchBucket"), s3("NoSuchKey")], [ErrorName::NotFound; 2]);
    }
}
