//! The function of the step `cloudwatch-run-saved-query`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_cloudwatch::steps::cloudwatch_run_saved_query::SavedQuery>()
}
