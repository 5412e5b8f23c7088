//! Builds the catalog of all steps from the manifests that their binaries print.

use std::path::Path;
use std::process::Command;

use stepward::runtime::manifest::Manifest;
use stepward_cli::steps::Catalog;

use stepward_testkit::build::{build_binaries, current_build, list_steps};

/// Builds the binaries of all steps and returns the manifests that they print.
pub fn build_catalog() -> Result<Catalog, String> {
    let (profile, target_dir) = current_build()?;
    let steps = list_steps()?;
    let built = build_binaries(&steps, &profile, &target_dir)?;

    let mut catalog = Catalog::new();
    // The map is sorted by name, and so is the catalog.
    for (name, binary) in &built {
        let step = steps.iter().find(|step| step.name == *name);
        let service = step
            .ok_or_else(|| format!("cargo built {name:?}, which is not the name of a step"))?
            .service();
        catalog
            .entry(service.to_owned())
            .or_default()
            .push(read_manifest(binary)?);
    }
    Ok(catalog)
}

fn read_manifest(binary: &Path) -> Result<Manifest, String> {
    let name = binary.display();
    let output = Command::new(binary)
        .arg("describe")
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "`{name} describe` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("`{name} describe` did not print a manifest: {error}"))
}
