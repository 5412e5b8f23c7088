//! Access keys, and parsed requests.

use serde_json::Value;
use stepward::model::customer::ExternalId;

/// The broker's account.
pub const BROKER_ACCOUNT: &str = "111111111111";
pub(super) const TABLE: &str = "stepward";
/// The broker's bucket for outputs that are too large for a response.
pub const ARTIFACTS_BUCKET: &str = "stepward-artifacts-111111111111";

/// A parsed request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The service that it was signed for, for example `ec2`.
    pub service: String,
    /// The operation, for example `StartInstances`.
    pub operation: String,
    /// The parameters: the body of a JSON protocol, the form of a query protocol, or the bucket,
    /// key and query of S3.
    pub parameters: Value,
    /// The account of the caller.
    pub account: String,
}

/// The credentials in a function's environment.
#[derive(Clone, Debug)]
pub struct AccessKeys {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: String,
}

impl Request {
    /// Returns the service and the operation, for example `ec2:StartInstances`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}:{}", self.service, self.operation)
    }

    /// Returns the text of a parameter, or an empty string if the parameter is missing.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.parameters[name].as_str().unwrap_or_default()
    }
}

impl AccessKeys {
    pub(super) fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            secret: random_secret(),
            token: format!("{}{}", random_secret(), random_secret()),
        }
    }
}

/// Returns 40 random hexadecimal digits.
#[expect(clippy::expect_used, reason = "tests need random numbers")]
pub(super) fn random_secret() -> String {
    ExternalId::generate()
        .expect("randomness from the operating system")
        .expose()
        .to_owned()
}
