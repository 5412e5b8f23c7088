//! A Logs Insights query: start, poll, read and stop.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use aws_sdk_cloudwatchlogs::config::retry::RetryConfig;
use aws_sdk_cloudwatchlogs::error::ProvideErrorMetadata;
use aws_sdk_cloudwatchlogs::types::{QueryLanguage, QueryStatus, ResultField};
use aws_sdk_cloudwatchlogs::{Client, Config};
use stepward::model::input::require;
use stepward::{Context, ErrorName, Progress, Resume, StepError};

use crate::error::logs_error;
use crate::log_groups::{LogGroup, check_regions};
use crate::query_mark::{StartedQuery, find_marked_queries, mark_prefix, parse_mark};
use crate::result::{QueryResult, Statistics, build_table};
use crate::time_range::{format_time, unix_now};

/// The first interval between two polls of a query. Most queries take a few seconds.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The delays before each search for queries to stop. The call that was cut off when the job
/// stopped may be about to start one.
const SEARCH_DELAYS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_secs(10),
];
/// The timeout of a step that runs a query. CloudWatch Logs ends a query after 60 minutes.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_StartQuery.html>
pub const QUERY_TIMEOUT: Duration = Duration::from_mins(65);
/// The longest query that CloudWatch Logs accepts, in characters. (The same page.)
const MAX_SENT_CHARACTERS: usize = 10_000;
/// The longest query in a step's parameters, in characters. The rest is for the mark, a comment
/// that identifies the query.
pub const MAX_QUERY_CHARACTERS: usize = MAX_SENT_CHARACTERS - 100;

/// A query to start.
#[derive(Debug)]
pub struct Query {
    /// The query string.
    pub text: String,
    /// The language of the query string.
    pub language: QueryLanguage,
    /// The names or ARNs of the log groups. Empty if the query string names them.
    pub log_groups: Vec<String>,
    /// The length of the time range, which ends now, in seconds.
    pub seconds: i64,
    /// The maximum number of rows.
    pub limit: u16,
}

/// Runs a query: starts it, or finds the one that an earlier call of this step started, and polls
/// it. Awaits `query` only if no query was started yet.
///
/// # Errors
/// - `InvalidInput` if a log group is in another Region.
/// - `StepFailed` if the query did not complete.
/// - The error of CloudWatch Logs.
pub async fn run_query(
    ctx: &Context,
    resume: Option<Resume>,
    (log_groups, limit): (&[String], u16),
    query: impl Future<Output = Result<Query, StepError>> + Send,
) -> Result<Progress<QueryResult>, StepError> {
    check_regions(&ctx.scope, log_groups)?;
    let poll_interval = Resume::poll_interval(resume.as_ref(), POLL_INTERVAL);
    let started = match resume {
        Some(resume) => resume.state()?,
        None => match find_started_query(ctx).await? {
            Some(started) => started,
            None => start_query(ctx, &query.await?).await?,
        },
    };
    poll_query(ctx, started, limit, poll_interval).await
}

/// The query that an earlier call of this step started and whose ID was lost, if it runs or has
/// succeeded.
async fn find_started_query(ctx: &Context) -> Result<Option<StartedQuery>, StepError> {
    let usable_states = [
        QueryStatus::Scheduled,
        QueryStatus::Running,
        QueryStatus::Complete,
    ];
    let prefix = mark_prefix(ctx);
    let started = find_marked_queries(ctx, &usable_states)
        .await?
        .into_iter()
        .find_map(|query| parse_mark(&prefix, query));
    if let Some(query) = &started {
        ctx.log(format_args!(
            "An earlier call has started CloudWatch Logs query {}",
            query.query_id
        ));
    }
    Ok(started)
}

/// Starts a query. Its last line is the mark, a comment by which [`find_started_query`] identifies
/// it.
async fn start_query(ctx: &Context, query: &Query) -> Result<StartedQuery, StepError> {
    let to = unix_now();
    let from = to - query.seconds;
    // AWS documents comments only for Logs Insights QL.
    // https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CWL_QuerySyntax.html
    let text = match query.language {
        QueryLanguage::Cwli => format!("{}\n{}{from} {to}", query.text, mark_prefix(ctx)),
        _ => query.text.clone(),
    };
    require(text.chars().count() <= MAX_SENT_CHARACTERS, || {
        format!("the query has more than {MAX_QUERY_CHARACTERS} characters; shorten it")
    })?;

    let request = ctx
        .client(Client::new)
        .start_query()
        .query_string(text)
        .query_language(query.language.clone())
        .start_time(from)
        .end_time(to)
        .limit(query.limit.into());
    let request = match &query.log_groups[..] {
        [] => request,
        // Both fields accept a name, but the local cloud checks permissions only with this one.
        [name] if LogGroup::parse(name).arn_location.is_none() => request.log_group_name(name),
        groups => groups.iter().fold(request, |request, group| {
            request.log_group_identifiers(group.strip_suffix(":*").unwrap_or(group))
        }),
    };

    // After a lost response, the SDK's own retry would start a second query.
    let without_retries = Config::builder().retry_config(RetryConfig::disabled());
    let response = match request
        .customize()
        .config_override(without_retries)
        .send()
        .await
    {
        Ok(response) => response,
        Err(error)
            if error
                .raw_response()
                .is_some_and(|response| response.status().is_client_error()) =>
        {
            return Err(logs_error(error));
        }
        // CloudWatch Logs may have started the query in spite of the error.
        Err(error) => {
            return find_started_query(ctx)
                .await?
                .ok_or_else(|| logs_error(error));
        }
    };
    let query_id = response.query_id.ok_or_else(|| {
        ErrorName::Internal
            .with_message("CloudWatch Logs started the query but returned no ID; try again")
    })?;
    ctx.log(format_args!(
        "CloudWatch Logs query {query_id} started, from {} to {}",
        format_time(from),
        format_time(to)
    ));
    Ok(StartedQuery { query_id, from, to })
}

