//! The nine names of errors. [`aws_error`](crate::model::aws_error) converts the errors of AWS
//! calls.

use std::fmt;

use lambda_runtime::Diagnostic;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a state machine matches in `Retry` and `Catch`. The names are fixed: jobs that customers
/// wrote depend on them.
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
    /// The customer's role does not keep strangers out (or has not been proven to), so it is not
    /// used.
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
    pub target: Option<String>,
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
    /// Adds customer and account, so that the message alone tells where it happened. The first call
    /// wins.
    #[must_use]
    pub fn with_target(mut self, target: impl Into<String>) -> Self {
        self.target.get_or_insert_with(|| target.into());
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
        if let Some(target) = &self.target {
            write!(f, "[{target}] ")?;
        }
        f.write_str(&self.message)?;
        if let Some(AwsFailure {
            operation,
            code,
            request_id,
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

/// What to say when AWS refused `operation` and `said` so. AWS's own sentence holds role ARNs and
/// is not repeated; the action in it is, because one call can need several actions, and AWS names
/// the one that was missing.
#[must_use]
pub fn denied(operation: &str, said: &str) -> String {
    let action = said
        .split_once("authorized to perform: ")
        .and_then(|(_, rest)| rest.split([' ', ',']).next())
        .filter(|action| action.contains(':'))
        .unwrap_or(operation);
    // One call can need an action on several resources. A role is not named: the message goes to
    // logs.
    let resource = said
        .split_once("on resource: ")
        .and_then(|(_, rest)| rest.split([' ', ',']).next());
    let action = match resource
        .filter(|resource| resource.starts_with("arn:") && !resource.contains("role/"))
    {
        Some(resource) => &format!("{action} on {resource}"),
        None => action,
    };
    if said.contains("session policy") {
        format!(
            "AWS denied {action}: this step does not declare it among its permissions, which is a fault of the step"
        )
    } else if said.contains("explicit deny") {
        format!(
            "AWS denied {action}: a policy of the account or its organization denies it explicitly"
        )
    } else {
        format!(
            "AWS denied {action}: allow it in the customer's role, or take the step out of the job"
        )
    }
}

/// AWS's messages quote role and session ARNs; those never reach a log.
pub(crate) fn without_role_arns(message: &str) -> String {
    message
        .split(' ')
        .map(|word| {
            let identity = word.contains(":iam::") || word.contains(":sts::");
            if identity && word.contains("role/") {
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
    fn a_refusal_names_the_action_and_no_role() {
        let said = without_role_arns(
            "User: arn:aws:sts::222222222222:assumed-role/stepward/acme is not authorized to perform: ec2:StartInstances \
             on resource: arn:aws:ec2:eu-west-1:222222222222:instance/i-1 because no session policy allows it",
        );
        assert!(!said.contains("assumed-role"));
        let tells = denied("ec2:DescribeInstances", &said);
        assert!(
            tells.contains("ec2:StartInstances on arn:aws:ec2:eu-west-1:222222222222:instance/i-1"),
            "{tells}"
        );
        assert!(denied("ec2:DescribeInstances", "no").contains("ec2:DescribeInstances"));
    }
}
