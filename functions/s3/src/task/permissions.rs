//! The permissions of a task, in the step's account and in a second one.

use serde_json::json;
use stepward::model::permissions::literal;
use stepward::{Peer, Permissions};

use super::request::{Operation, Task, folder_prefix};
use crate::bucket_name::{bucket_arns, object_arns};
use crate::location::{Location, S3Uri};

/// The session policy allows the use of KMS keys through S3 only:
/// <https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-via-service>
const VIA_S3: &str = "s3.*.amazonaws.com";

impl Task<'_> {
    /// The permissions that the task needs in the step's account.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        let Ok((source, destination)) = self.locations() else {
            return Permissions::default();
        };
        let mut permissions = Permissions::default();
        if self.operation != Operation::Delete
            && let Location::S3(uri) = &source
        {
            let is_copy = matches!(destination, Location::S3(_));
            match (self.has_peer_source(), is_copy) {
                (false, _) => permissions = permissions.and(self.source_permissions(uri, is_copy)),
                // S3 copies with the permissions of the writing account, also from another one.
                (true, true) => {
                    permissions = permissions.allow(
                        "let S3 copy the objects, if source_account or source_region is set",
                        &["s3:GetObject", "s3:GetObjectTagging"],
                        self.object_arns(uri),
                    );
                }
                (true, false) => {}
            }
        }
        if let Location::S3(uri) = &destination {
            let is_copy = matches!(source, Location::S3(_));
            permissions = permissions.and(self.destination_permissions(uri, is_copy));
        }
        permissions
    }

    /// The account and Region of the source, if they are not the target's.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        let Ok((Location::S3(source), destination)) = self.locations() else {
            return None;
        };
        let is_copy = matches!(destination, Location::S3(_));
        self.has_peer_source().then(|| Peer {
            account: self.options.source_account.clone(),
            region: self.options.source_region.clone(),
            permissions: self.source_permissions(&source, is_copy),
        })
    }

    fn source_permissions(&self, uri: &S3Uri, is_copy: bool) -> Permissions {
        let objects = self.object_arns(uri);
        let mut permissions = Permissions::default().allow(
            "list the source bucket, and recognize objects that do not exist",
            &["s3:ListBucket"],
            bucket_arns(&uri.bucket),
        );
        permissions = allow_kms_keys(permissions).allow(
            "read the source objects",
            &["s3:GetObject"],
            objects.clone(),
        );

        if is_copy {
            permissions = permissions.allow(
                "copy the tags of the source objects",
                &["s3:GetObjectTagging"],
                objects.clone(),
            );
        }

        if self.operation == Operation::Move {
            permissions = permissions.allow(
                "delete the source objects after their copies are verified",
                &["s3:DeleteObject"],
                objects,
            );
        }
        permissions
    }

    fn destination_permissions(&self, uri: &S3Uri, is_copy: bool) -> Permissions {
        let bucket = bucket_arns(&uri.bucket);
        let objects = self.object_arns(uri);

        if self.operation == Operation::Delete {
            let delete =
                Permissions::default().allow("delete the objects", &["s3:DeleteObject"], objects);
            return if self.recursive {
                delete.allow(
                    "list the objects, if recursive is set",
                    &["s3:ListBucket"],
                    bucket,
                )
            } else {
                delete
            };
        }

        let mut permissions = Permissions::default().allow(
            "find multipart uploads that an interrupted call left unfinished",
            &["s3:ListBucketMultipartUploads"],
            bucket.clone(),
        );
        if matches!(self.operation, Operation::Sync(_)) {
            permissions = permissions.allow("list the destination", &["s3:ListBucket"], bucket);
        }
        permissions = allow_kms_keys(permissions)
            .allow("write the objects", &["s3:PutObject"], objects.clone())
            .allow(
                "verify written objects, after a lost response and before a move deletes a source",
                &["s3:GetObject"],
                objects.clone(),
            )
            .allow(
                "resume and abort multipart uploads",
                &["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
                objects.clone(),
            );

        if is_copy {
            permissions = permissions.allow(
                "write the tags of copied objects",
                &["s3:PutObjectTagging"],
                objects.clone(),
            );
        }

        if self.operation == Operation::Sync(true) {
            permissions = permissions.allow(
                "delete objects that the source lacks, if delete is set",
                &["s3:DeleteObject"],
                objects,
            );
        }
        permissions
    }

    /// The ARNs of the objects that the task handles in a bucket.
    fn object_arns(&self, uri: &S3Uri) -> Vec<String> {
        let is_prefix = self.recursive || uri.key.is_empty() || uri.key.ends_with('/');
        let (key, wildcard) = if is_prefix {
            (folder_prefix(&uri.key), "*")
        } else {
            (uri.key.clone(), "")
        };
        object_arns(&uri.bucket, &format!("{}{wildcard}", literal(&key)))
    }
}

/// Allows the use of KMS keys through S3: objects and buckets can be encrypted with any key, also
/// of other Regions and accounts. The role and the key policies decide which keys can be used.
fn allow_kms_keys(permissions: Permissions) -> Permissions {
    let condition = json!({ "StringLike": { "kms:ViaService": VIA_S3 } });
    permissions.allow_if(
        condition,
        "read and write objects that are encrypted with KMS keys",
        &["kms:Decrypt", "kms:GenerateDataKey"],
        ["arn:$partition:kms:*:*:key/*"],
    )
}
