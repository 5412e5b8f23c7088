//! The function of the step `ecs-exec`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_ecs::steps::ecs_exec::Exec>()
}
