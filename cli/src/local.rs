//! The local cloud: MiniStack with IAM enforcement, in a process group of its own, in a private
//! directory.

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
use process::{free_port, http, is_free, is_locked, kill_group, last_lines, lock, poll};

/// The port of the local cloud that an operator starts: the one that AWS emulators use.
pub const DEFAULT_PORT: u16 = 4566;
/// The operator's account on the local cloud. Its access key is its account ID.
pub const OPERATOR: &str = "111111111111";
/// The secret of every access key on the local cloud.
pub const SECRET: &str = "test";

/// The program, a folder of the checkout. Python runs it from there, so that no copy of it can be
/// out of date.
const PROGRAM: &str = "local-cloud";
/// It is ready in about 1 s; a loaded machine that imports its modules for the first time takes
/// longer.
const START: Duration = Duration::from_mins(1);
const STOP: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(5);

/// A running local cloud.
#[derive(Debug)]
pub struct LocalCloud {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// Its log, its lock and its temporary files.
    pub dir: PathBuf,
    /// Present when it ends with this value. Its standard input is held open: when this process
    /// goes, in any way, the program sees that and ends the local cloud.
    child: Option<Child>,
}

/// What becomes of it when this process ends.
#[derive(Clone, Copy)]
enum Lives {
    AsLongAsThis,
    On,
}

#[derive(Deserialize, Serialize)]
struct State {
    pid: u32,
    port: u16,
}

impl LocalCloud {
    /// Starts one for a test: on a free port, below `dir`. It ends when dropped, and when this
    /// process ends.
    pub fn start_private(dir: &Path) -> Result<Self> {
        let workspace = Workspace::find()?;
        let venv = venv::ensure(&workspace, venv::LOCAL_CLOUD)?;
        let mut attempts = 3;
        loop {
            attempts -= 1;
            let port = free_port()?;
            // Somebody else may have taken the port since.
            match Self::start(&workspace, &venv, dir, port, Lives::AsLongAsThis) {
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

    /// Starts the one that stays until `down`; the one already there on that port is as good.
    pub fn up(workspace: &Workspace, port: u16) -> Result<Self> {
        let dir = directory(workspace, port);
        let _held = lock(&dir.join("up.lock"), START)?;
        if let Some(running) = Self::running(workspace, port)? {
            return Ok(running);
        }
        if !is_free(port) {
            return Err(Error::not_asked(format!(
                "port {port} is taken by a program that `stepward` did not start"
            ))
            .next(format!(
                "end that program, or take another port: `stepward local up --port {}`",
                port + 1
            )));
        }
        let venv = venv::ensure(workspace, venv::LOCAL_CLOUD)?;
        let child = Self::start(workspace, &venv, &dir, port, Lives::On)?;
        let state = serde_json::to_vec(&State {
            pid: child.id(),
            port,
        })
        .doing("the state file")?;
        std::fs::write(dir.join("state.json"), state).doing("the state file")?;
        Ok(Self {
            port,
            dir,
            child: None,
        })
    }

    /// The one that `up` started, when it still runs.
    pub fn running(workspace: &Workspace, port: u16) -> Result<Option<Self>> {
        let dir = directory(workspace, port);
        if !is_locked(&dir.join("alive.lock")) || !dir.join("state.json").is_file() {
            return Ok(None);
        }
        let healthy = poll(ANSWER, || Ok(is_healthy(port).then_some(())))?;
        if healthy.is_none() {
            return Err(Error::new(format!(
                "the local cloud on port {port} runs but does not answer"
            ))
            .next(restart(port)));
        }
        Ok(Some(Self {
            port,
            dir,
            child: None,
        }))
    }

    /// Ends the one that `up` started, with every Lambda process of it. False when there is none.
    pub fn down(workspace: &Workspace, port: u16) -> Result<bool> {
        let dir = directory(workspace, port);
        let (alive, state) = (dir.join("alive.lock"), dir.join("state.json"));
        if !is_locked(&alive) {
            return Ok(false);
        }
        let text = std::fs::read(&state).doing(state.display())?;
        let State { pid, .. } = serde_json::from_slice(&text).doing(state.display())?;
        kill_group(pid)?;
        if poll(STOP, || Ok((!is_locked(&alive)).then_some(())))?.is_none() {
            return Err(
                Error::new(format!("the local cloud (process {pid}) did not end"))
                    .next("end it with `kill -9`"),
            );
        }
        std::fs::remove_file(&state).doing(state.display())?;
        remove_temporary(&dir)?;
        Ok(true)
    }

    /// Empties it: all accounts, all services.
    pub fn reset(&self) -> Result<()> {
        match http(
            self.port,
            "POST",
            "/_ministack/reset",
            Duration::from_secs(30),
        ) {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => Err(Error::new(format!(
                "the local cloud answered reset with {status}: {body}"
            ))),
            Err(error) => Err(Error::new(format!(
                "the local cloud did not answer reset: {error}"
            ))),
        }
        .map_err(|e| e.next(restart(self.port)))
    }

    /// What it answers to a GET of one of its own paths, such as `/_stepward/ssm/calls`.
    pub fn ask(&self, path: &str) -> Result<String> {
        match http(self.port, "GET", path, Duration::from_secs(30)) {
            Ok((200, body)) => Ok(body),
            Ok((status, body)) => Err(Error::new(format!(
                "the local cloud answered {path} with {status}: {body}"
            ))),
            Err(error) => Err(Error::new(format!(
                "the local cloud did not answer {path}: {error}"
            ))),
        }
    }

    /// The folder that stands for the deployment's file system: where steps' local paths begin. It
    /// is the operator's, so what is in it stays when the local cloud ends.
    pub fn files(&self) -> Result<PathBuf> {
        let files = self.dir.join("files");
        std::fs::create_dir_all(&files).doing(files.display())?;
        Ok(files)
    }

    /// Where SDKs and the AWS CLI reach it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        endpoint(self.port)
    }

    fn start(
        workspace: &Workspace,
        venv: &Path,
        dir: &Path,
        port: u16,
        lives: Lives,
    ) -> Result<Child> {
        remove_temporary(dir)?;
        let temporary = dir.join("tmp");
        std::fs::create_dir_all(&temporary).doing(temporary.display())?;
        let log_path = dir.join("ministack.log");
        let log = File::create(&log_path).doing(log_path.display())?;
        let (mode, stdin) = match lives {
            Lives::AsLongAsThis => ("attached", Stdio::piped()),
            Lives::On => ("detached", Stdio::null()),
        };
        let mut child = Command::new(venv::interpreter(venv))
            .arg(workspace.root.join(PROGRAM))
            .arg(dir.join("alive.lock"))
            .arg(mode)
            // Lambda processes inherit this environment: nothing of the operator's own may reach
            // them.
            .env_clear()
            .env(
                "PATH",
                std::env::join_paths([venv.join("bin"), "/usr/bin".into(), "/bin".into()])
                    .doing("PATH")?,
            )
            .env("HOME", &temporary)
            .env("TMPDIR", &temporary)
            .env("LANG", "C.UTF-8")
            .env("AUTH", "true")
            .env("AWS_ENDPOINT_URL", endpoint(port))
            .env("GATEWAY_PORT", port.to_string())
            .env("BIND_HOST", "127.0.0.1")
            // Ports of its own would collide with the next local cloud's, and Docker would make
            // runs differ.
            .env("SFTP_ENABLED", "0")
            .env("IOT_MTLS_ENABLED", "0")
            .env(
                "DOCKER_HOST",
                format!("unix://{}", temporary.join("no-docker").display()),
            )
            .current_dir(dir)
            .process_group(0)
            .stdin(stdin)
            .stdout(log.try_clone().doing(log_path.display())?)
            .stderr(log)
            .spawn()
            .doing("the local cloud")?;
        let up = poll(START, || {
            match child.try_wait().doing("the local cloud")? {
                Some(status) => Err(Error::new(format!(
                    "the local cloud ended at start with {status}"
                ))),
                None => Ok(is_healthy(port).then_some(())),
            }
        });
        match up {
            Ok(Some(())) => Ok(child),
            failed => {
                // Already gone is as good.
                let _ = kill_group(child.id());
                let _ = child.wait();
                let late = || {
                    Error::new(format!(
                        "the local cloud did not come up within {} s",
                        START.as_secs()
                    ))
                };
                let error = failed.err().unwrap_or_else(late);
                let log = format!("{}:\n{}", log_path.display(), last_lines(&log_path, 15));
                Err(Error::new(format!("{error}\n{log}"))
                    .next(format!("see the log, and that port {port} is free")))
            }
        }
    }
}

impl Drop for LocalCloud {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_group(child.id());
            let _ = child.wait();
            // Commands on its nodes end after it, and write files until then.
            let _ = poll(STOP, || {
                Ok((!is_locked(&self.dir.join("alive.lock"))).then_some(()))
            });
            let _ = remove_temporary(&self.dir);
        }
    }
}

