//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "s3-copy.rs"]
pub mod s3_copy;
#[path = "s3-create-bucket.rs"]
pub mod s3_create_bucket;
#[path = "s3-delete.rs"]
pub mod s3_delete;
#[path = "s3-delete-bucket.rs"]
pub mod s3_delete_bucket;
#[path = "s3-list.rs"]
pub mod s3_list;
#[path = "s3-move.rs"]
pub mod s3_move;
#[path = "s3-sync.rs"]
pub mod s3_sync;
