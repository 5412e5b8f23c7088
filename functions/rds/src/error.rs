//! Conversion of errors from RDS.

use stepward::{AwsError, Service, StepError};

const RDS: Service = Service {
    iam_prefix: "rds",
    codes: |_, _| None,
};

/// Converts an error from a call to RDS.
pub(crate) fn rds_error(error: impl AwsError<aws_sdk_rds::Error>) -> StepError {
    error.into_step_error(&RDS)
}

#[cfg(test)]
mod tests {
    use aws_sdk_rds::operation::start_db_instance::StartDBInstanceError;
    use stepward::ErrorName;
    use stepward::testing::{assert_rejections_are_explained, service_error};

    use super::*;

    #[test]
    fn rds_error_codes_map_to_error_names() {
        for (code, status, name) in [
            ("DBInstanceNotFound", 404, ErrorName::NotFound),
            ("InvalidDBInstanceState", 400, ErrorName::Conflict),
            ("InvalidDBClusterStateFault", 400, ErrorName::Conflict),
            ("DBSnapshotAlreadyExists", 400, ErrorName::Conflict),
            ("SnapshotQuotaExceeded", 400, ErrorName::StepFailed),
            ("KMSKeyNotAccessibleFault", 400, ErrorName::StepFailed),
            ("InsufficientDBInstanceCapacity", 400, ErrorName::StepFailed),
            ("InvalidParameterCombination", 400, ErrorName::InvalidInput),
            ("Throttling", 400, ErrorName::Throttled),
            ("AccessDenied", 403, ErrorName::AccessDenied),
        ] {
            let error = rds_error(service_error(StartDBInstanceError::generic, code, status));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(StartDBInstanceError::generic, rds_error);
    }
}
