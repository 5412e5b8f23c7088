//! Code in the form that Lambda accepts: runtime, handler and ZIP file.

use std::io::{Cursor, Write};

use aws_sdk_lambda::types::Runtime;
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{ErrorName, StepError};
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{DateTime, ZipWriter};

/// The language of the code.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Language {
    /// Python 3.13.
    Python,
    /// Node.js 22.
    #[serde(rename = "Node.js")]
    NodeJs,
    /// Ruby 3.4.
    Ruby,
}

/// The function in the code that Lambda calls.
#[derive(Debug, Eq, PartialEq)]
pub struct Handler {
    /// The name of the file that contains the code.
    pub file: String,
    /// The handler in the form `file.function`.
    pub name: String,
}

impl Language {
    /// The runtime for the code.
    ///
    /// Node.js 22 is the last runtime that supports handlers with a callback, which older code has.
    /// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html> (Lambda creates
    /// functions
    /// with it until June 2027)
    #[must_use]
    pub fn runtime(self) -> Runtime {
        match self {
            Self::Python => Runtime::Python313,
            Self::NodeJs => Runtime::Nodejs22x,
            Self::Ruby => Runtime::Ruby34,
        }
    }

    /// The handler from a parameter, `function` or `file.function`, or the language's default.
    /// `None` if the parameter has another form. A file's name has letters, digits, `_` and `-`. A
    /// function's name can also have namespaces.
    #[must_use]
    pub fn handler(self, handler: Option<&str>, code: &str) -> Option<Handler> {
        let (file, function) = match self {
            Self::Python | Self::Ruby => ("lambda_function", "lambda_handler"),
            Self::NodeJs => ("index", "handler"),
        };
        let handler = handler.unwrap_or(function);
        let (file, function) = handler.split_once('.').unwrap_or((file, handler));
        let is_name = |text: &str, punctuation: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || punctuation.contains(char::from(b)))
        };
        if handler.len() > 100 || !is_name(file, "_-") || !is_name(function, "_.:$") {
            return None;
        }
        let extension = match self {
            Self::Python => "py",
            Self::Ruby => "rb",
            // Lambda disables the detection of ES modules in Node.js 22.
            // https://docs.aws.amazon.com/lambda/latest/dg/lambda-nodejs.html (experimental
            // features)
            Self::NodeJs if code.lines().any(|line| line.starts_with("export ")) => "mjs",
            Self::NodeJs => "js",
        };
        Some(Handler {
            file: format!("{file}.{extension}"),
            name: format!("{file}.{function}"),
        })
    }
}

/// A ZIP file that contains one file. The same code gives the same bytes, and every user can read
/// the file, which Lambda requires.
///
/// # Errors
/// `Internal` if the file cannot be written, which does not happen in memory.
pub fn zip_code(file: &str, code: &str) -> Result<Vec<u8>, StepError> {
    let zip = || -> Result<Vec<u8>, ZipError> {
        let options = SimpleFileOptions::default()
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644);
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file(file, options)?;
        zip.write_all(code.as_bytes())?;
        Ok(zip.finish()?.into_inner())
    };
    zip().map_err(|error| {
        ErrorName::Internal.with_message(format!("the code could not be zipped: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler_parts(language: Language, handler: Option<&str>, code: &str) -> (String, String) {
        let Handler { file, name } = language.handler(handler, code).unwrap();
        (file, name)
    }

    #[test]
    fn each_language_has_its_file_and_default_handler() {
        for (language, parameter, code, file, name) in [
            (
                Language::Python,
                None,
                "",
                "lambda_function.py",
                "lambda_function.lambda_handler",
            ),
            (
                Language::Python,
                Some("clean"),
                "",
                "lambda_function.py",
                "lambda_function.clean",
            ),
            (
                Language::Python,
                Some("job.clean"),
                "",
                "job.py",
                "job.clean",
            ),
            (
                Language::Ruby,
                Some("job.Logs::Cleaner.run"),
                "",
                "job.rb",
                "job.Logs::Cleaner.run",
            ),
            (
                Language::NodeJs,
                None,
                "exports.handler = 1",
                "index.js",
                "index.handler",
            ),
            (
                Language::NodeJs,
                None,
                "// x\nexport const handler = 1",
                "index.mjs",
                "index.handler",
            ),
        ] {
            assert_eq!(
                handler_parts(language, parameter, code),
                (file.to_owned(), name.to_owned())
            );
        }
        for invalid in [
            "",
            ".",
            "a.",
            ".b",
            "../a.b",
            "a b",
            "a/b.c",
            &"x".repeat(101),
        ] {
            assert_eq!(
                Language::Python.handler(Some(invalid), ""),
                None,
                "{invalid}"
            );
        }
    }

    #[test]
    fn the_same_code_gives_the_same_readable_zip_file() {
        let zip = zip_code("index.js", "exports.handler = 1").unwrap();
        assert_eq!(zip, zip_code("index.js", "exports.handler = 1").unwrap());
        let mut archive = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
        let mut file = archive.by_name("index.js").unwrap();
        assert_eq!(file.unix_mode().map(|mode| mode & 0o777), Some(0o644));
        assert_eq!(
            std::io::read_to_string(&mut file).unwrap(),
            "exports.handler = 1"
        );
    }
}
