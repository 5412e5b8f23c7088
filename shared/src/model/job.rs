//! The input of jobs.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The input of a job that works in a customer's accounts. `O` is the type of the job's options.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct JobInput<O = Map<String, Value>> {
    /// The customer's name.
    pub customer: String,
    /// The names of the accounts to work in. An empty list means all accounts of the customer.
    #[serde(default)]
    pub accounts: Vec<String>,
    /// The job's options.
    #[serde(default)]
    pub options: O,
    /// Who starts the job. The customer's CloudTrail shows this as the source identity.
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
    /// The Region to work in. The default is the account's default Region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}
