//! The end of a job, for people.

use serde_json::Value;

use super::finished::{Finished, Outcome};
use crate::output::table;

/// A table of the accounts, what queries found, and the error.
#[must_use]
pub fn summary(finished: &Finished) -> String {
    let mut parts = Vec::new();
    if let Some(accounts) = finished.output["accounts"].as_array() {
        parts.push(table(
            &["account", "outcome", "result"],
            accounts.iter().map(account),
        ));
        parts.extend(accounts.iter().flat_map(rows_of));
    } else if let Value::Object(output) = &finished.output {
        parts.push(table(
            &["output", ""],
            output
                .iter()
                .map(|(key, value)| [key.clone(), short(value)]),
        ));
    }
    let word = match finished.outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Partial => "succeeded in part: some accounts failed",
        Outcome::Failed => "failed",
    };
    let error = finished
        .error
        .as_deref()
        .map(|error| format!(" with {error}"))
        .unwrap_or_default();
    let cause = finished
        .cause
        .as_deref()
        .map(|cause| format!("\n{cause}"))
        .unwrap_or_default();
    parts.push(format!(
        "The job {word}{error} ({}).{cause}",
        finished.status
    ));
    parts.join("\n\n")
}

fn account(account: &Value) -> [String; 3] {
    let text = |key: &str| account[key].as_str().unwrap_or_default().to_owned();
    let result = if account["error"].is_string() {
        format!(
            "{} at {}: {}",
            text("error"),
            text("failed_step"),
            text("message")
        )
    } else {
        let steps = account
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, value)| value.is_object());
        steps
            .map(|(key, value)| format!("{}: {}", key.replace('_', " "), short(value)))
            .collect::<Vec<_>>()
            .join("; ")
    };
    [text("account"), text("outcome"), result]
}

/// A step's output in a few words.
fn short(output: &Value) -> String {
    let word = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    if let Some(instances) = output["instances"].as_array() {
        if instances.is_empty() {
            return "nothing to do".into();
        }
        let each = instances.iter().map(|instance| {
            let name = instance["name"]
                .as_str()
                .or(instance["instance_id"].as_str())
                .unwrap_or("?");
            format!(
                "{name} {} → {}",
                word(&instance["previous_state"]),
                word(&instance["state"])
            )
        });
        return each.collect::<Vec<_>>().join(", ");
    }
    if let Some(rows) = output["rows"].as_array() {
        return if rows.len() == 1 {
            "1 row".into()
        } else {
            format!("{} rows", rows.len())
        };
    }
    if output.is_object() || output.is_array() {
        output.to_string()
    } else {
        word(output)
    }
}

/// What the queries of an account found.
fn rows_of(account: &Value) -> Vec<String> {
    let name = account["account"].as_str().unwrap_or_default();
    let steps = account.as_object().into_iter().flatten();
    let found = steps.filter_map(|(key, output)| {
        let (columns, rows) = (output["columns"].as_array()?, output["rows"].as_array()?);
        let heading: Vec<_> = columns
            .iter()
            .filter_map(|column| column["name"].as_str())
            .collect();
        let cell = |value: &Value| value.as_str().unwrap_or("–").to_owned();
        let rows = rows
            .iter()
            .filter_map(Value::as_array)
            .map(|row| row.iter().map(cell).collect::<Vec<_>>());
        let rows: Vec<_> = rows.collect();
        (!rows.is_empty()).then(|| {
            format!(
                "{name}, {}:\n{}",
                key.replace('_', " "),
                table(&heading, rows)
            )
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_names_instances_rows_and_what_failed() {
        let finished = Finished {
            execution_arn: "arn".into(),
            status: "SUCCEEDED".into(),
            outcome: Outcome::Partial,
            output: json!({ "outcome": "partial", "accounts": [
                { "account": "prod", "outcome": "succeeded",
                  "start_instances": { "instances": [{ "instance_id": "i-1", "name": "web", "previous_state": "stopped", "state": "running" }] },
                  "query": { "columns": [{ "name": "name", "type": "varchar" }], "rows": [["orders"], [null]] } },
                { "account": "test", "outcome": "failed", "failed_step": "query", "error": "AccessDenied", "message": "no" },
            ] }),
            error: None,
            cause: None,
        };
        let text = summary(&finished);
        for part in [
            "web stopped → running",
            "2 rows",
            "orders",
            "AccessDenied at query: no",
            "in part",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
