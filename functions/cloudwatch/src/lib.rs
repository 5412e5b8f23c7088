//! What the CloudWatch Logs steps share: names of log groups, and a query from its start to its
//! rows.

mod error;
mod groups;
mod marks;
mod range;
mod rows;
pub mod steps;

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use aws_sdk_cloudwatchlogs::config::retry::RetryConfig;
use aws_sdk_cloudwatchlogs::error::ProvideErrorMetadata;
use aws_sdk_cloudwatchlogs::types::{QueryInfo, QueryLanguage, QueryStatus};
use aws_sdk_cloudwatchlogs::{Client, Config};
use serde::{Deserialize, Serialize};
use stepward::model::input::require;
use stepward::{Context, ErrorName, Permissions, Progress, Resume, StepError};

use error::logs_error;
use groups::{Group, MAX_GROUPS, check_place};
pub use groups::{check_group_name, group_arns};
use marks::{mark, marked};
pub use range::{Count, TimeUnit};
use range::{moment, now};
pub use rows::Answered;
use rows::{Statistics, table};

/// Between two looks at a query, at first. Most take a few seconds.
const POLL: Duration = Duration::from_secs(2);
/// How long to wait before each look for a query to stop: the call that the job's end has cut off
/// may just start it.
const PATIENCE: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_secs(10),
];
/// CloudWatch Logs ends a query after 60 minutes.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_StartQuery.html>
pub const TIMEOUT: Duration = Duration::from_mins(65);
/// The longest query, in characters. (The same page.)
const MAX_TEXT: usize = 10_000;
/// The longest query that a person can give: room is left for the line by which a later call knows
/// it.
pub const MAX_QUERY: usize = MAX_TEXT - 100;
/// The most rows that a query step answers.
pub const MAX_ROWS: u16 = 10_000;

/// A query to start.
#[derive(Debug)]
pub struct Query {
    /// Its text.
    pub text: String,
    /// The language of the text.
    pub language: QueryLanguage,
    /// Names or ARNs; none where the text tells them.
    pub log_groups: Vec<String>,
    /// How far back from now it searches, in seconds.
    pub seconds: i64,
    /// How many rows at most.
    pub limit: u16,
}

/// A query that was started.
#[derive(Debug, Deserialize, Serialize)]
pub struct Started {
    query_id: String,
    from: i64,
    to: i64,
}

/// Checks what both query steps take.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub fn check(
    log_groups: &[String],
    unit: TimeUnit,
    past: Count,
    limit: u16,
) -> Result<(), StepError> {
    require(log_groups.len() <= MAX_GROUPS, || {
        format!(
            "log_groups has {} log groups; a query searches at most {MAX_GROUPS}",
            log_groups.len()
        )
    })?;
    for group in log_groups {
        require(Group::of(group).is_legal(), || {
            format!("log_groups has `{group}`, which is neither a log group's name nor its ARN")
        })?;
    }
    require(past.0 > 0, || {
        "past_range is 0; it must be 1 or more".into()
    })?;
    require(
        unit.seconds(past).is_some_and(|seconds| seconds <= now()),
        || {
            format!(
                "past_range is {} {unit:?}, which begins before 1970",
                past.0
            )
        },
    )?;
    require((1..=MAX_ROWS).contains(&limit), || {
        format!("limit is {limit}, not 1 to {MAX_ROWS}")
    })
}

/// What a query needs on these log groups; on all where only the query tells which.
#[must_use]
pub fn permissions(log_groups: &[String]) -> Permissions {
    let start = Permissions::default();
    let start = if log_groups.is_empty() {
        start.allow_on_all(
            "TODO",
            &["logs:StartQuery"],
            "The log groups stand in the saved query.",
        )
    } else {
        start.allow(
            "TODO",
            &["logs:StartQuery"],
            log_groups.iter().flat_map(|group| group_arns(group)),
        )
    };
    start
        .allow("TODO", &["logs:DescribeQueries", "logs:StopQuery"], ["*"])
        .allow_on_all(
            "TODO",
            &["logs:GetQueryResults"],
            "A query's ID, which nobody can guess, does not tell its log groups.",
        )
}

