//! Files of the checkout, by their path from its root.

use std::io::ErrorKind;

use stepward_testkit::build::root;

/// A file's text.
pub(crate) fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(root().join(path)).map_err(|error| format!("{path}: {error}"))
}

/// The names in a folder, in order: none where there is no such folder.
pub(crate) fn names(folder: &str) -> Result<Vec<String>, String> {
    let said = |error: std::io::Error| format!("{folder}: {error}");
    let entries = match std::fs::read_dir(root().join(folder)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(said)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(said)?.file_name().display().to_string());
    }
    names.sort();
    Ok(names)
}
