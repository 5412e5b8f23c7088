//! The binary of the function `cancel`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stepward_control::cancel::serve()
}
