//! The function of the step `cloudwatch-query-logs`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_cloudwatch::steps::cloudwatch_query_logs::QueryLogs>()
}
