//! The function of the step `rds-stop-instance`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_rds::steps::rds_stop_instance::StopInstance>()
}
