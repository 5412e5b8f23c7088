//! The result of an execution.

use aws_sdk_sfn::types::ExecutionStatus;
use serde::Serialize;
use serde_json::Value;

use crate::cloud::Cloud;
use crate::error::Result;

/// The result of an execution.
#[derive(Clone, Debug, Serialize)]
pub struct Finished {
    /// The ARN of the execution.
    pub execution_arn: String,
    /// The status that Step Functions gave it.
    pub status: String,
    /// The outcome for the job's accounts.
    pub outcome: Outcome,
    /// Its output; for a failed execution, the summary in its cause.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub output: Value,
    /// The name of the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The message of the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// The outcome of an execution.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every account succeeded.
    Succeeded,
    /// Some accounts failed.
    Partial,
    /// The execution failed, was stopped, or timed out.
    Failed,
}

impl Outcome {
    /// The exit code of `job run` and `job watch`.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::Failed => 1,
            Self::Partial => 3,
        }
    }
}

/// Reads the result of an execution that has ended.
pub async fn read_result(cloud: &Cloud, execution: &str) -> Result<Finished> {
    let described = cloud.describe_execution(execution).await;
    let described = described.map_err(|error| cloud.error(error))?;
    let succeeded = *described.status() == ExecutionStatus::Succeeded;
    // A job that failed in every account writes its summary to the cause.
    let text = if succeeded {
        described.output()
    } else {
        described.cause()
    };
    let output: Value = text
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let outcome = match (succeeded, output["outcome"].as_str()) {
        (false, _) | (_, Some("failed")) => Outcome::Failed,
        (true, Some("partial")) => Outcome::Partial,
        (true, _) => Outcome::Succeeded,
    };
    let cause = described
        .cause()
        .filter(|_| output.is_null())
        .map(|cause| message_of(cause).unwrap_or(cause.to_owned()));
    Ok(Finished {
        execution_arn: execution.to_owned(),
        status: described.status().as_str().to_owned(),
        outcome,
        output,
        error: described.error().map(str::to_owned),
        cause,
    })
}

/// The message in Lambda's description of a failed function.
pub(crate) fn message_of(cause: &str) -> Option<String> {
    let parsed: Value = serde_json::from_str(cause).ok()?;
    parsed["errorMessage"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_exit_code() {
        assert_eq!(
            [Outcome::Succeeded, Outcome::Failed, Outcome::Partial].map(Outcome::code),
            [0, 1, 3]
        );
    }
}
