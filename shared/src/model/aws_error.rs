//! Converts the errors of AWS calls to [`StepError`]s. This module names the error codes that many
//! services share. The crate that calls a service names that service's own codes, in a [`Service`].

use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::model::error::{AwsFailure, ErrorName, StepError, denied, without_role_arns};

/// What Stepward knows about the errors of an AWS service.
///
/// A crate has one `Service` for each service it calls, and one function that converts the
/// service's errors: `.send().await.map_err(ec2_error)?`. For an example, see
/// `functions/ec2/src/error.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// The service's prefix in IAM actions, such as `ec2` in `ec2:StartInstances`. It can differ
    /// from the name of the SDK crate: `logs` for `aws-sdk-cloudwatchlogs`.
    pub iam_prefix: &'static str,
    /// Maps an error code and an HTTP status to a name, before the codes that services share are
    /// tried. `None` for every code that only those cover.
    pub codes: fn(code: &str, status: u16) -> Option<ErrorName>,
}

/// The error of an operation of one SDK crate. `S` is that crate's error type, as in
/// `AwsError<aws_sdk_ec2::Error>`, so that a call of S3 cannot be converted with the codes of EC2.
///
/// `StepError` does not implement `From` for SDK errors: `?` alone would compile, and lose the
/// service's own codes.
pub trait AwsError<S> {
    /// Converts the error: its name, message, operation, code and request ID.
    fn into_step_error(self, service: &Service) -> StepError;
}

impl<E, S> AwsError<S> for SdkError<E, HttpResponse>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    S: From<Self>,
{
    fn into_step_error(self, service: &Service) -> StepError {
        service.step_error(&self)
    }
}

impl Service {
    /// Converts the error of any SDK operation. Prefer [`AwsError`], which also checks that the
    /// operation is of this service.
    #[must_use]
    pub fn step_error<E>(&self, error: &SdkError<E, HttpResponse>) -> StepError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let operation = format!(
            "{}:{}",
            self.iam_prefix,
            operation_of(std::any::type_name::<E>())
        );
        let request_id = error
            .raw_response()
            .and_then(|r| {
                r.headers()
                    .get("x-amzn-requestid")
                    .or_else(|| r.headers().get("x-amz-request-id"))
            })
            .or_else(|| error.meta().extra("aws_request_id"))
            .map(str::to_owned);
        let status = error.raw_response().map_or(0, |r| r.status().as_u16());
        let (name, code, message) = match error {
            SdkError::ServiceError(answer) => {
                let code = answer.err().code().unwrap_or("no error code").to_owned();
                let said =
                    without_role_arns(answer.err().message().unwrap_or("AWS gave no reason"));
                let name = (self.codes)(&code, status).unwrap_or_else(|| common(&code, status));
                let message = match name {
                    ErrorName::AccessDenied => denied(&operation, &said),
                    ErrorName::Throttled => {
                        format!("AWS asked to slow down, run it again later: {said}")
                    }
                    ErrorName::Internal => format!("a fault at AWS, run it again later: {said}"),
                    _ => said,
                };
                (name, code, message)
            }
            SdkError::TimeoutError(_) => (
                ErrorName::TimedOut,
                "timeout".into(),
                format!("AWS did not answer {operation} in time; try again"),
            ),
            SdkError::DispatchFailure(failure) if failure.is_timeout() || failure.is_io() => (
                ErrorName::TimedOut,
                "unreachable".into(),
                format!(
                    "{operation} did not reach AWS; check the region, the network and the service's status"
                ),
            ),
            other => (
                ErrorName::Internal,
                "no usable answer".into(),
                format!(
                    "{operation} could not be sent or its answer not read: {}",
                    without_role_arns(&causes(other))
                ),
            ),
        };
        StepError {
            name,
            message,
            aws: Some(Box::new(AwsFailure {
                operation,
                code,
                request_id,
            })),
            target: None,
        }
    }
}

