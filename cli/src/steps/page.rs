//! The page of a step in Markdown: `stepward steps NAME` shows it, `cargo xtask generate` writes it
//! to `docs/steps/`.

use std::collections::BTreeSet;

use schemars::schema_for;
use serde_json::Value;
use stepward::model::error::ErrorName;
use stepward::model::permissions::Statement;
use stepward::node::shell::quote_for_display;
use stepward::runtime::manifest::{Example, Manifest};

use super::schema::{Field, Need, fields};
use crate::output::counted;

/// The customer and the account in the commands of examples.
const TARGET: &str = "--customer acme --account prod";
/// The maximum length of a command on one line, in characters. A longer command is broken into
/// several lines. A code block of this width fits a terminal of 80 columns.
const COMMAND_WIDTH: usize = 76;

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

/// The page of a step. It ends with the section Proof, to which `cargo xtask generate` adds the
/// tests.
#[must_use]
pub fn markdown(step: &Manifest) -> String {
    let documented = |heading: &str| {
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
    let mut add_section = |heading: &str, parts: Vec<String>| {
        if parts.iter().any(|part| !part.is_empty()) {
            page.push(format!("## {heading}"));
            page.extend(parts);
        }
    };

    let examples = step.examples.iter();
    add_section(
        "Examples",
        examples
            .map(|example| example_text(step, example))
            .collect(),
    );
    add_section("Prerequisites", vec![documented("Prerequisites")]);
    add_section("Behavior", vec![documented("Behavior")]);
    add_section("Parameters", vec![parameter_table(step)]);
    add_section("Output", vec![output_text(&step.output)]);
    add_section(
        "Failures",
        [vec![documented("Failures")], error_tables(&step.errors)].concat(),
    );
    add_section("Permissions", permission_parts(step));
    add_section("Cost", vec![documented("Cost")]);
    let limit = format!(
        "If the step has not finished after {}, Stepward cancels it, and it fails as `TimedOut`.",
        limit_text(step.timeout_seconds)
    );
    add_section("Limits", vec![documented("Limits"), limit]);
    add_section("Rundeck", rundeck_parts(step));
    add_section("Proof", vec![documented("Proof")]);

    page.retain(|part| !part.is_empty());
    page.join("\n\n") + "\n"
}

/// The command that runs a step with these parameters, as an operator types it.
#[must_use]
pub fn command(step: &str, parameters: &Value) -> String {
    let option = |(name, value): (&String, &Value)| {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let argument = format!("{name}={text}");
        format!("-p {}", quote_for_display([argument.as_str()]))
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

/// A Markdown table whose source is readable too: all columns except the last are padded to one
/// width.
#[must_use]
pub fn markdown_table<R: IntoIterator<Item = String>>(
    heading: &[&str],
    rows: impl IntoIterator<Item = R>,
) -> String {
    let escape_cell = |text: String| text.replace('|', "\\|").replace('\n', " ");
    let heading = heading.iter().map(ToString::to_string).collect();
    let mut table: Vec<Vec<String>> = vec![heading, Vec::new()];
    table.extend(
        rows.into_iter()
            .map(|row| row.into_iter().map(escape_cell).collect()),
    );
    let column_width = |column: usize| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
            .max(3)
    };
    let last = table[0].len().saturating_sub(1);
    let widths: Vec<_> = (0..=last)
        .map(|column| {
            if column == last {
                3
            } else {
                column_width(column)
            }
        })
        .collect();
    table[1] = widths.iter().map(|width| "-".repeat(*width)).collect();

    let row_line = |row: &Vec<String>| {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("| {} |", cells.join(" | "))
    };
    table.iter().map(row_line).collect::<Vec<_>>().join("\n")
}

fn parameter_table(step: &Manifest) -> String {
    let fields = fields(&step.parameters);
    if fields.is_empty() {
        return "This step has no parameters.".into();
    }

    let has_rundeck_fields = step.rundeck.iter().any(|plugin| !plugin.fields.is_empty());
    let row = |field: Field| {
        let mut row = vec![
            format!("`{}`", field.name),
            field.type_text.clone(),
            need_text(&field),
        ];
        if has_rundeck_fields {
            row.push(code_list(&rundeck_keys(step, &field.name)));
        }
        row.push(field.documentation);
        row
    };
    let heading: &[&str] = if has_rundeck_fields {
        &["parameter", "type", "required", "in Rundeck", "description"]
    } else {
        &["parameter", "type", "required", "description"]
    };
    markdown_table(heading, fields.into_iter().map(row))
}

/// Whether a parameter is required, and its default.
fn need_text(field: &Field) -> String {
    let has_empty_default = match &field.default {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    match &field.need {
        Need::Required => "yes".to_owned(),
        Need::OneOf(others) => format!("this or {}", code_list(others)),
        Need::Optional if has_empty_default => "no".into(),
        Need::Optional => format!("no, default `{}`", field.default),
    }
}

/// The keys of Rundeck's plugins that a parameter replaces.
fn rundeck_keys(step: &Manifest, parameter: &str) -> Vec<String> {
    let fields = step.rundeck.iter().flat_map(|plugin| &plugin.fields);
    let keys: BTreeSet<_> = fields
        .filter(|(_, replacement)| *replacement == parameter)
        .map(|(key, _)| key.clone())
        .collect();
    keys.into_iter().collect()
}

/// Names as code, with commas between them.
fn code_list(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn output_text(schema: &Value) -> String {
    let row = |field: Field| {
        let type_text = if field.is_nullable {
            format!("{} or null", field.type_text)
        } else {
            field.type_text
        };
        [format!("`{}`", field.name), type_text, field.documentation]
    };
    let rows: Vec<_> = fields(schema).into_iter().map(row).collect();
    let description = schema["description"]
        .as_str()
        .unwrap_or("This step has no output.")
        .replace('\n', " ");
    if rows.is_empty() {
        description
    } else {
        let table = markdown_table(&["field", "type", "description"], rows);
        format!("{description}\n\n{table}")
    }
}

fn permission_parts(step: &Manifest) -> Vec<String> {
    let introduction = "The step's role in the customer's account needs these permissions. A `*` \
                        within an ARN matches any value. If a parameter names the resource, each \
                        run can use the permission for this resource only. A `*` alone means all \
                        resources.";
    let mut parts = vec![introduction.to_owned(), permission_table(&step.permissions)];
    if !step.peer_permissions.is_empty() {
        parts.push("In the second account or Region:".into());
        parts.push(permission_table(&step.peer_permissions));
    }
    parts
}

fn permission_table(statements: &[Statement]) -> String {
    let row = |statement: &Statement| {
        let resources = match &statement.condition {
            Value::Null => code_list(&statement.resources),
            condition => format!("{} if `{condition}`", code_list(&statement.resources)),
        };
        let purpose = match &statement.reason {
            Some(reason) => format!("{}. {reason}", statement.purpose),
            None => statement.purpose.clone(),
        };
        [code_list(&statement.actions), resources, purpose]
    };
    markdown_table(
        &["actions", "resources", "used to"],
        statements.iter().map(row),
    )
}

/// The errors with a meaning of their own for this step, and the errors of every step.
fn error_tables(own: &[(ErrorName, String)]) -> Vec<String> {
    let schema = schema_for!(ErrorName).to_value();
    let text_of =
        |variant: &Value, field: &str| variant[field].as_str().unwrap_or_default().to_owned();
    let variants = schema["oneOf"].as_array().into_iter().flatten();
    let general: Vec<_> = variants
        .map(|variant| {
            [
                format!("`{}`", text_of(variant, "const")),
                text_of(variant, "description"),
            ]
        })
        .collect();
    let own: Vec<_> = own
        .iter()
        .map(|(name, text)| [format!("`{name}`"), text.clone()])
        .collect();

    let mut tables = Vec::new();
    if !own.is_empty() {
        tables.push(markdown_table(&["error", "meaning for this step"], own));
    }
    tables.push(markdown_table(
        &["error", "meaning for every step"],
        general,
    ));
    tables
}

fn rundeck_parts(step: &Manifest) -> Vec<String> {
    if step.rundeck.is_empty() {
        return Vec::new();
    }
    let types: Vec<_> = step
        .rundeck
        .iter()
        .map(|plugin| plugin.provider_type.clone())
        .collect();
    let noun = if types.len() == 1 {
        "provider type"
    } else {
        "provider types"
    };
    let mut parts = vec![format!("Replaces the {noun} {}.", code_list(&types))];
    let region_keys = rundeck_keys(step, "region");
    let has_region_parameter = step.parameters["properties"].get("region").is_some();
    if !region_keys.is_empty() && !has_region_parameter {
        parts.push(format!(
            "Instead of Rundeck's {}, use `--region`: the Region that the step works in.",
            code_list(&region_keys)
        ));
    }
    parts
}

/// A time limit in the largest unit that gives a whole number.
fn limit_text(seconds: u64) -> String {
    let (number, unit) = match seconds {
        _ if seconds.is_multiple_of(3600) => (seconds / 3600, "hour"),
        _ if seconds.is_multiple_of(60) => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    counted(usize::try_from(number).unwrap_or(usize::MAX), unit)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::{Map, json};

    use super::*;
    use crate::steps::{catalog, parameters};

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
                "ids": { "type": "array", "items": { "type": "string" },
                    "description": "Which | all." },
                "force": { "type": ["boolean", "null"], "default": false } } },
            "output": { "description": "What changed.", "properties": {
                "name": { "type": ["string", "null"], "description": "Its name." } } },
            "examples": [{ "title": "Start one instance", "parameters": { "ids": ["i-1"] },
                "output": { "name": "web" } }],
            "errors": [["NotFound", "No instance has this ID."]],
            "permissions": [{ "purpose": "unlock volumes", "actions": ["kms:CreateGrant"],
                "resources": ["*"],
                "condition": { "Bool": { "kms:GrantIsForAWSResource": "true" } } }],
            "peer_permissions": [{ "purpose": "copy it", "actions": ["ec2:Get"],
                "resources": ["*"], "reason": "It cannot be narrowed." }],
            "session_policy_characters": 100,
            "function": { "timeout_seconds": 60, "memory_mib": 512, "local_files": false },
            "timeout_seconds": 900,
        }))
        .unwrap()
    }

    #[test]
    fn a_page_shows_the_whole_manifest() {
        let page = markdown(&step());
        for part in [
            "# ec2-start\n\nStart instances.\n\nUse it in the morning.\n\n## Examples\n\n### Start \
             one instance",
            "```sh\nstepward step run ec2-start --customer acme --account prod -p \
             'ids=[\"i-1\"]'\n```",
            "Output:\n\n```json\n{\n  \"name\": \"web\"\n}\n```\n\n## Behavior\n\nIt waits.",
            "| `ids`     | list of strings | yes                 | `instanceId` | Which \\| all. |",
            "| `force`   | boolean         | no, default `false` |",
            "| `name` | string or null | Its name. |",
            "| `kms:CreateGrant` | `*` if `{\"Bool\":{\"kms:GrantIsForAWSResource\":\"true\"}}` | \
             unlock volumes |",
            "In the second account or Region:",
            "| `ec2:Get` | `*`       | copy it. It cannot be narrowed. |",
            "| `NotFound` | No instance has this ID. |",
            "not finished after 15 minutes, Stepward cancels it",
            "Replaces the provider type `aws-vm-start`.\n\nInstead of Rundeck's `region`, use \
             `--region`",
        ] {
            assert!(page.contains(part), "{part} is not in:\n{page}");
        }
        assert!(
            page.ends_with("## Proof\n\nProven on the local cloud.\n"),
            "{page}"
        );
    }

    #[test]
    fn a_page_says_that_a_step_has_no_parameters() {
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
    fn a_long_command_has_one_parameter_on_each_line() {
        let text = "x".repeat(80);
        assert_eq!(
            command("s3-list", &json!({ "uri": "s3://a", "filter": text })),
            format!(
                "stepward step run s3-list --customer acme --account prod \\\n  -p uri=s3://a \
                 \\\n  -p filter={text}"
            )
        );
    }

    /// The words of a command line, as a shell splits them.
    fn shell_words(command: &str) -> Vec<String> {
        let script = format!("set -- {command}\nprintf '%s\\0' \"$@\"");
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let words = text.split_terminator('\0');
        words.map(str::to_owned).collect()
    }

    /// The command of an example sets the example's parameters.
    fn check_command(step: &Manifest, parameters: &Value) {
        let command = command(&step.name, parameters);
        let words = shell_words(&command);
        let target = TARGET.split(' ').map(str::to_owned);
        let start: Vec<_> = ["stepward", "step", "run", &step.name]
            .map(str::to_owned)
            .into_iter()
            .chain(target)
            .collect();
        let (before, options) = words.split_at(start.len());
        assert_eq!(before, start, "{command}");
        let arguments: Vec<_> = options
            .chunks(2)
            .map(|option| {
                assert_eq!(option[0], "-p", "{command}");
                option[1].clone()
            })
            .collect();
        let read = parameters::read(step, Map::new(), &arguments).unwrap();
        assert_eq!(&Value::Object(read), parameters, "{command}");
    }

    #[test]
    fn the_command_of_an_example_sets_its_parameters() {
        let any = json!({ "properties": { "text": { "type": "string" }, "any": {}, "list": {
            "type": ["string", "array"], "items": { "type": "string" } } } });
        let step = Manifest {
            parameters: any,
            ..step()
        };
        for parameters in [
            json!({}),
            json!({ "text": "it's\n\"$HOME\" `id` $(id) $$ {{a}} \\ * ~ #", "list": ["a b", "'"] }),
            json!({ "text": "", "any": { "a": [null, 1.5, true] }, "list": "i-1" }),
            json!({ "text": "12", "any": "x", "list": [] }),
            json!({ "text": "x".repeat(200), "any": 7 }),
        ] {
            check_command(&step, &parameters);
        }
    }

    #[test]
    fn the_command_of_every_example_sets_its_parameters() {
        for step in catalog().unwrap() {
            for example in &step.examples {
                check_command(&step, &example.parameters);
            }
        }
    }
}
