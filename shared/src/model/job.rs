//! What a job is started with.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The input of a job that works in a customer's accounts, whoever starts it. `O` are the job's
/// options.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct JobInput<O = Map<String, Value>> {
    /// The customer.
    pub customer: String,
    /// The customer's accounts to work in; all when empty.
    #[serde(default)]
    pub accounts: Vec<String>,
    /// The job's options.
    #[serde(default)]
    pub options: O,
    /// Who starts the job. Becomes the source identity in the customer's CloudTrail.
    #[serde(default)]
    pub started_by: String,
}

/// The options of the job `step/run`, which runs one step in one account.
#[derive(Clone, Debug, Serialize)]
pub struct StepRunOptions {
    /// The step's name.
    pub step: String,
    /// The step's parameters.
    pub params: Map<String, Value>,
    /// The account's Region to work in; the account's default Region when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}
