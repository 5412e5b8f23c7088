//! The catalog of all steps, made from what their binaries say of themselves.

use std::path::Path;
use std::process::Command;

use stepward::runtime::manifest::Manifest;
use stepward_cli::steps::Catalog;

use stepward_testkit::build::{build, of_this_program, steps};

/// Every step's manifest. Builds the steps' binaries and asks each.
pub fn catalog() -> Result<Catalog, String> {
    let (profile, target_dir) = of_this_program()?;
    let steps = steps()?;
    let built = build(&steps, &profile, &target_dir)?;
    let mut catalog = Catalog::new();
    // In the order of their names.
    for (name, binary) in &built {
        let step = steps.iter().find(|step| step.name == *name);
        let service = step
            .ok_or_else(|| format!("cargo built {name}, which is no step"))?
            .service();
        catalog
            .entry(service.to_owned())
            .or_default()
            .push(describe(binary)?);
    }
    Ok(catalog)
}

fn describe(binary: &Path) -> Result<Manifest, String> {
    let name = binary.display();
    let answer = Command::new(binary)
        .arg("describe")
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if !answer.status.success() {
        return Err(format!(
            "{name} describe: {}",
            String::from_utf8_lossy(&answer.stderr).trim()
        ));
    }
    serde_json::from_slice(&answer.stdout).map_err(|error| format!("{name} describe: {error}"))
}
