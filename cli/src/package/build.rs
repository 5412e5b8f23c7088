//! Builds functions: with Cargo for this machine, with cargo-lambda for AWS.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::error::{Context, Error, Result};
use crate::local::venv;
use crate::machine::{available_memory, gigabytes, parallel_jobs};
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

/// How often a log gets a line with the progress of a build.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

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

    let binaries = run_cargo_build(&mut command, &workspace.target, progress)
        .map_err(|error| error.with_advice(advice))?;
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
}

#[derive(Deserialize)]
struct BuiltTarget {
    name: String,
}

fn run_cargo_build(
    command: &mut Command,
    target: &Path,
    progress: &Progress,
) -> Result<BTreeMap<String, PathBuf>> {
    limit_jobs(command, target, progress);
    progress.set_status("building functions");
    // Cargo's own output is shown only if the build fails. Until then, the counts in its progress
    // bar are shown; without a terminal, Cargo prints no bar unless it is told to.
    // https://doc.rust-lang.org/cargo/reference/config.html#termprogresswhen
    let mut child = command
        .env("CARGO_TERM_PROGRESS_WHEN", "always")
        .env("CARGO_TERM_PROGRESS_WIDTH", "100")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run cargo build")?;
    let messages = child.stderr.take().map(|stderr| {
        let mut shown = BuildProgress::new(progress.clone());
        std::thread::spawn(move || shown.read_messages(BufReader::new(stderr)))
    });
    let mut built = BTreeMap::new();
    for line in child
        .stdout
        .take()
        .map(BufReader::new)
        .into_iter()
        .flat_map(BufRead::lines)
    {
        let line = line.context("cannot read the output of cargo build")?;
        if let Ok(Message {
            reason,
            executable: Some(executable),
            target: Some(target),
        }) = serde_json::from_str(&line)
            && reason == "compiler-artifact"
        {
            built.insert(target.name, executable);
        }
    }
    let status = child.wait().context("cannot wait for cargo build")?;
    if status.success() {
        return Ok(built);
    }
    let output = messages
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    let last_lines = output[output.len().saturating_sub(40)..].join("\n");
    Err(Error::new(format!(
        "cargo build failed with {status}:\n{last_lines}"
    )))
}

/// Lets Cargo run fewer jobs at once if memory is short, unless the operator has set a number.
fn limit_jobs(command: &mut Command, target: &Path, progress: &Progress) {
    if std::env::var_os("CARGO_BUILD_JOBS").is_some() {
        return;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = available_memory();
    let jobs = parallel_jobs(target, processors, memory);
    if jobs < processors {
        command.args(["--jobs", &jobs.to_string()]);
        progress.print_line(format!(
            "Cargo runs only {} at once, because {} of memory is available.",
            counted(jobs, "job"),
            gigabytes(memory.unwrap_or_default())
        ));
    }
}

/// Shows the counts in Cargo's progress bar.
struct BuildProgress {
    progress: Progress,
    last_line: Instant,
}

impl BuildProgress {
    fn new(progress: Progress) -> Self {
        Self {
            progress,
            last_line: Instant::now(),
        }
    }

    /// Reads what Cargo prints, shows the states of its bar, and returns the other lines. Each ends
    /// with a carriage return or a line feed.
    fn read_messages(&mut self, output: impl BufRead) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = Vec::new();
        for byte in output.bytes().map_while(Result::ok) {
            if byte != b'\r' && byte != b'\n' {
                line.push(byte);
                continue;
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            match BuildCounts::parse(&text) {
                Some(counts) => self.show(&counts),
                None if text.is_empty() => {}
                None => lines.push(text),
            }
        }
        lines
    }

    fn show(&mut self, counts: &BuildCounts) {
        let BuildCounts {
            done,
            total,
            current,
        } = counts;
        let text = format!("building functions: {done} of {total} parts compiled");
        if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            self.progress.print_detail(&text);
        }
        self.progress.set_status(format!("{text}, now {current}"));
    }
}

/// A state of Cargo's progress bar.
#[derive(Debug, Eq, PartialEq)]
struct BuildCounts {
    done: usize,
    total: usize,
    /// The crates that are being compiled.
    current: String,
}

impl BuildCounts {
    /// Reads a line such as `Building [==>   ] 12/345: aws-sdk-ec2, serde`; `None` for other lines.
    fn parse(line: &str) -> Option<Self> {
        let bar = line.trim_start().strip_prefix("Building [")?;
        let (counts, current) = bar.split_once("] ")?.1.split_once(':')?;
        let (done, total) = counts.trim().split_once('/')?;
        Some(Self {
            done: done.parse().ok()?,
            total: total.parse().ok()?,
            current: current.trim().to_owned(),
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_of_cargo_is_told_from_its_messages() {
        let bar = "    Building [=>   ] 12/345: aws-sdk-ec2, serde(build)";
        let output =
            format!("   Compiling serde v1.0.0\n{bar} \r   Compiling b v1\n{bar}\rerror: no\n");
        let mut shown = BuildProgress::new(Progress::hidden());
        assert_eq!(
            shown.read_messages(output.as_bytes()),
            [
                "   Compiling serde v1.0.0",
                "   Compiling b v1",
                "error: no"
            ]
        );
        assert_eq!(
            BuildCounts::parse(bar),
            Some(BuildCounts {
                done: 12,
                total: 345,
                current: "aws-sdk-ec2, serde(build)".into(),
            })
        );
        assert_eq!(BuildCounts::parse("   Compiling building [x] 1/2: y"), None);
    }
}
