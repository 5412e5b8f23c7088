//! The step `s3-move`.

use std::process::ExitCode;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{Context, ErrorName, Function, Peer, Permissions, Progress, Resume, Step, StepError};
use stepward_s3::params::Transfer;
use stepward_s3::report::Done;
use stepward_s3::task::{self, Operation, Task};

/// Move objects and files to S3, from S3 or within it, as `aws s3 mv` does.
///
/// Proven on the local cloud.
#[derive(Debug, Deserialize, JsonSchema)]
struct S3Move(Transfer);

impl S3Move {
    fn task(&self) -> Task<'_> {
        self.0.task(Operation::Move)
    }
}

impl Step for S3Move {
    const NAME: &'static str = "s3-move";
    const RUNDECK: &'static [&'static str] = &["aws-cli-s3-mv-step"];
    const EXAMPLES: &'static [&'static str] = &[
        r#"{ "source": "reports/today.csv", "destination": "s3://stepward-data-222222222222/reports/" }"#,
        r#"{ "source": "s3://stepward-data-222222222222/reports", "destination": "reports", "recursive": true,
            "filters": [{ "exclude": "*" }, { "include": "*.csv" }] }"#,
        r#"{ "source": "s3://stepward-data-333333333333/reports", "source_account": "archive",
            "destination": "s3://stepward-data-222222222222/reports", "recursive": true }"#,
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
    stepward::serve::<S3Move>()
}
