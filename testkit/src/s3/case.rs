//! A test case: the initial files and objects, and one operation.

use std::collections::BTreeMap;
use std::fmt;

/// A test case, which is generated from a seed. The placeholders `{root}`, `{a}`, `{b}` and
/// `{none}` in its texts mean the local root, two buckets, and a bucket that does not exist.
#[derive(Clone, Debug)]
pub struct Case {
    /// The seed.
    pub seed: u64,
    /// The files below the local root, parents before children. Next to the local root is the
    /// directory `outside/` with one file.
    pub files: BTreeMap<String, Node>,
    /// The objects of the buckets `a` and `b`, by key.
    pub buckets: [BTreeMap<String, Object>; 2],
    /// The operation.
    pub operation: Operation,
}

/// An entry of a file system.
#[derive(Clone, Debug)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file, and the time of its last modification: seconds since 1970, and whether half a second
    /// is added.
    File(Content, i64, bool),
    /// A symbolic link to this target.
    Link(String),
    /// A named pipe.
    Fifo,
}

/// The content of a file or an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Content {
    /// The size in bytes.
    pub size: u64,
    /// A number that distinguishes contents of the same size.
    pub fill: u32,
}

/// An object of a bucket.
#[derive(Clone, Debug)]
pub struct Object {
    /// The content.
    pub content: Content,
    /// The time of the last modification, in seconds since 1970.
    pub modified: i64,
    /// The content type.
    pub content_type: String,
    /// The storage class, for example `STANDARD`.
    pub storage_class: String,
    /// The user-defined metadata.
    pub metadata: BTreeMap<String, String>,
}

/// `aws s3 cp`, `mv`, `sync` or `rm`.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of the command")]
pub struct Operation {
    /// The command.
    pub verb: Verb,
    /// The source. For `rm`, the location to delete.
    pub source: String,
    /// The destination. It is empty for `rm`.
    pub destination: String,
    /// `--recursive`.
    pub recursive: bool,
    /// `--include` (true) and `--exclude` (false), in order.
    pub filters: Vec<(bool, String)>,
    /// `--delete`.
    pub delete: bool,
    /// `--dryrun`.
    pub dry_run: bool,
    /// `--size-only`, which only a deliberate mistake uses.
    pub size_only: bool,
    /// `--storage-class`.
    pub storage_class: Option<&'static str>,
    /// `--sse`.
    pub sse: Option<&'static str>,
}

/// The name of the command in the AWS CLI.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Verb {
    /// Copy.
    Cp,
    /// Move.
    Mv,
    /// Copy new and changed files or objects.
    Sync,
    /// Delete.
    Rm,
}

impl Content {
    /// Returns the bytes. Each block of 64 bytes is different, so that the comparison finds parts
    /// in a wrong order.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for block in 0..self.size.div_ceil(64) {
            bytes.extend(format!("{block:08x}{:08x}{:.<47}\n", self.fill, "").bytes());
        }
        bytes.truncate(usize::try_from(self.size).unwrap_or(usize::MAX));
        bytes
    }
}

impl Case {
    /// Returns whether any of the files is a symbolic link.
    #[must_use]
    pub fn has_links(&self) -> bool {
        self.files
            .values()
            .any(|node| matches!(node, Node::Link(_)))
    }
}

impl Operation {
    /// Returns whether the operation handles everything below a location.
    #[must_use]
    pub fn is_recursive(&self) -> bool {
        self.recursive || self.verb == Verb::Sync
    }

    /// Returns the command and its direction, for example `sync up`.
    #[must_use]
    pub fn kind(&self) -> String {
        let is_s3 = |location: &str| location.starts_with("s3://");
        let direction = match (is_s3(&self.source), is_s3(&self.destination)) {
            _ if self.verb == Verb::Rm => "",
            (false, true) => " up",
            (true, false) => " down",
            (true, true) => " between buckets",
            (false, false) => " local",
        };
        format!("{}{direction}", self.verb.name())
    }

    /// Returns the arguments of the command. `with_names` replaces the placeholders.
    #[must_use]
    pub fn arguments(&self, with_names: impl Fn(&str) -> String) -> Vec<String> {
        let mut arguments = vec![
            "s3".to_owned(),
            self.verb.name().to_owned(),
            with_names(&self.source),
        ];
        if self.verb != Verb::Rm {
            arguments.push(with_names(&self.destination));
        }
        for (flag, is_set) in [
            ("--recursive", self.recursive),
            ("--delete", self.delete),
            ("--dryrun", self.dry_run),
            ("--size-only", self.size_only),
        ] {
            arguments.extend(is_set.then(|| flag.to_owned()));
        }
        for (is_include, pattern) in &self.filters {
            arguments.push(format!(
                "--{}={}",
                if *is_include { "include" } else { "exclude" },
                with_names(pattern)
            ));
        }
        for (option, value) in [("--storage-class", self.storage_class), ("--sse", self.sse)] {
            arguments.extend(
                value
                    .into_iter()
                    .flat_map(|value| [option.to_owned(), value.to_owned()]),
            );
        }
        arguments
    }
}

impl Verb {
    /// Returns the name of the command.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cp => "cp",
            Self::Mv => "mv",
            Self::Sync => "sync",
            Self::Rm => "rm",
        }
    }

    /// Returns the name of the corresponding step.
    #[must_use]
    pub fn step_name(self) -> &'static str {
        match self {
            Self::Cp => "s3-copy",
            Self::Mv => "s3-move",
            Self::Sync => "s3-sync",
            Self::Rm => "s3-delete",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "aws")?;
        self.arguments(str::to_owned)
            .iter()
            .try_for_each(|argument| {
                let is_plain = argument
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_=/:.{}".contains(c));
                if is_plain {
                    write!(f, " {argument}")
                } else {
                    write!(f, " {argument:?}")
                }
            })
    }
}
