//! The result of a job for people.

use serde_json::Value;

use super::finished::{Finished, Outcome};
use crate::output::{counted, format_table};

/// A table of the accounts, the rows of queries, and the error.
#[must_use]
pub fn summary_text(finished: &Finished) -> String {
    let mut parts = Vec::new();
    if let Some(accounts) = finished.output["accounts"].as_array() {
        parts.push(format_table(
            &["account", "outcome", "result"],
            accounts.iter().map(account_row),
        ));
        parts.extend(accounts.iter().flat_map(query_tables));
    } else if let Value::Object(output) = &finished.output {
        parts.push(format_table(
            &["output", "value"],
            output
                .iter()
                .map(|(key, value)| [key.clone(), output_text(value)]),
        ));
    }
    let outcome = match finished.outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Partial => "partly succeeded: some accounts failed",
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
        "The job {outcome}{error} ({}).{cause}",
        finished.status
    ));
    parts.join("\n\n")
}

fn account_row(account: &Value) -> [String; 3] {
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
            .map(|(key, value)| format!("{}: {}", key.replace('_', " "), output_text(value)))
            .collect::<Vec<_>>()
            .join("; ")
    };
    [text("account"), text("outcome"), result]
}

/// The output of a step in a few words.
fn output_text(output: &Value) -> String {
    let value_text = |value: &Value| {
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
                value_text(&instance["previous_state"]),
                value_text(&instance["state"])
            )
        });
        return each.collect::<Vec<_>>().join(", ");
    }
    if let Some(rows) = output["rows"].as_array() {
        return counted(rows.len(), "row");
    }
    if output.is_object() || output.is_array() {
        output.to_string()
    } else {
        value_text(output)
    }
}

/// The rows that the queries of an account returned.
fn query_tables(account: &Value) -> Vec<String> {
    let name = account["account"].as_str().unwrap_or_default();
    let steps = account.as_object().into_iter().flatten();
    let tables = steps.filter_map(|(key, output)| {
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
                format_table(&heading, rows)
            )
        })
    });
    tables.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_shows_instances_rows_and_failures() {
        let finished = Finished {
            execution_arn: "arn".into(),
            status: "SUCCEEDED".into(),
            outcome: Outcome::Partial,
            output: json!({ "outcome": "partial", "accounts": [
                { "account": "prod", "outcome": "succeeded",
                  "start_instances": { "instances": [{ "instance_id": "i-1", "name": "web",
                      "previous_state": "stopped", "state": "running" }] },
                  "query": { "columns": [{ "name": "name", "type": "varchar" }],
                      "rows": [["orders"], [null]] } },
                { "account": "test", "outcome": "failed", "failed_step": "query",
                  "error": "AccessDenied", "message": "no" },
            ] }),
            error: None,
            cause: None,
        };
        let text = summary_text(&finished);
        for part in [
            "web stopped → running",
            "2 rows",
            "orders",
            "AccessDenied at query: no",
            "partly succeeded",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
