//! The zip files of functions. Lambda expects one file in them, `bootstrap`.

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

/// A file of a release.
#[derive(Clone, Debug)]
pub struct Content {
    /// Its path on disk.
    pub path: PathBuf,
    /// Its SHA-256 in hex.
    pub sha256: String,
}

/// A description of the binary in a zip file, stored next to it. An unchanged binary is not read or
/// zipped again.
#[derive(Deserialize, PartialEq, Serialize)]
struct ZipRecord {
    length: u64,
    modified: u128,
    sha256: String,
}

/// Zips the binary of a function.
pub(super) fn zip_function(
    workspace: &Workspace,
    name: &str,
    binary: &Path,
    build: Build,
) -> Result<Content> {
    let dir = workspace
        .target
        .join("stepward")
        .join(format!("{build:?}").to_lowercase());
    std::fs::create_dir_all(&dir).context(dir.display())?;
    let (path, record_path) = (
        dir.join(format!("{name}.zip")),
        dir.join(format!("{name}.json")),
    );
    let metadata = std::fs::metadata(binary).context(binary.display())?;
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let modified = modified.unwrap_or_default().as_nanos();
    let record = std::fs::read(&record_path)
        .ok()
        .and_then(|text| serde_json::from_slice::<ZipRecord>(&text).ok());
    let is_current = |record: &ZipRecord| {
        record.length == metadata.len() && record.modified == modified && path.is_file()
    };
    if let Some(record) = record.filter(is_current) {
        return Ok(Content {
            path,
            sha256: record.sha256,
        });
    }

    // The file is renamed when it is complete, so that an existing zip is never partial.
    let temporary = path.with_extension(format!("zip-{}", std::process::id()));
    zip_bootstrap(binary, &temporary, build).context(format!("cannot zip {name}"))?;
    let sha256 = file_sha256(&temporary)?;
    std::fs::rename(&temporary, &path).context(path.display())?;
    let record = serde_json::to_vec(&ZipRecord {
        length: metadata.len(),
        modified,
        sha256: sha256.clone(),
    })
    .context(record_path.display())?;
    std::fs::write(&record_path, record).context(record_path.display())?;
    Ok(Content { path, sha256 })
}

/// Writes a zip file. Time and mode are fixed, so that the same binary gives the same bytes.
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

pub(super) fn file_sha256(path: &Path) -> Result<String> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).context(path.display())?);
    let mut hash = Sha256::new();
    loop {
        let part = reader.fill_buf().context(path.display())?;
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
            file_sha256(&dir.join("1.zip")).unwrap(),
            file_sha256(&dir.join("2.zip")).unwrap()
        );
        std::fs::remove_dir_all(dir).unwrap();
    }
}
