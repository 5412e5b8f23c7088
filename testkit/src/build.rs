//! Builds binaries of this workspace with Cargo: tests and benches run what a deployment runs.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use stepward_cli::workspace::{Function, Workspace};

/// The command that writes generated files.
pub const GENERATE: &str = "cargo xtask generate";

/// Where the root `Cargo.toml` is.
#[must_use]
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Every step, by name: the functions that are not the runner's own. Cargo is asked, so that no
/// list of them is kept by hand.
pub fn steps() -> Result<Vec<Function>, String> {
    let workspace = Workspace::at(root()).map_err(|error| error.to_string())?;
    Ok(workspace
        .functions
        .into_iter()
        .filter(|function| !function.is_the_runners())
        .collect())
}

/// Builds binaries with a profile; where each of them is, by name. Cargo shows its progress on
/// standard error.
pub fn build(
    binaries: &[Function],
    profile: &str,
    target_dir: &Path,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut command = cargo_build(&["build"], profile, target_dir);
    for Function { name, package } in binaries {
        command.args(["--package", package, "--bin", name]);
    }
    let made = executables(command, |_| true)?;
    match binaries
        .iter()
        .find(|binary| !made.contains_key(&binary.name))
    {
        Some(missing) => Err(format!(
            "cargo built nothing for {} of {}",
            missing.name, missing.package
        )),
        None => Ok(made),
    }
}

/// Builds the unit tests of these packages' libraries; where the program that runs them is, by the
/// package's name.
pub fn build_tests(
    packages: &[&str],
    profile: &str,
    target_dir: &Path,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut command = cargo_build(&["test", "--no-run", "--lib"], profile, target_dir);
    for package in packages {
        command.args(["--package", package]);
    }
    let made = executables(command, |message| message["profile"]["test"] == true)?;
    packages
        .iter()
        .map(|package| match made.get(&package.replace('-', "_")) {
            Some(program) => Ok(((*package).to_owned(), program.clone())),
            None => Err(format!("cargo built no tests of {package}")),
        })
        .collect()
}

/// Builds one of a package's test programs, a file of its `tests`; where it is.
pub fn build_test(
    package: &str,
    test: &str,
    profile: &str,
    target_dir: &Path,
) -> Result<PathBuf, String> {
    let mut command = cargo_build(&["test", "--no-run"], profile, target_dir);
    command.args(["--package", package, "--test", test]);
    let made = executables(command, |message| message["profile"]["test"] == true)?;
    made.get(test)
        .cloned()
        .ok_or_else(|| format!("cargo built no test {test} of {package}"))
}

fn cargo_build(arguments: &[&str], profile: &str, target_dir: &Path) -> Command {
    let mut command = cargo(arguments);
    command
        .args([
            "--message-format",
            "json-render-diagnostics",
            "--profile",
            profile,
            "--target-dir",
        ])
        .arg(target_dir);
    command
}

/// Runs Cargo; the executables that it made, by the name of their target.
fn executables(
    command: Command,
    is_meant: impl Fn(&Value) -> bool,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let messages = json_lines(command)?;
    let meant = messages.iter().filter(|message| is_meant(message));
    let executable = |message: &Value| {
        Some((
            message["target"]["name"].as_str()?.to_owned(),
            message["executable"].as_str()?.into(),
        ))
    };
    Ok(meant.filter_map(executable).collect())
}

/// Profile and target directory that the running program was built with, so that what it builds is
/// built only once.
pub fn of_this_program() -> Result<(String, PathBuf), String> {
    let program =
        std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let dir = program
        .ancestors()
        .skip(1)
        .find(|dir| !dir.ends_with("deps"));
    let profile = dir.and_then(Path::file_name).and_then(|name| name.to_str());
    match (profile, dir.and_then(Path::parent)) {
        // https://doc.rust-lang.org/cargo/reference/build-cache.html
        (Some("debug"), Some(target)) => Ok(("dev".into(), target.into())),
        (Some(profile), Some(target)) => Ok((profile.into(), target.into())),
        _ => Err(format!(
            "{} is not in a target directory; run it with cargo",
            program.display()
        )),
    }
}

/// A program from the package registry, in this version with this feature, below `tools` in the
/// target directory; where it is. It is built once, for release and with the dependencies that it
/// was published with. Of several runs that need it at the same time, one installs it and the
/// others wait.
pub fn install(
    name: &str,
    version: &str,
    feature: &str,
    target_dir: &Path,
) -> Result<PathBuf, String> {
    let tools = target_dir.join("tools");
    let place = tools.join(format!("{name}-{version}"));
    let program = place.join("bin").join(name);
    let _held = lock(&tools, &format!("{name}-{version}.lock"))?;
    if program.is_file() {
        return Ok(program);
    }
    let parts = tools.join(format!("build-{name}-{version}"));
    let mut command = cargo(&[
        "install",
        "--locked",
        "--features",
        feature,
        "--version",
        &format!("={version}"),
        name,
    ]);
    command
        .arg("--root")
        .arg(&place)
        .arg("--target-dir")
        .arg(&parts);
    let done = command
        .status()
        .map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !done.success() || !program.is_file() {
        return Err(format!(
            "{name} {version} was not installed; what cargo said above tells why"
        ));
    }
    // Hundreds of megabytes that nobody needs again.
    let _ = std::fs::remove_dir_all(parts);
    Ok(program)
}

/// Takes a lock file, waiting for whoever holds it. Released when the file is dropped, also by a
/// process that is killed.
fn lock(dir: &Path, name: &str) -> Result<File, String> {
    let path = dir.join(name);
    let taken = || {
        std::fs::create_dir_all(dir)?;
        let file = File::create(&path)?;
        file.lock().map(|()| file)
    };
    taken().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    // What the Cargo that runs this program told it. Build scripts that watch these variables would
    // run again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        }) {
            command.env_remove(name);
        }
    }
    command
}

fn json_lines(mut command: Command) -> Result<Vec<Value>, String> {
    let answer = command
        .output()
        .map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !answer.status.success() {
        let action = command
            .get_args()
            .next()
            .map(|action| action.display().to_string())
            .unwrap_or_default();
        return Err(format!(
            "cargo {action} ended with {}; its messages above say why",
            answer.status
        ));
    }
    let lines = answer
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| {
            serde_json::from_slice(line).map_err(|error| format!("cargo's answer: {error}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::*;
    use crate::run_dir::new_run_dir;

    #[test]
    fn a_second_install_waits_for_the_first() {
        let dir = new_run_dir(&std::env::temp_dir(), "stepward-install").unwrap();
        let first = lock(&dir, "tool.lock").unwrap();
        let second = File::open(dir.join("tool.lock")).unwrap();
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        drop(first);
        drop(lock(&dir, "tool.lock").unwrap());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
