//! The binary `stepward`.

use std::process::ExitCode;

use clap::Parser;
use stepward_cli::commands::Cli;
use stepward_cli::output::print_error;

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(Cli::parse().run()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            print_error(&format!("error: {error}"));
            ExitCode::from(error.code())
        }
    }
}
