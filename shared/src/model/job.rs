//! What a job is started with.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The input of a job that works in a customer's accounts, whoever starts it. `O` are the job's options.
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
