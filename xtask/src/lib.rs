//! The content of all generated files. `cargo xtask generate` writes it, and tests compare the
//! files with it.

pub mod binaries;
pub mod catalog;
mod ec2_fields;
mod files;
pub mod generated;
pub mod iam;
pub mod moto_results;
pub mod proof_tables;
mod template;
