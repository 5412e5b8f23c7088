//! The error type of all steps, and the nine error names.
//!
//! [`aws_error`](crate::model::aws_error) converts the errors of AWS calls.

use std::fmt;

use lambda_runtime::Diagnostic;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name of an error, which a state machine matches in `Retry` and `Catch`.
///
/// The names are fixed, because jobs that customers wrote depend on them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum ErrorName {
    /// The input of the step is invalid: its customer, account or Region, or a parameter. Nothing
    /// was done. Correct the input that the message names; a retry with the same input fails again.
    InvalidInput,
    /// The customer, the account or an AWS resource does not exist. Check the names, the IDs and
    /// the Region.
    NotFound,
    /// AWS refused an action, which the message names. Allow the action in the customer's role, or
    /// remove the step from the job.
    AccessDenied,
    /// AWS throttled a request, and the SDK's own retries did not help. Run the step again later;
    /// this is safe.
    Throttled,
    /// The state of the resource or of the customer forbids the action, or another change happened
    /// at the same time. Resolve the conflict that the message names, then run the step again.
    Conflict,
    /// AWS did not respond in time, or the step reached its time limit. An action that the step
    /// started may continue at AWS: check its state before you run the step again.
    TimedOut,
    /// The action ran and failed. Fix the cause that the message names, then run the step again.
    StepFailed,
    /// The customer's role accepts callers without the right external ID, or Stepward could not
    /// test whether it does, and therefore does not use the role. Fix the role's trust policy, then
    /// run `stepward account check`.
    TrustBroken,
    /// An error inside Stepward or AWS, or a response from AWS that Stepward does not understand.
    /// Run the step again later, and report the error if it persists.
    Internal,
}

impl ErrorName {
    /// All names. The steps' pages list them, and a test checks that state machines match only
    /// these.
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

    /// Returns an error with this name. The message says what happened and what to do next.
    pub fn with_message(self, message: impl Into<String>) -> StepError {
        StepError {
            name: self,
            message: message.into(),
            aws: None,
            target: None,
        }
    }
}

impl fmt::Display for ErrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The error of a step: its name, a message with advice, and the AWS call that failed, if any.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct StepError {
    /// The name that a state machine matches in `Retry` and `Catch`.
    pub name: ErrorName,
    /// What happened and what to do next, for an operator.
    pub message: String,
    /// The AWS call that failed. Boxed to keep the error, and thereby every `Result`, small.
    pub aws: Option<Box<AwsFailure>>,
    /// The customer and the account that the step worked in, such as `acme/prod`.
    pub target: Option<String>,
}

/// The AWS call that failed, with the details that AWS Support asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AwsFailure {
    /// The operation, such as `ec2:StartInstances`.
    pub operation: String,
    /// AWS's error code, or `timeout`, `unreachable` or `no usable response` if AWS did not
    /// respond.
    pub code: String,
    /// AWS's own sentence without role ARNs, if AWS sent one. The display of an error leaves it out:
    /// the message contains what an operator of the step needs.
    pub reason: Option<String>,
    /// The request ID, if AWS returned one.
    pub request_id: Option<String>,
}

impl StepError {
    /// Adds the customer and the account, so the message alone says where the error happened. If
    /// the error has a target already, it keeps that one.
    #[must_use]
    pub fn with_target(mut self, target: impl Into<String>) -> Self {
        self.target.get_or_insert_with(|| target.into());
        self
    }

    /// Whether AWS returned this error code.
    #[must_use]
    pub fn has_code(&self, code: &str) -> bool {
        self.aws.as_ref().is_some_and(|aws| aws.code == code)
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(target) = &self.target {
            write!(f, "[{target}] ")?;
        }
        f.write_str(&self.message)?;
        if let Some(AwsFailure {
            operation,
            code,
            request_id,
            ..
        }) = self.aws.as_deref()
        {
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
        Self {
            error_type: error.name.to_string(),
            error_message: error.to_string(),
        }
    }
}

/// The message for a call that AWS denied.
///
/// `reason` is AWS's own message. It contains role ARNs, so this function does not repeat it. It
/// takes only the denied action from it: one call can need several actions, and AWS names the one
/// that was missing. Without an action in `reason`, the message names `operation`.
#[must_use]
pub fn denied(operation: &str, reason: &str) -> String {
    let denied_action = denied_action(operation, reason);
    if reason.contains("session policy") {
        format!(
            "AWS denied {denied_action}: the step does not declare it in its permissions; \
             report this bug in the step"
        )
    } else if reason.contains("explicit deny") {
        format!(
            "AWS denied {denied_action}: a policy of the account or its organization explicitly \
             denies it; ask the owner of the account to change this policy"
        )
    } else {
        format!(
            "AWS denied {denied_action}; allow it in the customer's role, \
             or remove the step from the job"
        )
    }
}

/// The action that AWS denied, with its resource if AWS names one that is not a role. `operation`
/// if `reason`, AWS's own message, names no action.
#[must_use]
pub fn denied_action(operation: &str, reason: &str) -> String {
    let action = reason
        .split_once("authorized to perform: ")
        .and_then(|(_, rest)| rest.split([' ', ',']).next())
        .filter(|action| action.contains(':'))
        .unwrap_or(operation);
    // One call can need an action on several resources. The message goes to logs, so it must not
    // name a role.
    let resource = reason
        .split_once("on resource: ")
        .and_then(|(_, rest)| rest.split([' ', ',']).next())
        .filter(|resource| resource.starts_with("arn:") && !resource.contains("role/"));

    match resource {
        Some(resource) => format!("{action} on {resource}"),
        None => action.to_owned(),
    }
}

/// Replaces role and session ARNs, which AWS quotes in its messages and which must not reach a log.
pub(crate) fn redact_role_arns(message: &str) -> String {
    message
        .split(' ')
        .map(|word| {
            let is_identity = word.contains(":iam::") || word.contains(":sts::");
            if is_identity && word.contains("role/") {
                "the role"
            } else {
                word
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_the_action_and_no_role() {
        let reason = redact_role_arns(
            "User: arn:aws:sts::222222222222:assumed-role/stepward/acme is not authorized to \
             perform: ec2:StartInstances on resource: \
             arn:aws:ec2:eu-west-1:222222222222:instance/i-1 because no session policy allows it",
        );
        assert!(!reason.contains("assumed-role"));

        let message = denied("ec2:DescribeInstances", &reason);
        assert!(
            message
                .contains("ec2:StartInstances on arn:aws:ec2:eu-west-1:222222222222:instance/i-1"),
            "{message}"
        );
        assert!(denied("ec2:DescribeInstances", "no").contains("ec2:DescribeInstances"));
    }
}
