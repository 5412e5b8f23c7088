//! What the CloudWatch Logs steps share: names of log groups, and Logs Insights queries from the
//! start to the rows.

mod error;
mod log_groups;
mod query;
mod query_mark;
mod query_parameters;
mod result;
pub mod steps;
mod time_range;

pub use log_groups::{check_log_group_name, log_group_arns};
pub use query::{MAX_QUERY_CHARACTERS, QUERY_TIMEOUT, Query, run_query, stop_queries};
pub use query_parameters::{MAX_ROWS, check_query_parameters, query_permissions};
pub use result::QueryResult;
pub use time_range::{Count, TimeUnit};
