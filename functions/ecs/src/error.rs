//! The errors of ECS, and of the services that ECS Exec needs.

use stepward::{AwsError, Service, StepError};

const ECS: Service = Service {
    iam_prefix: "ecs",
    codes: |_, _| None,
};

/// Converts the error of a call of ECS.
pub(crate) fn ecs_error(error: impl AwsError<aws_sdk_ecs::Error>) -> StepError {
    error.into_step_error(&ECS)
}

const KMS: Service = Service {
    iam_prefix: "kms",
    codes: |_, _| None,
};

/// Converts the error of a call of KMS.
pub(crate) fn kms_error(error: impl AwsError<aws_sdk_kms::Error>) -> StepError {
    error.into_step_error(&KMS)
}

const SSM: Service = Service {
    iam_prefix: "ssm",
    codes: |_, _| None,
};

/// Converts the error of a call of SSM.
pub(crate) fn ssm_error(error: impl AwsError<aws_sdk_ssm::Error>) -> StepError {
    error.into_step_error(&SSM)
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::operation::execute_command::ExecuteCommandError;
    use stepward::ErrorName;
    use stepward::testing::service_error;

    use super::*;

    #[test]
    fn ecs_codes_get_their_name() {
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
}
