//! What a step says of itself: `<step> describe` prints it, and pages, catalog and roles are made
//! from it.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::error::{ErrorName, StepError};
use crate::model::permissions::{Permissions, Place, Statement};
use crate::runtime::step::{Function, Step};

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
    /// What it was proven against, and what that cannot show: the last paragraph of its
    /// documentation.
    pub proven: String,
    /// JSON Schema of the parameters.
    pub parameters: Value,
    /// JSON Schema of the output.
    pub output: Value,
    /// Parameters that work, the plainest first.
    pub examples: Vec<Value>,
    /// What errors mean with this step in particular.
    pub errors: Vec<(ErrorName, String)>,
    /// What it needs, whatever its parameters.
    pub permissions: Vec<Statement>,
    /// What it needs in a second account or Region, where it works in one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peer_permissions: Vec<Statement>,
    /// Characters of the longest session policy of the examples.
    pub session_policy_characters: usize,
    /// What its Lambda function is given.
    pub function: Function,
    /// Seconds that it may stay `pending`.
    pub timeout_seconds: u64,
}

impl Manifest {
    /// The manifest of a step.
    ///
    /// # Errors
    /// `Internal` when one of the step's own examples does not fit its parameters.
    pub fn of<S: Step>() -> Result<Self, StepError> {
        let fault = |error: &dyn std::fmt::Display| {
            ErrorName::Internal.because(format!("an example of {} does not fit: {error}", S::NAME))
        };
        let place = Place {
            partition: "aws".into(),
            region: "ap-southeast-2".into(),
            account_id: "222222222222".into(),
        };
        let (mut here, mut there) = (Permissions::default(), Permissions::default());
        let (mut examples, mut longest) = (Vec::new(), 0);
        for text in S::EXAMPLES {
            let example: Value = serde_json::from_str(text).map_err(|error| fault(&error))?;
            let step: S = crate::model::envelope::read("example", &example)?;
            step.validate().map_err(|error| fault(&error))?;
            examples.push(example);
            let peer = step.peer().map(|peer| peer.permissions).unwrap_or_default();
            for (all, own) in [(&mut here, step.permissions()), (&mut there, peer)] {
                longest = longest.max(own.session_policy(&place)?.chars().count());
                *all = std::mem::take(all).and(own);
            }
        }
        let mut parameters = schema::<S>();
        let documentation = parameters
            .as_object_mut()
            .and_then(|schema| schema.remove("description"));
        let documentation = documentation
            .as_ref()
            .and_then(Value::as_str)
            .unwrap_or_default();
        let (title, rest) = documentation
            .split_once("\n\n")
            .unwrap_or((documentation, ""));
        let (description, proven) = rest.rsplit_once("\n\n").unwrap_or(("", rest));
        Ok(Self {
            name: S::NAME.into(),
            rundeck: S::RUNDECK.iter().map(ToString::to_string).collect(),
            title: title.replace('\n', " "),
            description: description.into(),
            proven: proven.into(),
            parameters,
            output: schema::<S::Output>(),
            examples,
            errors: S::ERRORS
                .iter()
                .map(|(name, text)| (*name, (*text).to_owned()))
                .collect(),
            permissions: here.of_any_parameters(),
            peer_permissions: there.of_any_parameters(),
            session_policy_characters: longest,
            function: S::FUNCTION,
            timeout_seconds: S::TIMEOUT.as_secs(),
        })
    }
}

fn schema<T: JsonSchema>() -> Value {
    let schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>();
    let mut schema = schema.to_value();
    if let Some(fields) = schema.as_object_mut() {
        // The Rust type's name means nothing to an operator.
        fields.remove("title");
        fields.remove("$schema");
    }
    schema
}
