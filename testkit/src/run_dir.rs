//! Folders that belong to one run: several runs work below one target directory at the same time,
//! and several tests in one process.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Makes a folder that nobody else has, below `parent` and with a name that begins with `name`. Its
/// path contains no symbolic links.
///
/// # Errors
/// What the file system says.
pub fn new_run_dir(parent: &Path, name: &str) -> Result<PathBuf, String> {
    let failed = |path: &Path, error: &std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(parent).map_err(|error| failed(parent, &error))?;
    let parent = parent
        .canonicalize()
        .map_err(|error| failed(parent, &error))?;
    // A folder of that name belongs to another test of this process, or was left by a process that
    // had its number.
    for number in 0_u32.. {
        let dir = parent.join(format!("{name}-{}-{number}", std::process::id()));
        match std::fs::create_dir(&dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => {
                return made
                    .map(|()| dir.clone())
                    .map_err(|error| failed(&dir, &error));
            }
        }
    }
    Err(format!(
        "{}: no name for a folder is left",
        parent.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use super::*;

    #[test]
    fn every_run_directory_is_new() {
        let parent = std::env::temp_dir().join(format!("stepward-run-dir-{}", std::process::id()));
        let made: Vec<_> = thread::scope(|scope| {
            let one = || new_run_dir(&parent, "test").unwrap();
            let threads: Vec<_> = (0..20).map(|_| scope.spawn(one)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(made.iter().all(|dir| dir.is_dir()));
        assert_eq!(made.iter().collect::<BTreeSet<_>>().len(), 20);
        std::fs::remove_dir_all(parent).unwrap();
    }
}
