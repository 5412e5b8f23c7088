//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "athena-query.rs"]
pub mod athena_query;
