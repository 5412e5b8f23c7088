//! A step's page in Markdown: `stepward steps NAME` shows it, `cargo xtask generate` writes it
//! below `docs/steps/`.

use std::collections::BTreeSet;

use schemars::schema_for;
use serde_json::Value;
use stepward::model::error::ErrorName;
use stepward::model::permissions::Statement;
use stepward::node::shell::quote_for_display;
use stepward::runtime::manifest::{Example, Manifest};

use super::schema::{Field, Need, fields};

/// The customer and the account of the commands on pages.
const TARGET: &str = "--customer acme --account prod";
/// The widest line of a command, in characters.
const COMMAND_WIDTH: usize = 100;

/// Headings of a step's documentation, in the order of its page. Each page has those of
/// [`REQUIRED_HEADINGS`].
pub const HEADINGS: [&str; 6] = [
    "Prerequisites",
    "Behavior",
    "Failures",
    "Cost",
    "Limits",
    "Proof",
];
/// Headings that every step's documentation has.
pub const REQUIRED_HEADINGS: [&str; 3] = ["Behavior", "Cost", "Proof"];

/// A step's page. It ends with the section Proof, to which `cargo xtask generate` adds the tests.
#[must_use]
pub fn markdown(step: &Manifest) -> String {
    let written = |heading: &str| {
        let section = step
            .sections
            .iter()
            .find(|section| section.heading == heading);
        section
            .map(|section| section.text.clone())
            .unwrap_or_default()
    };
    let mut page = vec![
        format!("# {}", step.name),
        step.title.clone(),
        step.description.clone(),
    ];
    let mut section = |heading: &str, parts: Vec<String>| {
        if parts.iter().any(|part| !part.is_empty()) {
            page.push(format!("## {heading}"));
            page.extend(parts);
        }
    };
    section(
        "Examples",
        step.examples
            .iter()
            .map(|example| example_text(step, example))
            .collect(),
    );
    section("Prerequisites", vec![written("Prerequisites")]);
    section("Behavior", vec![written("Behavior")]);
    section("Parameters", vec![parameters(step)]);
    section("Output", vec![output(&step.output)]);
    section(
        "Failures",
        [vec![written("Failures")], errors(&step.errors)].concat(),
    );
    section("Permissions", permissions(step));
    section("Cost", vec![written("Cost")]);
    let limit = duration_text(step.timeout_seconds);
    let limit =
        format!("If AWS takes longer than {limit}, the step is cancelled and fails as `TimedOut`.");
    section("Limits", vec![written("Limits"), limit]);
    section("Rundeck", rundeck(step));
    section("Proof", vec![written("Proof")]);
    page.retain(|part| !part.is_empty());
    page.join("\n\n") + "\n"
}

/// The command that runs a step with these parameters, as an operator types it.
#[must_use]
pub fn command(step: &str, parameters: &Value) -> String {
    let option = |(name, value): (&String, &Value)| {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        format!(
            "-p {}",
            quote_for_display([format!("{name}={value}").as_str()])
        )
    };
    let options = parameters.as_object().into_iter().flatten().map(option);
    let parts: Vec<_> = std::iter::once(format!("stepward step run {step} {TARGET}"))
        .chain(options)
        .collect();
    let line = parts.join(" ");
    if line.chars().count() <= COMMAND_WIDTH && !line.contains('\n') {
        line
    } else {
        parts.join(" \\\n  ")
    }
}

fn example_text(step: &Manifest, example: &Example) -> String {
    let command = command(&step.name, &example.parameters);
    let Example { title, output, .. } = example;
    format!("### {title}\n\n```sh\n{command}\n```\n\nOutput:\n\n```json\n{output:#}\n```")
}

