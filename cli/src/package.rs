//! One release: every function built and zipped, every job, the templates, under a name made from their content.

mod zips;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::local::venv;
use crate::output::Progress;
use crate::workspace::{Function, Workspace};
use stepward::model::digest::hex;
use zips::{sha256, zipped};

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

/// Everything that one deployment uploads.
#[derive(Clone, Debug)]
pub struct Release {
    /// Made from the content of all files: the same files are the same release.
    pub id: String,
    /// The value of the template's parameter `Architecture`.
    pub architecture: &'static str,
    /// Files by their key below `releases/<id>/`.
    pub files: BTreeMap<String, Content>,
}

/// A file of a release, as it is on disk.
#[derive(Clone, Debug)]
pub struct Content {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of it, in hex.
    pub sha256: String,
}

/// The key of the deployment's template within a release.
pub const TEMPLATE: &str = "template.yaml";
/// The key of the template that customers launch within a release.
pub const CUSTOMER_ROLE: &str = "customer-role.yaml";

impl Release {
    /// The key prefix of its files in the code bucket.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("releases/{}", self.id)
    }
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

/// Builds every function and gathers the release.
pub fn release(workspace: &Workspace, build: Build, progress: &Progress) -> Result<Release> {
    let binaries = binaries(workspace, &workspace.functions, build, progress)?;
    let mut files = BTreeMap::new();
    progress.now("zipping the functions");
    let zips = std::thread::scope(|scope| {
        let mut zips = Vec::new();
        for (name, binary) in &binaries {
            zips.push((name, scope.spawn(move || zipped(workspace, name, binary, build))));
        }
        zips.into_iter().map(|(name, thread)| (name, thread.join())).collect::<Vec<_>>()
    });
    for (name, zip) in zips {
        let zip = zip.map_err(|_| Error::new(format!("zipping {name} ended unexpectedly")))?;
        files.insert(format!("{name}.zip"), zip?);
    }
    for job in jobs(workspace)? {
        let path = workspace.root.join(&job.path);
        files.insert(format!("jobs/{}.asl.json", job.name), content(path)?);
    }
    files.insert(TEMPLATE.into(), content(workspace.root.join("infra").join(TEMPLATE))?);
    files.insert(CUSTOMER_ROLE.into(), content(workspace.root.join("infra").join(CUSTOMER_ROLE))?);
    Ok(Release { id: release_id(&files), architecture: build.architecture(), files })
}

/// A job's source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Job {
    /// As operators call it: `fleet/morning-check`.
    pub name: String,
    /// The state machine's definition, in the checkout.
    pub path: PathBuf,
}

/// The jobs of a checkout, by name.
pub fn jobs(workspace: &Workspace) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let below = workspace.root.join("statemachines/jobs");
    for group in entries(&below)?.into_iter().filter(|path| path.is_dir()) {
        for path in entries(&group)? {
            let name = path.strip_prefix(&below).ok().and_then(Path::to_str);
            if let Some(name) = name.and_then(|name| name.strip_suffix(".asl.json")) {
                let path = path.strip_prefix(&workspace.root).unwrap_or(&path).to_owned();
                jobs.push(Job { name: name.to_owned(), path });
            }
        }
    }
    Ok(jobs)
}

/// The same checkout with those functions only that its jobs need: the steps that they call, and the runner's own.
pub fn for_jobs(workspace: &Workspace) -> Result<Workspace> {
    let called = called_by(workspace, &jobs(workspace)?)?;
    let is_needed = |function: &&Function| function.is_the_runners() || called.contains(function);
    let functions = workspace.functions.iter().filter(is_needed).cloned().collect();
    Ok(Workspace { functions, ..workspace.clone() })
}

/// The functions that jobs call.
pub(crate) fn called_by<'a>(workspace: &'a Workspace, jobs: &[Job]) -> Result<Vec<&'a Function>> {
    let mut sources = String::new();
    for job in jobs {
        let path = workspace.root.join(&job.path);
        sources += &std::fs::read_to_string(&path).doing(path.display())?;
    }
    Ok(workspace.functions.iter().filter(|function| calls(&sources, &function.name)).collect())
}

