//! Maps Auto Scaling's error codes to error names.

use stepward::{AwsError, ErrorName, Service, StepError};

/// Auto Scaling's codes that differ from the common ones.
/// <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_UpdateAutoScalingGroup.html>
const AUTO_SCALING: Service = Service {
    iam_prefix: "autoscaling",
    codes: |code, _| match code {
        "ResourceContention" | "ScalingActivityInProgress" => Some(ErrorName::Conflict),
        _ => None,
    },
};

/// Converts an error of the Auto Scaling client.
pub(crate) fn autoscaling_error(error: impl AwsError<aws_sdk_autoscaling::Error>) -> StepError {
    error.into_step_error(&AUTO_SCALING)
}

#[cfg(test)]
mod tests {
    use aws_sdk_autoscaling::operation::update_auto_scaling_group::UpdateAutoScalingGroupError;
    use stepward::testing::{assert_rejections_are_explained, service_error};

    use super::*;

    #[test]
    fn auto_scaling_error_codes_map_to_error_names() {
        for (code, status, name) in [
            ("ResourceContention", 500, ErrorName::Conflict),
            ("ScalingActivityInProgress", 400, ErrorName::Conflict),
            ("ServiceLinkedRoleFailure", 400, ErrorName::StepFailed),
            ("ServiceLinkedRoleFailure", 500, ErrorName::Internal),
            ("ValidationError", 400, ErrorName::InvalidInput),
            ("Throttling", 400, ErrorName::Throttled),
        ] {
            let error = autoscaling_error(service_error(
                UpdateAutoScalingGroupError::generic,
                code,
                status,
            ));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(UpdateAutoScalingGroupError::generic, autoscaling_error);
    }
}
