//! One MiniStack for S3 and STS, filled and looked at from inside.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use stepward_cli::local::{endpoint, venv};
use stepward_cli::workspace::Workspace;

use super::case::Object;
use super::talk::Program;

const PROGRAM: &str = "local-cloud/s3_server.py";
/// It is ready in about 2 s; a loaded machine that imports its modules for the first time takes longer.
const START: Duration = Duration::from_mins(1);

/// A running server.
pub(super) struct Server {
    program: Program,
    /// Where SDKs reach it.
    pub endpoint: String,
}

/// What is in S3.
#[derive(Debug, Deserialize)]
pub(super) struct Seen {
    /// Objects by bucket and key.
    pub buckets: BTreeMap<String, BTreeMap<String, SeenObject>>,
    /// Bucket and key of every multipart upload that has neither been completed nor aborted.
    pub uploads: Vec<(String, String)>,
}

/// An object as the server has it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub(super) struct SeenObject {
    /// Bytes.
    pub size: u64,
    /// Of the content, in hex digits.
    pub sha256: String,
    /// `Content-Type`.
    pub content_type: String,
    /// As in `STANDARD`.
    pub storage_class: String,
    /// Headers that are kept with it.
    pub metadata: BTreeMap<String, String>,
    /// When it was written; of no use beyond whether it was written anew.
    pub modified: String,
}

impl Server {
    /// Starts one that keeps its files below a directory.
    pub(super) fn start(workspace: &Workspace, dir: &Path) -> Result<Self, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let venv = venv::ensure(workspace, venv::LOCAL_CLOUD).map_err(|error| said(&error))?;
        let temporary = dir.join("tmp");
        std::fs::create_dir_all(&temporary).map_err(|error| said(&error))?;
        let log = dir.join("server.log");
        // Somebody else may take the port between these two lines; then it does not come up, and says so.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = port.map_err(|error| said(&error))?.port();
        let mut command = Command::new(venv::interpreter(&venv));
        command.arg(workspace.root.join(PROGRAM)).env_clear().current_dir(dir);
        command.env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8");
        command.env("HOME", &temporary).env("TMPDIR", &temporary).env("LOG_LEVEL", "WARNING");
        command.env("GATEWAY_PORT", port.to_string()).env("BIND_HOST", "127.0.0.1");
        command.env("SFTP_ENABLED", "0").env("IOT_MTLS_ENABLED", "0");
        command.env("DOCKER_HOST", format!("unix://{}", temporary.join("no-docker").display()));
        command.stderr(File::create(&log).map_err(|error| said(&error))?);
        let mut program = Program::start("the S3 server", command)?;
        let since = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if program.has_ended() || since.elapsed() > START {
                return Err(format!("the S3 server did not come up; see {}", log.display()));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(Self { program, endpoint: endpoint(port) })
    }

    pub(super) fn ask(&mut self, request: &Value) -> Result<Value, String> {
        self.program.ask(request)
    }

    /// Replaces all that it has by these buckets.
    pub(super) fn fill<'a>(
        &mut self,
        buckets: impl Iterator<Item = (String, &'a BTreeMap<String, Object>)>,
    ) -> Result<(), String> {
        let object = |(key, object): (&String, &Object)| {
            json!({
                "key": key, "size": object.content.size, "fill": object.content.fill, "modified": object.modified,
                "content_type": object.content_type, "storage_class": object.storage_class, "metadata": object.metadata,
            })
        };
        let buckets: Map<_, _> =
            buckets.map(|(name, objects)| (name, objects.iter().map(object).collect::<Value>())).collect();
        self.program.ask(&json!({ "fill": buckets })).map(drop)
    }

    /// What it has.
    pub(super) fn look(&mut self) -> Result<Seen, String> {
        let seen = self.program.ask(&json!({ "look": true }))?;
        serde_json::from_value(seen).map_err(|error| format!("what the S3 server has: {error}"))
    }
}
