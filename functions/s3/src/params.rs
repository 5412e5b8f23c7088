//! The parameters that `s3-copy` and `s3-move` share.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::bucket::Encryption;
use crate::filter::Filter;
use crate::task::{Operation, Task};

/// From where to where, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct Transfer {
    /// From where: `s3://bucket/key`, or a path below the deployment's local root.
    source: String,
    /// To where: `s3://bucket/key`, or a path below the deployment's local root. With a slash at its end, or where it is a
    /// directory, the source's name is kept.
    destination: String,
    /// All below the source, and not the one object or file that it names.
    #[serde(default)]
    recursive: bool,
    /// Which names are meant, in order: the last one that matches wins. All when absent.
    #[serde(default)]
    filters: Vec<Filter>,
    /// Change nothing, only say what would be done.
    #[serde(default)]
    dry_run: bool,
    /// The storage class of what is written to S3, as in `STANDARD_IA`; `STANDARD` when absent.
    storage_class: Option<String>,
    /// How S3 encrypts what is written; the bucket's default when absent.
    sse: Option<Encryption>,
    /// The KMS key's ID or ARN for `aws:kms`; the key that AWS manages for S3 when absent.
    sse_kms_key_id: Option<String>,
    /// Another account of the same customer that the source bucket is read in.
    source_account: Option<String>,
    /// The Region of the source bucket, where it is not the target's.
    source_region: Option<String>,
    /// The account ID that owns the bucket that is written, where it is not the target's account.
    bucket_owner: Option<String>,
}

impl Transfer {
    /// What is to be done with them.
    #[must_use]
    pub fn task(&self, operation: Operation) -> Task<'_> {
        Task {
            operation,
            source: &self.source,
            destination: &self.destination,
            recursive: self.recursive,
            filters: &self.filters,
            dry_run: self.dry_run,
            storage_class: self.storage_class.as_deref(),
            sse: self.sse,
            sse_kms_key_id: self.sse_kms_key_id.as_deref(),
            source_account: self.source_account.as_deref(),
            source_region: self.source_region.as_deref(),
            bucket_owner: self.bucket_owner.as_deref(),
        }
    }
}
