//! What a copy or a move needs on the local cloud, and the parameters for it.

use std::fs;
use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use serde_json::{Value, json};
use stepward_testkit::proof::Scene;

use super::mib_bytes;

// Why a permission is not needed in a proof.
const KMS: &str = "The local cloud encrypts nothing with keys of its own.";
const PARTS: &str =
    "Only an upload that failed or goes on needs it; what is sent then is proven above.";
pub(crate) const ACROSS: &str =
    "Only what goes from bucket to bucket needs it; that has proofs of its own.";
pub(crate) const DOWN: &str = "Only a source in S3 needs it; that has proofs of its own.";
pub(crate) const UP: &str = "Only a destination in S3 needs it; that has proofs of its own.";
pub(crate) const LARGE: &str = "Only large objects go in parts; the proof of an upload has one.";
const ALWAYS: [(&str, &str); 4] = [
    ("kms:Decrypt", KMS),
    ("kms:GenerateDataKey", KMS),
    ("s3:AbortMultipartUpload", PARTS),
    ("s3:ListMultipartUploadParts", PARTS),
];

/// What a proof does without, and why, whatever is transferred.
pub(crate) fn idle(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&ALWAYS, more].concat()
}

/// A file that goes up in parts.
pub(crate) async fn up(scene: &Scene, root: &Path) -> Value {
    fs::create_dir_all(root.join("up")).unwrap();
    fs::write(root.join("up/large"), mib_bytes(8)).unwrap();
    let bucket = made(scene, "data").await;
    json!({ "source": "up", "destination": format!("s3://{bucket}"), "recursive": true })
}

/// An object that comes down.
pub(crate) async fn down(scene: &Scene) -> Value {
    let bucket = made(scene, "data").await;
    scene
        .client(Client::new)
        .put_object()
        .bucket(&bucket)
        .key("in/a")
        .send()
        .await
        .unwrap();
    json!({ "source": format!("s3://{bucket}/in"), "destination": "down", "recursive": true })
}

/// An object with a tag that goes from one bucket to another.
pub(crate) async fn between_buckets(scene: &Scene) -> Value {
    let (from, to) = (made(scene, "from").await, made(scene, "to").await);
    let object = scene
        .client(Client::new)
        .put_object()
        .bucket(&from)
        .key("in/a")
        .tagging("cost=it");
    object.send().await.unwrap();
    json!({ "source": format!("s3://{from}/in"), "destination": format!("s3://{to}"), "recursive": true })
}

/// An object with a tag that comes from the second account.
pub(crate) async fn between_accounts(scene: &Scene) -> Value {
    let (from, to, theirs) = (
        scene.name("from"),
        made(scene, "to").await,
        scene.peer(Client::new),
    );
    let region = BucketLocationConstraint::from(scene.region());
    let region = CreateBucketConfiguration::builder()
        .location_constraint(region)
        .build();
    theirs
        .create_bucket()
        .bucket(&from)
        .create_bucket_configuration(region)
        .send()
        .await
        .unwrap();
    theirs
        .put_object()
        .bucket(&from)
        .key("in/a")
        .tagging("cost=it")
        .send()
        .await
        .unwrap();
    let source = format!("s3://{from}/in");
    json!({ "source": source, "source_account": "peer", "destination": format!("s3://{to}"), "recursive": true })
}

async fn made(scene: &Scene, begin: &str) -> String {
    let bucket = scene.name(begin);
    let make = json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": bucket } });
    scene
        .make(&json!({ "Resources": { "Bucket": make } }))
        .await;
    bucket
}
