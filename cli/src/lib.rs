//! The operator's command line as a library: the end-to-end tests deploy and onboard with the same code.

pub mod args;
pub mod cloud;
pub mod customers;
pub mod demo;
pub mod deploy;
pub mod error;
pub mod jobs;
pub mod keys;
pub mod local;
pub mod nodes;
pub mod onboarding;
pub mod output;
pub mod package;
pub mod role_template;
pub mod steps;
pub mod workspace;
