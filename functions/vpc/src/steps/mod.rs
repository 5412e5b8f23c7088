//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "vpc-create-flow-logs.rs"]
pub mod vpc_create_flow_logs;
#[path = "vpc-enable-peering.rs"]
pub mod vpc_enable_peering;
