//! The checkout whose functions the command line builds, packages and deploys.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::error::{Context, Error, Result};

/// A checkout of Stepward.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The directory of the root `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target directory, which contains all generated files.
    pub target: PathBuf,
    /// The functions, sorted by name.
    pub functions: Vec<Function>,
}

/// A Lambda function: one binary of a crate in `functions/`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Function {
    /// The name of the binary. The name of the Lambda function is the stack's name followed by it.
    pub name: String,
    /// The crate that contains it.
    pub package: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

/// The package with the runner's own functions. Every other package in `functions/` contains the
/// steps of a service.
const CONTROL_PACKAGE: &str = "stepward-control";

impl Function {
    /// Whether it is one of the runner's own functions. All others are steps.
    #[must_use]
    pub fn is_runner_function(&self) -> bool {
        self.package == CONTROL_PACKAGE
    }

    /// The folder in `functions/`, which the package is named after.
    #[must_use]
    pub fn service(&self) -> &str {
        self.package
            .strip_prefix("stepward-")
            .unwrap_or(&self.package)
    }
}

impl Workspace {
    /// Finds the checkout that contains the current directory, otherwise the one that this program
    /// was built from.
    pub fn find() -> Result<Self> {
        let current = std::env::current_dir().context("cannot read the current directory")?;
        let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let root = current
            .ancestors()
            .chain(built_from)
            .find(|dir| {
                dir.join("infra/template.yaml").is_file() && dir.join("Cargo.toml").is_file()
            })
            .ok_or_else(|| {
                Error::usage_error(format!(
                    "{} is not in a checkout of Stepward",
                    current.display()
                ))
                .with_advice("change to the directory that contains infra/template.yaml")
            })?;
        Self::at(root)
    }

    /// Reads the checkout at a directory with `cargo metadata`.
    pub fn at(root: &Path) -> Result<Self> {
        let output = Command::new("cargo")
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(root)
            .output()
            .context("cannot run cargo metadata")
            .map_err(|error| {
                error.with_advice("install Rust with rustup, and add `cargo` to the PATH")
            })?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            return Err(Error::new(format!(
                "cargo metadata failed in {}: {}",
                root.display(),
                reason.trim()
            )));
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout)
            .context("cannot read the output of cargo metadata")?;
        let functions_dir = metadata.workspace_root.join("functions");
        let mut functions: Vec<_> = metadata
            .packages
            .iter()
            .filter(|package| package.manifest_path.starts_with(&functions_dir))
            .flat_map(|package| package.targets.iter().map(move |target| (package, target)))
            .filter(|(_, target)| target.kind.iter().any(|kind| kind == "bin"))
            .map(|(package, target)| Function {
                name: target.name.clone(),
                package: package.name.clone(),
            })
            .collect();
        functions.sort();
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            functions,
        })
    }

    /// Reads a file of the checkout.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        std::fs::read(self.root.join(path))
            .context(path)
            .map_err(|error| error.with_advice(format!("restore it with `git checkout {path}`")))
    }

    /// The directory of the local cloud's files.
    #[must_use]
    pub fn local_cloud(&self) -> PathBuf {
        self.target.join("local-cloud")
    }
}
