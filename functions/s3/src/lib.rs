//! What the S3 steps share: places, filters, listings, and the transfer of objects as `aws s3` decides it.

pub mod contents;
pub mod filter;
pub mod keys;
pub mod local;
pub mod place;
pub mod sizes;
pub mod slice;