/// The name for the codes, and families of codes, that many services share. AWS documents them for
/// each service under "Common errors", and for EC2 in
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>.
fn common(code: &str, status: u16) -> ErrorName {
    const DENIED: [&str; 12] = [
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnauthorizedAccess",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    ];
    const CONFLICT: [&str; 4] = [
        "ConcurrentModificationException",
        "ConflictException",
        "IdempotentParameterMismatch",
        "IdempotentParameterMismatchException",
    ];
    // How services end the codes of what exists, is used, or is in a state that forbids the action.
    const CONFLICT_ENDS: [&str; 9] = [
        "AlreadyExists",
        "AlreadyExistsException",
        "AlreadyExistsFault",
        ".Duplicate",
        ".InUse",
        "InUseException",
        "State",
        "StateFault",
        "StateTransition",
    ];
    if THROTTLING_ERRORS.contains(&code) || code == "TooManyRequests" {
        ErrorName::Throttled
    } else if TRANSIENT_ERRORS.contains(&code) {
        ErrorName::TimedOut
    } else if DENIED.contains(&code) {
        ErrorName::AccessDenied
    } else if CONFLICT.contains(&code) || CONFLICT_ENDS.iter().any(|end| code.ends_with(end)) {
        ErrorName::Conflict
    } else if code.contains("NotFound") {
        ErrorName::NotFound
    } else if code.starts_with("Insufficient") {
        // AWS is short of something, which EC2 answers with 500: nothing that a retry a moment
        // later would mend.
        ErrorName::StepFailed
    } else if ["Invalid", "Malformed", "Missing", "Validation"]
        .iter()
        .any(|start| code.starts_with(start))
        || code.ends_with("ValidationException")
    {
        ErrorName::InvalidInput
    } else {
        match status {
            401 | 403 => ErrorName::AccessDenied,
            404 => ErrorName::NotFound,
            429 => ErrorName::Throttled,
            500.. => ErrorName::Internal,
            _ => ErrorName::StepFailed,
        }
    }
}

/// `aws_sdk_ec2::operation::start_instances::StartInstancesError` → `StartInstances`.
///
/// The SDK's errors do not carry their operation. Taking it from the type keeps it right without
/// naming it again at every call; a test pins the form.
fn operation_of(type_name: &str) -> &str {
    let error = type_name.rsplit("::").next().unwrap_or(type_name);
    error.strip_suffix("Error").unwrap_or(error)
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use aws_sdk_sts::operation::get_caller_identity::GetCallerIdentityError;

    use super::*;
    use crate::testing::service_error;

    const STS: Service = Service {
        iam_prefix: "sts",
        codes: |_, _| None,
    };

    #[test]
    fn the_operation_comes_from_the_error_type() {
        assert_eq!(
            operation_of(std::any::type_name::<GetCallerIdentityError>()),
            "GetCallerIdentity"
        );
    }

    #[test]
    fn codes_that_services_share_get_their_name() {
        for (code, status, name) in [
            ("RequestLimitExceeded", 503, ErrorName::Throttled),
            (
                "ProvisionedThroughputExceededException",
                400,
                ErrorName::Throttled,
            ),
            ("TooManyRequests", 400, ErrorName::Throttled),
            ("UnauthorizedOperation", 403, ErrorName::AccessDenied),
            ("InvalidInstanceID.NotFound", 400, ErrorName::NotFound),
            ("DBInstanceNotFound", 404, ErrorName::NotFound),
            ("NoSuchEntity", 404, ErrorName::NotFound),
            ("ConcurrentModificationException", 400, ErrorName::Conflict),
            ("IdempotentParameterMismatch", 400, ErrorName::Conflict),
            ("IncorrectInstanceState", 400, ErrorName::Conflict),
            ("InvalidDBInstanceState", 400, ErrorName::Conflict),
            ("InvalidDBClusterStateFault", 400, ErrorName::Conflict),
            ("InvalidStateTransition", 400, ErrorName::Conflict),
            ("InvalidAMIName.Duplicate", 400, ErrorName::Conflict),
            ("ResourceAlreadyExistsException", 400, ErrorName::Conflict),
            ("MalformedQueryException", 400, ErrorName::InvalidInput),
            ("InvalidInstanceID.Malformed", 400, ErrorName::InvalidInput),
            ("InsufficientInstanceCapacity", 500, ErrorName::StepFailed),
            ("RequestTimeout", 400, ErrorName::TimedOut),
            ("SomethingNew", 500, ErrorName::Internal),
            ("SomethingNew", 400, ErrorName::StepFailed),
        ] {
            assert_eq!(common(code, status), name, "{code}");
        }
    }

    #[test]
    fn an_answer_of_aws_becomes_an_error_with_operation_code_and_advice() {
        let error = STS.step_error(&service_error(
            GetCallerIdentityError::generic,
            "AccessDenied",
            403,
        ));
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(error.has_code("AccessDenied"));
        assert!(
            error
                .with_target("acme/prod")
                .to_string()
                .starts_with("[acme/prod] AWS denied sts:GetCallerIdentity")
        );
    }

    #[test]
    fn a_service_names_its_own_codes_before_the_common_families() {
        let own = Service {
            codes: |code, _| (code == "InvalidOwn").then_some(ErrorName::Conflict),
            ..STS
        };
        let named = |code| {
            own.step_error(&service_error(GetCallerIdentityError::generic, code, 400))
                .name
        };
        assert_eq!(named("InvalidOwn"), ErrorName::Conflict);
        assert_eq!(named("InvalidOther"), ErrorName::InvalidInput);
    }
}
