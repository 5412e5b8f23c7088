//! The packages of this workspace, as Cargo lists them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use stepward_testkit::build::root;

use crate::imports::Package;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

/// Returns every package, with paths relative to the workspace's root.
pub(crate) fn workspace() -> Vec<Package> {
    let arguments = [
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--offline",
    ];
    let response = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        response.status.success(),
        "{}",
        String::from_utf8_lossy(&response.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&response.stdout).unwrap();
    metadata.packages.iter().map(package).collect()
}

/// Returns the folders that must be packages: the functions, the shared crate and the command line.
pub(crate) fn directories() -> Vec<String> {
    let functions = std::fs::read_dir(root().join("functions")).unwrap();
    let names =
        functions.map(|entry| format!("functions/{}/", entry.unwrap().file_name().display()));
    names
        .chain(["shared/".to_owned(), "cli/".to_owned()])
        .collect()
}

fn package(described: &Described) -> Package {
    let is_library = |target: &&Target| target.kind.iter().any(|kind| kind == "lib");
    let (libraries, others): (Vec<_>, Vec<_>) = described.targets.iter().partition(is_library);
    let mut sources = BTreeMap::new();
    read(described.manifest_path.parent().unwrap(), &mut sources);
    Package {
        library_name: described.name.replace('-', "_"),
        library: libraries.first().map(|target| from_root(&target.src_path)),
        others: others
            .iter()
            .map(|target| from_root(&target.src_path))
            .collect(),
        sources,
    }
}

fn read(directory: &Path, into: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.insert(from_root(&path), std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn from_root(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}
