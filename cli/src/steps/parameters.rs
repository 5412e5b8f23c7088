//! Reads the parameters of a step as an operator types them, with the step's own JSON Schema.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use stepward::runtime::manifest::Manifest;

use super::schema::{allowed_types, entry_schema, is_of_type, type_name, type_text};
use crate::error::{Error, Result};
use crate::json::{broken_json, check_numbers, parse_json_or_text};

/// How many characters of a wrong value an error repeats.
const SHOWN_CHARACTERS: usize = 60;

/// Reads the parameters of a step: those of a file, and those that are given as `KEY=VALUE` or, for
/// one entry of a map, as `KEY.NAME=VALUE`. Arguments replace values of the file, and single
/// entries replace those of a whole map.
///
/// If a parameter can only be text, the value is read as text. If a parameter can also have another
/// type, such as list or number, JSON of that type is read as JSON, and everything else as text. A
/// value that begins like a JSON list or object but is not valid is an error. Errors name unknown
/// parameters, values of a wrong type, and missing required parameters. The step itself checks
/// everything beyond types.
pub fn read(
    step: &Manifest,
    file: Map<String, Value>,
    arguments: &[String],
) -> Result<Map<String, Value>> {
    let mut parameters = file;
    let mut entries = Vec::new();
    let mut given = BTreeSet::new();
    for argument in arguments {
        let (key, text) = argument
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| {
                Error::usage_error(format!(
                    "-p \"{argument}\": expected a parameter and its value"
                ))
                .with_advice("write -p KEY=VALUE")
            })?;
        if !given.insert(key) {
            return Err(
                Error::usage_error(format!("-p \"{key}\" is given twice")).with_advice(format!(
                    "give several values as a JSON list: -p '{key}=[\"…\",\"…\"]'"
                )),
            );
        }
        // Entries are set after whole maps, so that the order of the arguments does not matter.
        if let Some(entry) = split_entry(step, key) {
            entries.push((entry, text));
        } else {
            let value = parse_value(step, key, parameter_schema(step, key)?, text)?;
            parameters.insert(key.to_owned(), value);
        }
    }
    for ((name, entry), text) in entries {
        let is_from_file = !given.contains(name);
        set_entry(step, &mut parameters, (name, entry), text, is_from_file)?;
    }

    for (name, value) in &parameters {
        let schema = parameter_schema(step, name)?;
        if !is_of_type(&step.parameters, schema, value) {
            return Err(type_error(step, name, schema, value));
        }
    }
    let required = step.parameters["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let missing: Vec<_> = required
        .filter(|name| !parameters.contains_key(*name))
        .collect();
    if missing.is_empty() {
        return Ok(parameters);
    }
    Err(Error::usage_error(format!(
        "step \"{}\" requires {}",
        step.name,
        missing.join(", ")
    ))
    .with_advice(format!(
        "add -p KEY=VALUE for each; {}",
        parameters_advice(step)
    )))
}

/// The map and the entry that a key such as `tags.team` names.
fn split_entry<'a>(step: &Manifest, key: &'a str) -> Option<(&'a str, &'a str)> {
    let is_parameter = step.parameters["properties"].get(key).is_some();
    key.split_once('.').filter(|_| !is_parameter)
}

/// Sets one entry of a map. A value from the file that is not a map is replaced.
fn set_entry(
    step: &Manifest,
    parameters: &mut Map<String, Value>,
    (name, entry): (&str, &str),
    text: &str,
    is_from_file: bool,
) -> Result<()> {
    let map_schema = parameter_schema(step, name)?;
    let schema = entry_schema(&step.parameters, map_schema)
        .ok_or_else(|| type_error(step, name, map_schema, &Value::Object(Map::new())))?;
    let value = parse_value(step, &format!("{name}.{entry}"), schema, text)?;

    match parameters.get_mut(name) {
        Some(Value::Object(entries)) => {
            entries.insert(entry.to_owned(), value);
        }
        Some(other) if !is_from_file => {
            return Err(Error::usage_error(format!(
                "-p {name}.{entry} sets an entry of {name}, but -p {name} is not a map: {}",
                shortened(other)
            ))
            .with_advice(format!("omit one of -p {name} and -p {name}.{entry}")));
        }
        _ => {
            let map = Map::from_iter([(entry.to_owned(), value)]);
            parameters.insert(name.to_owned(), Value::Object(map));
        }
    }
    Ok(())
}

