//! The catalog of all steps, made from what their binaries say of themselves.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::build::{build, of_this_program, steps};

/// The committed catalog, from the root.
pub const PATH: &str = "cli/catalog.json";
/// What writes it.
pub const MENDED_BY: &str = "cargo xtask generate";

/// The catalog as it should be: every step's manifest, by name.
pub fn text() -> Result<String, String> {
    let (profile, target_dir) = of_this_program()?;
    // In the order of their names.
    let built = build(&steps()?, &profile, &target_dir)?;
    let manifests = built.values().map(|binary| describe(binary)).collect::<Result<Vec<_>, _>>()?;
    serde_json::to_string_pretty(&manifests).map(|text| text + "\n").map_err(|error| error.to_string())
}

fn describe(binary: &Path) -> Result<Value, String> {
    let name = binary.display();
    let answer = Command::new(binary).arg("describe").output().map_err(|error| format!("{name}: {error}"))?;
    if !answer.status.success() {
        return Err(format!("{name} describe: {}", String::from_utf8_lossy(&answer.stderr).trim()));
    }
    serde_json::from_slice(&answer.stdout).map_err(|error| format!("{name} describe: {error}"))
}
