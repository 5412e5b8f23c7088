//! The function of the step `ssm-run-command`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_ssm::steps::ssm_run_command::RunCommand>()
}
