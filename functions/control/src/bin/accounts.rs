//! The binary of the function `accounts`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stepward_control::accounts::serve()
}