/// A Markdown table that can be read as it is: all columns but the last have one width.
#[must_use]
pub fn table<R: IntoIterator<Item = String>>(
    heading: &[&str],
    rows: impl IntoIterator<Item = R>,
) -> String {
    let cell = |text: String| text.replace('|', "\\|").replace('\n', " ");
    let heading = heading.iter().map(ToString::to_string).collect();
    let mut table: Vec<Vec<String>> = vec![heading, Vec::new()];
    table.extend(
        rows.into_iter()
            .map(|row| row.into_iter().map(cell).collect()),
    );
    let width = |column: usize| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
            .max(3)
    };
    let last = table[0].len().saturating_sub(1);
    let widths: Vec<_> = (0..=last)
        .map(|column| if column == last { 3 } else { width(column) })
        .collect();
    table[1] = widths.iter().map(|width| "-".repeat(*width)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("| {} |", cells.join(" | "))
    };
    table.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn parameters(step: &Manifest) -> String {
    let need = |field: &Field| match (&field.need, &field.default) {
        (Need::Required, _) => "required".to_owned(),
        (Need::OneOf(others), _) => format!("either this or {}", names(others)),
        (_, Value::Null) => "optional".into(),
        (_, Value::Array(list)) if list.is_empty() => "optional".into(),
        (_, Value::Object(map)) if map.is_empty() => "optional".into(),
        (_, default) => format!("default `{default}`"),
    };
    let has_fields = step.rundeck.iter().any(|plugin| !plugin.fields.is_empty());
    let row = |field: Field| {
        let mut row = vec![
            format!("`{}`", field.name),
            field.kind.clone(),
            need(&field),
        ];
        if has_fields {
            row.push(names(&rundeck_keys(step, &field.name)));
        }
        row.push(field.text);
        row
    };
    let rows: Vec<_> = fields(&step.parameters).into_iter().map(row).collect();
    let heading: &[&str] = if has_fields {
        &["parameter", "type", "", "in Rundeck", ""]
    } else {
        &["parameter", "type", "", ""]
    };
    if rows.is_empty() {
        "This step has no parameters.".into()
    } else {
        table(heading, rows)
    }
}

/// The keys of Rundeck's plugins that a parameter replaces.
fn rundeck_keys(step: &Manifest, parameter: &str) -> Vec<String> {
    let fields = step.rundeck.iter().flat_map(|plugin| &plugin.fields);
    let keys: BTreeSet<_> = fields
        .filter(|(_, ours)| *ours == parameter)
        .map(|(key, _)| key.clone())
        .collect();
    keys.into_iter().collect()
}

