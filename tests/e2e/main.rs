//! The real template on a local cloud of its own, with IAM enforced: deployed by the operator's own
//! code, with the real functions, customers onboarded as they would be.
//!
//! All tests share one local cloud, each with customers of its own. A test that cannot have it
//! fails.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what the tests share fails a test as the tests do"
)]

mod boundary;
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
mod ways_in;
mod world;
