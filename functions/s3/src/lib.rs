//! The S3 steps, and what they share: parameters, filters, listings, and transfers that match
//! `aws s3`.
//!
//! [`task`] reads a step's parameters, [`plan`] decides about each name by comparing two
//! [`listing`]s, [`engine`] executes the decisions, and [`transfer`] transfers one object.

pub mod base_location;
pub mod body;
pub mod bucket;
mod bucket_name;
pub mod call_budget;
pub mod contents;
pub mod delete;
pub mod engine;
pub mod filter;
pub mod keys;
pub mod list_output;
pub mod listing;
pub mod local;
pub mod location;
pub mod multipart;
pub mod params;
pub mod plan;
pub mod report;
mod retries;
pub mod sizes;
pub mod steps;
pub mod task;
#[cfg(test)]
mod testing;
pub mod transfer;
pub mod verify;
