//! What the local cloud needs of the operating system: locks, ports, signals, one HTTP request.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};

/// How long to sleep between two looks at something that is expected within seconds.
const LOOK: Duration = Duration::from_millis(30);

/// Asks until there is an answer or the time is over.
pub(crate) fn poll<T>(
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        sleep(LOOK);
    }
}

/// Takes a lock file, so that two processes do not make the same thing at once. Given back when
/// dropped.
pub(crate) fn lock(path: &Path, limit: Duration) -> Result<File> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).doing(dir.display())?;
    }
    let file = File::create(path).doing(path.display())?;
    let taken = poll(limit, || match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).doing(path.display()),
    })?;
    taken.map(|()| file).ok_or_else(|| {
        Error::new(format!(
            "{} was held by another process for {} s",
            path.display(),
            limit.as_secs()
        ))
        .next("wait for the other `stepward` or `cargo test` to end, or end it, and try again")
    })
}

/// Whether another process holds a lock file.
pub(crate) fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// A port of the loopback interface that nothing listens on.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing("a free port")?;
    Ok(listener.local_addr().doing("a free port")?.port())
}

/// Whether a port of the loopback interface can be listened on.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Ends a process group. The standard library has no call for it; the shell's own `kill` is
/// everywhere.
pub(crate) fn kill_group(leader: u32) -> Result<()> {
    let script = "kill -s KILL -- \"-$1\"";
    let status = Command::new("sh")
        .args(["-c", script, "sh", &leader.to_string()])
        .stderr(Stdio::null())
        .status()
        .doing("sh -c kill")?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(format!(
            "process group {leader} could not be ended"
        )))
    }
}

/// One request to a server on this machine; the status and the body.
pub(crate) fn http(
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
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    Ok((
        status,
        answer
            .split_once("\r\n\r\n")
            .map_or_else(String::new, |(_, body)| body.to_owned()),
    ))
}

/// Runs a program to its end; an error holds the last lines that it printed.
pub(crate) fn run(command: &mut Command, log: &Path, limit: Duration, doing: &str) -> Result<()> {
    let file = File::create(log).doing(log.display())?;
    let errors = file.try_clone().doing(log.display())?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .doing(doing)?;
    let ended = poll(limit, || child.try_wait().doing(doing))?;
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Error::new(format!(
            "{doing} ended with {status}:\n{}",
            last_lines(log, 15)
        ))),
        None => {
            // It may have ended in this moment; either way it is gone.
            let _ = child.kill();
            let _ = child.wait();
            let limit = limit.as_secs();
            Err(Error::new(format!(
                "{doing} did not end within {limit} s:\n{}",
                last_lines(log, 15)
            ))
            .next("see whether the machine and its network are slow, and try again"))
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
    fn a_lock_that_somebody_holds_is_seen_and_waited_for_in_vain() {
        let path = std::env::temp_dir().join(format!("stepward-lock-{}", std::process::id()));
        let held = lock(&path, Duration::ZERO).unwrap();
        assert!(is_locked(&path));
        assert!(lock(&path, Duration::from_millis(50)).is_err());
        drop(held);
        assert!(!is_locked(&path));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_program_that_fails_is_reported_with_its_last_lines() {
        let log = std::env::temp_dir().join(format!("stepward-run-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason; exit 3"]);
        let error = run(&mut command, &log, Duration::from_secs(5), "a test")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("the reason") && error.contains('3'),
            "{error}"
        );
        std::fs::remove_file(log).unwrap();
    }
}
