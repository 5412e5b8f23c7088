//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "rds-capture-snapshot.rs"]
pub mod rds_capture_snapshot;
#[path = "rds-start-cluster.rs"]
pub mod rds_start_cluster;
#[path = "rds-start-instance.rs"]
pub mod rds_start_instance;
#[path = "rds-status.rs"]
pub mod rds_status;
#[path = "rds-stop-cluster.rs"]
pub mod rds_stop_cluster;
#[path = "rds-stop-instance.rs"]
pub mod rds_stop_instance;
