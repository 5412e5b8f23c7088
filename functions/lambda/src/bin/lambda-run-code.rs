//! The function of the step `lambda-run-code`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_lambda::steps::lambda_run_code::RunCode>()
}
