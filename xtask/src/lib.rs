//! What `cargo xtask generate` writes, and what the tests compare with it.

pub mod binaries;
pub mod catalog;
mod files;
pub mod generated;
pub mod iam;
pub mod proof_tables;
mod template;
