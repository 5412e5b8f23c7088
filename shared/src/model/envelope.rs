//! The input of a step's function, and its response.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::model::error::{ErrorName, StepError};

/// The largest envelope that a step accepts, in bytes. Step Functions passes no more between
/// states.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html>
pub const ENVELOPE_LIMIT: usize = 256 * 1024;

/// The input of a step's function, which a state machine sends.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The customer, the account and the Region to work in.
    pub target: Target,
    /// The step's parameters.
    #[serde(default)]
    pub params: Value,
    /// The execution that this call belongs to.
    pub execution: Execution,
    /// The `resume` value of the previous `pending` response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// Store the output in the artifacts bucket, even if it is small. State machines that collect
    /// many outputs set this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub store: bool,
    /// Stop what the step started instead of running the step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
}

/// The customer, the account and the Region that a step works in, by name.
///
/// The role ARN and the external ID come from the customer's record, never from the envelope.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The customer's name.
    pub customer: String,
    /// The name of one of the customer's accounts.
    pub account: String,
    /// One of the account's Regions. The default is the account's default Region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// The execution that a call belongs to.
///
/// Client tokens are hashes of these fields, so a retry does not repeat an action.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Execution {
    /// The name of the Step Functions execution.
    pub id: String,
    /// The job, such as `fleet/morning-check`.
    pub job: String,
    /// The step's ID within the job.
    pub step: String,
    /// The item of the `Map`, if the step runs once for each item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Who started the job. The customer's CloudTrail shows this as the source identity.
    pub started_by: String,
}

/// The resume state: what a step needs to continue after a `pending` response.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// When the step was first called, as a Unix timestamp in seconds.
    pub since: i64,
    state: Value,
}

impl Resume {
    pub(crate) fn new(since: i64, state: Value) -> Self {
        Self { since, state }
    }

    /// How long to wait before the next poll of an action that AWS carries out. The interval starts
    /// at `shortest` and grows to a twentieth of the time waited so far, up to 5 minutes.
    ///
    /// Each poll adds about nine events to the execution's history. All accounts of a job share one
    /// history, which Step Functions limits to 25,000 events.
    /// <https://docs.aws.amazon.com/step-functions/latest/dg/bp-history-limit.html>
    #[must_use]
    pub fn poll_interval(resume: Option<&Self>, shortest: Duration) -> Duration {
        let waited = resume.map_or(0, |resume| resume.elapsed().as_secs());
        shortest.max(Duration::from_secs((waited / 20).min(300)))
    }

    /// The time since the step was first called.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_secs(unix_now().saturating_sub(self.since).unsigned_abs())
    }

    /// The state that the step returned in `Pending`.
    ///
    /// # Errors
    /// `InvalidInput` if the state does not have the type `T`.
    pub fn state<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        T::deserialize(&self.state).map_err(|error| {
            ErrorName::InvalidInput.with_message(format!(
                "the value of `resume` comes from another step: {error}; \
                 pass the value of the step's own previous response"
            ))
        })
    }
}

/// The current Unix timestamp, in seconds.
pub(crate) fn unix_now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// The response of a step's function.
#[derive(Debug, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub(crate) enum Response {
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
    /// Parses the text of an event and checks that the execution's fields are not empty.
    ///
    /// # Errors
    /// `InvalidInput`, with the name of the invalid field.
    pub fn parse(text: &str) -> Result<Self, StepError> {
        if text.len() > ENVELOPE_LIMIT {
            return Err(ErrorName::InvalidInput.with_message(format!(
                "the input has {} bytes, and at most {ENVELOPE_LIMIT} are allowed; \
                 store large data in S3 and pass its URI",
                text.len()
            )));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| {
            ErrorName::InvalidInput.with_message(format!("the input is not JSON: {error}"))
        })?;
        let envelope: Self = parse_object("the input", &value)?;
        let Execution {
            id,
            job,
            step,
            started_by,
            ..
        } = &envelope.execution;

        for (field, text) in [
            ("id", id),
            ("job", job),
            ("step", step),
            ("started_by", started_by),
        ] {
            if text.trim().is_empty() {
                return Err(ErrorName::InvalidInput.with_message(format!(
                    "execution.{field} is empty; pass a string that is not blank"
                )));
            }
        }
        Ok(envelope)
    }
}

/// Deserializes a JSON object. Errors name the invalid field and contain no Rust type names.
///
/// `subject` is the name of the object in errors, such as `params`.
///
/// # Errors
/// `InvalidInput` if the value is not an object or does not have the type `T`.
pub(crate) fn parse_object<T: DeserializeOwned>(
    subject: &str,
    value: &Value,
) -> Result<T, StepError> {
    if !value.is_object() {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "{subject} must be a JSON object, not {}",
            json_type_name(value)
        )));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let message = describe_error(&error);
        let separator = if message.starts_with(FIELD_PREFIX) {
            ","
        } else {
            ":"
        };
        ErrorName::InvalidInput.with_message(format!("{subject}{separator} {message}"))
    })
}

/// The beginning of an error message that names a field.
pub(crate) const FIELD_PREFIX: &str = "field `";

/// The error message, which begins with the path of the invalid field.
///
/// Errors from the parts of [`Merged`](crate::model::merged::Merged) have the path `.` here and
/// name the field in their text, so they are returned unchanged.
pub(crate) fn describe_error(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let (path, message) = (error.path().to_string(), error.inner().to_string());
    if path == "." {
        message
    } else {
        format!("{FIELD_PREFIX}{path}`: {message}")
    }
}

fn json_type_name(value: &Value) -> &'static str {
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

    const VALID: &str = r#"{"target":{"customer":"acme","account":"prod"},"params":{},
        "execution":{"id":"e1","job":"fleet/morning-check","step":"start","started_by":"ann"}}"#;

    fn parse_error(text: &str) -> String {
        let error = Envelope::parse(text).unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        error.message
    }

    #[test]
    fn a_valid_envelope_is_parsed() {
        assert_eq!(Envelope::parse(VALID).unwrap().target.account, "prod");
    }

    #[test]
    fn errors_name_the_invalid_field() {
        assert!(parse_error("hello").contains("not JSON"));
        assert!(parse_error("[1]").contains("must be a JSON object, not a list"));
        assert!(parse_error(r#"{"params":{}}"#).contains("missing field `target`"));
        assert!(
            parse_error(&VALID.replace("\"prod\"", "7"))
                .contains("field `target.account`: invalid type: integer `7`")
        );
        assert!(
            parse_error(&VALID.replace("\"ann\"", "\" \""))
                .contains("execution.started_by is empty")
        );
        assert!(
            parse_error(&format!("{VALID}{}", " ".repeat(10_000_000))).contains("at most 262144")
        );
    }

    #[test]
    fn the_poll_interval_grows_with_the_time_waited() {
        let shortest = Duration::from_secs(15);
        let interval_after = |minutes: i64| {
            Resume::poll_interval(
                Some(&Resume::new(unix_now() - minutes * 60, Value::Null)),
                shortest,
            )
        };
        assert_eq!(Resume::poll_interval(None, shortest), shortest);
        assert_eq!(
            (
                interval_after(1),
                interval_after(20),
                interval_after(12 * 60)
            ),
            (shortest, Duration::from_mins(1), Duration::from_mins(5))
        );
    }

    #[test]
    fn an_envelope_cannot_contain_a_role_or_external_id() {
        for field in ["role_arn", "external_id", "account_id"] {
            let text = VALID.replace("\"account\"", &format!("\"{field}\":\"x\",\"account\""));
            assert!(parse_error(&text).contains(&format!("unknown field `{field}`")));
        }
    }
}
