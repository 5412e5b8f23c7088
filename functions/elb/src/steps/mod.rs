//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "elb-unhealthy-targets.rs"]
pub mod elb_unhealthy_targets;
