//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "autoscaling-update-group.rs"]
pub mod autoscaling_update_group;
