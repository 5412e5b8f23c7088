//! Reads files of the workspace by their path from its root.

use std::io::ErrorKind;

use stepward_testkit::build::root;

/// Returns the text of a file.
pub(crate) fn read_file(path: &str) -> Result<String, String> {
    std::fs::read_to_string(root().join(path)).map_err(|error| format!("{path}: {error}"))
}

/// Returns the sorted names of the entries of a folder. The list is empty if the folder does not
/// exist.
pub(crate) fn list_names(folder: &str) -> Result<Vec<String>, String> {
    let with_path = |error: std::io::Error| format!("{folder}: {error}");
    let entries = match std::fs::read_dir(root().join(folder)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(with_path)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(with_path)?.file_name().display().to_string());
    }
    names.sort();
    Ok(names)
}
