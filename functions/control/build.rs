//! Writes the names of all steps as a constant. The files `cli/catalog/<service>/<step>.json` are
//! the list of steps.

use std::fs::{read_dir, write};
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

const CATALOG: &str = "../../cli/catalog";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed={CATALOG}");
    let mut names = Vec::new();
    for service in entries(Path::new(CATALOG))? {
        for step in entries(&service)? {
            names.push(step.file_stem().unwrap_or_default().display().to_string());
        }
    }
    names.sort_unstable();

    let count = names.len();
    let out_dir =
        std::env::var_os("OUT_DIR").ok_or_else(|| Error::other("Cargo has not set OUT_DIR"))?;
    write(
        Path::new(&out_dir).join("steps.rs"),
        format!("/// The names of all steps.\nconst STEPS: [&str; {count}] = {names:?};\n"),
    )
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect()
}