/// Where SDKs reach the local cloud on a port.
#[must_use]
pub fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn restart(port: u16) -> String {
    format!(
        "restart it: `stepward local down --port {port}`, then `stepward local up --port {port}`"
    )
}

fn directory(workspace: &Workspace, port: u16) -> PathBuf {
    workspace.local_cloud().join(format!("port-{port}"))
}

/// Unpacked function code: large, and useless to the next local cloud.
fn remove_temporary(dir: &Path) -> Result<()> {
    let temporary = dir.join("tmp");
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary).doing(temporary.display())
    } else {
        Ok(())
    }
}

fn is_healthy(port: u16) -> bool {
    http(port, "GET", "/_ministack/health", ANSWER).is_ok_and(|(status, _)| status == 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private(name: &str) -> LocalCloud {
        let dir = Workspace::find()
            .unwrap()
            .local_cloud()
            .join(format!("test-{name}-{}", std::process::id()));
        LocalCloud::start_private(&dir).unwrap()
    }

    fn has_ended(cloud_dir: &Path) -> bool {
        poll(STOP, || {
            Ok((!is_locked(&cloud_dir.join("alive.lock"))).then_some(()))
        })
        .unwrap()
        .is_some()
    }

    #[test]
    fn it_answers_is_emptied_and_ends_when_dropped() {
        let cloud = private("drop");
        assert!(is_healthy(cloud.port) && !is_free(cloud.port));
        cloud.reset().unwrap();
        let file = cloud.files().unwrap().join("report.csv");
        std::fs::write(&file, "a,b\n").unwrap();
        let (dir, port) = (cloud.dir.clone(), cloud.port);
        drop(cloud);
        assert!(has_ended(&dir) && is_free(port));
        assert!(
            file.exists(),
            "an operator's file is gone with the local cloud"
        );
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn it_ends_when_its_starter_is_gone_however_it_went() {
        let mut cloud = private("orphan");
        // What the operating system does when a process is killed.
        drop(cloud.child.as_mut().unwrap().stdin.take());
        assert!(has_ended(&cloud.dir));
        let dir = cloud.dir.clone();
        drop(cloud);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
