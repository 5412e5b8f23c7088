//! Parameters of two types in one JSON object.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::model::envelope::{FIELD, fault};

/// A step's own parameters and those that it shares with other steps, as one JSON object.
///
/// `#[serde(flatten)]` would lose the path of an invalid field, and with it `deny_unknown_fields`.
/// Here each member goes to the type whose schema has it, and one that neither type has is refused.
///
/// The schema lists the required shared parameters first, which say what the step acts on, then all
/// of its own, then the optional shared ones.
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
        let (own, shared) = (
            Members::of::<Own>(&mut generator),
            Members::of::<Shared>(&mut generator),
        );
        let (mut of_own, mut of_shared) = (Map::new(), Map::new());
        for (name, value) in members {
            if shared.properties.contains_key(&name) {
                of_shared.insert(name, value);
            } else if own.properties.contains_key(&name) {
                of_own.insert(name, value);
            } else {
                let known: Vec<_> = own
                    .and(shared)
                    .properties
                    .keys()
                    .map(|known| format!("`{known}`"))
                    .collect();
                return Err(D::Error::custom(format!(
                    "{FIELD}{name}`: unknown field `{name}`, expected one of {}",
                    known.join(", ")
                )));
            }
        }
        Ok(Self(part(of_own)?, part(of_shared)?))
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
        let (own, shared) = (
            Members::of::<Own>(generator),
            Members::of::<Shared>(generator),
        );
        let Members {
            properties,
            required,
        } = own.and(shared);
        let mut schema = json_schema!({ "type": "object", "additionalProperties": false, "properties": properties });
        if !required.is_empty() {
            schema.insert("required".into(), required.into());
        }
        schema
    }
}

/// One of the two types, or an error that begins with the field's path.
fn part<T: DeserializeOwned, E: Error>(members: Map<String, Value>) -> Result<T, E> {
    serde_path_to_error::deserialize(Value::Object(members))
        .map_err(|error| E::custom(fault(&error)))
}

/// The members of a JSON object, as its type's schema has them.
struct Members {
    properties: Map<String, Value>,
    required: Vec<Value>,
}

impl Members {
    fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Self {
        let mut schema = T::json_schema(generator);
        let properties = schema
            .remove("properties")
            .and_then(|all| all.as_object().cloned())
            .unwrap_or_default();
        let required = schema
            .remove("required")
            .and_then(|all| all.as_array().cloned())
            .unwrap_or_default();
        Self {
            properties,
            required,
        }
    }

    fn and(self, shared: Self) -> Self {
        let is_required = |name: &str| shared.required.iter().any(|other| other == name);
        let (first, last): (Vec<_>, Vec<_>) = shared
            .properties
            .into_iter()
            .partition(|(name, _)| is_required(name));
        let properties = first
            .into_iter()
            .chain(self.properties)
            .chain(last)
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
    use crate::model::envelope::read;
    use crate::model::error::ErrorName;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields, rename_all = "lowercase")]
    enum Rule {
        Include(String),
    }

    /// Not the step's documentation.
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Own {
        /// What.
        action: String,
        /// How often.
        #[serde(default)]
        times: u8,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Nodes {
        /// Where.
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

    /// The same parameters in one type.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its errors are read")]
    struct One {
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
    fn each_member_goes_to_the_type_that_has_it() {
        let params =
            json!({ "dry-run": true, "ids": ["a"], "action": "go", "rules": [{ "include": "x" }] });
        let Step(Merged(own, Merged(selection, nodes))) = read("params", &params).unwrap();
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
    fn an_invalid_field_is_named_as_by_one_type() {
        let good = json!({ "action": "go", "ids": ["a"] });
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
            let mut params = good.clone();
            params[member] = value;
            let error = read::<Step>("params", &params).unwrap_err();
            assert_eq!(error, read::<One>("params", &params).unwrap_err());
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.starts_with(message), "{error}");
        }
        for missing in ["action", "ids"] {
            let mut params = good.clone();
            params.as_object_mut().unwrap().remove(missing);
            let error = read::<Step>("params", &params).unwrap_err();
            assert_eq!(error, read::<One>("params", &params).unwrap_err());
            assert_eq!(error.message, format!("params: missing field `{missing}`"));
        }
    }

    #[test]
    fn the_schema_has_the_parameters_of_both_and_is_closed() {
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
