//! Which paths there can be below the local root.

use stepward::StepError;
use stepward::error::ErrorName;
use stepward::input::require;

use super::Root;
use super::scratch::SCRATCH;

// https://man7.org/linux/man-pages/man3/limits.h.0p.html: NAME_MAX, and PATH_MAX without the NUL that ends a path.
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 4_095;

/// The parts of a path without `.`, `..` and empty ones, or `None` if a `..` climbs above where it begins.
pub(crate) fn lexical(path: &str) -> Option<Vec<&str>> {
    let mut clean = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(clean.pop()?),
            name => clean.push(name),
        }
    }
    Some(clean)
}

impl Root {
    /// Where a path, absolute or relative to the root, is below it: without `.`, `..` and doubled slashes, and empty for the
    /// root itself. `..` is taken back by name, before any link is followed, as in the AWS CLI.
    ///
    /// # Errors
    /// `InvalidInput` naming the parameter when it leaves the root or cannot be a path.
    pub fn resolve(&self, parameter: &str, path: &str) -> Result<String, StepError> {
        require(!path.is_empty(), || format!("{parameter} is empty; the local root itself is \".\""))?;
        let root = self.path.to_string_lossy();
        let above = if path.starts_with('/') { lexical(&root).unwrap_or_default() } else { Vec::new() };
        let clean = lexical(path).and_then(|clean| Some(clean.strip_prefix(above.as_slice())?.join("/")));
        let clean = clean.ok_or_else(|| {
            ErrorName::InvalidInput.because(format!("{parameter} {path:?} leaves the local root {root}; stay below it"))
        })?;
        match self.unfit(&clean) {
            Some(why) => Err(ErrorName::InvalidInput.because(format!("{parameter} {path:?} cannot be used: {why}"))),
            None => Ok(clean),
        }
    }

    /// Whether a key can be the name of a file below the directory `base`, a path from [`Self::resolve`].
    ///
    /// # Errors
    /// `InvalidInput` saying why not.
    pub fn check_key(&self, base: &str, key: &str) -> Result<(), StepError> {
        let odd = match key.split('/').find(|part| matches!(*part, "" | "." | "..")) {
            Some("") => Some("a part of it between slashes is empty"),
            Some(_) => Some("a part of it is . or .."),
            None if base.is_empty() => self.unfit(key),
            None => self.unfit(&format!("{base}/{key}")),
        };
        let because = |why| ErrorName::InvalidInput.because(format!("key {key:?} cannot be the name of a file: {why}"));
        odd.map_or(Ok(()), |why| Err(because(why)))
    }

    fn unfit(&self, clean: &str) -> Option<&'static str> {
        if clean.contains('\0') {
            Some("it has a NUL in it")
        } else if clean.split('/').any(|part| part.len() > LONGEST_NAME) {
            Some("a part of it is longer than 255 bytes")
        } else if self.path.as_os_str().len() + 1 + clean.len() > LONGEST_PATH {
            Some("with the local root before it, it is longer than 4,095 bytes")
        } else if clean.split('/').next() == Some(SCRATCH) {
            Some(".stepward is where Stepward keeps unfinished files")
        } else {
            None
        }
    }
}
