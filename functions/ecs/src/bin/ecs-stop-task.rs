//! The function of the step `ecs-stop-task`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_ecs::steps::ecs_stop_task::StopTask>()
}
