//! The step `s3-sync`.

use std::process::ExitCode;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{Context, ErrorName, Function, Peer, Permissions, Progress, Resume, Step, StepError};
use stepward_s3::bucket::Encryption;
use stepward_s3::filter::Filter;
use stepward_s3::report::Done;
use stepward_s3::task::{self, Operation, Task};

/// Bring a folder or bucket up to date with another, as `aws s3 sync` does.
///
/// What the destination lacks is copied, and what it has with another size or an older time; all below the source, one of
/// which must be in S3. With `delete` what only the destination has is deleted: an empty source then empties the
/// destination. Names that the filters leave out are neither copied nor deleted.
///
/// Proven on the local cloud.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct S3Sync {
    /// From where: `s3://bucket/prefix`, or a directory below the deployment's local root.
    source: String,
    /// To where: `s3://bucket/prefix`, or a directory below the deployment's local root.
    destination: String,
    /// Which names are meant, in order: the last one that matches wins. All when absent.
    #[serde(default)]
    filters: Vec<Filter>,
    /// Delete what is at the destination and not at the source.
    #[serde(default)]
    delete: bool,
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

impl S3Sync {
    fn task(&self) -> Task<'_> {
        Task {
            operation: Operation::Sync(self.delete),
            source: &self.source,
            destination: &self.destination,
            recursive: true,
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

impl Step for S3Sync {
    const NAME: &'static str = "s3-sync";
    const RUNDECK: &'static [&'static str] = &["aws-cli-s3-sync-step"];
    const EXAMPLES: &'static [&'static str] = &[
        r#"{ "source": "reports", "destination": "s3://stepward-data-222222222222/reports", "delete": true }"#,
        r#"{ "source": "s3://stepward-data-222222222222/reports", "destination": "reports" }"#,
        r#"{ "source": "s3://stepward-data-333333333333", "source_account": "archive",
            "destination": "s3://stepward-data-222222222222/archive", "filters": [{ "exclude": "tmp/*" }] }"#,
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[];
    const TIMEOUT: Duration = task::TIMEOUT;
    const FUNCTION: Function = Function::TRANSFER;
    type Output = Done;

    fn validate(&self) -> Result<(), StepError> {
        self.task().validate()
    }

    fn permissions(&self) -> Permissions {
        self.task().permissions()
    }

    fn peer(&self) -> Option<Peer> {
        self.task().peer()
    }

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Done>, StepError> {
        self.task().run(ctx, resume).await
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        self.task().cancel(ctx, resume).await
    }
}

fn main() -> ExitCode {
    stepward::serve::<S3Sync>()
}
