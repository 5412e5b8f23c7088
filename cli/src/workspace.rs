//! The checkout that the command line works from: what it builds, packages and deploys.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::error::{Context, Error, Result};

/// A checkout of Stepward.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Where the root `Cargo.toml` is.
    pub root: PathBuf,
    /// Cargo's target directory: everything that is made goes below it.
    pub target: PathBuf,
    /// The functions, in order of their names.
    pub functions: Vec<Function>,
}

/// A Lambda function: one binary of a crate below `functions/`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Function {
    /// The binary's name; the Lambda function's name is this behind the stack's.
    pub name: String,
    /// The crate that it belongs to.
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

/// The package whose functions are the runner's own. Every other package below `functions/` is a
/// service with its steps.
const CONTROL: &str = "stepward-control";

impl Function {
    /// Whether it is one of the runner's own; the others are steps.
    #[must_use]
    pub fn is_the_runners(&self) -> bool {
        self.package == CONTROL
    }

    /// The folder below `functions/`: its package is called after it.
    #[must_use]
    pub fn service(&self) -> &str {
        self.package
            .strip_prefix("stepward-")
            .unwrap_or(&self.package)
    }
}

impl Workspace {
    /// Finds the checkout around the current directory, else the one that this program was built
    /// from.
    pub fn find() -> Result<Self> {
        let here = std::env::current_dir().doing("the current directory")?;
        let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let root = here
            .ancestors()
            .chain(built_from)
            .find(|dir| {
                dir.join("infra/template.yaml").is_file() && dir.join("Cargo.toml").is_file()
            })
            .ok_or_else(|| {
                Error::not_asked(
                    "this command needs a checkout of Stepward, and there is none here",
                )
                .next("change into the directory that holds infra/template.yaml")
            })?;
        Self::at(root)
    }

    /// Reads the checkout at a directory with `cargo metadata`.
    pub fn at(root: &Path) -> Result<Self> {
        let answer = Command::new("cargo")
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(root)
            .output()
            .doing("cargo metadata")
            .map_err(|e| e.next("install Rust (rustup) and see that `cargo` is on the PATH"))?;
        if !answer.status.success() {
            let said = String::from_utf8_lossy(&answer.stderr);
            return Err(Error::new(format!(
                "cargo metadata in {}: {}",
                root.display(),
                said.trim()
            )));
        }
        let metadata: Metadata =
            serde_json::from_slice(&answer.stdout).doing("the answer of cargo metadata")?;
        let below = metadata.workspace_root.join("functions");
        let mut functions: Vec<_> = metadata
            .packages
            .iter()
            .filter(|package| package.manifest_path.starts_with(&below))
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
            .doing(path)
            .map_err(|e| e.next("restore it, as with `git checkout`"))
    }

    /// Where the local cloud keeps its files.
    #[must_use]
    pub fn local_cloud(&self) -> PathBuf {
        self.target.join("local-cloud")
    }
}
