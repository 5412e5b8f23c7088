//! The function of the step `rds-status`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_rds::steps::rds_status::ShowStatus>()
}
