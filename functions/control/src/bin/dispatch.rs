//! The binary of the function `dispatch`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stepward_control::dispatch::serve()
}
