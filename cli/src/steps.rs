//! The steps' pages. The catalog is made from the binaries' own manifests by `cargo xtask generate`.

use serde_json::Value;
use stepward::manifest::Manifest;

use crate::error::{Context, Error, Result};
use crate::output::{Format, table};

const CATALOG: &str = include_str!("../catalog.json");

/// The manifests of all steps, by name.
pub fn catalog() -> Result<Vec<Manifest>> {
    let mut steps: Vec<Manifest> = serde_json::from_str(CATALOG)
        .doing("cli/catalog.json")
        .map_err(|error| error.next("make it again: `cargo xtask generate`"))?;
    steps.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(steps)
}

/// `stepward steps [NAME]`
pub fn command(name: Option<&str>, format: Format) -> Result<()> {
    let steps = catalog()?;
    let Some(name) = name else {
        let row = |step: &Manifest| [step.name.clone(), step.title.clone()];
        return format.show(&steps, || table(&["step", ""], steps.iter().map(row)));
    };
    let step = steps.iter().find(|step| step.name == name).ok_or_else(|| {
        let near: Vec<_> = steps.iter().map(|step| step.name.as_str()).filter(|known| is_near(known, name)).collect();
        let known =
            if near.is_empty() { "`stepward steps` lists all".into() } else { format!("is it {}?", near.join(" or ")) };
        Error::not_asked(format!("there is no step {name}")).next(known)
    })?;
    format.show(step, || page(step))
}

fn is_near(known: &str, name: &str) -> bool {
    name.split('-').any(|word| word.len() > 1 && known.split('-').any(|other| other == word))
}

/// A step's page, as text.
#[must_use]
pub fn page(step: &Manifest) -> String {
    let mut parts = vec![format!("{}: {}", step.name, step.title), step.description.clone()];
    let required: Vec<_> =
        step.parameters["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fields = step.parameters["properties"].as_object().into_iter().flatten();
    let rows: Vec<_> = fields
        .map(|(name, about)| {
            let need = if required.contains(&name.as_str()) { "required".into() } else { default(about) };
            let text = about["description"].as_str().unwrap_or_default().replace('\n', " ");
            [name.clone(), kind(about), need, text]
        })
        .collect();
    if rows.is_empty() {
        parts.push("It takes no parameters.".into());
    } else {
        parts.push(table(&["parameter", "type", "", ""], rows));
    }
    let actions =
        step.permissions.as_array().into_iter().flatten().filter_map(|statement| statement["Action"].as_array());
    let actions: Vec<_> = actions.flatten().filter_map(Value::as_str).collect();
    if !actions.is_empty() {
        parts.push(format!("Permissions: {}", actions.join(", ")));
    }
    if let Ok(example) = serde_json::to_string_pretty(&step.example) {
        parts.push(format!("Example:\n{example}"));
    }
    if !step.rundeck.is_empty() {
        parts.push(format!("Stands for Rundeck's {}.", step.rundeck.join(", ")));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn default(about: &Value) -> String {
    if about["default"].is_null() { String::new() } else { format!("default {}", about["default"]) }
}

/// A JSON Schema's type in a word.
fn kind(about: &Value) -> String {
    match &about["type"] {
        Value::String(kind) if kind == "array" => format!("list of {}", kind_of_items(about)),
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let kinds: Vec<_> = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect();
            kinds.join(" or ")
        }
        _ => {
            let of = about["anyOf"].as_array().or(about["oneOf"].as_array()).into_iter().flatten();
            let kinds: Vec<_> = of.map(kind).filter(|kind| !kind.is_empty() && kind != "null").collect();
            kinds.join(" or ")
        }
    }
}

fn kind_of_items(about: &Value) -> String {
    let kind = kind(&about["items"]);
    if kind.is_empty() { "values".into() } else { format!("{kind}s") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_catalog_is_readable() {
        catalog().unwrap();
    }

    #[test]
    fn a_page_names_parameters_types_and_permissions() {
        let step = Manifest {
            name: "ec2-start".into(),
            rundeck: vec!["aws-vm-start".into()],
            title: "Start instances".into(),
            description: "Waits.".into(),
            parameters: json!({ "required": ["ids"], "properties": {
                "ids": { "type": "array", "items": { "type": "string" }, "description": "Which" },
                "force": { "type": ["boolean", "null"], "default": false } } }),
            output: Value::Null,
            example: json!({ "ids": ["i-1"] }),
            permissions: json!([{ "Effect": "Allow", "Action": ["ec2:StartInstances"], "Resource": ["*"] }]),
            timeout_seconds: 1,
        };
        let page = page(&step);
        for part in
            ["list of strings", "required", "boolean", "default false", "ec2:StartInstances", "\"i-1\"", "aws-vm-start"]
        {
            assert!(page.contains(part), "{part} is not in:\n{page}");
        }
    }
}
