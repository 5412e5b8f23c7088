//! Functions as Lambda takes them: a zip with one file, `bootstrap`.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::build::Build;
use crate::error::{Context, Result};
use crate::workspace::Workspace;
use stepward::model::digest::hex;

/// A file of a release, as it is on disk.
#[derive(Clone, Debug)]
pub struct Content {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of it, in hex.
    pub sha256: String,
}

/// What a zip was made from, beside it: a binary that has not changed is neither read nor zipped
/// again.
#[derive(Deserialize, PartialEq, Serialize)]
struct Made {
    length: u64,
    modified: u128,
    sha256: String,
}

pub(super) fn zipped(
    workspace: &Workspace,
    name: &str,
    binary: &Path,
    build: Build,
) -> Result<Content> {
    let dir = workspace
        .target
        .join("stepward")
        .join(format!("{build:?}").to_lowercase());
    std::fs::create_dir_all(&dir).doing(dir.display())?;
    let (path, note) = (
        dir.join(format!("{name}.zip")),
        dir.join(format!("{name}.json")),
    );
    let about = std::fs::metadata(binary).doing(binary.display())?;
    let modified = about
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let modified = modified.unwrap_or_default().as_nanos();
    let known = std::fs::read(&note)
        .ok()
        .and_then(|text| serde_json::from_slice::<Made>(&text).ok());
    if let Some(made) = known
        .filter(|made| made.length == about.len() && made.modified == modified && path.is_file())
    {
        return Ok(Content {
            path,
            sha256: made.sha256,
        });
    }
    // Written aside and renamed, so that a zip that is there is whole.
    let aside = path.with_extension(format!("zip-{}", std::process::id()));
    zip_bootstrap(binary, &aside, build).doing(format!("zipping {name}"))?;
    let sha256 = sha256(&aside)?;
    std::fs::rename(&aside, &path).doing(path.display())?;
    let made = serde_json::to_vec(&Made {
        length: about.len(),
        modified,
        sha256: sha256.clone(),
    })
    .doing("a note")?;
    std::fs::write(&note, made).doing(note.display())?;
    Ok(Content { path, sha256 })
}

/// The same binary gives the same zip, byte by byte: fixed time, fixed mode.
fn zip_bootstrap(binary: &Path, zip: &Path, build: Build) -> Result<(), zip::result::ZipError> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(if build == Build::Local { 1 } else { 9 }))
        .last_modified_time(DateTime::default())
        .unix_permissions(0o755);
    let mut writer = ZipWriter::new(BufWriter::new(File::create(zip)?));
    writer.start_file("bootstrap", options)?;
    std::io::copy(&mut File::open(binary)?, &mut writer)?;
    writer.finish()?.flush()?;
    Ok(())
}

pub(super) fn sha256(path: &Path) -> Result<String> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).doing(path.display())?);
    let mut hash = Sha256::new();
    loop {
        let part = reader.fill_buf().doing(path.display())?;
        if part.is_empty() {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(part);
        let length = part.len();
        reader.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_binary_gives_the_same_zip() {
        let dir = std::env::temp_dir().join(format!("stepward-zip-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let binary = dir.join("binary");
        std::fs::write(&binary, b"one").unwrap();
        zip_bootstrap(&binary, &dir.join("1.zip"), Build::Local).unwrap();
        std::fs::write(&binary, b"one").unwrap();
        zip_bootstrap(&binary, &dir.join("2.zip"), Build::Local).unwrap();
        assert_eq!(
            sha256(&dir.join("1.zip")).unwrap(),
            sha256(&dir.join("2.zip")).unwrap()
        );
        std::fs::remove_dir_all(dir).unwrap();
    }
}
