//! A step's page in Markdown: `stepward steps NAME` shows it, `cargo xtask generate` writes it
//! below `docs/steps/`.

use schemars::schema_for;
use serde_json::Value;
use stepward::model::error::ErrorName;
use stepward::model::permissions::Statement;
use stepward::runtime::manifest::Manifest;

use super::schema::{Field, fields};

/// A step's page. It ends with what the step was proven against.
#[must_use]
pub fn markdown(step: &Manifest) -> String {
    let mut page = vec![
        format!("# {}", step.name),
        step.title.clone(),
        step.description.clone(),
    ];
    let mut section = |title: &str, parts: Vec<String>| {
        page.push(format!("## {title}"));
        page.extend(parts);
    };
    section("Parameters", vec![parameters(&step.parameters)]);
    section("Output", vec![output(&step.output)]);
    section(
        "Permissions",
        vec![
            "What the step may do in the account, whatever its parameters; `*` stands where an ARN holds a parameter's \
             value. One run is allowed less: these actions on what its own parameters name."
                .into(),
            permissions(&step.permissions),
        ],
    );
    if !step.peer_permissions.is_empty() {
        let about = "And in the second account or Region that it works in:";
        section(
            "Permissions in the other place",
            vec![about.into(), permissions(&step.peer_permissions)],
        );
    }
    section("Errors", errors(&step.errors));
    section("Examples", step.examples.iter().map(code).collect());
    let limit = time(step.timeout_seconds);
    let limit = format!(
        "When AWS takes longer than {limit}, the step is cancelled and fails as `TimedOut`."
    );
    section("Time limit", vec![limit]);
    if !step.rundeck.is_empty() {
        let types = step
            .rundeck
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
        section(
            "In Rundeck",
            vec![format!("It stands for the provider types {types}.")],
        );
    }
    section("What it was proven against", vec![step.proven.clone()]);
    page.retain(|part| !part.is_empty());
    page.join("\n\n") + "\n"
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

fn parameters(schema: &Value) -> String {
    let need = |field: &Field| match &field.default {
        _ if field.required => "required".to_owned(),
        Value::Null => "optional".into(),
        Value::Array(list) if list.is_empty() => "optional".into(),
        Value::Object(map) if map.is_empty() => "optional".into(),
        default => format!("default `{default}`"),
    };
    let row = |field: Field| {
        [
            format!("`{}`", field.name),
            field.kind.clone(),
            need(&field),
            field.text,
        ]
    };
    let rows: Vec<_> = fields(schema).into_iter().map(row).collect();
    if rows.is_empty() {
        "It takes none.".into()
    } else {
        table(&["parameter", "type", "", ""], rows)
    }
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
        .unwrap_or("It answers nothing more.")
        .replace('\n', " ");
    if rows.is_empty() {
        about
    } else {
        format!("{about}\n\n{}", table(&["field", "type", ""], rows))
    }
}

fn permissions(statements: &[Statement]) -> String {
    let listed = |words: &[String]| {
        words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let line = |statement: &Statement| {
        let condition = match &statement.condition {
            Value::Null => String::new(),
            condition => format!(", under the condition `{condition}`"),
        };
        let reason = statement
            .reason
            .as_ref()
            .map(|reason| format!(". {reason}"))
            .unwrap_or_default();
        format!(
            "- {} on {}{condition}{reason}",
            listed(&statement.actions),
            listed(&statement.resources)
        )
    };
    statements.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn errors(own: &[(ErrorName, String)]) -> Vec<String> {
    let general = schema_for!(ErrorName).to_value();
    let general = general["oneOf"].as_array().into_iter().flatten();
    let text = |about: &Value, field: &str| about[field].as_str().unwrap_or_default().to_owned();
    let general = general.map(|about| {
        [
            format!("`{}`", text(about, "const")),
            text(about, "description"),
        ]
    });
    let general = table(&["error", "with every step"], general);
    let own = own
        .iter()
        .map(|(name, text)| [format!("`{name}`"), text.clone()]);
    let mut tables = vec![table(&["error", "with this step"], own), general];
    if tables[0].lines().count() == 2 {
        tables.remove(0);
    }
    tables
}

fn code(example: &Value) -> String {
    format!("```json\n{example:#}\n```")
}

/// A time limit in the largest unit that it is a whole number of.
fn time(seconds: u64) -> String {
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
            "rundeck": ["aws-vm-start"],
            "title": "Start instances.",
            "description": "Running instances cost money.",
            "proven": "Proven on the local cloud.",
            "parameters": { "required": ["ids"], "properties": {
                "ids": { "type": "array", "items": { "type": "string" }, "description": "Which | all." },
                "force": { "type": ["boolean", "null"], "default": false } } },
            "output": { "description": "What became of them.", "properties": {
                "name": { "type": ["string", "null"], "description": "Its name." } } },
            "examples": [{ "ids": ["i-1"] }],
            "errors": [["NotFound", "No instance has this ID."]],
            "permissions": [{ "actions": ["kms:CreateGrant"], "resources": ["*"],
                "condition": { "Bool": { "kms:GrantIsForAWSResource": "true" } } }],
            "peer_permissions": [{ "actions": ["ec2:Get"], "resources": ["*"], "reason": "It cannot be narrowed." }],
            "session_policy_characters": 100,
            "function": { "timeout_seconds": 60, "memory_mib": 512, "local_files": false },
            "timeout_seconds": 900,
        }))
        .unwrap()
    }

    #[test]
    fn a_page_tells_everything() {
        let page = markdown(&step());
        for part in [
            "# ec2-start\n\nStart instances.\n\nRunning instances cost money.\n\n## Parameters",
            "| `ids`     | list of strings | required        | Which \\| all. |",
            "| `force`   | boolean         | default `false` |",
            "| `name` | string or null | Its name. |",
            "- `kms:CreateGrant` on `*`, under the condition `{\"Bool\":{\"kms:GrantIsForAWSResource\":\"true\"}}`",
            "## Permissions in the other place",
            "- `ec2:Get` on `*`. It cannot be narrowed.",
            "| `NotFound` | No instance has this ID. |",
            "| `TrustBroken`  | The customer's role does not keep strangers out",
            "```json\n{\n  \"ids\": [\n",
            "takes longer than 15 minutes, the step",
            "`aws-vm-start`",
        ] {
            assert!(page.contains(part), "{part} is not in:\n{page}");
        }
        assert!(
            page.ends_with("## What it was proven against\n\nProven on the local cloud.\n"),
            "{page}"
        );
    }

    #[test]
    fn a_step_without_parameters_and_errors_of_its_own_says_so() {
        let page = markdown(&Manifest {
            parameters: json!({}),
            errors: Vec::new(),
            ..step()
        });
        assert!(page.contains("## Parameters\n\nIt takes none.\n"), "{page}");
        assert!(
            page.contains("## Errors\n\n| error          | with every step"),
            "{page}"
        );
    }
}
