//! The nine names under which anything here can fail, and the one place where AWS's errors get one of them.

use std::fmt;

use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use lambda_runtime::Diagnostic;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a state machine matches in `Retry` and `Catch`. The names are fixed: jobs that customers wrote depend on them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum ErrorName {
    /// The envelope or a parameter is wrong; nothing was done. Mend the input.
    InvalidInput,
    /// The customer, account or AWS resource does not exist.
    NotFound,
    /// AWS refused an action; the message names it. Mend the customer's role.
    AccessDenied,
    /// AWS asked to slow down, also after the SDK's own retries. Safe to retry later.
    Throttled,
    /// The resource's or customer's state, or a concurrent change, forbids the action.
    Conflict,
    /// No answer in time, or the step's own limit is over.
    TimedOut,
    /// The action ran, and failed.
    StepFailed,
    /// The customer's role does not keep strangers out (or has not been proven to), so it is not used.
    TrustBroken,
    /// A fault in Stepward itself, or an answer from AWS that it does not understand.
    Internal,
}

impl ErrorName {
    /// Every name, for pages and for the check that state machines use no other.
    pub const ALL: [Self; 9] = [
        Self::InvalidInput,
        Self::NotFound,
        Self::AccessDenied,
        Self::Throttled,
        Self::Conflict,
        Self::TimedOut,
        Self::StepFailed,
        Self::TrustBroken,
        Self::Internal,
    ];

    /// An error of this name. The message says what to do next.
    pub fn because(self, message: impl Into<String>) -> StepError {
        StepError { name: self, message: message.into(), aws: None, place: None }
    }
}

impl fmt::Display for ErrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A failure with its name, what to do about it, and the AWS call behind it where there is one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct StepError {
    /// The name that a state machine matches.
    pub name: ErrorName,
    /// What happened and what to do next, for a person.
    pub message: String,
    /// The AWS call that failed. Boxed, because every `Result` here is as large as its error.
    pub aws: Option<Box<AwsFailure>>,
    /// Customer and account that the step worked for.
    pub place: Option<String>,
}

/// The AWS call behind a failure, as AWS support asks for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AwsFailure {
    /// The call, as in `ec2:StartInstances`.
    pub operation: String,
    /// AWS's own error code, or what kept an answer from arriving.
    pub code: String,
    /// The request ID, where AWS answered with one.
    pub request_id: Option<String>,
}

impl StepError {
    /// Adds customer and account, so that the message alone tells where it happened. The first call wins.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place.get_or_insert_with(|| place.into());
        self
    }

    /// Whether AWS answered with this error code.
    #[must_use]
    pub fn has_code(&self, code: &str) -> bool {
        self.aws.as_ref().is_some_and(|aws| aws.code == code)
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "[{place}] ")?;
        }
        f.write_str(&self.message)?;
        if let Some(AwsFailure { operation, code, request_id }) = self.aws.as_deref() {
            write!(f, " ({operation}: {code}")?;
            if let Some(id) = request_id {
                write!(f, ", request {id}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl From<StepError> for Diagnostic {
    fn from(error: StepError) -> Self {
        Self { error_type: error.name.to_string(), error_message: error.to_string() }
    }
}

impl<E> From<SdkError<E, HttpResponse>> for StepError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let operation = operation_of(std::any::type_name::<E>());
        let request_id = error
            .raw_response()
            .and_then(|r| r.headers().get("x-amzn-requestid").or_else(|| r.headers().get("x-amz-request-id")))
            .or_else(|| error.meta().extra("aws_request_id"))
            .map(str::to_owned);
        let status = error.raw_response().map_or(0, |r| r.status().as_u16());
        let (name, code, message) = match &error {
            SdkError::ServiceError(answer) => {
                let code = answer.err().code().unwrap_or("no error code").to_owned();
                let said = without_role_arns(answer.err().message().unwrap_or("AWS gave no reason"));
                let name = classify(&code, status);
                let message = match name {
                    ErrorName::AccessDenied => denied(&operation, &said),
                    ErrorName::Throttled => format!("AWS asked to slow down, run it again later: {said}"),
                    ErrorName::Internal => format!("a fault at AWS, run it again later: {said}"),
                    _ => said,
                };
                (name, code, message)
            }
            SdkError::TimeoutError(_) => {
                (ErrorName::TimedOut, "timeout".into(), format!("AWS did not answer {operation} in time; try again"))
            }
            SdkError::DispatchFailure(failure) if failure.is_timeout() || failure.is_io() => (
                ErrorName::TimedOut,
                "unreachable".into(),
                format!("{operation} did not reach AWS; check the region, the network and the service's status"),
            ),
            other => (
                ErrorName::Internal,
                "no usable answer".into(),
                format!("{operation} could not be sent or its answer not read: {}", without_role_arns(&causes(other))),
            ),
        };
        Self { name, message, aws: Some(Box::new(AwsFailure { operation, code, request_id })), place: None }
    }
}

