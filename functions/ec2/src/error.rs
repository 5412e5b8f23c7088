//! Maps EC2's error codes to error names.

use stepward::{AwsError, ErrorName, Service, StepError};

/// EC2's codes that differ from the common ones.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>
const EC2: Service = Service {
    iam_prefix: "ec2",
    codes: |code, status| match code {
        "OperationNotPermitted"
        | "UnsupportedHibernationConfiguration"
        | "UnsupportedOperation"
        | "VolumeInUse" => Some(ErrorName::Conflict),
        // EC2 limits how many snapshots it creates at the same time.
        "ConcurrentSnapshotLimitExceeded"
        | "PendingSnapshotLimitExceeded"
        | "SnapshotCreationPerVolumeRateExceeded" => Some(ErrorName::Throttled),
        "InvalidInstanceID.Malformed" if status == 404 => Some(ErrorName::NotFound),
        "UnknownParameter" => Some(ErrorName::InvalidInput),
        _ => None,
    },
};

/// Converts an error of the EC2 client.
pub fn ec2_error(error: impl AwsError<aws_sdk_ec2::Error>) -> StepError {
    error.into_step_error(&EC2)
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::operation::describe_instances::DescribeInstancesError;
    use stepward::testing::{assert_rejections_are_explained, service_error};

    use super::*;

    #[test]
    fn ec2_error_codes_map_to_error_names() {
        for (code, status, name) in [
            ("OperationNotPermitted", 400, ErrorName::Conflict),
            (
                "UnsupportedHibernationConfiguration",
                400,
                ErrorName::Conflict,
            ),
            ("UnsupportedOperation", 400, ErrorName::Conflict),
            ("VolumeInUse", 400, ErrorName::Conflict),
            ("ConcurrentSnapshotLimitExceeded", 400, ErrorName::Throttled),
            ("PendingSnapshotLimitExceeded", 400, ErrorName::Throttled),
            (
                "SnapshotCreationPerVolumeRateExceeded",
                400,
                ErrorName::Throttled,
            ),
            ("UnknownParameter", 400, ErrorName::InvalidInput),
            ("InvalidInstanceID.Malformed", 400, ErrorName::InvalidInput),
            ("InvalidInstanceID.Malformed", 404, ErrorName::NotFound),
            ("InvalidInstanceID.NotFound", 400, ErrorName::NotFound),
            ("InvalidAMIID.Unavailable", 400, ErrorName::InvalidInput),
            ("IncorrectInstanceState", 400, ErrorName::Conflict),
            ("IncorrectState", 400, ErrorName::Conflict),
            ("InvalidStateTransition", 400, ErrorName::Conflict),
            ("RouteAlreadyExists", 400, ErrorName::Conflict),
            ("FlowLogAlreadyExists", 400, ErrorName::Conflict),
            (
                "InvalidVpcPeeringConnectionID.NotFound",
                400,
                ErrorName::NotFound,
            ),
            ("InvalidAMIName.Duplicate", 400, ErrorName::Conflict),
            ("InvalidSnapshot.InUse", 400, ErrorName::Conflict),
            ("IdempotentParameterMismatch", 400, ErrorName::Conflict),
            ("RequestLimitExceeded", 503, ErrorName::Throttled),
            ("UnauthorizedOperation", 403, ErrorName::AccessDenied),
            ("AuthFailure", 401, ErrorName::AccessDenied),
            ("InsufficientInstanceCapacity", 500, ErrorName::StepFailed),
            ("InstanceLimitExceeded", 400, ErrorName::StepFailed),
        ] {
            let error = ec2_error(service_error(DescribeInstancesError::generic, code, status));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(DescribeInstancesError::generic, ec2_error);
    }
}