/// The schema of a parameter.
fn parameter_schema<'a>(step: &'a Manifest, name: &str) -> Result<&'a Value> {
    step.parameters["properties"].get(name).ok_or_else(|| {
        Error::usage_error(format!(
            "step \"{}\" has no parameter \"{name}\"",
            step.name
        ))
        .with_advice(parameters_advice(step))
    })
}

/// Parses the text that an operator entered into a type that the schema allows.
fn parse_value(step: &Manifest, name: &str, schema: &Value, text: &str) -> Result<Value> {
    let types = allowed_types(&step.parameters, schema);
    let option = format!("-p {name}");
    if types.is_empty() {
        return parse_json_or_text(&option, text);
    }
    let json = serde_json::from_str::<Value>(text);
    if types.contains(&"string") {
        let is_other_type =
            |json: &Value| !json.is_string() && !json.is_null() && types.contains(&type_name(json));
        return match json {
            Ok(json) if is_other_type(&json) => {
                check_numbers(&option, text)?;
                Ok(json)
            }
            Err(error) if looks_like_json(&types, text) => Err(broken_json(&option, text, &error)),
            _ => Ok(text.into()),
        };
    }
    let json = json.map_err(|_| type_error(step, name, schema, &text.into()))?;
    check_numbers(&option, text)?;
    Ok(json)
}

/// Whether a text begins like a JSON list or object, and the types include it.
fn looks_like_json(types: &[&str], text: &str) -> bool {
    let kind = match text.trim_start().chars().next() {
        Some('[') => "array",
        Some('{') => "object",
        _ => return false,
    };
    types.contains(&kind)
}

fn type_error(step: &Manifest, name: &str, schema: &Value, value: &Value) -> Error {
    let expected = type_text(&step.parameters, schema);
    Error::usage_error(format!(
        "parameter \"{name}\" of step \"{}\": expected {expected}, got {}",
        step.name,
        shortened(value)
    ))
    .with_advice(format!(
        "`stepward steps {}` shows the parameters",
        step.name
    ))
}

/// Formats a value as JSON, and cuts it off if it is long.
fn shortened(value: &Value) -> String {
    let json = value.to_string();
    match json.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &json[..end]),
        None => json,
    }
}

