//! The step `s3-delete`.

use std::process::ExitCode;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{Context, ErrorName, Function, Permissions, Progress, Resume, Step, StepError};
use stepward_s3::filter::Filter;
use stepward_s3::report::Done;
use stepward_s3::task::{self, Operation, Task};

/// Delete objects, as `aws s3 rm` does.
///
/// Proven on the local cloud.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct S3Delete {
    /// What to delete: `s3://bucket/key`, or with `recursive` all below `s3://bucket/prefix`.
    uri: String,
    /// Which names are meant, in order: the last one that matches wins. All when absent.
    #[serde(default)]
    filters: Vec<Filter>,
    /// All below the prefix, and not the one object that it names.
    #[serde(default)]
    recursive: bool,
    /// Change nothing, only say what would be done.
    #[serde(default)]
    dry_run: bool,
    /// The account ID that owns the bucket, where it is not the target's account.
    bucket_owner: Option<String>,
}

impl S3Delete {
    fn task(&self) -> Task<'_> {
        Task {
            operation: Operation::Delete,
            source: &self.uri,
            destination: &self.uri,
            recursive: self.recursive,
            filters: &self.filters,
            dry_run: self.dry_run,
            storage_class: None,
            sse: None,
            sse_kms_key_id: None,
            source_account: None,
            source_region: None,
            bucket_owner: self.bucket_owner.as_deref(),
        }
    }
}

impl Step for S3Delete {
    const NAME: &'static str = "s3-delete";
    const RUNDECK: &'static [&'static str] = &["aws-cli-s3-rm-step"];
    const EXAMPLES: &'static [&'static str] = &[
        r#"{ "uri": "s3://stepward-data-222222222222/reports/2025", "recursive": true }"#,
        r#"{ "uri": "s3://stepward-data-222222222222/reports/today.csv" }"#,
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[];
    const TIMEOUT: Duration = task::TIMEOUT;
    const FUNCTION: Function = Function { local_files: false, ..Function::TRANSFER };
    type Output = Done;

    fn validate(&self) -> Result<(), StepError> {
        self.task().validate()
    }

    fn permissions(&self) -> Permissions {
        self.task().permissions()
    }

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Done>, StepError> {
        self.task().run(ctx, resume).await
    }
}

fn main() -> ExitCode {
    stepward::serve::<S3Delete>()
}
