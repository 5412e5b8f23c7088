//! What the S3 steps share: places, filters, listings, and the transfer of objects as `aws s3`
//! decides it.
//!
//! [`task`] reads a step's parameters, [`plan`] decides what is to be done by two [`listing`]s,
//! [`engine`] does it, and [`transfer`] moves one object.

pub mod body;
pub mod bucket;
pub mod contents;
pub mod delete;
pub mod end;
pub mod engine;
pub mod filter;
pub mod keys;
pub mod listing;
pub mod local;
pub mod multipart;
pub mod params;
pub mod place;
pub mod plan;
pub mod report;
pub mod sizes;
pub mod slice;
pub mod steps;
pub mod task;
#[cfg(test)]
mod testing;
pub mod transfer;
mod tries;
pub mod verify;
