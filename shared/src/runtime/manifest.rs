//! What a step says of itself: `<step> describe` prints it, and pages, catalog and roles are made
//! from it.

use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::error::{ErrorName, StepError};
use crate::model::permissions::{ArnScope, Permissions, Statement};
use crate::runtime::step::{self, FunctionConfig, Step};

/// Everything that is known about a step without running it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Manifest {
    /// The step's name.
    pub name: String,
    /// The Rundeck plugins that it replaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rundeck: Vec<RundeckPlugin>,
    /// First paragraph of its documentation, on one line.
    pub title: String,
    /// The paragraphs before the first heading: what the step does and when to use it.
    pub description: String,
    /// The sections of its documentation, in order.
    pub sections: Vec<Section>,
    /// JSON Schema of the parameters.
    pub parameters: Value,
    /// JSON Schema of the output.
    pub output: Value,
    /// Examples, the simplest first.
    pub examples: Vec<Example>,
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
    pub function: FunctionConfig,
    /// Seconds that it may stay `pending`.
    pub timeout_seconds: u64,
}

/// A section of a step's documentation.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Section {
    /// The heading, as in `Behavior`.
    pub heading: String,
    /// The text in Markdown.
    pub text: String,
}

/// An example: parameters and a sample of the output.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Example {
    /// What the example does.
    pub title: String,
    /// The step's parameters.
    pub parameters: Value,
    /// A sample of the output.
    pub output: Value,
}

/// A Rundeck plugin that the step replaces.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RundeckPlugin {
    /// The provider type in job files.
    pub provider_type: String,
    /// The step's parameter for each configuration key of the plugin; `region` is the target's.
    pub fields: BTreeMap<String, String>,
}

impl Manifest {
    /// The manifest of a step.
    ///
    /// # Errors
    /// `Internal` when one of the step's own examples does not fit its parameters.
    pub fn of<S: Step>() -> Result<Self, StepError> {
        let fault = |error: &dyn std::fmt::Display| {
            ErrorName::Internal
                .with_message(format!("an example of {} does not fit: {error}", S::NAME))
        };
        let place = ArnScope {
            partition: "aws".into(),
            region: "ap-southeast-2".into(),
            account_id: "222222222222".into(),
        };
        let (mut here, mut there) = (Permissions::default(), Permissions::default());
        let (mut examples, mut longest) = (Vec::new(), 0);
        for example in S::EXAMPLES {
            let json = |text| serde_json::from_str::<Value>(text).map_err(|error| fault(&error));
            let example = Example {
                title: example.title.to_owned(),
                parameters: json(example.parameters)?,
                output: json(example.output)?,
            };
            let step: S = crate::model::envelope::read("example", &example.parameters)?;
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
        let (description, sections) = split_sections(rest);
        Ok(Self {
            name: S::NAME.into(),
            rundeck: S::RUNDECK.iter().map(rundeck_plugin).collect(),
            title: title.replace('\n', " "),
            description,
            sections,
            parameters,
            output: schema::<S::Output>(),
            examples,
            errors: S::ERRORS
                .iter()
                .map(|(name, text)| (*name, (*text).to_owned()))
                .collect(),
            permissions: here.for_any_parameters(),
            peer_permissions: there.for_any_parameters(),
            session_policy_characters: longest,
            function: S::FUNCTION,
            timeout_seconds: S::TIMEOUT.as_secs(),
        })
    }
}

/// The text before the first heading, and the sections.
fn split_sections(text: &str) -> (String, Vec<Section>) {
    let with_line_end = format!("\n{text}");
    let mut parts = with_line_end.split("\n# ");
    let intro = parts.next().unwrap_or_default().trim().to_owned();
    let section = |part: &str| {
        let (heading, text) = part.split_once('\n').unwrap_or((part, ""));
        Section {
            heading: heading.trim().to_owned(),
            text: text.trim().to_owned(),
        }
    };
    (intro, parts.map(section).collect())
}

fn rundeck_plugin(plugin: &step::RundeckPlugin) -> RundeckPlugin {
    let fields = plugin.fields.iter();
    RundeckPlugin {
        provider_type: plugin.provider_type.to_owned(),
        fields: fields
            .map(|(key, parameter)| ((*key).into(), (*parameter).into()))
            .collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_is_split_at_its_headings() {
        let text = "Intro.\n\nMore.\n\n# Cost\n\nFree.\n\n# Proof\nNone.";
        let (intro, sections) = split_sections(text);
        assert_eq!(intro, "Intro.\n\nMore.");
        let pairs = sections
            .iter()
            .map(|s| (s.heading.as_str(), s.text.as_str()));
        assert_eq!(
            pairs.collect::<Vec<_>>(),
            [("Cost", "Free."), ("Proof", "None.")]
        );
        let (intro, sections) = split_sections("# Cost\n\nFree.");
        assert_eq!((intro.as_str(), sections[0].heading.as_str()), ("", "Cost"));
    }
}
