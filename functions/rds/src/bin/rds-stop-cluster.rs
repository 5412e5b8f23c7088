//! The function of the step `rds-stop-cluster`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_rds::steps::rds_stop_cluster::StopCluster>()
}
