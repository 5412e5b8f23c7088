//! The function of the step `validate-credentials`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_sts::steps::validate_credentials::ValidateCredentials>()
}
