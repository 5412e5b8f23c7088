//! The function of the step `cloudwatch-create-log-stream`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_cloudwatch::steps::cloudwatch_create_log_stream::CreateLogStream>()
}
