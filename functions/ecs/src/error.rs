//! Conversion of the errors of ECS, and of KMS and Systems Manager, which ECS Exec uses.

use stepward::{AwsError, Service, StepError};

const ECS: Service = Service {
    iam_prefix: "ecs",
    codes: |_, _| None,
};

/// Converts an error that ECS returned.
pub(crate) fn ecs_error(error: impl AwsError<aws_sdk_ecs::Error>) -> StepError {
    error.into_step_error(&ECS)
}

const KMS: Service = Service {
    iam_prefix: "kms",
    codes: |_, _| None,
};

/// Converts an error that KMS returned.
pub(crate) fn kms_error(error: impl AwsError<aws_sdk_kms::Error>) -> StepError {
    error.into_step_error(&KMS)
}

const SSM: Service = Service {
    iam_prefix: "ssm",
    codes: |_, _| None,
};

/// Converts an error that Systems Manager returned.
pub(crate) fn ssm_error(error: impl AwsError<aws_sdk_ssm::Error>) -> StepError {
    error.into_step_error(&SSM)
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::operation::execute_command::ExecuteCommandError;
    use stepward::ErrorName;
    use stepward::testing::{assert_rejections_are_explained, service_error};

    use super::*;

    #[test]
    fn each_ecs_error_code_gets_its_error_name() {
        for (code, status, name) in [
            ("TargetNotConnectedException", 400, ErrorName::StepFailed),
            ("ClientException", 400, ErrorName::StepFailed),
            ("ClusterNotFoundException", 400, ErrorName::NotFound),
            ("InvalidParameterException", 400, ErrorName::InvalidInput),
            ("ConflictException", 400, ErrorName::Conflict),
            ("AccessDeniedException", 400, ErrorName::AccessDenied),
            ("ThrottlingException", 400, ErrorName::Throttled),
            ("ServerException", 500, ErrorName::Internal),
        ] {
            let error = ecs_error(service_error(ExecuteCommandError::generic, code, status));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(ExecuteCommandError::generic, ecs_error);
        assert_rejections_are_explained(
            aws_sdk_kms::operation::decrypt::DecryptError::generic,
            kms_error,
        );
        assert_rejections_are_explained(
            aws_sdk_ssm::operation::terminate_session::TerminateSessionError::generic,
            ssm_error,
        );
    }
}