/// Runs a query: starts it, or finds it where an earlier call of this step has, and looks at it.
/// `query` is only asked for where there is none yet.
///
/// # Errors
/// `InvalidInput` for a log group that cannot be searched from here, `StepFailed` when the query
/// ended otherwise than well, or why CloudWatch Logs failed.
pub async fn run(
    ctx: &Context,
    resume: Option<Resume>,
    (log_groups, limit): (&[String], u16),
    query: impl Future<Output = Result<Query, StepError>> + Send,
) -> Result<Progress<Answered>, StepError> {
    check_place(&ctx.place, log_groups)?;
    let patience = Resume::poll_interval(resume.as_ref(), POLL);
    let started = match resume {
        Some(resume) => resume.state()?,
        None => match find(ctx).await? {
            Some(started) => started,
            None => start(ctx, &query.await?).await?,
        },
    };
    look(ctx, started, limit, patience).await
}

/// The query that an earlier call of this step has started and whose ID was lost, when it runs or
/// has succeeded.
async fn find(ctx: &Context) -> Result<Option<Started>, StepError> {
    let usable = [
        QueryStatus::Scheduled,
        QueryStatus::Running,
        QueryStatus::Complete,
    ];
    let found = marked(ctx, &usable)
        .await?
        .into_iter()
        .find_map(|query| started(&mark(ctx), query));
    if let Some(query) = &found {
        ctx.log(format_args!(
            "CloudWatch Logs query {} was started by an earlier call",
            query.query_id
        ));
    }
    Ok(found)
}