/// The one table from AWS's error codes to our names. Codes are documented per service under "Common errors", and for
/// EC2 in <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>.
fn classify(code: &str, status: u16) -> ErrorName {
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
    const CONFLICT: [&str; 18] = [
        "BucketHasAccessPointsAttached",
        "BucketNotEmpty",
        "ConcurrentModificationException",
        "ConditionalCheckFailedException",
        "ConflictException",
        "IdempotentParameterMismatch",
        "IdempotentParameterMismatchException",
        "OperationAborted",
        "OperationAbortedException",
        "OperationNotPermitted",
        "PreconditionFailed",
        "ResourceConflictException",
        "ResourceContention",
        "ScalingActivityInProgress",
        "TransactionCanceledException",
        "UnsupportedHibernationConfiguration",
        "UnsupportedOperation",
        "VolumeInUse",
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
    // EC2 limits how many snapshots are made at once.
    const TOO_MANY: [&str; 4] = [
        "ConcurrentSnapshotLimitExceeded",
        "PendingSnapshotLimitExceeded",
        "SnapshotCreationPerVolumeRateExceeded",
        "TooManyRequests",
    ];
    const NOT_FOUND: [&str; 6] = [
        "ExecutionDoesNotExist",
        "NoSuchBucket",
        "NoSuchEntity",
        "NoSuchKey",
        "NoSuchUpload",
        "StateMachineDoesNotExist",
    ];
    if THROTTLING_ERRORS.contains(&code) || TOO_MANY.contains(&code) {
        ErrorName::Throttled
    } else if TRANSIENT_ERRORS.contains(&code) {
        ErrorName::TimedOut
    } else if DENIED.contains(&code) {
        ErrorName::AccessDenied
    } else if CONFLICT.contains(&code) || CONFLICT_ENDS.iter().any(|end| code.ends_with(end)) {
        ErrorName::Conflict
    } else if NOT_FOUND.contains(&code)
        || code.contains("NotFound")
        || code == "InvalidInstanceID.Malformed" && status == 404
    {
        ErrorName::NotFound
    } else if code.starts_with("Insufficient") {
        // AWS is short of something, which EC2 answers with 500: nothing that a retry a moment later would mend.
        ErrorName::StepFailed
    } else if code.starts_with("Invalid")
        || code.starts_with("Malformed")
        || code.starts_with("Missing")
        || code.starts_with("Validation")
        || code.ends_with("ValidationException")
        || ["RequestTooLargeException", "UnknownParameter"].contains(&code)
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

/// What to say when AWS refused `operation` and `said` so. AWS's own sentence holds role ARNs and is not repeated; the action in it is, because
/// one call can need several actions, and AWS names the one that was missing.
#[must_use]
pub fn denied(operation: &str, said: &str) -> String {
    let action = said
        .split_once("authorized to perform: ")
        .and_then(|(_, rest)| rest.split([' ', ',']).next())
        .filter(|action| action.contains(':'))
        .unwrap_or(operation);
    // One call can need an action on several resources. A role is not named: the message goes to logs.
    let resource = said.split_once("on resource: ").and_then(|(_, rest)| rest.split([' ', ',']).next());
    let action = match resource.filter(|resource| resource.starts_with("arn:") && !resource.contains("role/")) {
        Some(resource) => &format!("{action} on {resource}"),
        None => action,
    };
    if said.contains("session policy") {
        format!(
            "AWS denied {action}: this step does not declare it among its permissions, which is a fault of the step"
        )
    } else if said.contains("explicit deny") {
        format!("AWS denied {action}: a policy of the account or its organization denies it explicitly")
    } else {
        format!("AWS denied {action}: allow it in the customer's role, or take the step out of the job")
    }
}

/// `aws_sdk_ec2::operation::start_instances::StartInstancesError` → `ec2:StartInstances`.
///
/// The SDK's errors do not carry their operation. Taking it from the type keeps it right without naming it again at
/// every call; a test pins the form.
fn operation_of(type_name: &str) -> String {
    let service = type_name.strip_prefix("aws_sdk_").and_then(|rest| rest.split("::").next()).unwrap_or("aws");
    // IAM calls some services by other names than their crates.
    let service = match service {
        "cloudwatchlogs" => "logs",
        "elasticloadbalancingv2" => "elasticloadbalancing",
        "sfn" => "states",
        service => service,
    };
    let operation = type_name.rsplit("::").next().unwrap_or(type_name);
    format!("{service}:{}", operation.strip_suffix("Error").unwrap_or(operation))
}

/// AWS's messages quote role and session ARNs; those never reach a log.
pub(crate) fn without_role_arns(message: &str) -> String {
    message
        .split(' ')
        .map(|word| {
            let identity = word.contains(":iam::") || word.contains(":sts::");
            if identity && word.contains("role/") { "the role" } else { word }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use aws_sdk_sts::operation::get_caller_identity::GetCallerIdentityError;
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;

    #[test]
    fn the_operation_comes_from_the_error_type() {
        assert_eq!(operation_of(std::any::type_name::<GetCallerIdentityError>()), "sts:GetCallerIdentity");
    }

    #[test]
    fn codes_of_every_family_get_their_name() {
        for (code, status, name) in [
            ("RequestLimitExceeded", 503, ErrorName::Throttled),
            ("ProvisionedThroughputExceededException", 400, ErrorName::Throttled),
            ("UnauthorizedOperation", 403, ErrorName::AccessDenied),
            ("InvalidInstanceID.NotFound", 400, ErrorName::NotFound),
            ("InvalidInstanceID.Malformed", 400, ErrorName::InvalidInput),
            ("NoSuchBucket", 404, ErrorName::NotFound),
            ("IncorrectInstanceState", 400, ErrorName::Conflict),
            ("InvalidDBInstanceState", 400, ErrorName::Conflict),
            ("InvalidDBClusterStateFault", 400, ErrorName::Conflict),
            ("InvalidStateTransition", 400, ErrorName::Conflict),
            ("InvalidAMIName.Duplicate", 400, ErrorName::Conflict),
            ("ResourceAlreadyExistsException", 400, ErrorName::Conflict),
            ("ScalingActivityInProgress", 400, ErrorName::Conflict),
            ("DBInstanceNotFound", 404, ErrorName::NotFound),
            ("MalformedQueryException", 400, ErrorName::InvalidInput),
            ("RequestTooLargeException", 413, ErrorName::InvalidInput),
            ("SnapshotCreationPerVolumeRateExceeded", 400, ErrorName::Throttled),
            ("InsufficientInstanceCapacity", 500, ErrorName::StepFailed),
            ("RequestTimeout", 400, ErrorName::TimedOut),
            ("SomethingNew", 500, ErrorName::Internal),
        ] {
            assert_eq!(classify(code, status), name, "{code}");
        }
    }

    #[test]
    fn a_refusal_names_the_action_and_no_role() {
        let said = without_role_arns(
            "User: arn:aws:sts::222222222222:assumed-role/stepward/acme is not authorized to perform: ec2:StartInstances \
             on resource: arn:aws:ec2:eu-west-1:222222222222:instance/i-1 because no session policy allows it",
        );
        assert!(!said.contains("assumed-role"));
        let tells = denied("ec2:DescribeInstances", &said);
        assert!(tells.contains("ec2:StartInstances on arn:aws:ec2:eu-west-1:222222222222:instance/i-1"), "{tells}");
        assert!(denied("ec2:DescribeInstances", "no").contains("ec2:DescribeInstances"));
    }

    #[test]
    fn an_answer_of_aws_becomes_an_error_with_operation_code_and_advice() {
        let meta = ErrorMetadata::builder().code("AccessDenied").message("no").build();
        let answer = HttpResponse::new(403.try_into().unwrap(), "".into());
        let error: StepError = SdkError::service_error(GetCallerIdentityError::generic(meta), answer).into();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(error.at("acme/prod").to_string().starts_with("[acme/prod] AWS denied sts:GetCallerIdentity"));
    }
}
