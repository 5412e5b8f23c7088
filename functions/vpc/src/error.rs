//! The error codes of EC2 that VPC actions answer with.

use stepward::{AwsError, ErrorName, Service, StepError};

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>
const EC2: Service = Service {
    iam_prefix: "ec2",
    codes: |code, _| match code {
        "OperationNotPermitted" | "UnsupportedOperation" => Some(ErrorName::Conflict),
        "UnknownParameter" => Some(ErrorName::InvalidInput),
        _ => None,
    },
};

/// Converts the error of a call of EC2.
pub(crate) fn ec2_error(error: impl AwsError<aws_sdk_ec2::Error>) -> StepError {
    error.into_step_error(&EC2)
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::operation::create_route::CreateRouteError;
    use stepward::testing::service_error;

    use super::*;

    #[test]
    fn codes_of_the_vpc_actions_get_their_name() {
        for (code, status, name) in [
            ("OperationNotPermitted", 400, ErrorName::Conflict),
            ("UnsupportedOperation", 400, ErrorName::Conflict),
            ("UnknownParameter", 400, ErrorName::InvalidInput),
            ("IncorrectState", 400, ErrorName::Conflict),
            ("InvalidStateTransition", 400, ErrorName::Conflict),
            ("RouteAlreadyExists", 400, ErrorName::Conflict),
            ("FlowLogAlreadyExists", 400, ErrorName::Conflict),
            ("InvalidVpcPeeringConnectionID.NotFound", 400, ErrorName::NotFound),
            ("RequestLimitExceeded", 503, ErrorName::Throttled),
            ("UnauthorizedOperation", 403, ErrorName::AccessDenied),
        ] {
            let error = ec2_error(service_error(CreateRouteError::generic, code, status));
            assert_eq!(error.name, name, "{code}");
        }
    }
}
