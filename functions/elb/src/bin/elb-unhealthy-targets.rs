//! The function of the step `elb-unhealthy-targets`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_elb::steps::elb_unhealthy_targets::UnhealthyTargets>()
}
