//! Converts the errors of AWS calls to [`StepError`]s.
//!
//! This module maps the error codes that many services share. The crate that calls a service maps
//! that service's own codes, in a [`Service`].

use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::model::credential_rejection::rejection_message;
use crate::model::error::{AwsFailure, ErrorName, StepError, denied, redact_role_arns};

/// What [`AwsFailure::code`] contains if AWS sent no error code.
pub const NO_CODE: &str = "no error code";

/// The error codes of an AWS service, and the prefix of its IAM actions.
///
/// A crate has one `Service` for each service it calls, and one function that converts the
/// service's errors: `.send().await.map_err(ec2_error)?`. For an example, see
/// `functions/ec2/src/error.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// The service's prefix in IAM actions, such as `ec2` in `ec2:StartInstances`. It can differ
    /// from the name of the SDK crate: the prefix for `aws-sdk-cloudwatchlogs` is `logs`.
    pub iam_prefix: &'static str,
    /// Maps an error code and an HTTP status to a name. Return `None` for a code that is not
    /// specific to the service; the codes that services share apply then.
    pub codes: fn(code: &str, status: u16) -> Option<ErrorName>,
}

/// The Region that a request was signed for. The HTTP client attaches it to the response.
#[derive(Clone, Debug)]
pub(crate) struct RequestRegion(pub(crate) String);

/// The error of an operation of one SDK crate.
///
/// `S` is that crate's error type, for example `AwsError<aws_sdk_ec2::Error>`. The compiler
/// therefore rejects the conversion of an S3 error with the codes of EC2.
///
/// `StepError` does not implement `From` for SDK errors. If it did, `?` alone would compile, and
/// would lose the service's own codes.
pub trait AwsError<S> {
    /// Converts the error to a [`StepError`] with name, message, operation, code and request ID.
    fn into_step_error(self, service: &Service) -> StepError;

    /// The HTTP response, if AWS sent one.
    fn response(&self) -> Option<&HttpResponse>;
}

impl<E, S> AwsError<S> for SdkError<E, HttpResponse>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    S: From<Self>,
{
    fn into_step_error(self, service: &Service) -> StepError {
        service.step_error(&self)
    }

    fn response(&self) -> Option<&HttpResponse> {
        self.raw_response()
    }
}

impl Service {
    /// Converts the error of any SDK operation. Prefer [`AwsError`], which also checks that the
    /// operation belongs to this service.
    #[must_use]
    pub fn step_error<E>(&self, error: &SdkError<E, HttpResponse>) -> StepError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let operation = format!(
            "{}:{}",
            self.iam_prefix,
            operation_name(std::any::type_name::<E>())
        );
        let response = error.raw_response();
        let request_id = response
            .and_then(|response| {
                response
                    .headers()
                    .get("x-amzn-requestid")
                    .or_else(|| response.headers().get("x-amz-request-id"))
            })
            .or_else(|| error.meta().extra("aws_request_id"))
            .map(str::to_owned);
        let status = response.map_or(0, |response| response.status().as_u16());
        let region = response
            .and_then(HttpResponse::extension::<RequestRegion>)
            .map(|region| region.0.as_str());

        let (name, code, message) = match error {
            SdkError::ServiceError(service_error) => {
                let error = service_error.err();
                let code = error.code().unwrap_or(NO_CODE).to_owned();
                let reason = redact_role_arns(error.message().unwrap_or("AWS gave no reason"));
                let rejection = rejection_message(&code, &reason, region);
                let name = if rejection.is_some() {
                    ErrorName::AccessDenied
                } else {
                    (self.codes)(&code, status).unwrap_or_else(|| shared_name(&code, status))
                };
                let message = match name {
                    _ if let Some(message) = rejection => message,
                    // The sentence of an unknown code can be about anything, so keep it.
                    ErrorName::AccessDenied
                        if error.message().is_some()
                            && !reason.contains("authorized to perform")
                            && !DENIED_ACTION.contains(&code.as_str()) =>
                    {
                        format!(
                            "AWS refused {operation} (AWS: {reason}); ask the owner of the account \
                             to remove the cause that AWS names"
                        )
                    }
                    ErrorName::AccessDenied => denied(&operation, &reason),
                    ErrorName::Throttled => {
                        format!("AWS throttled the request; try again later (AWS: {reason})")
                    }
                    ErrorName::Internal => {
                        format!("AWS reported an internal error; try again later (AWS: {reason})")
                    }
                    _ => reason,
                };
                (name, code, message)
            }
            SdkError::TimeoutError(_) => (
                ErrorName::TimedOut,
                "timeout".into(),
                format!("AWS did not respond to {operation} in time; try again"),
            ),
            SdkError::DispatchFailure(failure) if failure.is_timeout() || failure.is_io() => (
                ErrorName::TimedOut,
                "unreachable".into(),
                format!(
                    "{operation} did not reach AWS; \
                     check the Region, the network and the status of the service"
                ),
            ),
            unusable => (
                ErrorName::Internal,
                "no usable response".into(),
                format!(
                    "{operation} could not be sent, or its response could not be read: {}",
                    redact_role_arns(&error_chain(unusable))
                ),
            ),
        };

