//! The scenes on the local cloud for copies and moves, and the parameters for them.

use std::fs;
use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use serde_json::{Value, json};
use stepward_testkit::proof::Scene;

use super::mib_bytes;

// Why a proof does not use a permission.
const KMS: &str = "The local cloud encrypts nothing with KMS keys.";
const PARTS: &str =
    "Only an upload that failed or is resumed needs it; unit tests show these requests.";
pub(crate) const COPY_ONLY: &str = "Only copies between buckets need it; other tests prove it.";
pub(crate) const S3_SOURCE_ONLY: &str = "Only a source in S3 needs it; other tests prove it.";
pub(crate) const S3_DESTINATION_ONLY: &str =
    "Only a destination in S3 needs it; other tests prove it.";
pub(crate) const LARGE_ONLY: &str =
    "Only large objects need it; the test of an upload has a large object.";
const ALWAYS: [(&str, &str); 4] = [
    ("kms:Decrypt", KMS),
    ("kms:GenerateDataKey", KMS),
    ("s3:AbortMultipartUpload", PARTS),
    ("s3:ListMultipartUploadParts", PARTS),
];

/// The permissions that a proof does not use, with the reasons, whatever is transferred.
pub(crate) fn unused_permissions(
    more: &[(&'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    [&ALWAYS, more].concat()
}

/// A file that is uploaded in parts.
pub(crate) async fn upload_scene(scene: &Scene, root: &Path) -> Value {
    fs::create_dir_all(root.join("up")).unwrap();
    fs::write(root.join("up/large"), mib_bytes(8)).unwrap();
    let bucket = make_bucket(scene, "data").await;
    json!({ "source": "up", "destination": format!("s3://{bucket}"), "recursive": true })
}

/// An object that is downloaded.
pub(crate) async fn download_scene(scene: &Scene) -> Value {
    let bucket = make_bucket(scene, "data").await;
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

/// An object with a tag that is copied to another bucket.
pub(crate) async fn between_buckets(scene: &Scene) -> Value {
    let (source_bucket, bucket) = (
        make_bucket(scene, "from").await,
        make_bucket(scene, "to").await,
    );
    let object = scene
        .client(Client::new)
        .put_object()
        .bucket(&source_bucket)
        .key("in/a")
        .tagging("cost=it");
    object.send().await.unwrap();
    json!({ "source": format!("s3://{source_bucket}/in"), "destination": format!("s3://{bucket}"),
        "recursive": true })
}

/// An object with a tag that is copied from the second account.
pub(crate) async fn between_accounts(scene: &Scene) -> Value {
    let (source_bucket, bucket, peer_client) = (
        scene.name("from"),
        make_bucket(scene, "to").await,
        scene.peer(Client::new),
    );
    let region = BucketLocationConstraint::from(scene.region());
    let region = CreateBucketConfiguration::builder()
        .location_constraint(region)
        .build();
    peer_client
        .create_bucket()
        .bucket(&source_bucket)
        .create_bucket_configuration(region)
        .send()
        .await
        .unwrap();
    peer_client
        .put_object()
        .bucket(&source_bucket)
        .key("in/a")
        .tagging("cost=it")
        .send()
        .await
        .unwrap();
    let source = format!("s3://{source_bucket}/in");
    json!({ "source": source, "source_account": "peer", "destination": format!("s3://{bucket}"),
        "recursive": true })
}

async fn make_bucket(scene: &Scene, prefix: &str) -> String {
    let bucket = scene.name(prefix);
    let make = json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": bucket } });
    scene
        .make(&json!({ "Resources": { "Bucket": make } }))
        .await;
    bucket
}
