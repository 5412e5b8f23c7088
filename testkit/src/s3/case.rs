//! A case: what is there, and the one operation that is done to it.

use std::collections::BTreeMap;
use std::fmt;

/// Everything that follows from a seed. `{root}`, `{a}`, `{b}` and `{none}` in texts stand for the
/// local root, two buckets and one that does not exist.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it was drawn from.
    pub seed: u64,
    /// Below the local root, parents before children; beside it is `outside/`, with one file.
    pub files: BTreeMap<String, Node>,
    /// The objects of bucket `a` and bucket `b`, by key.
    pub buckets: [BTreeMap<String, Object>; 2],
    /// What is done.
    pub operation: Operation,
}

/// Something in a file system.
#[derive(Clone, Debug)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file, last modified at this time: whole seconds since 1970, and whether half a second
    /// more.
    File(Content, i64, bool),
    /// A symbolic link to this.
    Link(String),
    /// A named pipe.
    Fifo,
}

/// What is in a file or an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// Contents of one size differ by this.
    pub fill: u32,
}

/// An object of a bucket.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its content.
    pub content: Content,
    /// Seconds since 1970.
    pub modified: i64,
    /// `Content-Type`.
    pub content_type: String,
    /// As in `STANDARD`.
    pub storage_class: String,
    /// `x-amz-meta-*`.
    pub metadata: BTreeMap<String, String>,
}

/// `aws s3 cp`, `mv`, `sync` or `rm`.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the command's flags, each of which is there or not"
)]
pub struct Operation {
    /// Which of them.
    pub verb: Verb,
    /// From where, or what is deleted.
    pub source: String,
    /// To where; empty for `rm`.
    pub destination: String,
    /// `--recursive`.
    pub recursive: bool,
    /// `--include` (true) and `--exclude` (false), in order.
    pub filters: Vec<(bool, String)>,
    /// `--delete`.
    pub delete: bool,
    /// `--dryrun`.
    pub dry_run: bool,
    /// `--size-only`, which only a wrong decision asks for.
    pub size_only: bool,
    /// `--storage-class`.
    pub storage_class: Option<&'static str>,
    /// `--sse`.
    pub sse: Option<&'static str>,
}

/// What the AWS CLI calls it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Verb {
    /// Copy.
    Cp,
    /// Move.
    Mv,
    /// Copy what is new or changed.
    Sync,
    /// Delete.
    Rm,
}

impl Content {
    /// The bytes. Every 64 of them are others, so that parts in the wrong order show.
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
    /// Whether a path below the root, or what it leads through, is a symbolic link.
    #[must_use]
    pub fn has_links(&self) -> bool {
        self.files
            .values()
            .any(|node| matches!(node, Node::Link(_)))
    }
}

impl Operation {
    /// Whether it works on everything below a place.
    #[must_use]
    pub fn is_of_directories(&self) -> bool {
        self.recursive || self.verb == Verb::Sync
    }

    /// Verb and direction, as in `sync up`.
    #[must_use]
    pub fn kind(&self) -> String {
        let is_s3 = |place: &str| place.starts_with("s3://");
        let direction = match (is_s3(&self.source), is_s3(&self.destination)) {
            _ if self.verb == Verb::Rm => "",
            (false, true) => " up",
            (true, false) => " down",
            (true, true) => " between buckets",
            (false, false) => " local",
        };
        format!("{}{direction}", self.verb.name())
    }

    /// The command's arguments, with the places as `put` writes them.
    #[must_use]
    pub fn arguments(&self, put: impl Fn(&str) -> String) -> Vec<String> {
        let mut all = vec![
            "s3".to_owned(),
            self.verb.name().to_owned(),
            put(&self.source),
        ];
        if self.verb != Verb::Rm {
            all.push(put(&self.destination));
        }
        for (flag, is_set) in [
            ("--recursive", self.recursive),
            ("--delete", self.delete),
            ("--dryrun", self.dry_run),
            ("--size-only", self.size_only),
        ] {
            all.extend(is_set.then(|| flag.to_owned()));
        }
        for (is_include, pattern) in &self.filters {
            all.push(format!(
                "--{}={}",
                if *is_include { "include" } else { "exclude" },
                put(pattern)
            ));
        }
        for (option, value) in [("--storage-class", self.storage_class), ("--sse", self.sse)] {
            all.extend(
                value
                    .into_iter()
                    .flat_map(|value| [option.to_owned(), value.to_owned()]),
            );
        }
        all
    }
}

impl Verb {
    /// As a command.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cp => "cp",
            Self::Mv => "mv",
            Self::Sync => "sync",
            Self::Rm => "rm",
        }
    }

    /// The step that does the same.
    #[must_use]
    pub fn step(self) -> &'static str {
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
