//! The local cloud: MiniStack with IAM enforcement. It has its own process group and directory.

pub(crate) mod process;
pub mod venv;

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::workspace::Workspace;
use process::{
    acquire_lock, free_port, is_free, is_locked, kill_group, last_lines, send_request, wait_for,
};

/// The default port of the operator's local cloud, which is the usual one of AWS emulators.
pub const DEFAULT_PORT: u16 = 4566;
/// The operator's account on the local cloud. Its access key is its account ID.
pub const OPERATOR: &str = "111111111111";
/// The secret of every access key on the local cloud.
pub const SECRET: &str = "test";

/// The program, a folder of the checkout. Python runs it there, so no copy can be outdated.
const PROGRAM: &str = "local-cloud";
/// How long the start can take. It usually takes 1 s; a busy machine that imports the Python
/// modules for the first time needs longer.
const START_LIMIT: Duration = Duration::from_mins(1);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const RESPONSE_LIMIT: Duration = Duration::from_secs(5);

/// The advice for a local cloud that does not respond.
const RESTART: &str = "restart it with `stepward local down`, then `stepward local up`";

/// A running local cloud.
#[derive(Debug)]
pub struct LocalCloud {
    /// The port on 127.0.0.1 that it listens on.
    pub port: u16,
    /// The directory of its log, its lock and its temporary files.
    pub dir: PathBuf,
    /// Its process, if it ends when this value is dropped. This process holds the program's
    /// standard input open: when this process ends for any reason, the program ends the local
    /// cloud.
    child: Option<Child>,
}

/// How long the local cloud runs.
#[derive(Clone, Copy)]
enum Lifetime {
    /// Until this process ends.
    ThisProcess,
    /// Until `stepward local down`.
    UntilDown,
}

#[derive(Deserialize, Serialize)]
struct State {
    pid: u32,
    port: u16,
}

impl LocalCloud {
    /// Starts a local cloud for a test, on a free port and in the directory `dir`. It ends when it
    /// is dropped or when this process ends.
    pub fn start_private(dir: &Path) -> Result<Self> {
        let workspace = Workspace::find()?;
        let venv = venv::ensure_venv(&workspace, venv::LOCAL_CLOUD)?;
        let mut attempts = 3;
        loop {
            attempts -= 1;
            let port = free_port()?;
            // Another process may have taken the port in the meantime.
            match Self::start(&workspace, &venv, dir, port, Lifetime::ThisProcess) {
                Err(_) if attempts > 0 && !is_free(port) => {}
                Err(error) => return Err(error),
                Ok(child) => {
                    return Ok(Self {
                        port,
                        dir: dir.to_owned(),
                        child: Some(child),
                    });
                }
            }
        }
    }

    /// Starts the local cloud on a port, or returns the one that already runs there. It runs until
    /// [`down`](Self::down).
    pub fn up(workspace: &Workspace, port: u16) -> Result<Self> {
        let dir = directory(workspace, port);
        let _lock = acquire_lock(&dir.join("up.lock"), START_LIMIT)?;
        if let Some(running) = Self::running(workspace, port)? {
            return Ok(running);
        }
        check_free_port(port)?;
        let venv = venv::ensure_venv(workspace, venv::LOCAL_CLOUD)?;
        let child = Self::start(workspace, &venv, &dir, port, Lifetime::UntilDown)?;
        let state = serde_json::to_vec(&State {
            pid: child.id(),
            port,
        })
        .context("cannot write the state of the local cloud as JSON")?;
        let state_path = dir.join("state.json");
        std::fs::write(&state_path, state).context(state_path.display())?;
        Ok(Self {
            port,
            dir,
            child: None,
        })
    }

    /// Refuses a port that another program uses. [`up`](Self::up) would refuse it, too, but a build
    /// before it takes minutes.
    pub fn check_port(workspace: &Workspace, port: u16) -> Result<()> {
        match Self::running(workspace, port)? {
            Some(_) => Ok(()),
            None => check_free_port(port),
        }
    }

    /// The local cloud that [`up`](Self::up) started, if it still runs.
    pub fn running(workspace: &Workspace, port: u16) -> Result<Option<Self>> {
        let dir = directory(workspace, port);
        if !is_locked(&dir.join("alive.lock")) || !dir.join("state.json").is_file() {
            return Ok(None);
        }
        let healthy = wait_for(RESPONSE_LIMIT, || Ok(is_healthy(port).then_some(())))?;
        if healthy.is_none() {
            return Err(Error::new(format!(
                "the local cloud on port {port} runs but does not respond"
            ))
            .with_advice(RESTART));
        }
        Ok(Some(Self {
            port,
            dir,
            child: None,
        }))
    }

