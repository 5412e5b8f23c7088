//! Who asks for what: access keys, and requests as they were understood.

use serde_json::Value;
use stepward::model::customer::ExternalId;

/// The broker's account.
pub const BROKER_ACCOUNT: &str = "111111111111";
pub(super) const TABLE: &str = "stepward";
/// The broker's bucket for what is too large for an answer.
pub const ARTIFACTS: &str = "stepward-artifacts-111111111111";

/// One request, as it was understood.
#[derive(Clone, Debug)]
pub struct Request {
    /// The service that it was signed for, as in `ec2`.
    pub service: String,
    /// The operation, as in `StartInstances`.
    pub operation: String,
    /// What it was given: the body of the JSON protocols, the form of the query protocols; for S3
    /// bucket, key and query.
    pub parameters: Value,
    /// The account of the caller.
    pub account: String,
}

/// Access keys, as a function's environment has them.
#[derive(Clone, Debug)]
pub struct Keys {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: String,
}

impl Request {
    /// Service and operation, as in `ec2:StartInstances`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}:{}", self.service, self.operation)
    }

    /// A parameter's text; empty when there is none.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.parameters[name].as_str().unwrap_or_default()
    }
}

impl Keys {
    pub(super) fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            secret: random(),
            token: format!("{}{}", random(), random()),
        }
    }
}

/// 40 hex digits that nobody knows.
#[expect(clippy::expect_used, reason = "without randomness there is no test")]
pub(super) fn random() -> String {
    ExternalId::generate()
        .expect("randomness from the operating system")
        .expose()
        .to_owned()
}
