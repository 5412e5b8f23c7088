//! The step `s3-copy`.

use std::process::ExitCode;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{Context, ErrorName, Function, Peer, Permissions, Progress, Resume, Step, StepError};
use stepward_s3::params::Transfer;
use stepward_s3::report::Done;
use stepward_s3::task::{self, Operation, Task};

/// Copy objects and files to S3, from S3 or within it, as `aws s3 cp` does.
///
/// Proven on the local cloud.
#[derive(Debug, Deserialize, JsonSchema)]
struct S3Copy(Transfer);

impl S3Copy {
    fn task(&self) -> Task<'_> {
        self.0.task(Operation::Copy)
    }
}

impl Step for S3Copy {
    const NAME: &'static str = "s3-copy";
    const RUNDECK: &'static [&'static str] = &["aws-cli-s3-cp-step"];
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
    stepward::serve::<S3Copy>()
}

#[cfg(test)]
#[path = "../testing.rs"]
mod testing;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::testing::{S3, done, in_root, step};
    use super::*;

    #[test]
    fn done_sends_a_small_file_with_its_checksum() {
        in_root(async |root| {
            let s3 = S3::default();
            std::fs::write(root.join("today.csv"), "a,b\n").unwrap();
            let copy = step::<S3Copy>(json!({ "source": "today.csv", "destination": "s3://data/reports/" }));
            let output = done(copy.run(&s3.context(), None).await);
            assert_eq!((output.transferred, output.bytes), (1, 4));
            println!("{:?}", s3.take());
        });
    }
}