    /// Stops the local cloud that [`up`](Self::up) started, with all its Lambda processes. Returns
    /// false if none runs.
    pub fn down(workspace: &Workspace, port: u16) -> Result<bool> {
        let dir = directory(workspace, port);
        let (alive, state) = (dir.join("alive.lock"), dir.join("state.json"));
        if !is_locked(&alive) {
            return Ok(false);
        }
        let text = std::fs::read(&state).context(state.display())?;
        let State { pid, .. } = serde_json::from_slice(&text).context(state.display())?;
        kill_group(pid)?;
        if wait_for(STOP_LIMIT, || Ok((!is_locked(&alive)).then_some(())))?.is_none() {
            return Err(
                Error::new(format!("the local cloud (process {pid}) did not stop"))
                    .with_advice(format!("end it with `kill -9 -{pid}`")),
            );
        }
        std::fs::remove_file(&state).context(state.display())?;
        remove_temporary_files(&dir)?;
        Ok(true)
    }

    /// Deletes everything in all accounts and services.
    pub fn reset(&self) -> Result<()> {
        match send_request(
            self.port,
            "POST",
            "/_ministack/reset",
            Duration::from_secs(30),
        ) {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => Err(Error::new(format!(
                "the local cloud responded to the reset with status {status}: {body}"
            ))),
            Err(error) => Err(Error::new(format!(
                "the local cloud did not respond to the reset: {error}"
            ))),
        }
        .map_err(|error| error.with_advice(RESTART))
    }

    /// Its response to a GET request for one of its own paths, for example `/_stepward/ssm/calls`.
    pub fn ask(&self, path: &str) -> Result<String> {
        match send_request(self.port, "GET", path, Duration::from_secs(30)) {
            Ok((200, body)) => Ok(body),
            Ok((status, body)) => Err(Error::new(format!(
                "the local cloud responded to {path} with status {status}: {body}"
            ))),
            Err(error) => Err(Error::new(format!(
                "the local cloud did not respond to {path}: {error}"
            ))),
        }
    }

    /// The folder that replaces the deployment's file system: local paths of steps begin there. Its
    /// files belong to the operator and stay when the local cloud ends.
    pub fn files(&self) -> Result<PathBuf> {
        let files = self.dir.join("files");
        std::fs::create_dir_all(&files).context(files.display())?;
        Ok(files)
    }

    /// The endpoint for SDKs and the AWS CLI.
    #[must_use]
    pub fn endpoint(&self) -> String {
        endpoint(self.port)
    }

    fn start(
        workspace: &Workspace,
        venv: &Path,
        dir: &Path,
        port: u16,
        lifetime: Lifetime,
    ) -> Result<Child> {
        remove_temporary_files(dir)?;
        let temporary = dir.join("tmp");
        std::fs::create_dir_all(&temporary).context(temporary.display())?;
        let log_path = dir.join("ministack.log");
        let log = File::create(&log_path).context(log_path.display())?;
        let (mode, stdin) = match lifetime {
            Lifetime::ThisProcess => ("attached", Stdio::piped()),
            Lifetime::UntilDown => ("detached", Stdio::null()),
        };
        let mut child = Command::new(venv::interpreter(venv))
            .arg(workspace.root.join(PROGRAM))
            .arg(dir.join("alive.lock"))
            .arg(mode)
            // Lambda processes inherit this environment. They must not get the operator's
            // variables.
            .env_clear()
            .env(
                "PATH",
                std::env::join_paths([venv.join("bin"), "/usr/bin".into(), "/bin".into()])
                    .context("cannot set PATH")?,
            )
            .env("HOME", &temporary)
            .env("TMPDIR", &temporary)
            .env("LANG", "C.UTF-8")
            .env("AUTH", "true")
            // The account of requests without a signature, such as one to the deployed HTTP API.
            .env("MINISTACK_ACCOUNT_ID", OPERATOR)
            .env("AWS_ENDPOINT_URL", endpoint(port))
            .env("GATEWAY_PORT", port.to_string())
            .env("BIND_HOST", "127.0.0.1")
            // The ports of these services would collide with those of another local cloud, and
            // Docker would make runs differ.
            .env("SFTP_ENABLED", "0")
            .env("IOT_MTLS_ENABLED", "0")
            .env(
                "DOCKER_HOST",
                format!("unix://{}", temporary.join("no-docker").display()),
            )
            // As in a new AWS account, so that every run shows that jobs survive this limit.
            .env("LAMBDA_ACCOUNT_CONCURRENCY", "10")
            .current_dir(dir)
            .process_group(0)
            .stdin(stdin)
            .stdout(log.try_clone().context(log_path.display())?)
            .stderr(log)
            .spawn()
            .context("cannot start the local cloud")?;
        let started = wait_for(START_LIMIT, || {
            match child.try_wait().context("cannot start the local cloud")? {
                Some(status) => Err(Error::new(format!(
                    "the local cloud ended during its start with {status}"
                ))),
                None => Ok(is_healthy(port).then_some(())),
            }
        });
        match started {
            Ok(Some(())) => Ok(child),
            failed => {
                // Both calls fail if the process has already ended, which is fine.
                let _ = kill_group(child.id());
                let _ = child.wait();
                let timed_out = || {
                    Error::new(format!(
                        "the local cloud did not start within {} s",
                        START_LIMIT.as_secs()
                    ))
                };
                let error = failed.err().unwrap_or_else(timed_out);
                let log = format!("{}:\n{}", log_path.display(), last_lines(&log_path, 15));
                Err(Error::new(format!("{error}\n{log}")).with_advice(format!(
                    "read the log, and check that no other program uses port {port}"
                )))
            }
        }
    }
}

