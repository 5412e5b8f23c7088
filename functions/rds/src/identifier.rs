//! Names at RDS.

use std::fmt;
use std::ops::Deref;

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::StepError;
use stepward::model::input::require;

/// The longest identifier of an instance or a cluster.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CreateDBInstance.html>
pub const LONGEST: usize = 63;

/// The name of an instance, a cluster or a snapshot, as RDS stores it and as it stands in ARNs: in
/// lower case.
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
    /// Checks the form: letters, digits and single hyphens, a letter first, no hyphen last.
    ///
    /// # Errors
    /// `InvalidInput` naming the parameter.
    pub fn validate(&self, parameter: &str, longest: usize) -> Result<(), StepError> {
        let legal = self.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && self.starts_with(|c: char| c.is_ascii_alphabetic())
            && !self.ends_with('-')
            && !self.contains("--");
        require(legal && self.len() <= longest, || {
            format!(
                "{parameter}: {:?} is not a name at RDS: 1 to {longest} letters, digits and single hyphens, a letter \
                 first and no hyphen last; an ARN is not taken",
                self.0
            )
        })
    }
}
