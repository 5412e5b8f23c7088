//! End-to-end tests: the command line's code deploys the real template and functions on a local
//! cloud that enforces IAM, and onboards customers.
//!
//! All tests share one local cloud. Each test creates its own customers. If the local cloud does
//! not start, the tests fail.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests may panic, as tests do"
)]

mod boundary;
mod entry_points;
mod every_step;
mod file_system;
mod jobs;
mod keys;
mod long_job;
mod nodes;
mod providers;
mod records;
mod run_command;
mod s3;
mod secrets;
mod test_stack;
