//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "lambda-invoke.rs"]
pub mod lambda_invoke;
#[path = "lambda-run-code.rs"]
pub mod lambda_run_code;
