//! The environment variables that Stepward's code reads. No other module reads environment
//! variables.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the only module that reads environment variables"
)]

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::error::{ErrorName, StepError};

/// The name of the DynamoDB table with customers and accounts: `STEPWARD_TABLE`.
///
/// # Errors
/// `Internal` if the variable is not set.
pub fn table_name() -> Result<String, StepError> {
    required_variable("STEPWARD_TABLE")
}

/// The name of the artifacts bucket, for outputs that are too large for Step Functions:
/// `STEPWARD_ARTIFACTS_BUCKET`.
///
/// # Errors
/// `Internal` if the variable is not set.
pub fn artifacts_bucket() -> Result<String, StepError> {
    required_variable("STEPWARD_ARTIFACTS_BUCKET")
}

/// The name of the stack, which is the prefix of the names of keys' secrets: `STEPWARD_STACK`.
///
/// # Errors
/// `Internal` if the variable is not set.
pub fn stack_name() -> Result<String, StepError> {
    required_variable("STEPWARD_STACK")
}

/// The prefix of the ARNs of this deployment's state machines: `STEPWARD_STATE_MACHINES`.
///
/// # Errors
/// `Internal` if the variable is not set.
pub fn state_machine_arn_prefix() -> Result<String, StepError> {
    required_variable("STEPWARD_STATE_MACHINES")
}

/// How long a step waits in its own process before it returns `pending`: `STEPWARD_LINGER_SECONDS`.
/// The default is 10 seconds.
///
/// A wait in the process costs Lambda time. A wait in the state machine costs a state transition
/// and a second call.
#[must_use]
pub fn inline_wait() -> Duration {
    let seconds = env::var("STEPWARD_LINGER_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// The directory in which steps may read and write files: `STEPWARD_LOCAL_ROOT`. On Lambda, this is
/// where a file system is mounted. `None` if the deployment has no file system.
#[must_use]
pub fn local_root() -> Option<PathBuf> {
    env::var_os("STEPWARD_LOCAL_ROOT")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// The folder in which unit tests record their requests to AWS: `STEPWARD_RECORDED_REQUESTS`. Only
/// `.ci/run` sets it. `None` if the requests are not recorded.
#[must_use]
pub fn recorded_requests_folder() -> Option<PathBuf> {
    env::var_os("STEPWARD_RECORDED_REQUESTS")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

fn required_variable(name: &str) -> Result<String, StepError> {
    env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .ok_or_else(|| {
            ErrorName::Internal.with_message(format!(
                "the environment variable {name} is not set on this function; \
                 deploy infra/template.yaml again"
            ))
        })
}
