//! The function of the step `autoscaling-update-group`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_autoscaling::steps::autoscaling_update_group::UpdateGroup>()
}