impl Drop for LocalCloud {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_group(child.id());
            let _ = child.wait();
            // Commands on its nodes end later and write files until then.
            let _ = wait_for(STOP_LIMIT, || {
                Ok((!is_locked(&self.dir.join("alive.lock"))).then_some(()))
            });
            let _ = remove_temporary_files(&self.dir);
        }
    }
}

fn check_free_port(port: u16) -> Result<()> {
    if is_free(port) {
        return Ok(());
    }
    Err(Error::usage_error(format!(
        "port {port} is used by a program that Stepward did not start"
    ))
    .with_advice(format!(
        "end that program, or use another port: --port {}",
        port.saturating_add(1)
    )))
}

/// Refuses a port on which no local cloud responds.
pub fn check_responds(port: u16) -> Result<()> {
    if is_healthy(port) {
        return Ok(());
    }
    Err(
        Error::usage_error(format!("no local cloud responds on port {port}"))
            .with_advice("start it with `stepward local up`"),
    )
}

/// The endpoint of the local cloud on a port.
#[must_use]
pub fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn directory(workspace: &Workspace, port: u16) -> PathBuf {
    workspace.local_cloud().join(format!("port-{port}"))
}

/// Removes unpacked function code, which is large and which the next local cloud does not need.
fn remove_temporary_files(dir: &Path) -> Result<()> {
    let temporary = dir.join("tmp");
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary).context(temporary.display())
    } else {
        Ok(())
    }
}

fn is_healthy(port: u16) -> bool {
    send_request(port, "GET", "/_ministack/health", RESPONSE_LIMIT)
        .is_ok_and(|(status, _)| status == 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start_local_cloud(name: &str) -> LocalCloud {
        let dir = Workspace::find()
            .unwrap()
            .local_cloud()
            .join(format!("test-{name}-{}", std::process::id()));
        LocalCloud::start_private(&dir).unwrap()
    }

    fn has_ended(cloud_dir: &Path) -> bool {
        wait_for(STOP_LIMIT, || {
            Ok((!is_locked(&cloud_dir.join("alive.lock"))).then_some(()))
        })
        .unwrap()
        .is_some()
    }

    #[test]
    fn a_local_cloud_responds_resets_and_ends_when_dropped() {
        let cloud = start_local_cloud("drop");
        assert!(is_healthy(cloud.port) && !is_free(cloud.port));
        cloud.reset().unwrap();
        let file = cloud.files().unwrap().join("report.csv");
        std::fs::write(&file, "a,b\n").unwrap();
        let (dir, port) = (cloud.dir.clone(), cloud.port);
        drop(cloud);
        assert!(has_ended(&dir) && is_free(port));
        assert!(
            file.exists(),
            "the local cloud has deleted an operator's file"
        );
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_local_cloud_ends_when_its_starter_is_killed() {
        let mut cloud = start_local_cloud("orphan");
        // The operating system closes the files of a killed process.
        drop(cloud.child.as_mut().unwrap().stdin.take());
        assert!(has_ended(&cloud.dir));
        let dir = cloud.dir.clone();
        drop(cloud);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
