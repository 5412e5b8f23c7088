//! How Athena's results are read.

mod error;
pub mod steps;

use aws_sdk_athena::Client;
use aws_sdk_athena::types::Row;
use schemars::JsonSchema;
use serde::Serialize;
use stepward::StepError;

use error::athena_error;

/// What one page of results holds at most.
/// <https://docs.aws.amazon.com/athena/latest/APIReference/API_GetQueryResults.html>
const PAGE: i32 = 1000;

/// The first rows of a result.
#[derive(Debug, Default)]
pub struct Table {
    /// The columns, in order.
    pub columns: Vec<Column>,
    /// The rows; `None` is SQL's NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// Whether there are more.
    pub truncated: bool,
}

/// A column of the result.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its SQL type.
    pub r#type: String,
}

/// Reads up to `max_rows` rows of a query that has succeeded.
///
/// # Errors
/// Why Athena failed.
pub async fn first_rows(athena: &Client, query: &str, max_rows: usize) -> Result<Table, StepError> {
    let mut pages = athena
        .get_query_results()
        .query_execution_id(query)
        .max_results(PAGE)
        .into_paginator()
        .send();
    let mut table = Table::default();
    let mut first = true;
    // One row beyond tells that there are more.
    while table.rows.len() <= max_rows
        && let Some(page) = pages.next().await
    {
        let Some(result) = page.map_err(athena_error)?.result_set else {
            break;
        };
        let mut rows: Vec<_> = result
            .rows
            .unwrap_or_default()
            .into_iter()
            .map(values)
            .collect();
        if first {
            let columns = result
                .result_set_metadata
                .and_then(|about| about.column_info)
                .unwrap_or_default();
            table.columns = columns
                .into_iter()
                .map(|column| Column {
                    name: column.name,
                    r#type: column.r#type,
                })
                .collect();
            // A SELECT's first row repeats the column names; other statements' does not.
            let names = table
                .columns
                .iter()
                .map(|column| Some(column.name.as_str()));
            if rows
                .first()
                .is_some_and(|row| row.iter().map(Option::as_deref).eq(names))
            {
                rows.remove(0);
            }
            first = false;
        }
        table.rows.extend(rows);
    }
    table.truncated = table.rows.len() > max_rows;
    table.rows.truncate(max_rows);
    Ok(table)
}

fn values(row: Row) -> Vec<Option<String>> {
    row.data
        .unwrap_or_default()
        .into_iter()
        .map(|datum| datum.var_char_value)
        .collect()
}
