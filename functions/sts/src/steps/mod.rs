//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "validate-credentials.rs"]
pub mod validate_credentials;
