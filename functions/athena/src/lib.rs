//! The Athena step, how it reads the result of a query, and the permissions for tables.

mod error;
mod result;
pub mod steps;

use stepward::Permissions;

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
