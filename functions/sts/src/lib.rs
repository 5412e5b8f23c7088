//! The STS steps.

mod error;
pub mod steps;
