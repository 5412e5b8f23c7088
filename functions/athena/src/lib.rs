//! The Athena step, the permissions that it needs, and how it reads the result of a query.

mod error;
mod permissions;
mod result;
pub mod steps;
