//! The steps of this service, one file each. Written by `cargo xtask generate`.

#[path = "ssm-copy-file.rs"]
pub mod ssm_copy_file;
#[path = "ssm-run-command.rs"]
pub mod ssm_run_command;
#[path = "ssm-run-script.rs"]
pub mod ssm_run_script;
