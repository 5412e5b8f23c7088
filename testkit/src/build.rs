//! Builds binaries of this workspace with Cargo, so that tests and benchmarks run the same programs
//! as a deployment.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use stepward_cli::workspace::{Function, Workspace};

/// The command that writes all generated files.
pub const GENERATE: &str = "cargo xtask generate";

/// Returns the root folder of the workspace.
#[must_use]
pub fn root() -> &'static Path {
    let testkit = Path::new(env!("CARGO_MANIFEST_DIR"));
    testkit.parent().unwrap_or(testkit)
}

/// Returns the functions of all steps, sorted by name. The list comes from Cargo, so nobody has to
/// maintain it.
///
/// # Errors
/// If Cargo cannot describe the workspace.
pub fn list_steps() -> Result<Vec<Function>, String> {
    let workspace = Workspace::at(root()).map_err(|error| error.to_string())?;
    Ok(workspace
        .functions
        .into_iter()
        .filter(|function| !function.is_runner_function())
        .collect())
}

/// Builds binaries with a profile, and returns the path of each by name. Cargo prints its progress
/// on standard error.
///
/// # Errors
/// If the build fails.
pub fn build_binaries(
    binaries: &[Function],
    profile: &str,
    target_dir: &Path,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut command = cargo_build(&["build"], profile, target_dir);
    for Function { name, package } in binaries {
        command.args(["--package", package, "--bin", name]);
    }
    let built = run_build(command, |_| true)?;
    match binaries
        .iter()
        .find(|binary| !built.contains_key(&binary.name))
    {
        Some(missing) => Err(format!(
            "cargo built no binary {:?} of package {:?}",
            missing.name, missing.package
        )),
        None => Ok(built),
    }
}

/// Builds the unit tests of the packages' libraries, and returns the path of each test program by
/// package.
///
/// # Errors
/// If the build fails.
pub fn build_tests(
    packages: &[&str],
    profile: &str,
    target_dir: &Path,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut command = cargo_build(&["test", "--no-run", "--lib"], profile, target_dir);
    for package in packages {
        command.args(["--package", package]);
    }
    let built = run_build(command, |message| message["profile"]["test"] == true)?;
    packages
        .iter()
        .map(|package| match built.get(&package.replace('-', "_")) {
            Some(program) => Ok(((*package).to_owned(), program.clone())),
            None => Err(format!("cargo built no unit tests of package {package:?}")),
        })
        .collect()
}

/// Builds one of a package's integration tests, and returns its path.
///
/// # Errors
/// If the build fails.
pub fn build_test(
    package: &str,
    test: &str,
    profile: &str,
    target_dir: &Path,
) -> Result<PathBuf, String> {
    let mut command = cargo_build(&["test", "--no-run"], profile, target_dir);
    command.args(["--package", package, "--test", test]);
    let built = run_build(command, |message| message["profile"]["test"] == true)?;
    built
        .get(test)
        .cloned()
        .ok_or_else(|| format!("cargo built no test {test:?} of package {package:?}"))
}

fn cargo_build(arguments: &[&str], profile: &str, target_dir: &Path) -> Command {
    let mut command = cargo_command(arguments);
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

/// Runs a build, and returns the executables whose message matches, by the name of their target.
fn run_build(
    command: Command,
    matches: impl Fn(&Value) -> bool,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let messages = read_messages(command)?;
    let matching = messages.iter().filter(|message| matches(message));
    let executable = |message: &Value| {
        Some((
            message["target"]["name"].as_str()?.to_owned(),
            message["executable"].as_str()?.into(),
        ))
    };
    Ok(matching.filter_map(executable).collect())
}

/// Returns the profile and the target directory of the running program. With the same ones, Cargo
/// builds shared dependencies only once.
///
/// # Errors
/// If the program is not in a target directory of Cargo.
pub fn current_build() -> Result<(String, PathBuf), String> {
    let program = std::env::current_exe()
        .map_err(|error| format!("the path of this program is unknown: {error}"))?;
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
            "{} is not in a target directory of Cargo; run it with cargo",
            program.display()
        )),
    }
}

/// Installs a program from the package registry below `tools` in the target directory, and returns
/// its path.
///
/// The program is built once, with the release profile and with the dependency versions that it was
/// published with. If several processes need it at the same time, one installs it and the others
/// wait.
///
/// # Errors
/// If the build fails.
pub fn install_program(
    name: &str,
    version: &str,
    feature: &str,
    target_dir: &Path,
) -> Result<PathBuf, String> {
    let tools = target_dir.join("tools");
    let install_dir = tools.join(format!("{name}-{version}"));
    let program = install_dir.join("bin").join(name);
    let _lock = take_lock(&tools, &format!("{name}-{version}.lock"))?;
    if program.is_file() {
        return Ok(program);
    }
    let build_dir = tools.join(format!("build-{name}-{version}"));
    let mut command = cargo_command(&[
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
        .arg(&install_dir)
        .arg("--target-dir")
        .arg(&build_dir);
    let status = command
        .status()
        .map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !status.success() || !program.is_file() {
        return Err(format!(
            "`cargo install` of {name} {version} failed; see its messages above"
        ));
    }
    // The build takes hundreds of megabytes and is not needed again.
    let _ = std::fs::remove_dir_all(build_dir);
    Ok(program)
}

/// Creates and locks a file. Waits while another process holds the lock. The operating system
/// releases the lock when the file is dropped or the process is killed.
fn take_lock(dir: &Path, name: &str) -> Result<File, String> {
    let path = dir.join(name);
    let lock = || {
        std::fs::create_dir_all(dir)?;
        let file = File::create(&path)?;
        file.lock().map(|()| file)
    };
    lock().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    // Cargo set these variables for this program. If they stayed set, build scripts that depend on
    // them would run again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        }) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs Cargo, and returns the JSON messages that it prints.
fn read_messages(mut command: Command) -> Result<Vec<Value>, String> {
    let output = command
        .output()
        .map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !output.status.success() {
        let subcommand = command
            .get_args()
            .next()
            .map(|argument| argument.display().to_string())
            .unwrap_or_default();
        return Err(format!(
            "`cargo {subcommand}` failed with {}; see its messages above",
            output.status
        ));
    }

    let lines = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| {
            serde_json::from_slice(line)
                .map_err(|error| format!("cargo printed a line that is not JSON: {error}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::*;
    use crate::run_dir::create_run_dir;

    #[test]
    fn a_second_install_waits_for_the_first() {
        let dir = create_run_dir(&std::env::temp_dir(), "stepward-install").unwrap();
        let lock = take_lock(&dir, "tool.lock").unwrap();
        let second = File::open(dir.join("tool.lock")).unwrap();
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        drop(lock);
        drop(take_lock(&dir, "tool.lock").unwrap());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
