//! The execution role of a function.

use stepward::model::input::require;
use stepward::model::permissions::ArnScope;
use stepward::{ErrorName, StepError};

/// The execution role of a function, from its ARN.
#[derive(Debug)]
pub(crate) struct ExecutionRole<'a> {
    arn: &'a str,
    partition: &'a str,
    account_id: &'a str,
    /// The role's path and name.
    pub(crate) name: &'a str,
}

impl<'a> ExecutionRole<'a> {
    /// Parses the parameter `execution_role_arn`.
    /// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_Role.html>
    ///
    /// # Errors
    /// `InvalidInput` if it is not the ARN of a role.
    pub(crate) fn parse(arn: &'a str) -> Result<Self, StepError> {
        Self::split_arn(arn).ok_or_else(|| {
            ErrorName::InvalidInput.with_message(format!(
                "parameter \"execution_role_arn\": expected the ARN of a role, got \"{arn}\""
            ))
        })
    }

    fn split_arn(arn: &'a str) -> Option<Self> {
        let ["arn", partition, "iam", "", account_id, resource] =
            arn.split(':').collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let name = resource.strip_prefix("role/")?;
        let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&b);
        let is_role = account_id.len() == 12 && !name.is_empty() && name.bytes().all(is_name_byte);
        is_role.then_some(Self {
            arn,
            partition,
            account_id,
            name,
        })
    }

    /// Checks that the role is in the account and partition of `scope`.
    ///
    /// # Errors
    /// `InvalidInput` if it is not.
    pub(crate) fn require_account(&self, scope: &ArnScope) -> Result<(), StepError> {
        let is_in_account =
            self.partition == scope.partition && self.account_id == scope.account_id;
        require(is_in_account, || {
            format!(
                "parameter \"execution_role_arn\": expected a role in account {}, got \"{}\"",
                scope.account_id, self.arn
            )
        })
    }
}

/// The error for a role that Lambda still cannot assume, from Lambda's own error.
pub(crate) fn unassumable_role_error(error: StepError, arn: &str) -> StepError {
    StepError {
        name: ErrorName::InvalidInput,
        message: format!(
            "parameter \"execution_role_arn\": Lambda cannot assume \"{arn}\"; allow \
             \"sts:AssumeRole\" for \"lambda.amazonaws.com\" in the role's trust policy"
        ),
        ..error
    }
}
