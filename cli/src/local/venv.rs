//! Python programs with pinned versions and hashes, in virtual environments in Cargo's target
//! directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::process::{acquire_lock, run_to_end};
use crate::error::{Context, Error, Result};
use crate::workspace::Workspace;
use stepward::model::digest::hex;

/// The requirements of the local cloud.
pub const LOCAL_CLOUD: &str = "local-cloud/requirements.txt";
/// The requirements of the tools that build functions for Lambda.
pub const TOOLS: &str = "local-cloud/requirements-deploy.txt";

/// How long an installation can take. This is enough for a slow network; pip retries by itself.
const INSTALL_LIMIT: Duration = Duration::from_mins(10);

/// The virtual environment for a requirements file. It is created if it does not exist.
pub fn ensure_venv(workspace: &Workspace, requirements: &str) -> Result<PathBuf> {
    let content = workspace.read(requirements)?;
    let (python, version) = find_python()?;
    let hash = hex(&Sha256::new()
        .chain_update(&content)
        .chain_update(&version)
        .finalize());
    let venv = workspace
        .local_cloud()
        .join(format!("venv-{}", &hash[..12]));
    // A virtual environment cannot be renamed, because its scripts contain its path. The marker
    // file shows that it is complete.
    let marker = venv.join("complete");
    if marker.is_file() {
        return Ok(venv);
    }
    let _lock = acquire_lock(&venv.with_extension("lock"), INSTALL_LIMIT)?;
    if !marker.is_file() {
        if venv.exists() {
            std::fs::remove_dir_all(&venv).context(venv.display())?;
        }
        create_venv(&python, &venv, &workspace.root.join(requirements))?;
        std::fs::write(&marker, version).context(marker.display())?;
    }
    Ok(venv)
}

/// The Python interpreter of a virtual environment.
#[must_use]
pub fn interpreter(venv: &Path) -> PathBuf {
    venv.join("bin/python")
}

fn create_venv(python: &str, venv: &Path, requirements: &Path) -> Result<()> {
    let log = venv.with_extension("log");
    run_to_end(
        Command::new(python).args(["-m", "venv"]).arg(venv),
        &log,
        Duration::from_mins(2),
        "python3 -m venv",
    )
    .map_err(|error| {
        error.with_advice(
            "install Python's venv module; on Debian and Ubuntu: apt install python3-venv",
        )
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
    run_to_end(&mut pip, &log, INSTALL_LIMIT, "pip install").map_err(|error| {
        error.with_advice(
            "check that pip can reach its package index; pip's own settings and environment \
             variables apply",
        )
    })
}

/// Finds a Python that is new enough; returns its name and version.
fn find_python() -> Result<(String, String)> {
    let script = "import sys; print('%d.%d.%d' % sys.version_info[:3])";
    let mut outdated = None;
    for name in ["python3", "python"] {
        let Ok(output) = Command::new(name).args(["-c", script]).output() else {
            continue;
        };
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if is_new_enough(&version) {
            return Ok((name.to_owned(), version));
        }
        outdated = Some(version);
    }
    Err(match outdated {
        Some(version) => Error::usage_error(format!(
            "the local cloud requires Python 3.10 or newer, found \"{version}\""
        )),
        None => Error::usage_error(
            "the local cloud requires Python 3.10 or newer, but the PATH contains no Python",
        ),
    }
    .with_advice("install it; on Debian and Ubuntu: apt install python3 python3-venv"))
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
