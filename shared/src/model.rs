//! The data that Stepward's processes exchange and store.

pub mod artifacts;
pub mod aws_error;
pub mod bucket;
pub mod credential_rejection;
pub mod customer;
pub mod digest;
pub mod envelope;
pub mod error;
pub mod input;
pub mod job;
pub mod merged;
pub mod partition;
pub mod permissions;
pub mod s3_error;
pub mod text;
