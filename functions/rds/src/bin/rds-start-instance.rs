//! The function of the step `rds-start-instance`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_rds::steps::rds_start_instance::StartInstance>()
}
