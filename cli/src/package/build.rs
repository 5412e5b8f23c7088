//! Builds functions, for this machine with Cargo and for AWS with cargo-lambda.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::error::{Context, Error, Result};
use crate::local::venv;
use crate::output::Progress;
use crate::workspace::{Function, Workspace};

/// What the functions are built for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Build {
    /// This machine, with the profile that `cargo test` uses too: nothing is compiled twice.
    Local,
    /// AWS Lambda on `x86_64`: optimised, by cargo-lambda.
    X86,
    /// AWS Lambda on Graviton: optimised, by cargo-lambda.
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

/// Builds functions; where each function's binary is.
pub fn binaries(
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
    let advice = "mend what the compiler names; `cargo check --workspace` repeats it";
    if build != Build::Local {
        progress.now("building functions for AWS");
        let status = command.status().doing("cargo lambda build")?;
        if !status.success() {
            return Err(Error::new(format!("cargo lambda build ended with {status}")).next(advice));
        }
        let binary = |f: &Function| {
            (
                f.name.clone(),
                workspace
                    .target
                    .join("lambda")
                    .join(&f.name)
                    .join("bootstrap"),
            )
        };
        return Ok(functions.iter().map(binary).collect());
    }
    let made = cargo_build(&mut command, progress).map_err(|e| e.next(advice))?;
    let missing = functions
        .iter()
        .find(|function| !made.contains_key(&function.name));
    missing.map_or(Ok(()), |f| {
        Err(Error::new(format!(
            "cargo built no binary {} of {}",
            f.name, f.package
        )))
    })?;
    Ok(made)
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

fn cargo_build(command: &mut Command, progress: &Progress) -> Result<BTreeMap<String, PathBuf>> {
    // Cargo's own words are shown only when the build fails: until then its progress is ours.
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing("cargo build")?;
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
        let line = line.doing("cargo build")?;
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
            progress.now(format!(
                "building functions: {compiled} crates compiled, last {}",
                target.name
            ));
        }
        if let Some(executable) = executable {
            built.insert(target.name, executable);
        }
    }
    let status = child.wait().doing("cargo build")?;
    if status.success() {
        return Ok(built);
    }
    let said = errors
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    let said = said[said.len().saturating_sub(40)..].join("\n");
    Err(Error::new(format!(
        "cargo build ended with {status}:\n{said}"
    )))
}

/// cargo-lambda from the PATH, else from the pinned Python package, which brings the linker that it
/// needs.
fn cargo_lambda(workspace: &Workspace) -> Result<Command> {
    let there = Command::new("cargo")
        .args(["lambda", "--version"])
        .output()
        .is_ok_and(|o| o.status.success());
    let mut command = Command::new("cargo");
    if !there {
        let venv = venv::ensure(workspace, venv::TOOLS)?;
        let own = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            [venv.join("bin")]
                .into_iter()
                .chain(std::env::split_paths(&own)),
        );
        command.env("PATH", path.doing("PATH")?);
    }
    Ok(command)
}
