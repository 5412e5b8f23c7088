//! Maps Elastic Load Balancing's error codes to error names.

use stepward::{AwsError, Service, StepError};

const ELASTIC_LOAD_BALANCING: Service = Service {
    iam_prefix: "elasticloadbalancing",
    codes: |_, _| None,
};

/// Converts an error of the Elastic Load Balancing client.
pub(crate) fn elb_error(error: impl AwsError<aws_sdk_elasticloadbalancingv2::Error>) -> StepError {
    error.into_step_error(&ELASTIC_LOAD_BALANCING)
}

#[cfg(test)]
mod tests {
    use aws_sdk_elasticloadbalancingv2::operation::describe_target_health::DescribeTargetHealthError;
    use stepward::ErrorName;
    use stepward::testing::{assert_rejections_are_explained, service_error};

    use super::*;

    #[test]
    fn elb_error_codes_map_to_error_names() {
        for (code, status, name) in [
            ("TargetGroupNotFound", 400, ErrorName::NotFound),
            ("ValidationError", 400, ErrorName::InvalidInput),
            ("Throttling", 400, ErrorName::Throttled),
            ("AccessDenied", 403, ErrorName::AccessDenied),
            ("HealthUnavailable", 500, ErrorName::Internal),
        ] {
            let error = elb_error(service_error(
                DescribeTargetHealthError::generic,
                code,
                status,
            ));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(DescribeTargetHealthError::generic, elb_error);
    }
}
