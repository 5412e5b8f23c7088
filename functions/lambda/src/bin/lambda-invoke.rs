//! The function of the step `lambda-invoke`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_lambda::steps::lambda_invoke::InvokeFunction>()
}
