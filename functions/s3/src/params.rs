//! Parameters that S3 steps share. Each step merges them with its own parameters.

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::merged::Merged;

use crate::bucket::Encryption;
use crate::filter::Filter;

/// Which objects a step handles, and whether it changes anything: for `s3-copy`, `s3-move`,
/// `s3-sync` and `s3-delete`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// The objects or files to exclude and include, for example `[{"exclude": "*"}, {"include":
    /// "*.log"}]`. The last filter that matches a name decides; names that no filter matches are
    /// included. Patterns match names relative to the prefix or directory that you pass, and `*`
    /// also matches slashes.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Whether to change nothing, and only log what the step would do.
    #[serde(default)]
    pub dry_run: bool,
}

/// How objects are read and written: for `s3-copy`, `s3-move` and `s3-sync`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferOptions {
    /// The storage class of objects written to S3, for example `STANDARD_IA`. Default: `STANDARD`.
    pub storage_class: Option<String>,
    /// How S3 encrypts the objects it writes. Default: the bucket's default encryption.
    pub sse: Option<Encryption>,
    /// The ID or ARN of the KMS key for `sse` = `aws:kms`. Default: the AWS managed key for S3.
    pub sse_kms_key_id: Option<String>,
    /// The account that reads the source bucket. It must belong to the same customer. Default: the
    /// step's account.
    pub source_account: Option<String>,
    /// The Region of the source bucket. Default: the step's Region.
    pub source_region: Option<String>,
    /// The 12-digit ID of the account that owns the destination bucket. Default: the step's
    /// account.
    pub bucket_owner: Option<String>,
}

impl TransferOptions {
    /// No options, for steps that transfer nothing.
    pub(crate) const NONE: Self = Self {
        storage_class: None,
        sse: None,
        sse_kms_key_id: None,
        source_account: None,
        source_region: None,
        bucket_owner: None,
    };
}

/// The parameters that all steps with transfers share.
pub type Transfer = Merged<Selection, TransferOptions>;

/// Source and destination of `s3-copy` and `s3-move`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferLocations {
    /// Where to read: `s3://bucket/key`, or a path below the deployment's local root.
    pub source: String,
    /// Where to write: `s3://bucket/key`, or a path below the deployment's local root. If it ends
    /// with a slash or is a directory, the source's name is kept.
    pub destination: String,
    /// Whether to transfer everything under the source, instead of one object or file.
    #[serde(default)]
    pub recursive: bool,
}
