//! Python programs of pinned version and content, in virtual environments below Cargo's target
//! directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::process::{lock, run};
use crate::error::{Context, Error, Result};
use crate::workspace::Workspace;
use stepward::model::digest::hex;

/// What runs the local cloud.
pub const LOCAL_CLOUD: &str = "local-cloud/requirements.txt";
/// What builds the functions for Lambda.
pub const TOOLS: &str = "local-cloud/requirements-deploy.txt";

/// Long enough for a slow network; pip itself retries.
const INSTALL: Duration = Duration::from_mins(10);

/// The virtual environment for a requirements file, made when there is none yet.
pub fn ensure(workspace: &Workspace, requirements: &str) -> Result<PathBuf> {
    let wanted = workspace.read(requirements)?;
    let (python, version) = python()?;
    let hash = hex(&Sha256::new()
        .chain_update(&wanted)
        .chain_update(&version)
        .finalize());
    let venv = workspace
        .local_cloud()
        .join(format!("venv-{}", &hash[..12]));
    // Not made elsewhere and renamed: the scripts of a virtual environment know its path. The mark
    // is written last.
    let mark = venv.join("complete");
    if mark.is_file() {
        return Ok(venv);
    }
    let _held = lock(&venv.with_extension("lock"), INSTALL)?;
    if !mark.is_file() {
        if venv.exists() {
            std::fs::remove_dir_all(&venv).doing(venv.display())?;
        }
        make(&python, &venv, &workspace.root.join(requirements))?;
        std::fs::write(&mark, version).doing(mark.display())?;
    }
    Ok(venv)
}

/// The interpreter of a virtual environment.
#[must_use]
pub fn interpreter(venv: &Path) -> PathBuf {
    venv.join("bin/python")
}

fn make(python: &str, venv: &Path, requirements: &Path) -> Result<()> {
    let log = venv.with_extension("log");
    run(
        Command::new(python).args(["-m", "venv"]).arg(venv),
        &log,
        Duration::from_mins(2),
        "python3 -m venv",
    )
    .map_err(|e| {
        e.next("install Python's venv module: on Debian and Ubuntu the package is python3-venv")
    })?;
    let mut pip = Command::new(interpreter(venv));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-compile",
    ])
    .args(["--require-hashes", "--requirement"])
    .arg(requirements);
    run(&mut pip, &log, INSTALL, "pip install").map_err(|e| {
        e.next("see that this machine reaches its Python package index (pip's own settings and variables apply)")
    })
}

/// A Python that is new enough, with its version.
fn python() -> Result<(String, String)> {
    let script = "import sys; print('%d.%d.%d' % sys.version_info[:3])";
    let mut found = None;
    for name in ["python3", "python"] {
        let Ok(answer) = Command::new(name).args(["-c", script]).output() else {
            continue;
        };
        let version = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        if is_new_enough(&version) {
            return Ok((name.to_owned(), version));
        }
        found = Some(version);
    }
    Err(match found {
        Some(version) => Error::not_asked(format!(
            "the local cloud needs Python 3.10 or newer; found {version}"
        )),
        None => Error::not_asked(
            "the local cloud needs Python 3.10 or newer, and there is none on the PATH",
        ),
    }
    .next("install it: on Debian and Ubuntu, apt install python3 python3-venv"))
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(3), Some(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_before_3_10_is_too_old() {
        assert!(is_new_enough("3.10.0") && is_new_enough("3.13.1") && is_new_enough("4.0.0"));
        assert!(!is_new_enough("3.9.21") && !is_new_enough("2.7.18") && !is_new_enough(""));
    }
}
