//! A step's parameters as an operator types them, read by the step's own JSON Schema.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use stepward::runtime::manifest::Manifest;

use super::schema::{self, fits, kind, type_of, types};
use crate::error::{Error, Result};

/// Characters of a wrong value that an error repeats.
const SHOWN: usize = 60;

/// The parameters of a step: those of a file, and over them those that are given as `key=value`, or
/// as `key.name=value` for one entry of a map.
///
/// Where a parameter can only be text, the value is taken as it is; where it can be something else
/// too, as in a list or a number, JSON of that type is taken as JSON, and all else as text. Refused
/// by name are unknown parameters, values of another type, and required parameters that are absent.
/// What a step checks beyond types, it says itself.
pub fn read(
    step: &Manifest,
    file: Map<String, Value>,
    given: &[String],
) -> Result<Map<String, Value>> {
    let mut params = file;
    let mut seen = BTreeSet::new();
    for text in given {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| {
                Error::not_asked(format!("-p {text}: expected a parameter and its value"))
                    .next("write -p KEY=VALUE")
            })?;
        if !seen.insert(key) {
            return Err(
                Error::not_asked(format!("-p {key} is given twice")).next(format!(
                    "give several values as a JSON list: -p '{key}=[\"…\",\"…\"]'"
                )),
            );
        }
        set(step, &mut params, key, value)?;
    }
    for (name, value) in &params {
        let about = about(step, name)?;
        if !fits(&step.parameters, about, value) {
            return Err(wrong(step, name, about, value));
        }
    }
    let required = step.parameters["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let missing: Vec<_> = required
        .filter(|name| !params.contains_key(*name))
        .collect();
    if missing.is_empty() {
        return Ok(params);
    }
    let what = format!("step {} needs {}", step.name, missing.join(", "));
    Err(Error::not_asked(what).next(format!("give each as -p KEY=VALUE; {}", known(step))))
}

/// Sets a parameter, or one entry of a map.
fn set(step: &Manifest, params: &mut Map<String, Value>, key: &str, text: &str) -> Result<()> {
    if step.parameters["properties"].get(key).is_none()
        && let Some((name, entry)) = key.split_once('.')
    {
        let map = about(step, name)?;
        let entry_schema = schema::entries(&step.parameters, map)
            .ok_or_else(|| wrong(step, name, map, &Value::Object(Map::new())))?;
        let value = coerced(step, key, entry_schema, text)?;
        let value = Map::from_iter([(entry.to_owned(), value)]);
        match params.get_mut(name) {
            Some(Value::Object(entries)) => entries.extend(value),
            _ => drop(params.insert(name.to_owned(), Value::Object(value))),
        }
        return Ok(());
    }
    let value = coerced(step, key, about(step, key)?, text)?;
    params.insert(key.to_owned(), value);
    Ok(())
}

/// The schema of a parameter.
fn about<'a>(step: &'a Manifest, name: &str) -> Result<&'a Value> {
    step.parameters["properties"].get(name).ok_or_else(|| {
        Error::not_asked(format!("step {} has no parameter \"{name}\"", step.name))
            .next(known(step))
    })
}

/// A typed value as the type that its schema wants.
fn coerced(step: &Manifest, name: &str, about: &Value, text: &str) -> Result<Value> {
    let types = types(&step.parameters, about);
    let json = serde_json::from_str::<Value>(text).ok();
    if types.is_empty() || types.contains(&"string") {
        let is_other =
            |json: &Value| !json.is_string() && !json.is_null() && types.contains(&type_of(json));
        let json = json.filter(|json| types.is_empty() || is_other(json));
        return Ok(json.unwrap_or_else(|| text.into()));
    }
    json.ok_or_else(|| wrong(step, name, about, &text.into()))
}

fn wrong(step: &Manifest, name: &str, about: &Value, value: &Value) -> Error {
    let value = value.to_string();
    let short: String = value.chars().take(SHOWN).collect();
    let more = if short.len() < value.len() { "…" } else { "" };
    let kind = kind(&step.parameters, about);
    Error::not_asked(format!(
        "parameter {name} of step {}: expected {kind}, got {short}{more}",
        step.name
    ))
    .next(format!(
        "`stepward steps {}` shows the parameters",
        step.name
    ))
}

