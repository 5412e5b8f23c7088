//! The binary `stepward`.

use std::process::ExitCode;

use clap::Parser;
use stepward_cli::commands::Cli;
use stepward_cli::output::escaped;

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(Cli::parse().run()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {}", escaped(&error.to_string()));
            ExitCode::from(error.code())
        }
    }
}
