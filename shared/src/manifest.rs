//! What a step says of itself: `<step> describe` prints it, and pages, catalog and roles are made from it.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{ErrorName, StepError};
use crate::step::Step;

/// Everything that is known of a step without running it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Manifest {
    /// The step's name.
    pub name: String,
    /// The Rundeck provider types that it stands for.
    pub rundeck: Vec<String>,
    /// First line of its documentation.
    pub title: String,
    /// The rest of its documentation.
    pub description: String,
    /// JSON Schema of the parameters.
    pub parameters: Value,
    /// JSON Schema of the output.
    pub output: Value,
    /// Parameters that work.
    pub example: Value,
    /// The IAM statements that the example needs.
    pub permissions: Value,
    /// Seconds that it may stay `pending`.
    pub timeout_seconds: u64,
}

impl Manifest {
    /// The manifest of a step.
    ///
    /// # Errors
    /// `Internal` when the step's own example does not fit its parameters.
    pub fn of<S: Step>() -> Result<Self, StepError> {
        let fault = |error: &dyn std::fmt::Display| {
            ErrorName::Internal.because(format!("the example of {} does not fit: {error}", S::NAME))
        };
        let example: Value = serde_json::from_str(S::EXAMPLE).map_err(|error| fault(&error))?;
        let step: S = crate::envelope::read("example", &example)?;
        step.validate().map_err(|error| fault(&error))?;
        let mut parameters = schema::<S>();
        let documentation = parameters.as_object_mut().and_then(|schema| schema.remove("description"));
        let documentation = documentation.as_ref().and_then(Value::as_str).unwrap_or_default();
        let (title, description) = documentation.split_once("\n\n").unwrap_or((documentation, ""));
        let permissions = serde_json::to_value(step.permissions()).map_err(|error| fault(&error))?;
        Ok(Self {
            name: S::NAME.into(),
            rundeck: S::RUNDECK.iter().map(ToString::to_string).collect(),
            title: title.replace('\n', " "),
            description: description.into(),
            parameters,
            output: schema::<S::Output>(),
            example,
            permissions,
            timeout_seconds: S::TIMEOUT.as_secs(),
        })
    }
}

fn schema<T: JsonSchema>() -> Value {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    let mut schema = schema.to_value();
    if let Some(fields) = schema.as_object_mut() {
        // The Rust type's name means nothing to an operator.
        fields.remove("title");
        fields.remove("$schema");
    }
    schema
}
