//! The manifest of a step, which its binary prints for `<step> describe`. The step's page, its
//! entry in the catalog and the templates of customers' roles are generated from it.

use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::envelope::parse_object;
use crate::model::error::{ErrorName, StepError};
use crate::model::permissions::{ArnScope, Permissions, Statement};
use crate::runtime::step::{self, FunctionConfig, Step};

/// The description of a step: parameters, output, permissions, examples and documentation.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Manifest {
    /// The step's name.
    pub name: String,
    /// The Rundeck plugins that the step replaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rundeck: Vec<RundeckPlugin>,
    /// The first paragraph of the step's documentation, on one line.
    pub title: String,
    /// The paragraphs before the first heading: what the step does and when to use it.
    pub description: String,
    /// The sections of the documentation, in order.
    pub sections: Vec<Section>,
    /// The JSON Schema of the parameters.
    pub parameters: Value,
    /// The JSON Schema of the output.
    pub output: Value,
    /// The examples, the simplest first.
    pub examples: Vec<Example>,
    /// The errors with a specific meaning for this step, and their explanations.
    pub errors: Vec<(ErrorName, String)>,
    /// The permissions that the step needs with any parameters.
    pub permissions: Vec<Statement>,
    /// The permissions that the step needs in the second account or Region, if it uses one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peer_permissions: Vec<Statement>,
    /// The length of the longest session policy of the examples, in characters.
    pub session_policy_characters: usize,
    /// The configuration of the step's Lambda function.
    pub function: FunctionConfig,
    /// The longest time that the step may stay `pending`, in seconds.
    pub timeout_seconds: u64,
}

/// A section of a step's documentation.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Section {
    /// The heading, such as `Behavior`.
    pub heading: String,
    /// The text, in Markdown.
    pub text: String,
}

/// An example: parameters, and a sample of the output.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Example {
    /// The purpose of the example.
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
    /// The step's parameter for each configuration key of the plugin. `region` is the target's
    /// Region.
    pub fields: BTreeMap<String, String>,
}

impl Manifest {
    /// Builds the manifest of a step.
    ///
    /// # Errors
    /// `Internal` or `InvalidInput` if the parameters of an example are not valid.
    pub fn for_step<S: Step>() -> Result<Self, StepError> {
        let invalid_example = |error: &dyn std::fmt::Display| {
            ErrorName::Internal.with_message(format!(
                "step {:?}: an example is not valid: {error}; correct `EXAMPLES`",
                S::NAME
            ))
        };
        let example_scope = ArnScope {
            partition: "aws".into(),
            region: "ap-southeast-2".into(),
            account_id: "222222222222".into(),
        };
        let mut permissions = Permissions::default();
        let mut peer_permissions = Permissions::default();
        let mut examples = Vec::new();
        let mut longest_policy = 0;
        for example in S::EXAMPLES {
            let parse_json =
                |text| serde_json::from_str::<Value>(text).map_err(|error| invalid_example(&error));
            let example = Example {
                title: example.title.to_owned(),
                parameters: parse_json(example.parameters)?,
                output: parse_json(example.output)?,
            };
            let step: S = parse_object("example", &example.parameters)?;
            step.validate().map_err(|error| invalid_example(&error))?;
            examples.push(example);

            let peer = step.peer().map(|peer| peer.permissions).unwrap_or_default();
            for (total, needed) in [
                (&mut permissions, step.permissions()),
                (&mut peer_permissions, peer),
            ] {
                let policy = needed.session_policy(&example_scope)?;
                longest_policy = longest_policy.max(policy.chars().count());
                *total = std::mem::take(total).and(needed);
            }
        }

        let mut parameters = json_schema::<S>();
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
            output: json_schema::<S::Output>(),
            examples,
            errors: S::ERRORS
                .iter()
                .map(|(name, text)| (*name, (*text).to_owned()))
                .collect(),
            permissions: permissions.for_any_parameters(),
            peer_permissions: peer_permissions.for_any_parameters(),
            session_policy_characters: longest_policy,
            function: S::FUNCTION,
            timeout_seconds: S::TIMEOUT.as_secs(),
        })
    }
}

/// Splits Markdown into the text before the first heading, and the sections.
fn split_sections(text: &str) -> (String, Vec<Section>) {
    let lines = format!("\n{text}");
    let mut parts = lines.split("\n# ");
    let introduction = parts.next().unwrap_or_default().trim().to_owned();
    let section = |part: &str| {
        let (heading, text) = part.split_once('\n').unwrap_or((part, ""));
        Section {
            heading: heading.trim().to_owned(),
            text: text.trim().to_owned(),
        }
    };
    (introduction, parts.map(section).collect())
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

fn json_schema<T: JsonSchema>() -> Value {
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
        let (introduction, sections) = split_sections(text);
        assert_eq!(introduction, "Intro.\n\nMore.");
        let pairs = sections
            .iter()
            .map(|section| (section.heading.as_str(), section.text.as_str()));
        assert_eq!(
            pairs.collect::<Vec<_>>(),
            [("Cost", "Free."), ("Proof", "None.")]
        );
        let (introduction, sections) = split_sections("# Cost\n\nFree.");
        assert_eq!(introduction, "");
        assert_eq!(sections[0].heading, "Cost");
    }
}
