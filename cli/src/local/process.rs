//! Operating system functions for the local cloud: locks, ports, process groups, HTTP requests.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};

/// How long to sleep between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(30);

/// Calls a check until it returns a value; `None` if it returns none within the limit.
pub(crate) fn wait_for<T>(
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = check()? {
            return Ok(Some(value));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        sleep(POLL_INTERVAL);
    }
}

/// Acquires a lock file, so that two processes do not do the same work at once. Dropping the file
/// releases the lock.
pub(crate) fn acquire_lock(path: &Path, limit: Duration) -> Result<File> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).context(dir.display())?;
    }
    let file = File::create(path).context(path.display())?;
    let acquired = wait_for(limit, || match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).context(path.display()),
    })?;
    acquired.map(|()| file).ok_or_else(|| {
        Error::new(format!(
            "another process has held the lock {} for {} s",
            path.display(),
            limit.as_secs()
        ))
        .with_advice(
            "wait until the other stepward or cargo process ends, then run the command again",
        )
    })
}

/// Whether another process holds a lock file.
pub(crate) fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// A port of the loopback interface that no program listens on.
pub(crate) fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
    let address = listener.local_addr().context("cannot find a free port")?;
    Ok(address.port())
}

/// Whether no program listens on a port of the loopback interface.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Kills a process group. The standard library has no function for it, but every shell has `kill`.
pub(crate) fn kill_group(leader: u32) -> Result<()> {
    let script = "kill -s KILL -- \"-$1\"";
    let status = Command::new("sh")
        .args(["-c", script, "sh", &leader.to_string()])
        .stderr(Stdio::null())
        .status()
        .context("cannot run sh -c kill")?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(format!("cannot kill process group {leader}")))
    }
}

/// Sends an HTTP request to a server on this machine; returns the status and the body.
pub(crate) fn send_request(
    port: u16,
    method: &str,
    path: &str,
    limit: Duration,
) -> std::io::Result<(u16, String)> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), limit)?;
    stream.set_read_timeout(Some(limit))?;
    let host = format!("127.0.0.1:{port}");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    )?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    let response = String::from_utf8_lossy(&response).into_owned();
    let status = response
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    Ok((
        status,
        response
            .split_once("\r\n\r\n")
            .map_or_else(String::new, |(_, body)| body.to_owned()),
    ))
}

/// Runs a program to its end. An error contains the last lines that the program printed.
pub(crate) fn run_to_end(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    name: &str,
) -> Result<()> {
    let file = File::create(log).context(log.display())?;
    let errors = file.try_clone().context(log.display())?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .context(format!("cannot run {name}"))?;
    let ended = wait_for(limit, || {
        child.try_wait().context(format!("cannot wait for {name}"))
    })?;
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Error::new(format!(
            "{name} failed with {status}:\n{}",
            last_lines(log, 15)
        ))),
        None => {
            // Both calls fail if the program has just ended, which is fine.
            let _ = child.kill();
            let _ = child.wait();
            let limit = limit.as_secs();
            Err(Error::new(format!(
                "{name} did not end within {limit} s:\n{}",
                last_lines(log, 15)
            ))
            .with_advice("check the network of this machine, then run the command again"))
        }
    }
}

/// The last lines of a log file.
pub(crate) fn last_lines(log: &Path, count: usize) -> String {
    let text = std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_detected_and_not_acquired() {
        let path = std::env::temp_dir().join(format!("stepward-lock-{}", std::process::id()));
        let held = acquire_lock(&path, Duration::ZERO).unwrap();
        assert!(is_locked(&path));
        assert!(acquire_lock(&path, Duration::from_millis(50)).is_err());
        drop(held);
        assert!(!is_locked(&path));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_failed_program_is_reported_with_its_last_lines() {
        let log = std::env::temp_dir().join(format!("stepward-run-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason; exit 3"]);
        let error = run_to_end(&mut command, &log, Duration::from_secs(5), "a test")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("the reason") && error.contains('3'),
            "{error}"
        );
        std::fs::remove_file(log).unwrap();
    }
}
