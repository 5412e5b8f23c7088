//! The S3 and STS server of both sides. It is a MiniStack whose S3 the test fills and reads
//! directly.

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
use super::json_program::JsonProgram;

const PROGRAM: &str = "local-cloud/s3_server.py";
/// The server starts in about 2 s. A busy machine that imports its modules for the first time takes
/// longer.
const START_LIMIT: Duration = Duration::from_mins(1);

/// How many ports to try.
const ATTEMPTS: usize = 3;

/// A running server. It stops when dropped.
pub(super) struct Server {
    program: JsonProgram,
    /// The endpoint for SDKs.
    pub endpoint: String,
}

/// The contents of S3.
#[derive(Debug, Deserialize)]
pub(super) struct S3Contents {
    /// Objects by bucket and key.
    pub buckets: BTreeMap<String, BTreeMap<String, StoredObject>>,
    /// The bucket and key of each multipart upload that was neither completed nor aborted.
    pub uploads: Vec<(String, String)>,
}

/// An object on the server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub(super) struct StoredObject {
    /// The size in bytes.
    pub size: u64,
    /// The digest of the content, in hexadecimal digits.
    pub sha256: String,
    /// The content type.
    pub content_type: String,
    /// The storage class, for example `STANDARD`.
    pub storage_class: String,
    /// The headers that are stored with the object.
    pub metadata: BTreeMap<String, String>,
    /// The time of the last modification. It only shows whether the object was written again.
    pub modified: String,
}

impl Server {
    /// Starts a server that stores its files below a directory.
    pub(super) fn start(workspace: &Workspace, dir: &Path) -> Result<Self, String> {
        let venv =
            venv::ensure_venv(workspace, venv::LOCAL_CLOUD).map_err(|error| error.to_string())?;
        let mut last_error = String::new();
        for _ in 0..ATTEMPTS {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .and_then(|listener| listener.local_addr());
            let port = free
                .map_err(|error| format!("found no free port on 127.0.0.1: {error}"))?
                .port();
            // Another program, such as the server of another run, may take the port first.
            match Self::start_on_port(workspace, &venv, dir, port) {
                Err(error) => last_error = error,
                started => return started,
            }
        }
        Err(last_error)
    }

    fn start_on_port(
        workspace: &Workspace,
        venv: &Path,
        dir: &Path,
        port: u16,
    ) -> Result<Self, String> {
        let to_text = |error: &dyn std::fmt::Display| error.to_string();
        let temporary = dir.join("tmp");
        std::fs::create_dir_all(&temporary).map_err(|error| to_text(&error))?;
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
        command.stderr(File::create(&log).map_err(|error| to_text(&error))?);
        let mut server = Self {
            program: JsonProgram::start("the S3 server", command)?,
            endpoint: endpoint(port),
        };
        let started = Instant::now();
        loop {
            if server.program.has_ended() || started.elapsed() > START_LIMIT {
                return Err(format!(
                    "the S3 server did not start; see its log {}",
                    log.display()
                ));
            }
            if server.has_responded_on(port) {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Sends a request to a port, and returns whether this server has received it. Another program
    /// may listen on the port.
    fn has_responded_on(&mut self, port: u16) -> bool {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
            return false;
        };
        let mut send_request = || {
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
            stream.read_to_end(&mut Vec::new())
        };
        // The response does not matter. The server's count shows whether the server received the
        // request.
        let _: std::io::Result<usize> = send_request();
        self.send_request(&json!({ "look": true }))
            .is_ok_and(|contents| contents["requests"].as_u64() > Some(0))
    }

    pub(super) fn send_request(&mut self, request: &Value) -> Result<Value, String> {
        self.program.send_request(request)
    }

    /// Replaces all buckets of the server.
    pub(super) fn fill_buckets<'a>(
        &mut self,
        buckets: impl Iterator<Item = (String, &'a BTreeMap<String, Object>)>,
    ) -> Result<(), String> {
        let object = |(key, object): (&String, &Object)| {
            json!({
                "key": key,
                "size": object.content.size,
                "fill": object.content.fill,
                "modified": object.modified,
                "content_type": object.content_type,
                "storage_class": object.storage_class,
                "metadata": object.metadata,
            })
        };
        let buckets: Map<_, _> = buckets
            .map(|(name, objects)| (name, objects.iter().map(object).collect::<Value>()))
            .collect();
        self.send_request(&json!({ "fill": buckets })).map(drop)
    }

    /// Returns all objects and unfinished uploads of the server.
    pub(super) fn read_contents(&mut self) -> Result<S3Contents, String> {
        let contents = self.send_request(&json!({ "look": true }))?;
        serde_json::from_value(contents)
            .map_err(|error| format!("the S3 server returned an unexpected response: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::create_run_dir;

    #[test]
    fn the_server_does_not_start_on_a_port_in_use() {
        let workspace = Workspace::find().unwrap();
        let venv = venv::ensure_venv(&workspace, venv::LOCAL_CLOUD).unwrap();
        let dir = create_run_dir(&workspace.local_cloud(), "s3-port").unwrap();
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        // The other program accepts connections and closes them.
        std::thread::spawn(move || other.incoming().for_each(drop));
        let error = Server::start_on_port(&workspace, &venv, &dir, port)
            .err()
            .unwrap();
        assert!(error.contains("did not start"), "{error}");
        assert!(Server::start(&workspace, &dir).is_ok());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
