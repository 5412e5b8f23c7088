//! What a query has found.

use aws_sdk_cloudwatchlogs::types::{QueryStatistics, ResultField};
use schemars::JsonSchema;
use serde::Serialize;

/// A finished query.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Answered {
    /// The names of the columns, in order. `@ptr`, CloudWatch Logs' own pointer to the log event,
    /// is left out.
    pub(crate) columns: Vec<String>,
    /// The rows; `null` where a row lacks the column.
    pub(crate) rows: Vec<Vec<Option<String>>>,
    /// Whether there are as many rows as `limit` allows, so that there may be more.
    pub(crate) limit_reached: bool,
    /// CloudWatch Logs' ID of the query.
    pub(crate) query_id: String,
    /// The begin of the time that was searched, as in `2026-01-31T08:00:00Z`.
    pub(crate) start_time: String,
    /// The end of the time that was searched.
    pub(crate) end_time: String,
    /// What the query has read.
    pub(crate) statistics: Statistics,
    /// Logs Insights in the AWS console; its history shows the query.
    pub(crate) console_url: String,
}

/// What a query has read.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct Statistics {
    /// Log events that the query chose.
    pub(crate) records_matched: u64,
    /// Log events that the query looked at.
    pub(crate) records_scanned: u64,
    /// Bytes of these log events; CloudWatch Logs charges for them.
    pub(crate) bytes_scanned: u64,
}

impl From<&QueryStatistics> for Statistics {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole numbers, sent as doubles"
    )]
    fn from(read: &QueryStatistics) -> Self {
        Self {
            records_matched: read.records_matched as u64,
            records_scanned: read.records_scanned as u64,
            bytes_scanned: read.bytes_scanned as u64,
        }
    }
}

pub(crate) fn table(results: Vec<Vec<ResultField>>) -> (Vec<String>, Vec<Vec<Option<String>>>) {
    let mut columns: Vec<String> = Vec::new();
    let mut rows = Vec::with_capacity(results.len());
    for result in results {
        let mut row = vec![None; columns.len()];
        for ResultField { field, value, .. } in result {
            let Some(field) = field.filter(|field| field != "@ptr") else {
                continue;
            };
            let column = columns
                .iter()
                .position(|column| *column == field)
                .unwrap_or_else(|| {
                    columns.push(field);
                    row.push(None);
                    columns.len() - 1
                });
            row[column] = value;
        }
        rows.push(row);
    }
    for row in &mut rows {
        row.resize(columns.len(), None);
    }
    (columns, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_every_column_that_any_row_has_and_no_pointers() {
        let row = |fields: &[(&str, &str)]| {
            fields
                .iter()
                .map(|(field, value)| ResultField::builder().field(*field).value(*value).build())
                .collect()
        };
        let (columns, rows) = table(vec![
            row(&[("a", "1"), ("@ptr", "x")]),
            row(&[("b", "2"), ("a", "3")]),
        ]);
        assert_eq!(columns, ["a", "b"]);
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(rows, [[text("1"), None], [text("3"), text("2")]]);
    }
}
