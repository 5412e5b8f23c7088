//! One MiniStack for S3 and STS, filled and looked at from inside.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
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
/// It is ready in about 2 s; a loaded machine that imports its modules for the first time takes
/// longer.
const START: Duration = Duration::from_mins(1);

/// How often another port is tried.
const ATTEMPTS: usize = 3;

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
        let venv = venv::ensure(workspace, venv::LOCAL_CLOUD).map_err(|error| error.to_string())?;
        let mut failed = String::new();
        for _ in 0..ATTEMPTS {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .and_then(|listener| listener.local_addr());
            let port = free
                .map_err(|error| format!("a free port: {error}"))?
                .port();
            // Another program, such as the server of another run, may take the port before this one
            // does.
            match Self::start_on(workspace, &venv, dir, port) {
                Err(error) => failed = error,
                started => return started,
            }
        }
        Err(failed)
    }

    fn start_on(workspace: &Workspace, venv: &Path, dir: &Path, port: u16) -> Result<Self, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let temporary = dir.join("tmp");
        std::fs::create_dir_all(&temporary).map_err(|error| said(&error))?;
        let log = dir.join("server.log");
        let mut command = Command::new(venv::interpreter(venv));
        command
            .arg(workspace.root.join(PROGRAM))
            .env_clear()
            .current_dir(dir);
        command.env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8");
        command
            .env("HOME", &temporary)
            .env("TMPDIR", &temporary)
            .env("LOG_LEVEL", "WARNING");
        command
            .env("GATEWAY_PORT", port.to_string())
            .env("BIND_HOST", "127.0.0.1");
        command
            .env("SFTP_ENABLED", "0")
            .env("IOT_MTLS_ENABLED", "0");
        command.env(
            "DOCKER_HOST",
            format!("unix://{}", temporary.join("no-docker").display()),
        );
        command.stderr(File::create(&log).map_err(|error| said(&error))?);
        let mut server = Self {
            program: Program::start("the S3 server", command)?,
            endpoint: endpoint(port),
        };
        let since = Instant::now();
        loop {
            if server.program.has_ended() || since.elapsed() > START {
                return Err(format!(
                    "the S3 server did not come up; see {}",
                    log.display()
                ));
            }
            if server.has_answered_on(port) {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Sends a request to a port; whether it is this server that has answered. It counts its
    /// requests.
    fn has_answered_on(&mut self, port: u16) -> bool {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
            return false;
        };
        let mut request = || {
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
            stream.read_to_end(&mut Vec::new())
        };
        // What the answer is does not matter, nor whether another program gives one.
        let _: std::io::Result<usize> = request();
        self.ask(&json!({ "look": true }))
            .is_ok_and(|seen| seen["requests"].as_u64() > Some(0))
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
        let buckets: Map<_, _> = buckets
            .map(|(name, objects)| (name, objects.iter().map(object).collect::<Value>()))
            .collect();
        self.program.ask(&json!({ "fill": buckets })).map(drop)
    }

    /// What it has.
    pub(super) fn look(&mut self) -> Result<Seen, String> {
        let seen = self.program.ask(&json!({ "look": true }))?;
        serde_json::from_value(seen).map_err(|error| format!("what the S3 server has: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::new_run_dir;

    #[test]
    fn another_program_on_the_port_is_not_taken_for_the_server() {
        let workspace = Workspace::find().unwrap();
        let venv = venv::ensure(&workspace, venv::LOCAL_CLOUD).unwrap();
        let dir = new_run_dir(&workspace.local_cloud(), "s3-port").unwrap();
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        // It takes connections and closes them.
        std::thread::spawn(move || other.incoming().for_each(drop));
        let error = Server::start_on(&workspace, &venv, &dir, port)
            .err()
            .unwrap();
        assert!(error.contains("did not come up"), "{error}");
        assert!(Server::start(&workspace, &dir).is_ok());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
