//! `stepward local …`

use clap::Subcommand;
use serde_json::json;

use super::help::with_examples;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::local::{LocalCloud, OPERATOR};
use crate::workspace::Workspace;

#[derive(Debug, Subcommand)]
pub(crate) enum Local {
    /// Start the local cloud, unless it is already running
    #[command(
        after_help = "The last example calls the local cloud with the AWS CLI.",
        help_template = with_examples(
            "stepward local up
stepward local up --port 4600
AWS_ENDPOINT_URL=http://127.0.0.1:4566 AWS_ACCESS_KEY_ID=111111111111 \\
  AWS_SECRET_ACCESS_KEY=test aws s3 ls"
        )
    )]
    Up,
    /// Stop the local cloud and delete everything in it
    #[command(help_template = with_examples("stepward local down"))]
    Down,
    /// Show whether the local cloud runs
    #[command(help_template = with_examples("stepward local status --json"))]
    Status,
    /// Delete everything in the local cloud: all accounts, all services
    #[command(help_template = with_examples("stepward local reset"))]
    Reset,
}

impl Local {
    pub(crate) fn run(&self, global: &Global) -> Result<u8> {
        let (workspace, port, format) = (Workspace::find()?, global.port, global.output_format());
        match self {
            Self::Up => {
                let running = LocalCloud::up(&workspace, port)?;
                show_status(global, Some(&running))?;
            }
            Self::Status => {
                let running = LocalCloud::running(&workspace, port)?;
                show_status(global, running.as_ref())?;
                return Ok(u8::from(running.is_none()));
            }
            Self::Down => {
                let was_running = LocalCloud::down(&workspace, port)?;
                let text = if was_running {
                    "The local cloud has stopped."
                } else {
                    "No local cloud was running."
                };
                format.show(&json!({ "was_running": was_running }), || text.to_owned())?;
            }
            Self::Reset => {
                let not_running = || {
                    Error::usage_error(format!("no local cloud runs on port {port}"))
                        .with_advice("start it with `stepward local up`")
                };
                LocalCloud::running(&workspace, port)?
                    .ok_or_else(not_running)?
                    .reset()?;
                format.show(&json!({ "reset": true }), || {
                    "The local cloud is empty.".to_owned()
                })?;
            }
        }
        Ok(0)
    }
}

fn show_status(global: &Global, running: Option<&LocalCloud>) -> Result<()> {
    let port = global.port;
    let endpoint = running.map(LocalCloud::endpoint);
    let log = running.map(|cloud| cloud.dir.join("ministack.log"));
    let files = running.map(LocalCloud::files).transpose()?;
    let json = json!({
        "running": running.is_some(),
        "port": port,
        "endpoint": endpoint,
        "log": log,
        "files": files,
    });
    let text = || match (&endpoint, &log, &files) {
        (Some(endpoint), Some(log), Some(files)) => format!(
            "The local cloud runs at {endpoint}.\n\
             Its log is {}.\n\
             Local paths of steps begin at {}.\n\
             Use a 12-digit account ID as the access key ({OPERATOR} is the operator's), and any \
             secret.",
            log.display(),
            files.display()
        ),
        _ => format!(
            "No local cloud runs on port {port}; start it with `stepward{} local up`.",
            global.options_to_repeat()
        ),
    };
    global.output_format().show(&json, text)
}
