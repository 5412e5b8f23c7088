//! The operator's command line as a library, so that the end-to-end tests deploy and onboard with
//! the same code.
//!
//! The module `commands` contains the commands that operators type. The other modules are shared by
//! commands, tests and generators; none of them uses `commands`.

pub mod arguments;
mod artifacts;
pub mod cloud;
pub mod commands;
pub mod deploy;
pub mod error;
mod global;
mod interrupt;
pub mod jobs;
mod json;
pub mod keys;
pub mod local;
mod machine;
pub mod nodes;
pub mod onboarding;
pub mod output;
pub mod package;
pub mod role_template;
pub mod steps;
mod terminal;
pub mod workspace;
