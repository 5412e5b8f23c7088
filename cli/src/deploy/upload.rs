//! The bucket that CloudFormation reads code and templates from, and the uploads to it.

use std::collections::HashSet;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLocationConstraint, CreateBucketConfiguration, PublicAccessBlockConfiguration,
    ServerSideEncryption, ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration,
    ServerSideEncryptionRule,
};
use serde_json::json;
use stepward::model::partition::Partition;

use crate::cloud::Cloud;
use crate::error::{Context, Error, Result};
use crate::output::Progress;
use crate::package::Release;

/// The code bucket of an account and Region. It is private, encrypted and TLS only, and is created
/// if it does not exist.
pub(super) async fn code_bucket(cloud: &Cloud) -> Result<String> {
    let bucket = format!("stepward-code-{}-{}", cloud.account, cloud.region);
    let s3 = cloud.s3();
    let head = s3
        .head_bucket()
        .bucket(&bucket)
        .expected_bucket_owner(&cloud.account)
        .send()
        .await;
    match head {
        Ok(_) => return Ok(bucket),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(aws_sdk_s3::operation::head_bucket::HeadBucketError::is_not_found) => {
        }
        // S3 gives no reason in its response to HEAD.
        Err(error)
            if error
                .raw_response()
                .is_some_and(|response| response.status().as_u16() == 403) =>
        {
            return Err(Error::new(format!(
                "S3 refused access to bucket \"{bucket}\" from {}",
                cloud.name()
            ))
            .with_advice(format!(
                "if the bucket belongs to account {}, allow your role to use it; if another \
                 account owns it, contact AWS Support",
                cloud.account
            )));
        }
        Err(error) => return Err(cloud.error(error)),
    }
    // us-east-1 is the default and the only Region that must not be named.
    let configuration = (cloud.region != "us-east-1").then(|| {
        CreateBucketConfiguration::builder()
            .location_constraint(BucketLocationConstraint::from(cloud.region.as_str()))
            .build()
    });
    s3.create_bucket()
        .bucket(&bucket)
        .set_create_bucket_configuration(configuration)
        .send()
        .await
        .map_err(|error| cloud.error(error))?;
    secure_bucket(cloud, &bucket).await?;
    Ok(bucket)
}

async fn secure_bucket(cloud: &Cloud, bucket: &str) -> Result<()> {
    let s3 = cloud.s3();
    let no_public_access = PublicAccessBlockConfiguration::builder()
        .block_public_acls(true)
        .block_public_policy(true)
        .ignore_public_acls(true)
        .restrict_public_buckets(true)
        .build();
    s3.put_public_access_block()
        .bucket(bucket)
        .public_access_block_configuration(no_public_access)
        .send()
        .await
        .map_err(|error| cloud.error(error))?;
    let default_encryption = ServerSideEncryptionByDefault::builder()
        .sse_algorithm(ServerSideEncryption::Aes256)
        .build()
        .context("cannot encrypt the code bucket")?;
    let rule = ServerSideEncryptionRule::builder()
        .apply_server_side_encryption_by_default(default_encryption)
        .build();
    let encryption = ServerSideEncryptionConfiguration::builder()
        .rules(rule)
        .build()
        .context("cannot encrypt the code bucket")?;
    s3.put_bucket_encryption()
        .bucket(bucket)
        .server_side_encryption_configuration(encryption)
        .send()
        .await
        .map_err(|error| cloud.error(error))?;
    // The local cloud has no TLS.
    if cloud.local.is_none() {
        let arn = format!("arn:{}:s3:::{bucket}", cloud.partition);
        let policy = json!({ "Version": "2012-10-17", "Statement": [{
            "Sid": "TlsOnly", "Effect": "Deny", "Principal": "*", "Action": "s3:*",
            "Resource": [arn, format!("{arn}/*")],
            "Condition": { "Bool": { "aws:SecureTransport": "false" } },
        }] });
        s3.put_bucket_policy()
            .bucket(bucket)
            .policy(policy.to_string())
            .send()
            .await
            .map_err(|error| cloud.error(error))?;
    }
    Ok(())
}

/// Uploads the missing files of a release. The content of an uploaded key never changes.
pub(super) async fn upload_release(
    cloud: &Cloud,
    bucket: &str,
    release: &Release,
    progress: &Progress,
) -> Result<()> {
    let s3 = cloud.s3();
    let prefix = format!("{}/", release.prefix());
    let mut uploaded = HashSet::new();
    let mut pages = s3
        .list_objects_v2()
        .bucket(bucket)
        .prefix(&prefix)
        .into_paginator()
        .send();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| cloud.error(error))?;
        uploaded.extend(
            page.contents
                .unwrap_or_default()
                .into_iter()
                .filter_map(|object| object.key),
        );
    }
    let missing: Vec<_> = release
        .files
        .iter()
        .filter(|(key, _)| !uploaded.contains(&format!("{prefix}{key}")))
        .collect();
    for (number, (key, content)) in missing.iter().enumerate() {
        progress.set_status(format!(
            "uploading {key} ({} of {})",
            number + 1,
            missing.len()
        ));
        let body = ByteStream::from_path(&content.path)
            .await
            .context(content.path.display())?;
        s3.put_object()
            .bucket(bucket)
            .key(format!("{prefix}{key}"))
            .body(body)
            .send()
            .await
            .map_err(|error| cloud.error(error))?;
    }
    Ok(())
}

/// The URL of an object, in the form that CloudFormation accepts for templates.
pub(super) fn object_url(cloud: &Cloud, bucket: &str, key: &str) -> String {
    if let Some(port) = cloud.local {
        return format!("{}/{bucket}/{key}", crate::local::endpoint(port));
    }
    let domain = Partition::find_or_standard(&cloud.partition).dns_suffix;
    format!("https://s3.{}.{domain}/{bucket}/{key}", cloud.region)
}
