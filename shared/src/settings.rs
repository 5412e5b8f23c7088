//! Every environment variable that Stepward's own code reads, and nothing else reads any.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the one place where settings are read"
)]

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::error::{ErrorName, StepError};

/// The DynamoDB table with customers and accounts: `STEPWARD_TABLE`.
///
/// # Errors
/// `Internal` when it is not set.
pub fn table() -> Result<String, StepError> {
    required("STEPWARD_TABLE")
}

/// The bucket for outputs too large for Step Functions: `STEPWARD_ARTIFACTS_BUCKET`.
///
/// # Errors
/// `Internal` when it is not set.
pub fn artifacts_bucket() -> Result<String, StepError> {
    required("STEPWARD_ARTIFACTS_BUCKET")
}

/// The name of the stack, below which keys are stored: `STEPWARD_STACK`.
///
/// # Errors
/// `Internal` when it is not set.
pub fn stack() -> Result<String, StepError> {
    required("STEPWARD_STACK")
}

/// What the ARN of each of this deployment's state machines begins with: `STEPWARD_STATE_MACHINES`.
///
/// # Errors
/// `Internal` when it is not set.
pub fn state_machines() -> Result<String, StepError> {
    required("STEPWARD_STATE_MACHINES")
}

/// How long a step waits in its own process before it answers `pending`: `STEPWARD_LINGER_SECONDS`,
/// 10 by default. Waiting here costs Lambda time; waiting in the state machine costs a state
/// transition and a second call.
#[must_use]
pub fn inline_wait() -> Duration {
    let seconds = env::var("STEPWARD_LINGER_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// The directory below which steps may read and write files: `STEPWARD_LOCAL_ROOT`, on Lambda the
/// mount of a file system. `None` where the deployment has none.
#[must_use]
pub fn local_root() -> Option<PathBuf> {
    env::var_os("STEPWARD_LOCAL_ROOT")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

fn required(name: &str) -> Result<String, StepError> {
    env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .ok_or_else(|| {
            ErrorName::Internal.with_message(format!(
                "{name} is not set on this function; deploy infra/template.yaml again"
            ))
        })
}
