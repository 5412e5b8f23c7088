//! Creates folders for test runs. Several processes, and several tests of one process, use the same
//! target directory at the same time.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Creates a new folder below `parent` whose name begins with `name`, and returns its path without
/// symbolic links.
///
/// # Errors
/// If the folder cannot be created.
pub fn create_run_dir(parent: &Path, name: &str) -> Result<PathBuf, String> {
    let with_path = |path: &Path, error: &std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(parent).map_err(|error| with_path(parent, &error))?;
    let parent = parent
        .canonicalize()
        .map_err(|error| with_path(parent, &error))?;

    // An existing folder belongs to another test of this process, or to an ended process that had
    // the same ID.
    for number in 0_u32.. {
        let dir = parent.join(format!("{name}-{}-{number}", std::process::id()));
        match std::fs::create_dir(&dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            result => {
                return result
                    .map(|()| dir.clone())
                    .map_err(|error| with_path(&dir, &error));
            }
        }
    }
    Err(format!(
        "{}: too many folders have a name that begins with {name:?}; delete old folders",
        parent.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use super::*;

    #[test]
    fn parallel_runs_get_different_directories() {
        let parent = std::env::temp_dir().join(format!("stepward-run-dir-{}", std::process::id()));
        let dirs: Vec<_> = thread::scope(|scope| {
            let create = || create_run_dir(&parent, "test").unwrap();
            let threads: Vec<_> = (0..20).map(|_| scope.spawn(create)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(dirs.iter().all(|dir| dir.is_dir()));
        assert_eq!(dirs.iter().collect::<BTreeSet<_>>().len(), 20);
        std::fs::remove_dir_all(parent).unwrap();
    }
}
