//! The state and the result of a query.

use aws_sdk_athena::Client;
use aws_sdk_athena::types::{
    QueryExecution, QueryExecutionState, ResultSetMetadata, Row, StatementType,
};
use schemars::JsonSchema;
use serde::Serialize;
use stepward::{Context, StepError};

use crate::error::athena_error;

/// The maximum number of rows in one page of results.
/// <https://docs.aws.amazon.com/athena/latest/APIReference/API_GetQueryResults.html>
const PAGE_SIZE: i32 = 1000;

/// The result of a query.
#[derive(Debug, JsonSchema, Serialize)]
pub struct QueryResult {
    /// The columns, in order.
    pub(crate) columns: Vec<Column>,
    /// The first rows. `null` is SQL's NULL.
    pub(crate) rows: Vec<Vec<Option<String>>>,
    /// Whether the result has more rows than `rows`.
    pub(crate) truncated: bool,
    /// The query's ID at Athena.
    pub(crate) query_execution_id: String,
    /// The location of the whole result in S3.
    pub(crate) output_location: Option<String>,
    /// The query in the AWS console.
    pub(crate) console_url: String,
    /// The bytes that the query scanned.
    pub(crate) bytes_scanned: i64,
    /// The seconds that the query took, including the time in Athena's queue.
    pub(crate) seconds: f64,
}

/// A column of the result.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Column {
    /// The column's name.
    pub(crate) name: String,
    /// The column's SQL type.
    pub(crate) r#type: String,
}

/// The query's state and statistics at Athena.
pub(crate) async fn describe_query(
    ctx: &Context,
    id: &str,
) -> Result<Option<QueryExecution>, StepError> {
    let response = ctx
        .client(Client::new)
        .get_query_execution()
        .query_execution_id(id)
        .send()
        .await
        .map_err(athena_error)?;
    Ok(response.query_execution)
}

/// Whether the query succeeded, failed or was cancelled.
pub(crate) fn has_ended(query: &QueryExecution) -> bool {
    let state = query.status().and_then(|status| status.state());
    matches!(
        state,
        Some(
            QueryExecutionState::Succeeded
                | QueryExecutionState::Failed
                | QueryExecutionState::Cancelled
        )
    )
}

/// Reads the first rows of a query that has succeeded.
pub(crate) async fn read_result(
    ctx: &Context,
    id: String,
    query: QueryExecution,
    max_rows: usize,
) -> Result<QueryResult, StepError> {
    let Table {
        columns,
        rows,
        truncated,
    } = read_first_rows(&ctx.client(Client::new), &id, &query, max_rows).await?;

    let statistics = query.statistics.as_ref();
    let milliseconds = statistics
        .and_then(|statistics| statistics.total_execution_time_in_millis)
        .unwrap_or_default();
    // A query takes hours at most, and a double holds that to the millisecond.
    #[expect(clippy::cast_precision_loss)]
    let seconds = milliseconds as f64 / 1000.0;

    Ok(QueryResult {
        columns,
        rows,
        truncated,
        bytes_scanned: statistics
            .and_then(|statistics| statistics.data_scanned_in_bytes)
            .unwrap_or_default(),
        output_location: query
            .result_configuration
            .and_then(|result| result.output_location),
        console_url: ctx.console("athena/home", &format!("/query-editor/history/{id}")),
        query_execution_id: id,
        seconds,
    })
}

/// The first rows of a result.
#[derive(Debug, Default)]
struct Table {
    /// The columns, in order.
    columns: Vec<Column>,
    /// The rows. `None` is SQL's NULL.
    rows: Vec<Vec<Option<String>>>,
    /// Whether the result has more rows than these.
    truncated: bool,
}

/// Reads up to `max_rows` rows.
async fn read_first_rows(
    athena: &Client,
    query_execution_id: &str,
    query: &QueryExecution,
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
            if can_have_header(query)
                && rows
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

/// Whether the first row of the result can be a header. Only DML statements, such as SELECT, have
/// one. The first row of a statement such as SHOW DATABASES is data, even if it equals the name of
/// its column. <https://docs.aws.amazon.com/athena/latest/APIReference/API_GetQueryResults.html>
fn can_have_header(query: &QueryExecution) -> bool {
    query
        .statement_type
        .as_ref()
        .is_none_or(|kind| *kind == StatementType::Dml)
}

/// Whether a row repeats the column names, as the header does.
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
