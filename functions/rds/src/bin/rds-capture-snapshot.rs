//! The function of the step `rds-capture-snapshot`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_rds::steps::rds_capture_snapshot::CaptureSnapshot>()
}
