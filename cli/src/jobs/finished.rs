//! How an execution ended.

use aws_sdk_sfn::types::ExecutionStatus;
use serde::Serialize;
use serde_json::Value;

use crate::cloud::Cloud;
use crate::error::Result;

/// How an execution ended.
#[derive(Clone, Debug, Serialize)]
pub struct Finished {
    /// The execution.
    pub execution_arn: String,
    /// The status that Step Functions gave it.
    pub status: String,
    /// What it comes to.
    pub outcome: Outcome,
    /// Its output; of a failed execution, the summary in its cause.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub output: Value,
    /// The error's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the error says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// What an execution comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All of it succeeded.
    Succeeded,
    /// Some accounts failed.
    Partial,
    /// It failed, was stopped, or ran out of time.
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

/// How an execution ended.
pub async fn result(cloud: &Cloud, execution: &str) -> Result<Finished> {
    let found = cloud
        .sfn()
        .describe_execution()
        .execution_arn(execution)
        .send()
        .await;
    let found = found.map_err(|error| cloud.error(error).nothing_done())?;
    let succeeded = *found.status() == ExecutionStatus::Succeeded;
    // A job that failed in every account puts its summary into the cause.
    let text = if succeeded {
        found.output()
    } else {
        found.cause()
    };
    let output: Value = text
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let outcome = match (succeeded, output["outcome"].as_str()) {
        (false, _) | (_, Some("failed")) => Outcome::Failed,
        (true, Some("partial")) => Outcome::Partial,
        (true, _) => Outcome::Succeeded,
    };
    let cause = found
        .cause()
        .filter(|_| output.is_null())
        .map(|cause| message_of(cause).unwrap_or(cause.to_owned()));
    Ok(Finished {
        execution_arn: execution.to_owned(),
        status: found.status().as_str().to_owned(),
        outcome,
        output,
        error: found.error().map(str::to_owned),
        cause,
    })
}

/// The message in what Lambda says of a failed function.
pub(crate) fn message_of(cause: &str) -> Option<String> {
    let parsed: Value = serde_json::from_str(cause).ok()?;
    parsed["errorMessage"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_their_exit_codes() {
        assert_eq!(
            [Outcome::Succeeded, Outcome::Failed, Outcome::Partial].map(Outcome::code),
            [0, 1, 3]
        );
    }
}
