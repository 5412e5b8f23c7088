//! The prefix or directory in which a transfer reads or writes.

use std::sync::Arc;

use crate::bucket::Bucket;
use crate::keys;
use crate::local::Root;

/// The prefix or directory that the names of a transfer are relative to.
#[derive(Clone, Debug)]
pub enum BaseLocation {
    /// A prefix in S3.
    S3 {
        /// The bucket.
        bucket: Bucket,
        /// What keys begin with; empty, or with a slash at its end.
        prefix: String,
    },
    /// A directory.
    Local {
        /// The local root.
        root: Arc<Root>,
        /// The directory, relative to the root.
        directory: String,
    },
}

impl BaseLocation {
    /// The key, or the path relative to the local root, of a name below this location.
    #[must_use]
    pub fn path_of(&self, name: &str) -> String {
        match self {
            Self::S3 { prefix, .. } => format!("{prefix}{name}"),
            Self::Local { directory, .. } if directory.is_empty() => name.to_owned(),
            Self::Local { directory, .. } => format!("{directory}/{name}"),
        }
    }

    /// The path of a name that filters match: `bucket/key`, or an absolute path.
    #[must_use]
    pub fn full_path_of(&self, name: &str) -> String {
        match self {
            Self::S3 { bucket, .. } => format!("{}/{}", bucket.name, self.path_of(name)),
            Self::Local { root, .. } => {
                format!("{}/{}", root.path().display(), self.path_of(name))
            }
        }
    }

    /// The URI or absolute path of a name for log lines, with control characters escaped.
    #[must_use]
    pub fn display(&self, name: &str) -> String {
        let scheme = if matches!(self, Self::S3 { .. }) {
            "s3://"
        } else {
            ""
        };
        format!("{scheme}{}", keys::escape_for_log(&self.full_path_of(name)))
    }
}