fn known(step: &Manifest) -> String {
    let names: Vec<_> = step.parameters["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
        .collect();
    if names.is_empty() {
        return "it takes no parameters".into();
    }
    let names = names
        .into_iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        "its parameters are {names}; `stepward steps {}` shows them",
        step.name
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::steps::{catalog, find};

    fn params(step: &str, given: &[&str]) -> Result<Value> {
        let given: Vec<_> = given.iter().map(ToString::to_string).collect();
        read(&find(step)?, Map::new(), &given).map(Value::Object)
    }

    #[test]
    fn values_are_read_as_the_type_that_the_step_wants() {
        for (step, given, read) in [
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
            assert_eq!(params(step, &given).unwrap(), read, "{step} {given:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (step, given, says) in [
            ("rds-status", vec!["instanc=x"], "no parameter \"instanc\""),
            (
                "rds-status",
                vec!["instanc=x"],
                "its parameters are instance, fail_unless_available",
            ),
            ("rds-status", vec![], "needs instance"),
            ("rds-status", vec!["instance"], "write -p KEY=VALUE"),
            ("rds-status", vec!["=x"], "write -p KEY=VALUE"),
            (
                "rds-status",
                vec!["instance=a", "instance=b"],
                "-p instance is given twice",
            ),
            (
                "rds-status",
                vec!["instance=a", "fail_unless_available=yes"],
                "parameter fail_unless_available of step rds-status: expected boolean, got \"yes\"",
            ),
            (
                "autoscaling-update-group",
                vec!["group_name=g", "max_size=1.5"],
                "max_size of step",
            ),
            (
                "ec2-start",
                vec!["tags=x"],
                "parameter tags of step ec2-start: expected map of strings, got \"x\"",
            ),
            (
                "ec2-start",
                vec!["tags={\"a\":1}"],
                "expected map of strings, got {\"a\":1}",
            ),
            (
                "ec2-start",
                vec!["instance_ids.a=1"],
                "parameter instance_ids of step ec2-start: expected string or list",
            ),
            ("ec2-start", vec!["nothing.a=1"], "no parameter \"nothing\""),
            (
                "lambda-run-code",
                vec!["execution_role_arn=a", "code=c", "runtime=Perl"],
                "expected `\"Python\"`, `\"Node.js\"` or `\"Ruby\"`, got \"Perl\"",
            ),
            (
                "s3-copy",
                vec!["source=a", "destination=b", "filters=[{\"but\":\"*\"}]"],
                "expected list of",
            ),
            ("validate-credentials", vec!["a=b"], "takes no parameters"),
        ] {
            let refused = params(step, &given).unwrap_err();
            assert!(
                refused.to_string().contains(says),
                "{step} {given:?}: {refused}"
            );
            assert_eq!(refused.code(), crate::error::NOT_ASKED);
        }
    }

    #[test]
    fn given_values_replace_those_of_the_file_and_both_are_checked() {
        let step = find("ec2-start").unwrap();
        let object = |value: Value| value.as_object().cloned().unwrap();
        let file = object(json!({ "instance_ids": ["i-1"], "tags": { "a": "b" } }));
        let given = ["instance_ids=i-2".to_owned(), "tags.c=d".to_owned()];
        let read = Value::Object(super::read(&step, file, &given).unwrap());
        assert_eq!(
            read,
            json!({ "instance_ids": "i-2", "tags": { "a": "b", "c": "d" } })
        );
        for file in [
            json!({ "instance_ids": 7 }),
            json!({ "instance_ids": [7] }),
            json!({ "other": 7 }),
        ] {
            assert!(super::read(&step, object(file), &[]).is_err());
        }
    }

    #[test]
    fn every_example_of_every_step_fits_and_can_be_typed() {
        for step in catalog().unwrap() {
            for example in &step.examples {
                let example = example.parameters.as_object().unwrap();
                assert_eq!(
                    &super::read(&step, example.clone(), &[]).unwrap(),
                    example,
                    "{}",
                    step.name
                );
                let typed = example.iter().map(|(name, value)| {
                    format!(
                        "{name}={}",
                        value
                            .as_str()
                            .map_or_else(|| value.to_string(), str::to_owned)
                    )
                });
                let typed: Vec<_> = typed.collect();
                assert_eq!(
                    &super::read(&step, Map::new(), &typed).unwrap(),
                    example,
                    "{} {typed:?}",
                    step.name
                );
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
            let names: Vec<_> = step.parameters["properties"].as_object().into_iter().flatten().collect();
            let name = if names.is_empty() { "" } else { names[number.index(names.len())].0.as_str() };
            for given in [format!("{name}{middle}{text}"), text.clone()] {
                match super::read(&step, Map::new(), std::slice::from_ref(&given)) {
                    Ok(params) => prop_assert!(!params.is_empty()),
                    Err(refused) => prop_assert_eq!(refused.code(), crate::error::NOT_ASKED),
                }
            }
        }
    }
}
