//! The operator's command line as a library: the end-to-end tests deploy and onboard with the same code.

pub mod args;
pub mod cloud;
pub mod customers;
pub mod demo;
pub mod deploy;
pub mod error;
pub mod jobs;
pub mod local;
pub mod onboarding;
pub mod output;
pub mod package;
pub mod steps;
pub mod workspace;

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
