//! Names of instances, clusters and snapshots.

use std::fmt;
use std::ops::Deref;

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::StepError;
use stepward::model::input::require;

/// The maximum length of the name of an instance or a cluster.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CreateDBInstance.html>
pub const MAX_DATABASE_NAME: usize = 63;

/// The name of an instance, a cluster or a snapshot, in lower case: RDS stores it so, and ARNs
/// contain it so.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(from = "String")]
#[schemars(inline)]
pub struct Identifier(String);

impl From<String> for Identifier {
    fn from(text: String) -> Self {
        Self(text.to_ascii_lowercase())
    }
}

impl Deref for Identifier {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Identifier {
    /// Checks the form: letters, digits and single hyphens, with a letter first and no hyphen last.
    ///
    /// # Errors
    /// `InvalidInput` that names the parameter.
    pub fn validate(&self, parameter: &str, max_length: usize) -> Result<(), StepError> {
        let is_name = self.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && self.starts_with(|c: char| c.is_ascii_alphabetic())
            && !self.ends_with('-')
            && !self.contains("--");
        require(is_name && self.len() <= max_length, || {
            format!(
                "parameter \"{parameter}\": expected 1 to {max_length} letters, digits and single \
                 hyphens, with a letter first and no hyphen last, got \"{self}\"; pass the name, \
                 not an ARN"
            )
        })
    }
}