/// Polls a query. The response is pending while the query runs, and has the rows when it is
/// complete.
async fn poll_query(
    ctx: &Context,
    query: StartedQuery,
    limit: u16,
    poll_interval: Duration,
) -> Result<Progress<QueryResult>, StepError> {
    let logs = ctx.client(Client::new);
    let id = &query.query_id;
    let response = logs
        .get_query_results()
        .query_id(id)
        .send()
        .await
        .map_err(logs_error)?;
    let statistics = response
        .statistics
        .as_ref()
        .map(Statistics::from)
        .unwrap_or_default();

    let status = response.status;
    if status != Some(QueryStatus::Complete) {
        if let Some(reason) = status.as_ref().and_then(failure_reason) {
            return Err(
                ErrorName::StepFailed.with_message(format!("CloudWatch Logs query {id} {reason}"))
            );
        }
        let state = status.map_or("scheduled".into(), |status| status.as_str().to_lowercase());
        let progress = format!(
            "query {id} is {state}, {} log events read",
            statistics.records_scanned
        );
        return Progress::pending(&query, poll_interval, progress);
    }

    let first_page = response.results.unwrap_or_default();
    let results = read_pages(&logs, id, first_page, response.next_token, limit).await?;
    let (columns, rows) = build_table(results);
    let Statistics {
        records_matched,
        records_scanned,
        bytes_scanned,
    } = statistics;
    ctx.log(format_args!(
        "{} rows, from {records_matched} of {records_scanned} log events, {bytes_scanned} bytes \
         scanned",
        rows.len()
    ));
    Ok(Progress::Done(QueryResult {
        columns,
        limit_reached: rows.len() >= limit.into(),
        rows,
        start_time: format_time(query.from),
        end_time: format_time(query.to),
        query_id: query.query_id,
        statistics,
        console_url: ctx.console("cloudwatch/home", "logsV2:logs-insights"),
    }))
}

/// Why a query ended without a result, and what to do. `None` while it runs.
fn failure_reason(status: &QueryStatus) -> Option<&'static str> {
    match status {
        QueryStatus::Failed => Some(
            "failed, and CloudWatch Logs gave no reason; search a shorter time or fewer log groups",
        ),
        QueryStatus::Cancelled => Some("was stopped outside of this job; run the step again"),
        QueryStatus::Timeout => Some(
            "reached CloudWatch Logs' limit of 60 minutes; search a shorter time or fewer log \
             groups",
        ),
        QueryStatus::UnknownValue => Some(
            "has a status that Stepward does not know; look it up in the query history of Logs \
             Insights, then run the step again",
        ),
        _ => None,
    }
}

/// The results of all pages, until there are `limit` of them.
async fn read_pages(
    logs: &Client,
    query_id: &str,
    mut results: Vec<Vec<ResultField>>,
    mut next_token: Option<String>,
    limit: u16,
) -> Result<Vec<Vec<ResultField>>, StepError> {
    while let Some(token) = next_token.filter(|_| results.len() < limit.into()) {
        let page = logs
            .get_query_results()
            .query_id(query_id)
            .next_token(token)
            .send()
            .await
            .map_err(logs_error)?;
        results.extend(page.results.unwrap_or_default());
        next_token = page.next_token;
    }
    Ok(results)
}

/// Stops the queries that the step has started.
///
/// # Errors
/// The first error of CloudWatch Logs, after the step has tried to stop all queries.
pub async fn stop_queries(ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
    let ids = match resume {
        Some(resume) => vec![resume.state::<StartedQuery>()?.query_id],
        // The response with the ID was lost.
        None => find_running_queries(ctx).await?,
    };
    if ids.is_empty() {
        ctx.log(
            "Found no running query to stop. Stepward cannot find a query in PPL or SQL; such a \
             query continues until it ends",
        );
    }

    let mut result = Ok(());
    for id in ids {
        let response = ctx
            .client(Client::new)
            .stop_query()
            .query_id(&id)
            .send()
            .await;
        match response {
            Ok(response) if response.success => {
                ctx.log(format_args!("CloudWatch Logs query {id} stopped"));
            }
            // CloudWatch Logs reports a query that has ended as an InvalidParameterException.
            // https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_StopQuery.html
            Err(error) if error.code() != Some("InvalidParameterException") => {
                let error = logs_error(error);
                ctx.log(format_args!(
                    "CloudWatch Logs query {id} could not be stopped: {error}"
                ));
                result = result.and(Err(error));
            }
            _ => ctx.log(format_args!("CloudWatch Logs query {id} had already ended")),
        }
    }
    result
}

/// The IDs of this step's running queries. Searches several times until there are any.
async fn find_running_queries(ctx: &Context) -> Result<Vec<String>, StepError> {
    for delay in SEARCH_DELAYS {
        tokio::time::sleep(delay).await;
        let states = [QueryStatus::Scheduled, QueryStatus::Running];
        let ids: BTreeSet<_> = find_marked_queries(ctx, &states)
            .await?
            .into_iter()
            .filter_map(|query| query.query_id)
            .collect();
        if !ids.is_empty() {
            return Ok(ids.into_iter().collect());
        }
    }
    Ok(Vec::new())
}
