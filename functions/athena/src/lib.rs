//! Reads the results of Athena queries.

mod error;
pub mod steps;

use aws_sdk_athena::Client;
use aws_sdk_athena::types::{ResultSetMetadata, Row};
use schemars::JsonSchema;
use serde::Serialize;
use stepward::StepError;

use error::athena_error;

/// The maximum number of rows in one page of results.
/// <https://docs.aws.amazon.com/athena/latest/APIReference/API_GetQueryResults.html>
const PAGE_SIZE: i32 = 1000;

/// The first rows of a result.
#[derive(Debug, Default)]
pub struct Table {
    /// The columns, in order.
    pub columns: Vec<Column>,
    /// The rows. `None` is SQL's NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// Whether the result has more rows than these.
    pub truncated: bool,
}

/// A column of the result.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// The column's SQL type.
    pub r#type: String,
}

/// Reads up to `max_rows` rows of a query that has succeeded.
///
/// # Errors
/// The error of `GetQueryResults`.
pub async fn read_first_rows(
    athena: &Client,
    query_execution_id: &str,
    max_rows: usize,
) -> Result<Table, StepError> {
    let mut pages = athena
        .get_query_results()
        .query_execution_id(query_execution_id)
        .max_results(PAGE_SIZE)
        .into_paginator()
        .send();

    let mut table = Table::default();
    let mut is_first_page = true;
    // One row more than `max_rows` shows that the result is truncated.
    while table.rows.len() <= max_rows
        && let Some(page) = pages.next().await
    {
        let Some(result) = page.map_err(athena_error)?.result_set else {
            break;
        };
        let rows = result.rows.unwrap_or_default().into_iter();
        let mut rows: Vec<_> = rows.map(row_values).collect();

        if is_first_page {
            table.columns = columns_from_metadata(result.result_set_metadata);
            if rows
                .first()
                .is_some_and(|row| is_header(row, &table.columns))
            {
                rows.remove(0);
            }
            is_first_page = false;
        }
        table.rows.extend(rows);
    }

    table.truncated = table.rows.len() > max_rows;
    table.rows.truncate(max_rows);
    Ok(table)
}

fn columns_from_metadata(metadata: Option<ResultSetMetadata>) -> Vec<Column> {
    metadata
        .and_then(|metadata| metadata.column_info)
        .unwrap_or_default()
        .into_iter()
        .map(|column| Column {
            name: column.name,
            r#type: column.r#type,
        })
        .collect()
}

/// Whether a row repeats the column names. The first row of a SELECT does; the first row of other
/// statements does not.
fn is_header(row: &[Option<String>], columns: &[Column]) -> bool {
    let names = columns.iter().map(|column| Some(column.name.as_str()));
    row.iter().map(Option::as_deref).eq(names)
}

fn row_values(row: Row) -> Vec<Option<String>> {
    row.data
        .unwrap_or_default()
        .into_iter()
        .map(|datum| datum.var_char_value)
        .collect()
}
