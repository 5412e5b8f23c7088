//! The mark: a comment at the end of a query. A later call finds the query by it, because
//! `StartQuery` has no client token.

use aws_sdk_cloudwatchlogs::Client;
use aws_sdk_cloudwatchlogs::types::{QueryInfo, QueryLanguage, QueryStatus};
use serde::{Deserialize, Serialize};
use stepward::{Context, StepError};

use crate::error::logs_error;

/// A query that was started, with its time range in seconds since 1970.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StartedQuery {
    pub(crate) query_id: String,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// The start of the mark, the same for every call of this step in this execution. The query's time
/// range follows.
pub(crate) fn mark_prefix(ctx: &Context) -> String {
    format!("# stepward {} ", &ctx.client_token("query")[..12])
}

/// Reads the time range from the mark of a query. `None` if the query has no mark with this prefix.
pub(crate) fn parse_mark(prefix: &str, query: QueryInfo) -> Option<StartedQuery> {
    let (_, range) = query.query_string.as_deref()?.rsplit_once(prefix)?;
    let mut range = range.split_whitespace().map(str::parse);
    let (from, to) = (range.next()?.ok()?, range.next()?.ok()?);
    Some(StartedQuery {
        query_id: query.query_id?,
        from,
        to,
    })
}

/// The queries in these states that have this step's mark.
///
/// Pass the states in the order in which a query reaches them. Otherwise a query that changes its
/// state between two requests could be missed. Such a query can be in the list twice.
pub(crate) async fn find_marked_queries(
    ctx: &Context,
    states: &[QueryStatus],
) -> Result<Vec<QueryInfo>, StepError> {
    let logs = ctx.client(Client::new);
    let prefix = mark_prefix(ctx);
    let has_mark = |query: &QueryInfo| {
        query
            .query_string()
            .is_some_and(|text| text.contains(&prefix))
    };

    let mut marked = Vec::new();
    for state in states {
        let mut next_token = None;
        loop {
            let page = logs
                .describe_queries()
                .query_language(QueryLanguage::Cwli)
                .status(state.clone())
                .max_results(1000)
                .set_next_token(next_token)
                .send()
                .await
                .map_err(logs_error)?;
            let queries = page.queries.unwrap_or_default();
            marked.extend(queries.into_iter().filter(has_mark));
            next_token = page.next_token;
            if next_token.is_none() {
                break;
            }
        }
    }
    Ok(marked)
}
