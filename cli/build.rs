//! Puts the steps' manifests, `catalog/<service>/<step>.json`, into one document for the program to
//! embed: the directory is the list of the steps.

use std::fs::{read_dir, read_to_string, write};
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=catalog");
    let mut services = Vec::new();
    for service in entries(Path::new("catalog"))? {
        let steps = entries(&service)?
            .iter()
            .map(read_to_string)
            .collect::<Result<Vec<_>>>()?;
        let name = service.file_name().unwrap_or_default().display();
        services.push(format!("\"{name}\": [{}]", steps.join(",")));
    }
    let to = std::env::var_os("OUT_DIR").ok_or_else(|| Error::other("Cargo set no OUT_DIR"))?;
    write(
        Path::new(&to).join("catalog.json"),
        format!("{{{}}}", services.join(",")),
    )
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
