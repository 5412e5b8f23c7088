//! Where objects or files are transferred from and to.

use std::sync::Arc;

use crate::bucket::Bucket;
use crate::keys;
use crate::local::Root;

/// One end of a transfer.
#[derive(Clone, Debug)]
pub enum End {
    /// Objects.
    S3 {
        /// Where.
        bucket: Bucket,
        /// What keys begin with; empty, or with a slash at its end.
        prefix: String,
    },
    /// Files.
    Local {
        /// The local root.
        root: Arc<Root>,
        /// The directory, below the root.
        base: String,
    },
}

impl End {
    /// A name below it, whole: a key, or a path below the root.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        match self {
            Self::S3 { prefix, .. } => format!("{prefix}{name}"),
            Self::Local { base, .. } if base.is_empty() => name.to_owned(),
            Self::Local { base, .. } => format!("{base}/{name}"),
        }
    }

    /// A name below it as filters see it, and people: `bucket/key`, or an absolute path.
    #[must_use]
    pub fn full_path(&self, name: &str) -> String {
        match self {
            Self::S3 { bucket, .. } => format!("{}/{}", bucket.name, self.path(name)),
            Self::Local { root, .. } => format!("{}/{}", root.path().display(), self.path(name)),
        }
    }

    /// A name below it, for a person: on one line, whatever is in it.
    #[must_use]
    pub fn shown(&self, name: &str) -> String {
        let scheme = if matches!(self, Self::S3 { .. }) {
            "s3://"
        } else {
            ""
        };
        format!("{scheme}{}", keys::shown(&self.full_path(name)))
    }
}
