//! The permissions of a query.

use serde_json::json;
use stepward::Permissions;
use stepward::model::permissions::{arn, literal, s3_arn};

/// The permissions to run a query in a workgroup. `result_bucket` is `None` if only the workgroup
/// names the bucket.
pub(crate) fn query_permissions(workgroup: &str, result_bucket: Option<&str>) -> Permissions {
    let workgroup = arn("athena", &format!("workgroup/{}", literal(workgroup)));
    let result_bucket = result_bucket.map_or_else(|| "*".into(), literal);
    let any_workgroup = "AWS cannot limit this action to the workgroup, because the request contains only the \
         query's ID. Another query can be read or stopped only if its ID is known.";
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

/// The permissions that Athena needs to read tables for the step. The role and the key policies
/// decide which KMS keys it can use.
/// <https://docs.aws.amazon.com/athena/latest/ug/encryption.html>,
/// <https://docs.aws.amazon.com/athena/latest/ug/access-encrypted-data-glue-data-catalog.html>,
/// <https://docs.aws.amazon.com/athena/latest/ug/lf-athena-user-permissions.html>
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
            "The tables are known only from the SQL statement, which Stepward does not parse. \
             Athena looks them up with the role's permissions.",
        )
        .allow_on_all(
            "read the data of the statement's tables",
            &["s3:GetBucketLocation", "s3:ListBucket", "s3:GetObject"],
            "The tables are known only from the SQL statement, which Stepward does not parse. \
             Athena reads their data with the role's permissions.",
        )
        .allow(
            "read the data of tables that Lake Formation manages",
            &["lakeformation:GetDataAccess"],
            ["*"],
        )
        .allow_if(
            json!({ "StringLike": { "kms:ViaService": ["s3.*", "glue.*"] } }),
            "read encrypted tables and an encrypted data catalog, and write an encrypted result",
            &["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"],
            ["arn:$partition:kms:*:*:key/*"],
        )
}
