//! The function of the step `ecs-stopped-task-errors`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_ecs::steps::ecs_stopped_task_errors::StoppedTaskErrors>()
}
