//! The parameters that S3 steps share. A step merges them with its own.

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::merged::Merged;

use crate::bucket::Encryption;
use crate::filter::Filter;

/// Which objects are meant, and whether anything is changed: in `s3-copy`, `s3-move`, `s3-sync` and
/// `s3-delete`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Which names are meant, in order: the last one that matches wins. All when absent.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Change nothing, only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// How objects are read and written: in `s3-copy`, `s3-move` and `s3-sync`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferOptions {
    /// The storage class of what is written to S3, as in `STANDARD_IA`; `STANDARD` when absent.
    pub storage_class: Option<String>,
    /// How S3 encrypts what is written; the bucket's default when absent.
    pub sse: Option<Encryption>,
    /// The KMS key's ID or ARN for `aws:kms`; the key that AWS manages for S3 when absent.
    pub sse_kms_key_id: Option<String>,
    /// Another account of the same customer that the source bucket is read in.
    pub source_account: Option<String>,
    /// The Region of the source bucket, where it is not the target's.
    pub source_region: Option<String>,
    /// The account ID that owns the bucket that is written, where it is not the target's account.
    pub bucket_owner: Option<String>,
}

impl TransferOptions {
    /// All absent, for steps that transfer nothing.
    pub(crate) const NONE: Self = Self {
        storage_class: None,
        sse: None,
        sse_kms_key_id: None,
        source_account: None,
        source_region: None,
        bucket_owner: None,
    };
}

/// All that the steps that transfer objects share.
pub type Transfer = Merged<Selection, TransferOptions>;

/// From where to where: in `s3-copy` and `s3-move`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Places {
    /// From where: `s3://bucket/key`, or a path below the deployment's local root.
    pub source: String,
    /// To where: `s3://bucket/key`, or a path below the deployment's local root. With a slash at
    /// its end, or where it is a directory, the source's name is kept.
    pub destination: String,
    /// All below the source, and not the one object or file that it names.
    #[serde(default)]
    pub recursive: bool,
}
