//! The comment under a query by which a later call finds the query again: `StartQuery` takes no
//! client token.

use aws_sdk_cloudwatchlogs::Client;
use aws_sdk_cloudwatchlogs::types::{QueryInfo, QueryLanguage, QueryStatus};
use stepward::{Context, StepError};

use crate::error::logs_error;

/// How the comment begins that this step, in this execution, puts under its query. The range
/// follows.
pub(crate) fn mark(ctx: &Context) -> String {
    format!("# stepward {} ", &ctx.client_token("query")[..12])
}

/// The queries of these states that carry this step's mark. `StartQuery` takes no client token.
/// States are asked for in the order in which a query has them, so that none is missed that gets on
/// in between; it may be there twice.
pub(crate) async fn marked(
    ctx: &Context,
    states: &[QueryStatus],
) -> Result<Vec<QueryInfo>, StepError> {
    let (logs, mark) = (ctx.client(Client::new), mark(ctx));
    let is_ours = |query: &QueryInfo| {
        query
            .query_string()
            .is_some_and(|text| text.contains(&mark))
    };
    let mut found = Vec::new();
    for state in states {
        let mut next = None;
        loop {
            let request = logs
                .describe_queries()
                .query_language(QueryLanguage::Cwli)
                .status(state.clone());
            let page = request
                .max_results(1000)
                .set_next_token(next)
                .send()
                .await
                .map_err(logs_error)?;
            found.extend(page.queries.unwrap_or_default().into_iter().filter(is_ours));
            next = page.next_token;
            if next.is_none() {
                break;
            }
        }
    }
    Ok(found)
}
