//! The binary of the function `api`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stepward_control::api::serve()
}