        StepError {
            name,
            message,
            aws: Some(Box::new(AwsFailure {
                operation,
                code,
                reason: error.message().map(redact_role_arns),
                request_id,
            })),
            target: None,
        }
    }
}

/// The codes of a missing permission. They name the action in their sentence, or nothing.
const DENIED_ACTION: [&str; 3] = [
    "AccessDenied",
    "AccessDeniedException",
    "UnauthorizedOperation",
];

/// The error name for a code that many services share, by the code's beginning or end if necessary.
///
/// AWS documents these codes for each service under "Common errors", and for EC2 in
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>.
fn shared_name(code: &str, status: u16) -> ErrorName {
    const CONFLICT: [&str; 4] = [
        "ConcurrentModificationException",
        "ConflictException",
        "IdempotentParameterMismatch",
        "IdempotentParameterMismatchException",
    ];
    // Codes with these endings say that a resource exists already, is in use, or is in a state that
    // forbids the action.
    const CONFLICT_ENDINGS: [&str; 9] = [
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
    } else if DENIED_ACTION.contains(&code) || ["AuthFailure", "UnauthorizedAccess"].contains(&code)
    {
        ErrorName::AccessDenied
    } else if CONFLICT.contains(&code)
        || CONFLICT_ENDINGS.iter().any(|ending| code.ends_with(ending))
    {
        ErrorName::Conflict
    } else if code.contains("NotFound") {
        ErrorName::NotFound
    } else if code.starts_with("Insufficient") {
        // AWS lacks capacity, which EC2 reports with status 500. A retry after some seconds would
        // not help, so the name is not `Internal`.
        ErrorName::StepFailed
    } else if ["Invalid", "Malformed", "Missing", "Validation"]
        .iter()
        .any(|beginning| code.starts_with(beginning))
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
/// The SDK's errors do not contain the name of their operation. Taking it from the type avoids
/// naming the operation again at every call. A test checks the form of the type names.
fn operation_name(type_name: &str) -> &str {
    let error = type_name.rsplit("::").next().unwrap_or(type_name);
    error.strip_suffix("Error").unwrap_or(error)
}

fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use aws_sdk_sts::operation::get_caller_identity::GetCallerIdentityError;
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;
    use crate::testing::{assert_rejections_are_explained, service_error};

    const STS: Service = Service {
        iam_prefix: "sts",
        codes: |_, _| None,
    };

    #[test]
    fn the_operation_comes_from_the_error_type() {
        assert_eq!(
            operation_name(std::any::type_name::<GetCallerIdentityError>()),
            "GetCallerIdentity"
        );
    }

    #[test]
    fn codes_that_services_share_map_to_names() {
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
            assert_eq!(shared_name(code, status), name, "{code}");
        }
    }

    #[test]
    fn an_aws_error_keeps_operation_and_code_and_adds_advice() {
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
    fn rejected_credentials_precede_the_codes_of_a_service() {
        let service = Service {
            codes: |_, _| Some(ErrorName::Conflict),
            ..STS
        };
        assert_rejections_are_explained(GetCallerIdentityError::generic, |error| {
            service.step_error(&error)
        });
    }

    #[test]
    fn a_403_with_an_unknown_code_keeps_the_sentence() {
        let sentence = |code, sentence: &str| {
            let metadata = ErrorMetadata::builder().code(code).message(sentence);
            let error = GetCallerIdentityError::generic(metadata.build());
            let response = HttpResponse::new(403.try_into().unwrap(), "".into());
            let error = STS.step_error(&SdkError::service_error(error, response));
            assert_eq!(error.name, ErrorName::AccessDenied);
            error.message
        };
        for (code, text) in [
            ("AuthFailure", "Not authorized for images: [ami-1]"),
            (
                "AllAccessDisabled",
                "All access to this object has been disabled",
            ),
        ] {
            let message = sentence(code, text);
            assert!(message.contains(&format!("(AWS: {text})")), "{message}");
            assert!(!message.contains("credentials"), "{message}");
        }
        let denied = "User: a is not authorized to perform: sns:Publish on resource: b";
        let message = sentence("AuthorizationError", denied);
        assert!(message.starts_with("AWS denied sns:Publish;"), "{message}");
    }

    #[test]
    fn the_codes_of_a_service_precede_the_shared_codes() {
        let service = Service {
            codes: |code, _| (code == "InvalidOwn").then_some(ErrorName::Conflict),
            ..STS
        };
        let name_of_code = |code| {
            service
                .step_error(&service_error(GetCallerIdentityError::generic, code, 400))
                .name
        };
        assert_eq!(name_of_code("InvalidOwn"), ErrorName::Conflict);
        assert_eq!(name_of_code("InvalidOther"), ErrorName::InvalidInput);
    }
}
