//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "ec2-capture-snapshot.rs"]
pub mod ec2_capture_snapshot;
#[path = "ec2-create-from-snapshot.rs"]
pub mod ec2_create_from_snapshot;
#[path = "ec2-nodes.rs"]
pub mod ec2_nodes;
#[path = "ec2-restart.rs"]
pub mod ec2_restart;
#[path = "ec2-start.rs"]
pub mod ec2_start;
#[path = "ec2-stop.rs"]
pub mod ec2_stop;
#[path = "ec2-terminate.rs"]
pub mod ec2_terminate;
