//! What the CloudWatch Logs steps share: names of log groups, and Logs Insights queries from the
//! start to the rows.

mod error;
mod log_groups;
mod query;
mod query_mark;
mod result;
pub mod steps;
mod time_range;

pub use log_groups::{check_log_group_name, log_group_arns};
pub use query::{
    MAX_QUERY_CHARACTERS, MAX_ROWS, QUERY_TIMEOUT, Query, check_query_parameters,
    query_permissions, run_query, stop_queries,
};
pub use result::QueryResult;
pub use time_range::{Count, TimeUnit};
