//! What goes into a step and what comes out of it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::model::error::{ErrorName, StepError};

/// The largest envelope a step takes, in bytes: what Step Functions passes between states.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html>
pub const ENVELOPE_LIMIT: usize = 256 * 1024;

/// What a state machine sends to a step.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Whose account to work in.
    pub target: Target,
    /// The step's own parameters.
    #[serde(default)]
    pub params: Value,
    /// Which execution this call belongs to.
    pub execution: Execution,
    /// What the previous `pending` answer gave back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// Put the output into the artifacts bucket whatever its size: for state machines that gather
    /// many.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub store: bool,
    /// Stop what this step started, instead of running it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
}

/// Names only: role ARN and external ID come from the customer's record, never from here.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The customer's name.
    pub customer: String,
    /// The name of one of the customer's accounts.
    pub account: String,
    /// One of the account's Regions; its default Region when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// The execution behind a call. Its fields are hashed into client tokens, so that a retry repeats
/// nothing.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Execution {
    /// Name of the Step Functions execution.
    pub id: String,
    /// The job, as in `fleet/morning-check`.
    pub job: String,
    /// The step's ID within the job.
    pub step: String,
    /// The item of a `Map`, where the step runs once for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Who started the job; becomes the source identity in the customer's CloudTrail.
    pub started_by: String,
}

/// Where a step goes on after `pending`: its own state, and since when it has been at it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// When the step was first called, in seconds since 1970.
    pub since: i64,
    state: Value,
}

impl Resume {
    pub(crate) fn new(since: i64, state: Value) -> Self {
        Self { since, state }
    }

    /// How long to wait until the next look at something that AWS does by itself: at first
    /// `shortest`, later a twentieth of what was waited already, 5 minutes at most.
    ///
    /// Every look is some nine events of the execution's history, which all accounts of a job share
    /// and which ends at 25,000.
    /// <https://docs.aws.amazon.com/step-functions/latest/dg/bp-history-limit.html>
    #[must_use]
    pub fn poll_interval(resume: Option<&Self>, shortest: Duration) -> Duration {
        let waited = resume.map_or(0, |resume| {
            now().saturating_sub(resume.since).unsigned_abs()
        });
        shortest.max(Duration::from_secs((waited / 20).min(300)))
    }

    /// The state that the step put into `Pending`.
    ///
    /// # Errors
    /// `InvalidInput` when it is not what this step writes.
    pub fn state<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        T::deserialize(&self.state).map_err(|error| {
            ErrorName::InvalidInput.with_message(format!(
                "resume is not what this step answered before: {error}"
            ))
        })
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// What a step answers.
#[derive(Debug, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub(crate) enum Answer {
    Done {
        output: Value,
        log: Value,
    },
    Pending {
        resume: Resume,
        retry_after: u64,
        progress: String,
        log: Value,
    },
}

impl Envelope {
    /// Reads an envelope from the bytes that Lambda was given.
    ///
    /// # Errors
    /// `InvalidInput` naming the field.
    pub fn parse(text: &str) -> Result<Self, StepError> {
        if text.len() > ENVELOPE_LIMIT {
            return Err(ErrorName::InvalidInput.with_message(format!(
                "the input has {} bytes and at most {ENVELOPE_LIMIT} are taken; put large data into S3 and pass its URI",
                text.len()
            )));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| {
            ErrorName::InvalidInput.with_message(format!("the input is not JSON: {error}"))
        })?;
        let envelope: Self = read("the input", &value)?;
        let Execution {
            id,
            job,
            step,
            started_by,
            ..
        } = &envelope.execution;
        for (name, text) in [
            ("id", id),
            ("job", job),
            ("step", step),
            ("started_by", started_by),
        ] {
            if text.trim().is_empty() {
                return Err(
                    ErrorName::InvalidInput.with_message(format!("execution.{name} is empty"))
                );
            }
        }
        Ok(envelope)
    }
}

/// Reads a value into a type, naming the field that does not fit in words that no Rust type name
/// gets into.
///
/// # Errors
/// `InvalidInput`.
pub(crate) fn read<T: DeserializeOwned>(what: &str, value: &Value) -> Result<T, StepError> {
    if !value.is_object() {
        return Err(ErrorName::InvalidInput
            .with_message(format!("{what} must be a JSON object, not {}", kind(value))));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let fault = fault(&error);
        let separator = if fault.starts_with(FIELD) { "," } else { ":" };
        ErrorName::InvalidInput.with_message(format!("{what}{separator} {fault}"))
    })
}

/// How a fault begins that names the field.
pub(crate) const FIELD: &str = "field `";

/// What does not fit, beginning with the field's path; a fault that names a field already, as a
/// part of [`Merged`](crate::model::merged::Merged) gives it, stays as it is.
pub(crate) fn fault(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let (path, fault) = (error.path().to_string(), error.inner().to_string());
    if path == "." {
        fault
    } else {
        format!("{FIELD}{path}`: {fault}")
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"target":{"customer":"acme","account":"prod"},"params":{},
        "execution":{"id":"e1","job":"fleet/morning-check","step":"start","started_by":"ann"}}"#;

    fn refused(text: &str) -> String {
        let error = Envelope::parse(text).unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        error.message
    }

    #[test]
    fn a_good_envelope_is_read() {
        assert_eq!(Envelope::parse(GOOD).unwrap().target.account, "prod");
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refused("hello").contains("not JSON"));
        assert!(refused("[1]").contains("must be a JSON object, not a list"));
        assert!(refused(r#"{"params":{}}"#).contains("missing field `target`"));
        assert!(
            refused(&GOOD.replace("\"prod\"", "7"))
                .contains("field `target.account`: invalid type: integer `7`")
        );
        assert!(
            refused(&GOOD.replace("\"ann\"", "\" \"")).contains("execution.started_by is empty")
        );
        assert!(refused(&format!("{GOOD}{}", " ".repeat(10_000_000))).contains("at most 262144"));
    }

    #[test]
    fn waiting_grows_with_what_was_waited() {
        let shortest = Duration::from_secs(15);
        let after = |minutes: i64| {
            Resume::poll_interval(
                Some(&Resume::new(now() - minutes * 60, Value::Null)),
                shortest,
            )
        };
        assert_eq!(Resume::poll_interval(None, shortest), shortest);
        assert_eq!(
            (after(1), after(20), after(12 * 60)),
            (shortest, Duration::from_mins(1), Duration::from_mins(5))
        );
    }

    #[test]
    fn no_role_or_external_id_is_taken() {
        for field in ["role_arn", "external_id", "account_id"] {
            let text = GOOD.replace("\"account\"", &format!("\"{field}\":\"x\",\"account\""));
            assert!(refused(&text).contains(&format!("unknown field `{field}`")));
        }
    }
}
