//! The result of a query.

use aws_sdk_cloudwatchlogs::types::{QueryStatistics, ResultField};
use schemars::JsonSchema;
use serde::Serialize;

/// The result of a query.
#[derive(Debug, JsonSchema, Serialize)]
pub struct QueryResult {
    /// The names of the columns, in order, without `@ptr`, CloudWatch Logs' own pointer to the log
    /// event.
    pub(crate) columns: Vec<String>,
    /// The rows. A value is `null` if the row does not have the column.
    pub(crate) rows: Vec<Vec<Option<String>>>,
    /// Whether the number of rows equals `limit`. The query may match more.
    pub(crate) limit_reached: bool,
    /// The query's ID at CloudWatch Logs.
    pub(crate) query_id: String,
    /// The start of the time range, for example `2026-01-31T08:00:00Z`.
    pub(crate) start_time: String,
    /// The end of the time range.
    pub(crate) end_time: String,
    /// What the query read.
    pub(crate) statistics: Statistics,
    /// Logs Insights in the AWS console. Its history shows the query.
    pub(crate) console_url: String,
}

/// What a query read.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct Statistics {
    /// The number of log events that match the query.
    pub(crate) records_matched: u64,
    /// The number of log events that the query read.
    pub(crate) records_scanned: u64,
    /// The number of bytes of these log events, which CloudWatch Logs charges for.
    pub(crate) bytes_scanned: u64,
}

impl From<&QueryStatistics> for Statistics {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole numbers, sent as doubles"
    )]
    fn from(statistics: &QueryStatistics) -> Self {
        Self {
            records_matched: statistics.records_matched as u64,
            records_scanned: statistics.records_scanned as u64,
            bytes_scanned: statistics.bytes_scanned as u64,
        }
    }
}

/// The columns and rows of a table, from results that each have only the fields they know.
pub(crate) fn build_table(
    results: Vec<Vec<ResultField>>,
) -> (Vec<String>, Vec<Vec<Option<String>>>) {
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
    fn a_table_has_the_columns_of_all_rows_without_pointers() {
        let row = |fields: &[(&str, &str)]| {
            fields
                .iter()
                .map(|(field, value)| ResultField::builder().field(*field).value(*value).build())
                .collect()
        };
        let (columns, rows) = build_table(vec![
            row(&[("a", "1"), ("@ptr", "x")]),
            row(&[("b", "2"), ("a", "3")]),
        ]);
        assert_eq!(columns, ["a", "b"]);
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(rows, [[text("1"), None], [text("3"), text("2")]]);
    }
}
