//! Combines the manifests of the steps, `catalog/<service>/<step>.json`, into one JSON document,
//! which the program embeds. The files in the directory are the list of steps.

use std::fs::{read_dir, read_to_string, write};
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=catalog");
    let mut services = Vec::new();
    for service in sorted_entries(Path::new("catalog"))? {
        let steps = sorted_entries(&service)?
            .iter()
            .map(read_to_string)
            .collect::<Result<Vec<_>>>()?;
        let name = service.file_name().unwrap_or_default().display();
        services.push(format!("\"{name}\": [{}]", steps.join(",")));
    }
    let out_dir =
        std::env::var_os("OUT_DIR").ok_or_else(|| Error::other("Cargo has not set OUT_DIR"))?;
    write(
        Path::new(&out_dir).join("catalog.json"),
        format!("{{{}}}", services.join(",")),
    )
}

fn sorted_entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
