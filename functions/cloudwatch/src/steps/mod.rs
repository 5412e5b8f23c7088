//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "cloudwatch-create-log-stream.rs"]
pub mod cloudwatch_create_log_stream;
#[path = "cloudwatch-query-logs.rs"]
pub mod cloudwatch_query_logs;
#[path = "cloudwatch-run-saved-query.rs"]
pub mod cloudwatch_run_saved_query;
