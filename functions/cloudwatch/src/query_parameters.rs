//! The common parameters of the query steps, and the permissions that these need.

use stepward::model::input::require;
use stepward::{Permissions, StepError};

use crate::log_groups::{LogGroup, MAX_LOG_GROUPS, log_group_arns};
use crate::time_range::{Count, TimeUnit, unix_now};

/// The maximum number of rows in the output of a query step.
pub const MAX_ROWS: u16 = 10_000;

/// Checks the common parameters of the query steps.
///
/// # Errors
/// `InvalidInput` that names the parameter.
pub fn check_query_parameters(
    log_groups: &[String],
    time_unit: TimeUnit,
    past_range: Count,
    limit: u16,
) -> Result<(), StepError> {
    let count = log_groups.len();
    require(count <= MAX_LOG_GROUPS, || {
        format!(
            "parameter \"log_groups\": expected at most {MAX_LOG_GROUPS} log groups, got {count}; \
             split the list"
        )
    })?;
    for group in log_groups {
        require(LogGroup::parse(group).is_valid(), || {
            format!(
                "parameter \"log_groups\": expected the name or the ARN of a log group, got \
                 \"{group}\""
            )
        })?;
    }

    let past = past_range.0;
    require(past > 0, || {
        "parameter \"past_range\": expected 1 or more, got \"0\"".into()
    })?;
    let starts_after_1970 = time_unit
        .to_seconds(past_range)
        .is_some_and(|seconds| seconds <= unix_now());
    require(starts_after_1970, || {
        format!(
            "parameter \"past_range\": expected a time range that starts after 1970, got {past} \
             {time_unit:?}"
        )
    })?;
    require((1..=MAX_ROWS).contains(&limit), || {
        format!("parameter \"limit\": expected 1 to {MAX_ROWS}, got \"{limit}\"")
    })
}

/// The permissions to run a query on these log groups, or on all if only the query names them.
#[must_use]
pub fn query_permissions(log_groups: &[String]) -> Permissions {
    let start = Permissions::default();
    let start = if log_groups.is_empty() {
        start.allow_on_all(
            "start the query, if log_groups is empty",
            &["logs:StartQuery"],
            "Stepward learns the log groups only from the saved query, not from the parameters.",
        )
    } else {
        start.allow(
            "start the query",
            &["logs:StartQuery"],
            log_groups.iter().flat_map(|group| log_group_arns(group)),
        )
    };
    start
        .allow(
            "find a query that an earlier call started",
            &["logs:DescribeQueries"],
            ["*"],
        )
        .allow(
            "stop the query when the job is stopped",
            &["logs:StopQuery"],
            ["*"],
        )
        .allow_on_all(
            "poll the query and read its rows",
            &["logs:GetQueryResults"],
            "AWS cannot limit this action to log groups, because the request contains only the \
             query's ID.",
        )
}