/// Starts a query. Its last line is a comment by which [`find`] knows it.
async fn start(ctx: &Context, query: &Query) -> Result<Started, StepError> {
    let to = now();
    let from = to - query.seconds;
    // Comments are documented for Logs Insights QL alone.
    // https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CWL_QuerySyntax.html
    let text = match query.language {
        QueryLanguage::Cwli => format!("{}\n{}{from} {to}", query.text, mark(ctx)),
        _ => query.text.clone(),
    };
    require(text.chars().count() <= MAX_TEXT, || {
        format!("the query has more than {MAX_QUERY} characters")
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
        // A name alone could go either way; IAM on the local cloud reads it here.
        [one] if Group::of(one).place.is_none() => request.log_group_name(one),
        many => many.iter().fold(request, |request, group| {
            request.log_group_identifiers(group.strip_suffix(":*").unwrap_or(group))
        }),
    };
    // Sent once: after a lost answer, the SDK's own retry would start a second query.
    let once = Config::builder().retry_config(RetryConfig::disabled());
    let answer = match request.customize().config_override(once).send().await {
        Ok(answer) => answer,
        Err(error)
            if error
                .raw_response()
                .is_some_and(|answer| answer.status().is_client_error()) =>
        {
            return Err(logs_error(error));
        }
        // It may have started all the same.
        Err(error) => return find(ctx).await?.ok_or_else(|| logs_error(error)),
    };
    let query_id = answer.query_id.ok_or_else(|| {
        ErrorName::Internal
            .with_message("CloudWatch Logs started the query but gave no ID; try again")
    })?;
    ctx.log(format_args!(
        "CloudWatch Logs query {query_id} started, from {} to {}",
        moment(from),
        moment(to)
    ));
    Ok(Started { query_id, from, to })
}

/// Looks at a query: pending while it runs, its rows when it is complete.
async fn look(
    ctx: &Context,
    query: Started,
    limit: u16,
    patience: Duration,
) -> Result<Progress<Answered>, StepError> {
    let logs = ctx.client(Client::new);
    let id = &query.query_id;
    let answer = logs
        .get_query_results()
        .query_id(id)
        .send()
        .await
        .map_err(logs_error)?;
    let statistics = answer
        .statistics
        .as_ref()
        .map(Statistics::from)
        .unwrap_or_default();
    let failed = |what: &str| {
        Err(ErrorName::StepFailed.with_message(format!("CloudWatch Logs query {id} {what}")))
    };
    match &answer.status {
        Some(QueryStatus::Complete) => {}
        Some(QueryStatus::Failed) => {
            return failed(
                "failed, and CloudWatch Logs gives no reason; try a shorter time or fewer log groups",
            );
        }
        Some(QueryStatus::Cancelled) => {
            return failed("was stopped by somebody; run the step again");
        }
        Some(QueryStatus::Timeout) => {
            return failed(
                "ran into CloudWatch Logs' limit of 60 minutes; search a shorter time or fewer log groups",
            );
        }
        Some(QueryStatus::UnknownValue) => {
            return failed(
                "is in an unknown state, says CloudWatch Logs; look at its history, then run it again",
            );
        }
        other => {
            let state = other
                .as_ref()
                .map_or("scheduled".into(), |state| state.as_str().to_lowercase());
            let progress = format!(
                "query {id} is {state}, {} log events read",
                statistics.records_scanned
            );
            return Progress::pending(&query, patience, progress);
        }
    }
    let (mut results, mut next) = (answer.results.unwrap_or_default(), answer.next_token);
    while let Some(token) = next.filter(|_| results.len() < limit.into()) {
        let page = logs
            .get_query_results()
            .query_id(id)
            .next_token(token)
            .send()
            .await
            .map_err(logs_error)?;
        results.extend(page.results.unwrap_or_default());
        next = page.next_token;
    }
    let (columns, rows) = table(results);
    let Statistics {
        records_matched,
        records_scanned,
        bytes_scanned,
    } = statistics;
    ctx.log(format_args!(
        "{} rows, from {records_matched} of {records_scanned} log events, {bytes_scanned} bytes scanned",
        rows.len()
    ));
    Ok(Progress::Done(Answered {
        columns,
        limit_reached: rows.len() >= limit.into(),
        rows,
        start_time: moment(query.from),
        end_time: moment(query.to),
        query_id: query.query_id,
        statistics,
        console_url: ctx.console("cloudwatch/home", "logsV2:logs-insights"),
    }))
}

/// Stops what the step has started.
///
/// # Errors
/// Why CloudWatch Logs could not stop one of the queries, when all were tried.
pub async fn stop(ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
    let ids = match resume {
        Some(resume) => vec![resume.state::<Started>()?.query_id],
        // The answer with the ID was lost.
        None => running(ctx).await?,
    };
    if ids.is_empty() {
        ctx.log("No query with this step's mark runs; one in PPL or SQL has no mark, and ends by itself");
    }
    let mut failure = Ok(());
    for id in ids {
        match ctx
            .client(Client::new)
            .stop_query()
            .query_id(&id)
            .send()
            .await
        {
            Ok(answer) if answer.success => {
                ctx.log(format_args!("CloudWatch Logs query {id} stopped"))
            }
            // Which is an error to CloudWatch Logs.
            // https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_StopQuery.html
            Err(error) if error.code() != Some("InvalidParameterException") => {
                let error = logs_error(error);
                ctx.log(format_args!(
                    "CloudWatch Logs query {id} was not stopped: {error}"
                ));
                failure = failure.and(Err(error));
            }
            _ => ctx.log(format_args!("CloudWatch Logs query {id} had ended already")),
        }
    }
    failure
}

/// The IDs of this step's queries that run, as soon as there are any.
async fn running(ctx: &Context) -> Result<Vec<String>, StepError> {
    for wait in PATIENCE {
        tokio::time::sleep(wait).await;
        let found = marked(ctx, &[QueryStatus::Scheduled, QueryStatus::Running]).await?;
        let ids: BTreeSet<_> = found
            .into_iter()
            .filter_map(|query| query.query_id)
            .collect();
        if !ids.is_empty() {
            return Ok(ids.into_iter().collect());
        }
    }
    Ok(Vec::new())
}

/// What the mark under a query tells of it.
fn started(mark: &str, query: QueryInfo) -> Option<Started> {
    let (_, range) = query.query_string.as_deref()?.rsplit_once(mark)?;
    let mut range = range.split_whitespace().map(str::parse);
    let (from, to) = (range.next()?.ok()?, range.next()?.ok()?);
    Some(Started {
        query_id: query.query_id?,
        from,
        to,
    })
}