/// Names as code, with commas between them.
fn names(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn output(schema: &Value) -> String {
    let row = |field: Field| {
        let kind = if field.nullable {
            format!("{} or null", field.kind)
        } else {
            field.kind
        };
        [format!("`{}`", field.name), kind, field.text]
    };
    let rows: Vec<_> = fields(schema).into_iter().map(row).collect();
    let about = schema["description"]
        .as_str()
        .unwrap_or("This step has no output.");
    let about = about.replace('\n', " ");
    if rows.is_empty() {
        about
    } else {
        format!("{about}\n\n{}", table(&["field", "type", ""], rows))
    }
}

fn permissions(step: &Manifest) -> Vec<String> {
    let about = "The step's role in the customer's account needs these permissions. `*` stands for the \
                 values of parameters: the session of one run is limited to the resources that its \
                 parameters name.";
    let mut parts = vec![about.to_owned(), permission_table(&step.permissions)];
    if !step.peer_permissions.is_empty() {
        parts.push("In the second account or Region:".into());
        parts.push(permission_table(&step.peer_permissions));
    }
    parts
}

fn permission_table(statements: &[Statement]) -> String {
    let row = |statement: &Statement| {
        let resources = match &statement.condition {
            Value::Null => names(&statement.resources),
            condition => format!("{} if `{condition}`", names(&statement.resources)),
        };
        let purpose = match &statement.reason {
            Some(reason) => format!("{}. {reason}", statement.purpose),
            None => statement.purpose.clone(),
        };
        [names(&statement.actions), resources, purpose]
    };
    table(
        &["actions", "resources", "used to"],
        statements.iter().map(row),
    )
}

fn errors(own: &[(ErrorName, String)]) -> Vec<String> {
    let general = schema_for!(ErrorName).to_value();
    let text = |about: &Value, field: &str| about[field].as_str().unwrap_or_default().to_owned();
    let general = general["oneOf"].as_array().into_iter().flatten();
    let general: Vec<_> = general
        .map(|about| {
            [
                format!("`{}`", text(about, "const")),
                text(about, "description"),
            ]
        })
        .collect();
    let own: Vec<_> = own
        .iter()
        .map(|(name, text)| [format!("`{name}`"), text.clone()])
        .collect();
    let mut parts = Vec::new();
    if !own.is_empty() {
        parts.push(table(&["error", "meaning for this step"], own));
    }
    parts.push(table(&["error", "meaning for every step"], general));
    parts
}

fn rundeck(step: &Manifest) -> Vec<String> {
    if step.rundeck.is_empty() {
        return Vec::new();
    }
    let types: Vec<_> = step
        .rundeck
        .iter()
        .map(|plugin| plugin.provider_type.clone())
        .collect();
    let mut parts = vec![format!("Replaces the provider types {}.", names(&types))];
    let region = rundeck_keys(step, "region");
    if !region.is_empty() && step.parameters["properties"].get("region").is_none() {
        let region = names(&region);
        parts.push(format!(
            "The field {region} is the Region of the step's target: `--region`."
        ));
    }
    parts
}

/// A time limit in the largest unit that it is a whole number of.
fn duration_text(seconds: u64) -> String {
    let (number, unit) = match seconds {
        _ if seconds.is_multiple_of(3600) => (seconds / 3600, "hour"),
        _ if seconds.is_multiple_of(60) => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn step() -> Manifest {
        serde_json::from_value(json!({
            "name": "ec2-start",
            "rundeck": [{ "provider_type": "aws-vm-start",
                "fields": { "instanceId": "ids", "region": "region" } }],
            "title": "Start instances.",
            "description": "Use it in the morning.",
            "sections": [
                { "heading": "Behavior", "text": "It waits." },
                { "heading": "Cost", "text": "Running instances cost money." },
                { "heading": "Proof", "text": "Proven on the local cloud." },
            ],
            "parameters": { "required": ["ids"], "properties": {
                "ids": { "type": "array", "items": { "type": "string" }, "description": "Which | all." },
                "force": { "type": ["boolean", "null"], "default": false } } },
            "output": { "description": "What changed.", "properties": {
                "name": { "type": ["string", "null"], "description": "Its name." } } },
            "examples": [{ "title": "Start one instance", "parameters": { "ids": ["i-1"] },
                "output": { "name": "web" } }],
            "errors": [["NotFound", "No instance has this ID."]],
            "permissions": [{ "purpose": "unlock volumes", "actions": ["kms:CreateGrant"],
                "resources": ["*"],
                "condition": { "Bool": { "kms:GrantIsForAWSResource": "true" } } }],
            "peer_permissions": [{ "purpose": "look there", "actions": ["ec2:Get"], "resources": ["*"],
                "reason": "It cannot be narrowed." }],
            "session_policy_characters": 100,
            "function": { "timeout_seconds": 60, "memory_mib": 512, "local_files": false },
            "timeout_seconds": 900,
        }))
        .unwrap()
    }

    #[test]
    fn a_page_shows_all_of_the_manifest() {
        let page = markdown(&step());
        for part in [
            "# ec2-start\n\nStart instances.\n\nUse it in the morning.\n\n## Examples\n\n### Start one instance",
            "```sh\nstepward step run ec2-start --customer acme --account prod -p 'ids=[\"i-1\"]'\n```",
            "Output:\n\n```json\n{\n  \"name\": \"web\"\n}\n```\n\n## Behavior\n\nIt waits.",
            "| `ids`     | list of strings | required        | `instanceId` | Which \\| all. |",
            "| `force`   | boolean         | default `false` |",
            "| `name` | string or null | Its name. |",
            "| `kms:CreateGrant` | `*` if `{\"Bool\":{\"kms:GrantIsForAWSResource\":\"true\"}}` | unlock volumes |",
            "In the second account or Region:",
            "| `ec2:Get` | `*`       | look there. It cannot be narrowed. |",
            "| `NotFound` | No instance has this ID. |",
            "takes longer than 15 minutes, the step",
            "Replaces the provider types `aws-vm-start`.\n\nThe field `region` is",
        ] {
            assert!(page.contains(part), "{part} is not in:\n{page}");
        }
        assert!(
            page.ends_with("## Proof\n\nProven on the local cloud.\n"),
            "{page}"
        );
    }

    #[test]
    fn a_step_without_parameters_and_own_errors_says_so() {
        let page = markdown(&Manifest {
            parameters: json!({}),
            errors: Vec::new(),
            ..step()
        });
        assert!(
            page.contains("## Parameters\n\nThis step has no parameters.\n"),
            "{page}"
        );
        assert!(
            page.contains("## Failures\n\n| error          | meaning for every"),
            "{page}"
        );
    }

    #[test]
    fn long_commands_have_one_parameter_on_each_line() {
        let text = "x".repeat(80);
        assert_eq!(
            command("s3-list", &json!({ "uri": "s3://a", "filter": text })),
            format!(
                "stepward step run s3-list --customer acme --account prod \\\n  -p uri=s3://a \\\n  \
                 -p filter={text}"
            )
        );
    }
}
