//! The STS steps.

pub mod steps;
