//! The binary `stepward`.

use std::process::ExitCode;

use clap::Parser;
use stepward_cli::commands::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(Cli::parse().run()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.code())
        }
    }
}
