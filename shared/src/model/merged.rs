//! Combines the parameters of two types in one JSON object.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::model::envelope::{FIELD_PREFIX, describe_error};

/// A step's own parameters and the parameters that it shares with other steps, in one JSON object.
///
/// `#[serde(flatten)]` does not report the path of an invalid field, and it does not work with
/// `deny_unknown_fields`. `Merged` passes each member to the type whose schema contains it, and
/// refuses members that neither type has.
///
/// The schema lists the required shared parameters first, because they say what the step acts on.
/// The step's own parameters follow, then the optional shared ones.
#[derive(Clone, Debug)]
pub struct Merged<Own, Shared>(pub Own, pub Shared);

impl<'de, Own, Shared> Deserialize<'de> for Merged<Own, Shared>
where
    Own: DeserializeOwned + JsonSchema,
    Shared: DeserializeOwned + JsonSchema,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let members = Map::deserialize(deserializer)?;
        let mut generator = SchemaGenerator::default();
        let own = Members::from_schema::<Own>(&mut generator);
        let shared = Members::from_schema::<Shared>(&mut generator);
        let (mut own_members, mut shared_members) = (Map::new(), Map::new());

        for (name, value) in members {
            if shared.properties.contains_key(&name) {
                shared_members.insert(name, value);
            } else if own.properties.contains_key(&name) {
                own_members.insert(name, value);
            } else {
                let known_names: Vec<_> = own
                    .merge_with(shared)
                    .properties
                    .keys()
                    .map(|known_name| format!("`{known_name}`"))
                    .collect();
                return Err(D::Error::custom(format!(
                    "{FIELD_PREFIX}{name}`: unknown field `{name}`, expected one of {}",
                    known_names.join(", ")
                )));
            }
        }

        Ok(Self(
            parse_members(own_members)?,
            parse_members(shared_members)?,
        ))
    }
}

impl<Own: JsonSchema, Shared: JsonSchema> JsonSchema for Merged<Own, Shared> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}_and_{}", Own::schema_name(), Shared::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let own = Members::from_schema::<Own>(generator);
        let shared = Members::from_schema::<Shared>(generator);
        let Members {
            properties,
            required,
        } = own.merge_with(shared);

        let mut schema = json_schema!({
            "type": "object",
            "additionalProperties": false,
            "properties": properties,
        });
        if !required.is_empty() {
            schema.insert("required".into(), required.into());
        }
        schema
    }
}

/// Deserializes one of the two types. An error begins with the path of the invalid field.
fn parse_members<T: DeserializeOwned, E: Error>(members: Map<String, Value>) -> Result<T, E> {
    serde_path_to_error::deserialize(Value::Object(members))
        .map_err(|error| E::custom(describe_error(&error)))
}

/// The members of a JSON object, from the schema of its type.
struct Members {
    properties: Map<String, Value>,
    required: Vec<Value>,
}

impl Members {
    fn from_schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Self {
        let mut schema = T::json_schema(generator);
        let properties = schema
            .remove("properties")
            .and_then(|properties| properties.as_object().cloned())
            .unwrap_or_default();
        let required = schema
            .remove("required")
            .and_then(|required| required.as_array().cloned())
            .unwrap_or_default();
        Self {
            properties,
            required,
        }
    }

    fn merge_with(self, shared: Self) -> Self {
        let is_required = |name: &str| shared.required.iter().any(|required| required == name);
        let (required, optional): (Vec<_>, Vec<_>) = shared
            .properties
            .into_iter()
            .partition(|(name, _)| is_required(name));
        let properties = required
            .into_iter()
            .chain(self.properties)
            .chain(optional)
            .collect();
        Self {
            properties,
            required: shared.required.into_iter().chain(self.required).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::envelope::parse_object;
    use crate::model::error::ErrorName;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields, rename_all = "lowercase")]
    enum Rule {
        Include(String),
    }

    /// This text must not become the step's documentation.
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Own {
        /// What to do.
        action: String,
        /// How often.
        #[serde(default)]
        times: u8,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Nodes {
        /// The nodes.
        ids: Vec<String>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Selection {
        #[serde(default)]
        rules: Vec<Rule>,
        #[serde(rename = "dry-run")]
        is_dry: Option<bool>,
    }

    /// The step.
    #[derive(Debug, Deserialize, JsonSchema)]
    struct Step(Merged<Own, Merged<Selection, Nodes>>);

    /// The same parameters as one type.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "the test compares only its errors")]
    struct SingleType {
        ids: Vec<String>,
        action: String,
        #[serde(default)]
        times: u8,
        #[serde(default)]
        rules: Vec<Rule>,
        #[serde(rename = "dry-run")]
        is_dry: Option<bool>,
    }

    #[test]
    fn each_member_goes_to_the_type_that_declares_it() {
        let params =
            json!({ "dry-run": true, "ids": ["a"], "action": "go", "rules": [{ "include": "x" }] });
        let Step(Merged(own, Merged(selection, nodes))) = parse_object("params", &params).unwrap();
        assert_eq!(
            (own.action.as_str(), own.times, nodes.ids),
            ("go", 0, vec!["a".to_owned()])
        );
        let [Rule::Include(name)] = selection.rules.as_slice() else {
            panic!("{selection:?}")
        };
        assert_eq!((name.as_str(), selection.is_dry), ("x", Some(true)));
    }

    #[test]
    fn errors_are_the_same_as_for_a_single_type() {
        let valid_params = json!({ "action": "go", "ids": ["a"] });
        for (member, value, message) in [
            (
                "times",
                json!(300),
                "params, field `times`: invalid value: integer `300`, expected u8",
            ),
            (
                "ids",
                json!(["a", 1]),
                "params, field `ids[1]`: invalid type: integer `1`, expected a string",
            ),
            (
                "ids",
                json!(null),
                "params, field `ids`: invalid type: null, expected a sequence",
            ),
            (
                "rules",
                json!([{ "include": 7 }]),
                "params, field `rules[0].include`: invalid type: integer `7`",
            ),
            (
                "rules",
                json!([{ "leave": "x" }]),
                "params, field `rules[0]`: unknown variant `leave`",
            ),
            (
                "dry-run",
                json!("yes"),
                "params, field `dry-run`: invalid type: string \"yes\", expected a boolean",
            ),
            (
                "actoin",
                json!(1),
                "params, field `actoin`: unknown field `actoin`, expected one of `ids`, `action`, ",
            ),
        ] {
            let mut params = valid_params.clone();
            params[member] = value;
            let error = parse_object::<Step>("params", &params).unwrap_err();
            let expected = parse_object::<SingleType>("params", &params).unwrap_err();
            assert_eq!(error, expected);
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.starts_with(message), "{error}");
        }
        for missing in ["action", "ids"] {
            let mut params = valid_params.clone();
            params.as_object_mut().unwrap().remove(missing);
            let error = parse_object::<Step>("params", &params).unwrap_err();
            let expected = parse_object::<SingleType>("params", &params).unwrap_err();
            assert_eq!(error, expected);
            assert_eq!(error.message, format!("params: missing field `{missing}`"));
        }
    }

    #[test]
    fn the_schema_has_both_types_parameters_and_no_others() {
        let schema = SchemaGenerator::default()
            .into_root_schema_for::<Step>()
            .to_value();
        let names: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["ids", "action", "times", "rules", "dry-run"]);
        assert_eq!(schema["required"], json!(["ids", "action"]));
        assert_eq!(
            (&schema["additionalProperties"], &schema["description"]),
            (&json!(false), &json!("The step."))
        );
        assert_eq!(schema["properties"]["times"]["description"], "How often.");
    }
}
