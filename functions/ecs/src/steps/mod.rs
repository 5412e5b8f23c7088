//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "ecs-exec.rs"]
pub mod ecs_exec;
#[path = "ecs-nodes.rs"]
pub mod ecs_nodes;
#[path = "ecs-stop-task.rs"]
pub mod ecs_stop_task;
#[path = "ecs-stopped-task-errors.rs"]
pub mod ecs_stopped_task_errors;
