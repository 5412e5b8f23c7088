//! Which paths are possible below the local root.

use stepward::StepError;
use stepward::model::error::ErrorName;
use stepward::model::input::require;

use super::path::clean_path;
use super::root::Root;
use super::scratch::SCRATCH_DIR;

// NAME_MAX, and PATH_MAX without the final NUL:
// https://man7.org/linux/man-pages/man3/limits.h.0p.html
const MAX_NAME_BYTES: usize = 255;
const MAX_PATH_BYTES: usize = 4_095;

impl Root {
    /// Resolves a path, absolute or relative to the root, to a path relative to the root: without
    /// `.`, `..` and doubled slashes, and empty for the root itself. `..` is resolved by name,
    /// before links are followed, as in the AWS CLI.
    ///
    /// # Errors
    /// `InvalidInput` with the parameter's name if the path leaves the root or cannot be a path.
    pub fn resolve(&self, parameter: &str, path: &str) -> Result<String, StepError> {
        require(!path.is_empty(), || {
            format!(
                "parameter \"{parameter}\": expected a path, got \"\"; use \".\" for the local root"
            )
        })?;
        let root = self.path.to_string_lossy();
        let above = if path.starts_with('/') {
            clean_path(&root).unwrap_or_default()
        } else {
            Vec::new()
        };
        let clean = clean_path(path)
            .and_then(|clean| Some(clean.strip_prefix(above.as_slice())?.join("/")));
        let clean = clean.ok_or_else(|| {
            ErrorName::InvalidInput.with_message(format!(
                "parameter \"{parameter}\": {path:?} leaves the local root {root:?}; use a path \
                 below it"
            ))
        })?;
        match self.unusable_reason(&clean) {
            Some(reason) => Err(ErrorName::InvalidInput.with_message(format!(
                "parameter \"{parameter}\": {path:?} cannot be used: {reason}"
            ))),
            None => Ok(clean),
        }
    }

    /// Checks that a key can be the name of a file below `directory`, a path from
    /// [`Self::resolve`].
    ///
    /// # Errors
    /// `InvalidInput` with the reason.
    pub fn check_key(&self, directory: &str, key: &str) -> Result<(), StepError> {
        let reason = match key.split('/').find(|part| matches!(*part, "" | "." | "..")) {
            Some("") => Some("a part between slashes is empty"),
            Some(_) => Some("a part between slashes is . or .."),
            None if directory.is_empty() => self.unusable_reason(key),
            None => self.unusable_reason(&format!("{directory}/{key}")),
        };
        match reason {
            Some(reason) => Err(ErrorName::InvalidInput.with_message(format!(
                "key {key:?} cannot be the name of a file: {reason}"
            ))),
            None => Ok(()),
        }
    }

    /// Why a clean path cannot be used; `None` if it can.
    fn unusable_reason(&self, clean: &str) -> Option<&'static str> {
        if clean.contains('\0') {
            Some("it contains a NUL character")
        } else if clean.split('/').any(|part| part.len() > MAX_NAME_BYTES) {
            Some("a part between slashes is longer than 255 bytes")
        } else if self.path.as_os_str().len() + 1 + clean.len() > MAX_PATH_BYTES {
            Some("together with the local root it is longer than 4,095 bytes")
        } else if clean.split('/').next() == Some(SCRATCH_DIR) {
            Some("Stepward keeps unfinished files in .stepward")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Tree, error_name};
    use super::*;

    #[test]
    fn a_path_is_cleaned_by_name_and_may_be_absolute() {
        let tree = Tree::new();
        let root = tree.root.path().to_str().unwrap();
        for (path, clean) in [
            ("a", "a".to_owned()),
            ("a//b/./c/", "a/b/c".into()),
            ("a/../b", "b".into()),
            (".", String::new()),
            ("./", String::new()),
            (root, String::new()),
            (&format!("{root}/a/../b/"), "b".into()),
            (&format!("/{root}//x"), "x".into()),
            (&format!("{root}/../root/x"), "x".into()),
            (" ", " ".into()),
        ] {
            assert_eq!(
                tree.root.resolve("source", path).unwrap(),
                clean,
                "{path:?}"
            );
        }
    }

    #[test]
    fn a_path_that_leaves_the_root_is_invalid_input() {
        let tree = Tree::new();
        let root = tree.root.path().to_str().unwrap();
        for path in [
            "..",
            "../x",
            "a/../../root",
            "/",
            "/etc",
            &format!("{root}/.."),
            &format!("{root}x"),
            &format!("{root}/../outside/f"),
        ] {
            let error = tree.root.resolve("destination", path).unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(
                error.message.starts_with("parameter \"destination\": ")
                    && error.message.contains("leaves"),
                "{path:?}: {error}"
            );
        }
    }

    #[test]
    fn a_path_that_cannot_exist_is_invalid_input() {
        let tree = Tree::new();
        for path in [
            "",
            "a\0b",
            ".stepward",
            ".stepward/x",
            "a/../.stepward/x",
            &"a".repeat(256),
            &"a/".repeat(2_048),
        ] {
            let error = tree.root.resolve("source", path).unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{path:?}");
            assert!(
                error.message.starts_with("parameter \"source\": "),
                "{error}"
            );
        }
    }

    #[test]
    fn keys_that_cannot_be_file_names_are_refused() {
        let tree = Tree::new();
        for (directory, key, reason) in [
            ("d", "a//b", "empty"),
            ("d", "/a", "empty"),
            ("d", "a/", "empty"),
            ("d", "", "empty"),
            ("d", "a/./b", ". or .."),
            ("d", "../a", ". or .."),
            ("d", "a\0", "NUL"),
            ("d", &"é".repeat(128), "255 bytes"),
            ("d", &"abc/".repeat(1_023), "empty"),
            ("", ".stepward/a", ".stepward"),
            ("", ".stepward", ".stepward"),
            (".stepward", "a", ".stepward"),
        ] {
            let error = tree.root.check_key(directory, key).unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(
                error.message.contains(reason) && error.message.contains("key"),
                "{key:?}: {error}"
            );
        }
        let long = format!("{}b", "abc/".repeat(1_000));
        assert_eq!(error_name(tree.root.check_key("", &long)), None);
        assert!(
            tree.root
                .check_key(&"d".repeat(94), &long)
                .unwrap_err()
                .message
                .contains("4,095")
        );
    }

    #[test]
    fn all_other_keys_are_file_names() {
        let tree = Tree::new();
        for key in ["a", "a b\n", "...", "a/.b/c", "\\", "é", "~", "C:", "*"] {
            assert_eq!(error_name(tree.root.check_key("", key)), None, "{key:?}");
        }
        assert_eq!(error_name(tree.root.check_key("d", ".stepward/a")), None);
    }
}