/// Whether a state machine's source calls a function.
fn calls(source: &str, function: &str) -> bool {
    source.contains(&format!("\"${{StackName}}-{function}\""))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(dir).doing(dir.display())?;
    let mut paths = read.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().doing(dir.display())?;
    paths.sort();
    Ok(paths)
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
        let binary = |f: &Function| (f.name.clone(), workspace.target.join("lambda").join(&f.name).join("bootstrap"));
        return Ok(functions.iter().map(binary).collect());
    }
    let made = cargo_build(&mut command, progress).map_err(|e| e.next(advice))?;
    let missing = functions.iter().find(|function| !made.contains_key(&function.name));
    missing.map_or(Ok(()), |f| Err(Error::new(format!("cargo built no binary {} of {}", f.name, f.package))))?;
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
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().doing("cargo build")?;
    let errors = child.stderr.take().map(|stderr| {
        std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).collect::<Vec<_>>())
    });
    let mut built = BTreeMap::new();
    let mut compiled = 0;
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.doing("cargo build")?;
        let Ok(Message { reason, executable, target: Some(target), fresh }) = serde_json::from_str(&line) else {
            continue;
        };
        if reason != "compiler-artifact" {
            continue;
        }
        if !fresh {
            compiled += 1;
            progress.now(format!("building functions: {compiled} crates compiled, last {}", target.name));
        }
        if let Some(executable) = executable {
            built.insert(target.name, executable);
        }
    }
    let status = child.wait().doing("cargo build")?;
    if status.success() {
        return Ok(built);
    }
    let said = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let said = said[said.len().saturating_sub(40)..].join("\n");
    Err(Error::new(format!("cargo build ended with {status}:\n{said}")))
}

/// cargo-lambda from the PATH, else from the pinned Python package, which brings the linker that it needs.
fn cargo_lambda(workspace: &Workspace) -> Result<Command> {
    let there = Command::new("cargo").args(["lambda", "--version"]).output().is_ok_and(|o| o.status.success());
    let mut command = Command::new("cargo");
    if !there {
        let venv = venv::ensure(workspace, venv::TOOLS)?;
        let own = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([venv.join("bin")].into_iter().chain(std::env::split_paths(&own)));
        command.env("PATH", path.doing("PATH")?);
    }
    Ok(command)
}

fn content(path: PathBuf) -> Result<Content> {
    let sha256 = sha256(&path)?;
    Ok(Content { path, sha256 })
}

fn release_id(files: &BTreeMap<String, Content>) -> String {
    let mut hash = Sha256::new();
    for (key, content) in files {
        hash.update(format!("{key}\n{}\n", content.sha256));
    }
    hex(&hash.finalize())[..20].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, Content> {
        let content = |sha: &str| Content { path: PathBuf::new(), sha256: sha.into() };
        list.iter().map(|(key, sha)| ((*key).to_owned(), content(sha))).collect()
    }

    #[test]
    fn a_job_calls_the_functions_that_its_source_names() {
        let source = r#"{ "FunctionName": "${StackName}-ec2-start" }"#;
        assert!(calls(source, "ec2-start") && !calls(source, "ec2") && !calls(source, "start"));
    }

    #[test]
    fn the_jobs_need_the_runners_own_functions_and_not_every_step() {
        let whole = Workspace::at(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
        let needed: Vec<_> = for_jobs(&whole).unwrap().functions.into_iter().map(|function| function.name).collect();
        for name in ["accounts", "api", "cancel", "validate-credentials"] {
            assert!(needed.iter().any(|needed| needed == name), "{name} is not among {needed:?}");
        }
        assert!(needed.len() < whole.functions.len());
    }

    #[test]
    fn a_release_is_named_by_all_of_its_content() {
        let id = release_id(&files(&[("a.zip", "1"), ("jobs/x/y.asl.json", "2")]));
        assert_eq!(id, release_id(&files(&[("jobs/x/y.asl.json", "2"), ("a.zip", "1")])));
        assert_ne!(id, release_id(&files(&[("a.zip", "1"), ("jobs/x/y.asl.json", "3")])));
        assert_ne!(id, release_id(&files(&[("a.zip", "1"), ("jobs/x/z.asl.json", "2")])));
        assert_eq!(id.len(), 20);
    }
}
