//! What a transfer may do, and where.

use serde_json::json;
use stepward::model::permissions::{literal, s3_arn};
use stepward::{Peer, Permissions};

use super::request::{Operation, Task, prefix};
use crate::place::{Place, Uri};

/// Session policies let S3 alone use KMS keys, for objects that are encrypted with them.
/// <https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-via-service>
const VIA_S3: &str = "s3.*.amazonaws.com";

impl Task<'_> {
    /// What the task does in the target's account.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        let Ok((source, destination)) = self.places() else {
            return Permissions::default();
        };
        let mut all = Permissions::default();
        if self.operation != Operation::Delete {
            // Also where another account reads the source: S3 copies with the permissions of who
            // writes.
            if let Place::S3(from) = &source {
                let copies = matches!(destination, Place::S3(_));
                match (self.is_elsewhere(), copies) {
                    (false, _) => all = all.and(self.reading(from, copies)),
                    (true, true) => {
                        all = all.allow(
                            "TODO",
                            &["s3:GetObject", "s3:GetObjectTagging"],
                            [self.objects(from)],
                        )
                    }
                    (true, false) => {}
                }
            }
        }
        if let Place::S3(to) = &destination {
            all = all.and(self.writing(to, matches!(source, Place::S3(_))));
        }
        all
    }

    /// Where the source is read, if not in the target's account and Region.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        let Ok((Place::S3(from), destination)) = self.places() else {
            return None;
        };
        let permissions = self.reading(&from, matches!(destination, Place::S3(_)));
        let (account, region) = (
            self.options.source_account.clone(),
            self.options.source_region.clone(),
        );
        self.is_elsewhere().then_some(Peer {
            account,
            region,
            permissions,
        })
    }

    fn reading(&self, from: &Uri, copies: bool) -> Permissions {
        let mut actions = vec!["s3:GetObject"];
        if copies {
            actions.push("s3:GetObjectTagging");
        }
        if self.operation == Operation::Move {
            actions.push("s3:DeleteObject");
        }
        decrypting(Permissions::default().allow(
            "TODO",
            &["s3:ListBucket"],
            [s3_arn(&literal(&from.bucket))],
        ))
        .allow("TODO", &actions, [self.objects(from)])
    }

    fn writing(&self, to: &Uri, copies: bool) -> Permissions {
        let bucket = s3_arn(&literal(&to.bucket));
        let delete = Permissions::default().allow("TODO", &["s3:DeleteObject"], [self.objects(to)]);
        if self.operation == Operation::Delete {
            return if self.recursive {
                delete.allow("TODO", &["s3:ListBucket"], [bucket])
            } else {
                delete
            };
        }
        let mut of_bucket = vec!["s3:ListBucketMultipartUploads"];
        // What was written is looked at where S3's answer to it was lost, and before a move deletes
        // its source.
        let mut of_objects = vec![
            "s3:PutObject",
            "s3:GetObject",
            "s3:AbortMultipartUpload",
            "s3:ListMultipartUploadParts",
        ];
        if copies {
            of_objects.push("s3:PutObjectTagging");
        }
        if matches!(self.operation, Operation::Sync(_)) {
            of_bucket.push("s3:ListBucket");
        }
        let all = decrypting(Permissions::default().allow("TODO", &of_bucket, [bucket])).allow(
            "TODO",
            &of_objects,
            [self.objects(to)],
        );
        if self.operation == Operation::Sync(true) {
            all.and(delete)
        } else {
            all
        }
    }

    /// The ARN of the objects that are meant.
    fn objects(&self, uri: &Uri) -> String {
        let many = self.recursive || uri.key.is_empty() || uri.key.ends_with('/');
        let (bucket, key) = (
            literal(&uri.bucket),
            if many {
                prefix(&uri.key)
            } else {
                uri.key.clone()
            },
        );
        s3_arn(&format!(
            "{bucket}/{}{}",
            literal(&key),
            if many { "*" } else { "" }
        ))
    }
}

/// Permission to use KMS keys, for S3 alone: objects and buckets may be encrypted with any, of
/// other Regions and accounts too. Which ones is for the role and for the keys' own policies to
/// say.
fn decrypting(permissions: Permissions) -> Permissions {
    let via = json!({ "StringLike": { "kms:ViaService": VIA_S3 } });
    permissions.allow_if(
        via,
        "TODO",
        &["kms:Decrypt", "kms:GenerateDataKey"],
        ["arn:$partition:kms:*:*:key/*"],
    )
}
