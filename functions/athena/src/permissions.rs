//! The permissions of a query.

use stepward::Permissions;
use stepward::model::permissions::{arn, literal, s3_arn};

/// The permissions to run a query in a workgroup. `result_bucket` is `None` if only the workgroup
/// names the bucket.
pub(crate) fn query_permissions(workgroup: &str, result_bucket: Option<&str>) -> Permissions {
    let workgroup = arn("athena", &format!("workgroup/{}", literal(workgroup)));
    let result_bucket = result_bucket.map_or_else(|| "*".into(), literal);
    let any_workgroup =
        "The request has only the query's ID, not its workgroup. Nobody can guess an ID.";
    Permissions::default()
        .allow(
            "start the query",
            &["athena:StartQueryExecution"],
            [workgroup],
        )
        .allow_on_all(
            "poll the query's state",
            &["athena:GetQueryExecution"],
            any_workgroup,
        )
        .allow_on_all(
            "read the first rows of the result",
            &["athena:GetQueryResults"],
            any_workgroup,
        )
        .allow_on_all(
            "stop the query when the job is stopped",
            &["athena:StopQueryExecution"],
            any_workgroup,
        )
        .and(table_permissions())
        .allow(
            "write the result to S3",
            &[
                "s3:PutObject",
                "s3:AbortMultipartUpload",
                "s3:ListMultipartUploadParts",
            ],
            [s3_arn(&format!("{result_bucket}/*"))],
        )
}

/// The permissions that Athena needs to read tables for the step.
fn table_permissions() -> Permissions {
    Permissions::default()
        .allow_on_all(
            "look up the statement's tables in the data catalog",
            &[
                "glue:GetDatabase",
                "glue:GetDatabases",
                "glue:GetTable",
                "glue:GetTables",
                "glue:GetPartition",
                "glue:GetPartitions",
                "glue:BatchGetPartition",
            ],
            "Athena looks up tables with the role's permissions, and only the statement names \
             them.",
        )
        .allow_on_all(
            "read the data of the statement's tables",
            &["s3:GetBucketLocation", "s3:ListBucket", "s3:GetObject"],
            "Athena reads the data of tables with the role's permissions, and only the statement \
             names them.",
        )
}
