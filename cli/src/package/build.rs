//! Builds functions: with Cargo for this machine, with cargo-lambda for AWS.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::error::{Context, Error, Result};
use crate::local::venv;
use crate::output::{Progress, counted};
use crate::workspace::{Function, Workspace};

/// The platform that functions are built for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Build {
    /// This machine, with the profile of `cargo test`, so that nothing is compiled twice.
    Local,
    /// AWS Lambda on `x86_64`, optimized, with cargo-lambda.
    X86,
    /// AWS Lambda on Graviton, optimized, with cargo-lambda.
    Arm64,
}

impl Build {
    /// The value of the template's parameter `Architecture`.
    #[must_use]
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Local if cfg!(target_arch = "aarch64") => "arm64",
            Self::Local | Self::X86 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }
}

/// Builds functions and returns the path of each function's binary.
pub fn build_binaries(
    workspace: &Workspace,
    functions: &[Function],
    build: Build,
    progress: &Progress,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut command = match build {
        Build::Local => Command::new("cargo"),
        Build::X86 | Build::Arm64 => cargo_lambda(workspace)?,
    };
    match build {
        Build::Local => command.args(["build", "--message-format", "json-render-diagnostics"]),
        Build::X86 => command.args(["lambda", "build", "--release", "--x86-64"]),
        Build::Arm64 => command.args(["lambda", "build", "--release", "--arm64"]),
    };
    for function in functions {
        command.args(["--package", &function.package, "--bin", &function.name]);
    }
    command.current_dir(&workspace.root).stdin(Stdio::null());
    let advice = "fix the compiler errors; `cargo check --workspace` shows them again";
    if build != Build::Local {
        progress.set_status("building functions for AWS");
        let status = command.status().context("cannot run cargo lambda build")?;
        if !status.success() {
            return Err(
                Error::new(format!("cargo lambda build failed with {status}")).with_advice(advice),
            );
        }
        let lambda_dir = workspace.target.join("lambda");
        let binary = |function: &Function| {
            let path = lambda_dir.join(&function.name).join("bootstrap");
            (function.name.clone(), path)
        };
        return Ok(functions.iter().map(binary).collect());
    }

    let binaries =
        run_cargo_build(&mut command, progress).map_err(|error| error.with_advice(advice))?;
    let missing = functions
        .iter()
        .find(|function| !binaries.contains_key(&function.name));
    match missing {
        None => Ok(binaries),
        Some(Function { name, package }) => Err(Error::new(format!(
            "cargo built no binary {name} of package {package}"
        ))),
    }
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    target: Option<BuiltTarget>,
    #[serde(default)]
    fresh: bool,
}

#[derive(Deserialize)]
struct BuiltTarget {
    name: String,
}

fn run_cargo_build(
    command: &mut Command,
    progress: &Progress,
) -> Result<BTreeMap<String, PathBuf>> {
    // Cargo's own output is shown only if the build fails. Until then, the spinner shows progress.
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run cargo build")?;
    let errors = child.stderr.take().map(|stderr| {
        std::thread::spawn(move || {
            BufReader::new(stderr)
                .lines()
                .map_while(Result::ok)
                .collect::<Vec<_>>()
        })
    });
    let mut built = BTreeMap::new();
    let mut compiled = 0;
    for line in child
        .stdout
        .take()
        .map(BufReader::new)
        .into_iter()
        .flat_map(BufRead::lines)
    {
        let line = line.context("cannot read the output of cargo build")?;
        let Ok(Message {
            reason,
            executable,
            target: Some(target),
            fresh,
        }) = serde_json::from_str(&line)
        else {
            continue;
        };
        if reason != "compiler-artifact" {
            continue;
        }
        if !fresh {
            compiled += 1;
            progress.set_status(format!(
                "building functions: {} compiled, last {}",
                counted(compiled, "crate"),
                target.name
            ));
        }
        if let Some(executable) = executable {
            built.insert(target.name, executable);
        }
    }
    let status = child.wait().context("cannot wait for cargo build")?;
    if status.success() {
        return Ok(built);
    }
    let output = errors
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    let last_lines = output[output.len().saturating_sub(40)..].join("\n");
    Err(Error::new(format!(
        "cargo build failed with {status}:\n{last_lines}"
    )))
}

/// cargo-lambda from the PATH, otherwise from the pinned Python package, which includes the linker
/// that cargo-lambda needs.
fn cargo_lambda(workspace: &Workspace) -> Result<Command> {
    let is_installed = Command::new("cargo")
        .args(["lambda", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    let mut command = Command::new("cargo");
    if !is_installed {
        let venv = venv::ensure_venv(workspace, venv::TOOLS)?;
        let current = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            [venv.join("bin")]
                .into_iter()
                .chain(std::env::split_paths(&current)),
        );
        command.env("PATH", path.context("cannot set PATH")?);
    }
    Ok(command)
}
