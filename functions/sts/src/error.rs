//! Conversion of errors from STS.

use stepward::{AwsError, Service, StepError};

const STS: Service = Service {
    iam_prefix: "sts",
    codes: |_, _| None,
};

/// Converts an error from a call to STS.
pub(crate) fn sts_error(error: impl AwsError<aws_sdk_sts::Error>) -> StepError {
    error.into_step_error(&STS)
}

#[cfg(test)]
mod tests {
    use aws_sdk_sts::operation::get_caller_identity::GetCallerIdentityError;
    use stepward::ErrorName;
    use stepward::testing::{assert_rejections_are_explained, service_error};

    use super::*;

    #[test]
    fn sts_error_codes_map_to_error_names() {
        for (code, status, name) in [
            ("ExpiredToken", 400, ErrorName::AccessDenied),
            ("InvalidClientTokenId", 403, ErrorName::AccessDenied),
            ("Throttling", 400, ErrorName::Throttled),
            ("SomethingNew", 400, ErrorName::StepFailed),
        ] {
            let error = sts_error(service_error(GetCallerIdentityError::generic, code, status));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(GetCallerIdentityError::generic, sts_error);
    }
}