/// Advice that lists the parameters of a step.
fn parameters_advice(step: &Manifest) -> String {
    let names: Vec<_> = step.parameters["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    if names.is_empty() {
        return "omit -p and --params: the step has no parameters".into();
    }
    format!(
        "the parameters are {}; `stepward steps {}` describes them",
        names.join(", "),
        step.name
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::steps::{catalog, find_step};

    fn read_arguments(step: &Manifest, arguments: &[&str]) -> Result<Value> {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        read(step, Map::new(), &arguments).map(Value::Object)
    }

    fn parameters_of(step: &str, arguments: &[&str]) -> Result<Value> {
        read_arguments(&find_step(step)?, arguments)
    }

    /// A step with a map, and with a parameter that can be a map or text.
    fn sample_step() -> Manifest {
        let map = json!({ "type": "object", "additionalProperties": { "type": "string" } });
        serde_json::from_value(json!({
            "name": "sample", "title": "A sample.", "description": "", "sections": [],
            "parameters": { "properties": {
                "tags": map,
                "payload": {
                    "type": ["string", "object"], "additionalProperties": { "type": "string" } },
            } },
            "output": {}, "examples": [], "errors": [], "permissions": [],
            "session_policy_characters": 0,
            "function": { "timeout_seconds": 60, "memory_mib": 512, "local_files": false },
            "timeout_seconds": 900,
        }))
        .unwrap()
    }

    #[test]
    fn a_map_and_its_entries_are_merged_in_any_order() {
        let merged = json!({ "tags": { "b": "2", "a": "1" } });
        for arguments in [
            ["tags.a=1", r#"tags={"b":"2"}"#],
            [r#"tags={"b":"2"}"#, "tags.a=1"],
            [r#"tags={"b":"2","a":"0"}"#, "tags.a=1"],
        ] {
            let parameters = read_arguments(&sample_step(), &arguments);
            assert_eq!(parameters.unwrap(), merged, "{arguments:?}");
        }
    }

    #[test]
    fn an_entry_does_not_replace_a_given_text() {
        for arguments in [
            ["payload.a=1", "payload=text"],
            ["payload=text", "payload.a=1"],
        ] {
            let refused = read_arguments(&sample_step(), &arguments).unwrap_err();
            assert!(
                refused
                    .to_string()
                    .contains("-p payload is not a map: \"text\""),
                "{refused}"
            );
        }
        let file = Map::from_iter([("payload".to_owned(), json!("text"))]);
        let parameters = read(&sample_step(), file, &["payload.a=1".to_owned()]).unwrap();
        assert_eq!(
            Value::Object(parameters),
            json!({ "payload": { "a": "1" } })
        );
    }

    #[test]
    fn values_are_read_as_a_type_that_the_schema_allows() {
        for (step, arguments, expected) in [
            (
                "rds-status",
                vec!["instance=12345"],
                json!({ "instance": "12345" }),
            ),
            (
                "rds-status",
                vec!["instance=a=b"],
                json!({ "instance": "a=b" }),
            ),
            (
                "rds-status",
                vec!["instance=true"],
                json!({ "instance": "true" }),
            ),
            (
                "rds-status",
                vec!["instance=", "fail_unless_available=true"],
                json!({ "instance": "", "fail_unless_available": true }),
            ),
            (
                "autoscaling-update-group",
                vec!["group_name=7", "max_size=7"],
                json!({ "group_name": "7", "max_size": 7 }),
            ),
            (
                "ec2-start",
                vec!["instance_ids=i-1"],
                json!({ "instance_ids": "i-1" }),
            ),
            (
                "ec2-start",
                vec!["instance_ids=[\"i-1\",\"i-2\"]"],
                json!({ "instance_ids": ["i-1", "i-2"] }),
            ),
            (
                "ec2-start",
                vec!["instance_ids={}"],
                json!({ "instance_ids": "{}" }),
            ),
            (
                "ec2-start",
                vec!["tags={\"a\":\"b\"}"],
                json!({ "tags": { "a": "b" } }),
            ),
            (
                "ec2-start",
                vec!["tags.a.b/c=1", "tags.d=e"],
                json!({ "tags": { "a.b/c": "1", "d": "e" } }),
            ),
            (
                "ec2-start",
                vec!["tags.a=1", "tags={\"b\":\"2\"}"],
                json!({ "tags": { "a": "1", "b": "2" } }),
            ),
            (
                "lambda-invoke",
                vec!["function_name=f", "payload.a=1", "payload={\"b\":2}"],
                json!({ "function_name": "f", "payload": { "a": 1, "b": 2 } }),
            ),
            (
                "lambda-invoke",
                vec!["function_name=f", "payload=7"],
                json!({ "function_name": "f", "payload": 7 }),
            ),
            (
                "lambda-invoke",
                vec!["function_name=f", "payload=seven"],
                json!({ "function_name": "f", "payload": "seven" }),
            ),
            (
                "s3-copy",
                vec!["source=a", "destination=b", "filters=[{\"exclude\":\"*\"}]"],
                json!({ "source": "a", "destination": "b", "filters": [{ "exclude": "*" }] }),
            ),
        ] {
            assert_eq!(
                parameters_of(step, &arguments).unwrap(),
                expected,
                "{step} {arguments:?}"
            );
        }
    }

    #[test]
    fn a_wrong_parameter_is_refused_by_name() {
        for (step, arguments, message) in [
            ("rds-status", vec!["instanc=x"], "no parameter \"instanc\""),
            (
                "rds-status",
                vec!["instanc=x"],
                "the parameters are instance, fail_unless_available",
            ),
            ("rds-status", vec![], "requires instance"),
            ("rds-status", vec!["instance"], "write -p KEY=VALUE"),
            ("rds-status", vec!["=x"], "write -p KEY=VALUE"),
            (
                "rds-status",
                vec!["instance=a", "instance=b"],
                "-p \"instance\" is given twice",
            ),
            (
                "rds-status",
                vec!["instance=a", "fail_unless_available=yes"],
                "\"fail_unless_available\" of step \"rds-status\": expected boolean, got \"yes\"",
            ),
            (
                "autoscaling-update-group",
                vec!["group_name=g", "max_size=1.5"],
                "\"max_size\" of step",
            ),
            (
                "ec2-start",
                vec!["tags=x"],
                "parameter \"tags\" of step \"ec2-start\": expected map of strings, got \"x\"",
            ),
            (
                "ec2-start",
                vec!["tags={\"a\":1}"],
                "expected map of strings, got {\"a\":1}",
            ),
            (
                "ec2-start",
                vec!["instance_ids.a=1"],
                "parameter \"instance_ids\" of step \"ec2-start\": expected string or list",
            ),
            ("ec2-start", vec!["nothing.a=1"], "no parameter \"nothing\""),
            (
                "lambda-run-code",
                vec!["execution_role_arn=a", "code=c", "runtime=Perl"],
                "expected `\"Python\"`, `\"Node.js\"` or `\"Ruby\"`, got \"Perl\"",
            ),
            (
                "ec2-start",
                vec!["instance_ids=[\"i-1\""],
                "-p instance_ids: the value begins like JSON, but is not valid",
            ),
            (
                "lambda-invoke",
                vec!["function_name=f", "payload={\"a\":"],
                "-p payload: the value begins like JSON",
            ),
            (
                "lambda-invoke",
                vec!["function_name=f", "payload.id=9007199254740993"],
                "-p payload.id: the number 9007199254740993 would be rounded",
            ),
            (
                "autoscaling-update-group",
                vec!["group_name=g", "max_size=9007199254740993"],
                "would be rounded",
            ),
            (
                "s3-copy",
                vec!["source=a", "destination=b", "filters=[{\"but\":\"*\"}]"],
                "expected list of",
            ),
            (
                "validate-credentials",
                vec!["a=b"],
                "the step has no parameters",
            ),
        ] {
            let refused = parameters_of(step, &arguments).unwrap_err();
            assert!(
                refused.to_string().contains(message),
                "{step} {arguments:?}: {refused}"
            );
            assert_eq!(refused.code(), crate::error::NOT_STARTED);
        }
    }

    #[test]
    fn arguments_replace_the_file_and_both_are_checked() {
        let step = find_step("ec2-start").unwrap();
        let object = |value: Value| value.as_object().cloned().unwrap();
        let file = object(json!({ "instance_ids": ["i-1"], "tags": { "a": "b" } }));
        let arguments = ["instance_ids=i-2".to_owned(), "tags.c=d".to_owned()];
        let parameters = Value::Object(read(&step, file, &arguments).unwrap());
        assert_eq!(
            parameters,
            json!({ "instance_ids": "i-2", "tags": { "a": "b", "c": "d" } })
        );
        for file in [
            json!({ "instance_ids": 7 }),
            json!({ "instance_ids": [7] }),
            json!({ "other": 7 }),
        ] {
            assert!(read(&step, object(file), &[]).is_err());
        }
    }

    #[test]
    fn every_example_in_the_catalog_is_valid() {
        for step in catalog().unwrap() {
            for example in &step.examples {
                let parameters = example.parameters.as_object().unwrap();
                let checked = read(&step, parameters.clone(), &[]).unwrap();
                assert_eq!(&checked, parameters, "{}", step.name);
            }
        }
    }

    proptest! {
        #[test]
        fn any_argument_is_read_or_refused(
            step in prop::sample::select(catalog().unwrap()),
            number in any::<prop::sample::Index>(),
            middle in prop::sample::select(vec!["=", ".", "=[", "={", ".=", ""]),
            text in "(?s:.{0,30})",
        ) {
            let properties = step.parameters["properties"].as_object().into_iter().flatten();
            let names: Vec<_> = properties.map(|(name, _)| name.as_str()).collect();
            let name = if names.is_empty() { "" } else { names[number.index(names.len())] };
            for argument in [format!("{name}{middle}{text}"), text.clone()] {
                match read(&step, Map::new(), std::slice::from_ref(&argument)) {
                    Ok(parameters) => prop_assert!(!parameters.is_empty()),
                    Err(refused) => prop_assert_eq!(refused.code(), crate::error::NOT_STARTED),
                }
            }
        }
    }
}
