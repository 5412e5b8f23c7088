//! `stepward local …`

use clap::Subcommand;
use serde_json::json;

use crate::error::{Error, Result};
use crate::global::Global;
use crate::local::{LocalCloud, OPERATOR};
use crate::output::Format;
use crate::workspace::Workspace;

#[derive(Debug, Subcommand)]
pub(crate) enum Local {
    /// Start it; one that runs already is as good
    #[command(after_help = "Examples:
  stepward local up
  stepward local up --port 4600
  AWS_ENDPOINT_URL=http://127.0.0.1:4566 AWS_ACCESS_KEY_ID=111111111111 AWS_SECRET_ACCESS_KEY=test aws s3 ls")]
    Up,
    /// End it, with everything in it
    #[command(after_help = "Example:\n  stepward local down")]
    Down,
    /// Say whether it runs
    #[command(after_help = "Example:\n  stepward local status --json")]
    Status,
    /// Empty it: all accounts, all services
    #[command(after_help = "Example:\n  stepward local reset")]
    Reset,
}

impl Local {
    pub(crate) fn run(&self, global: &Global) -> Result<u8> {
        let (workspace, port, format) = (Workspace::find()?, global.port, global.format());
        match self {
            Self::Up => show(port, Some(&LocalCloud::up(&workspace, port)?), format)?,
            Self::Status => {
                let running = LocalCloud::running(&workspace, port)?;
                show(port, running.as_ref(), format)?;
                return Ok(u8::from(running.is_none()));
            }
            Self::Down => {
                let was = LocalCloud::down(&workspace, port)?;
                let text = if was {
                    "The local cloud has ended."
                } else {
                    "No local cloud was running."
                };
                format.show(&json!({ "was_running": was }), || text.to_owned())?;
            }
            Self::Reset => {
                let none = || {
                    Error::not_asked(format!("no local cloud runs on port {port}"))
                        .next("`stepward local up` starts it")
                };
                LocalCloud::running(&workspace, port)?
                    .ok_or_else(none)?
                    .reset()?;
                format.show(&json!({ "reset": true }), || {
                    "The local cloud is empty.".to_owned()
                })?;
            }
        }
        Ok(0)
    }
}

fn show(port: u16, running: Option<&LocalCloud>, format: Format) -> Result<()> {
    let endpoint = running.map(LocalCloud::endpoint);
    let log = running.map(|cloud| cloud.dir.join("ministack.log"));
    let files = running.map(LocalCloud::files).transpose()?;
    let json = json!({
        "running": running.is_some(), "port": port, "endpoint": endpoint, "log": log, "files": files });
    format.show(&json, || match (&endpoint, &log, &files) {
        (Some(endpoint), Some(log), Some(files)) => format!(
            "The local cloud runs at {endpoint}.\nIts log is {}.\nLocal paths of steps are below {}.\nAn access key is \
             a 12-digit account ID ({OPERATOR} is the operator's), any secret will do.",
            log.display(),
            files.display()
        ),
        _ => format!("No local cloud runs on port {port}; `stepward local up` starts it."),
    })
}
