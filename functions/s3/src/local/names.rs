//! Which paths there can be below the local root.

use stepward::StepError;
use stepward::model::error::ErrorName;
use stepward::model::input::require;

use super::path::lexical;
use super::root::Root;
use super::scratch::SCRATCH;

// https://man7.org/linux/man-pages/man3/limits.h.0p.html: NAME_MAX, and PATH_MAX without the NUL
// that ends a path.
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 4_095;

impl Root {
    /// Where a path, absolute or relative to the root, is below it: without `.`, `..` and doubled
    /// slashes, and empty for the root itself. `..` is taken back by name, before any link is
    /// followed, as in the AWS CLI.
    ///
    /// # Errors
    /// `InvalidInput` naming the parameter when it leaves the root or cannot be a path.
    pub fn resolve(&self, parameter: &str, path: &str) -> Result<String, StepError> {
        require(!path.is_empty(), || {
            format!("{parameter} is empty; the local root itself is \".\"")
        })?;
        let root = self.path.to_string_lossy();
        let above = if path.starts_with('/') {
            lexical(&root).unwrap_or_default()
        } else {
            Vec::new()
        };
        let clean =
            lexical(path).and_then(|clean| Some(clean.strip_prefix(above.as_slice())?.join("/")));
        let clean = clean.ok_or_else(|| {
            ErrorName::InvalidInput.with_message(format!(
                "{parameter} {path:?} leaves the local root {root}; stay below it"
            ))
        })?;
        match self.unfit(&clean) {
            Some(why) => Err(ErrorName::InvalidInput
                .with_message(format!("{parameter} {path:?} cannot be used: {why}"))),
            None => Ok(clean),
        }
    }

    /// Whether a key can be the name of a file below the directory `base`, a path from
    /// [`Self::resolve`].
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
        let because = |why| {
            ErrorName::InvalidInput
                .with_message(format!("key {key:?} cannot be the name of a file: {why}"))
        };
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

#[cfg(test)]
mod tests {
    use super::super::tests::{Tree, name};
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
    fn a_path_that_leaves_the_root_is_invalid_input_that_names_the_parameter() {
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
                error.message.starts_with("destination ") && error.message.contains("leaves"),
                "{path:?}: {error}"
            );
        }
    }

    #[test]
    fn a_path_that_no_file_can_have_is_invalid_input() {
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
            assert!(error.message.starts_with("source "), "{error}");
        }
    }

    #[test]
    fn keys_that_cannot_be_file_names_are_refused_with_the_reason() {
        let tree = Tree::new();
        for (base, key, why) in [
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
            let error = tree.root.check_key(base, key).unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(
                error.message.contains(why) && error.message.contains("key"),
                "{key:?}: {error}"
            );
        }
        let long = format!("{}b", "abc/".repeat(1_000));
        assert_eq!(name(tree.root.check_key("", &long)), None);
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
            assert_eq!(name(tree.root.check_key("", key)), None, "{key:?}");
        }
        assert_eq!(name(tree.root.check_key("d", ".stepward/a")), None);
    }
}
