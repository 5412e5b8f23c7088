//! What runs on the nodes: a command, or a file that the nodes download.

use std::future::Future;
use std::time::Duration;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use aws_smithy_types::base64;
use sha2::{Digest as _, Sha256};
use stepward::model::digest::hex;
use stepward::model::error::denied;
use stepward::model::permissions::{literal, s3_arn};
use stepward::runtime::head_rejection::rejection_of_head;
use stepward::runtime::temporary_object::{TemporaryObject, presigned_url};
use stepward::{Context, ErrorName, Permissions, StepError};
use tokio::time::Instant;

use crate::error::bucket_error;
use crate::node_script::Download;
use crate::plan::s3_key_permissions;
use crate::state::Digest;

/// How long a link is valid. A node downloads the file as soon as it starts, and it starts within
/// [`LINK_DELIVERY_TIMEOUT`](crate::plan::LINK_DELIVERY_TIMEOUT) after the link was signed. The
/// credentials that sign the link are valid for at least 16 minutes.
const LINK_LIFETIME: Duration = Duration::from_mins(15);
/// The key prefix for temporary files in a customer's bucket.
const SCRATCH_PREFIX: &str = "stepward/scratch";
/// The largest object that a step reads to compute its SHA-256, in bytes.
const MAX_HASHED_BYTES: u64 = 5 << 30;

/// What runs on the nodes.
pub trait Payload: Send + Sync {
    /// Prepares what the nodes need and returns the command's text for the plan's shell.
    ///
    /// The engine calls it immediately before sending, because the text may contain a link that
    /// expires, and again in each later call that sends. The payload saves the digest of an S3
    /// object in `digest`, so that later calls do not read the object again.
    fn prepare(
        &self,
        ctx: &Context,
        digest: &mut Option<Digest>,
    ) -> impl Future<Output = Result<String, StepError>> + Send;

    /// Removes temporary objects of [`prepare`](Self::prepare). The engine calls it when the run
    /// has ended, failed or been stopped, even if nothing was prepared.
    fn clean_up(&self, ctx: &Context) -> impl Future<Output = Result<(), StepError>> + Send;
}

/// A command whose text is sent directly: the nodes download nothing.
#[derive(Clone, Debug)]
pub struct InlineCommand(pub String);

impl Payload for InlineCommand {
    async fn prepare(&self, _: &Context, _: &mut Option<Digest>) -> Result<String, StepError> {
        Ok(self.0.clone())
    }

    async fn clean_up(&self, _: &Context) -> Result<(), StepError> {
        Ok(())
    }
}

/// The source of a file that the nodes download.
#[derive(Clone, Debug)]
pub enum FileSource {
    /// Text from the step's parameters. It is uploaded as a temporary object.
    Content {
        /// The file's content.
        content: Vec<u8>,
        /// The account's bucket for the temporary object. `None` uses the artifacts bucket.
        bucket: Option<String>,
    },
    /// An object in the account. The step never removes it.
    Object {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
}

/// A file that the nodes download.
pub struct FilePayload<F> {
    /// The file's source.
    pub source: FileSource,
    /// Builds the script that downloads and uses the file.
    pub build_script: F,
}

impl<F: Fn(&Download<'_>) -> String + Send + Sync> Payload for FilePayload<F> {
    async fn prepare(
        &self,
        ctx: &Context,
        digest: &mut Option<Digest>,
    ) -> Result<String, StepError> {
        let file_digest = match digest.take() {
            Some(saved) => saved,
            None => self.source.compute_digest(ctx).await?,
        };

        let url = match &self.source {
            FileSource::Content { content, bucket } => {
                let object = self.source.temporary_object(ctx)?;
                // Upload even if an earlier call did, because another call may have removed it.
                if let Some(bucket) = bucket {
                    let response = object.try_put(content.clone()).await;
                    response.map_err(|error| bucket_error(ctx, "bucket", bucket, error))?;
                    // Fails here with AWS's reason; a node would only report a failed download.
                    head_object(ctx, "bucket", bucket, &FileSource::temporary_key(ctx)).await?;
                } else {
                    object.put(content.clone()).await?;
                }
                object.presigned_url(LINK_LIFETIME).await?
            }
            FileSource::Object { bucket, key } => {
                let s3 = ctx.client(aws_sdk_s3::Client::new);
                presigned_url(&s3, bucket, key, LINK_LIFETIME).await?
            }
        };
        let script = (self.build_script)(&Download {
            url: &url,
            digest: &file_digest,
        });

        // Never save the digest of parameter text. The text can be a secret that is short enough
        // to be guessed from its SHA-256.
        let is_object = matches!(self.source, FileSource::Object { .. });
        *digest = is_object.then_some(file_digest);
        Ok(script)
    }

    async fn clean_up(&self, ctx: &Context) -> Result<(), StepError> {
        match &self.source {
            FileSource::Content { .. } => self.source.temporary_object(ctx)?.remove().await,
            FileSource::Object { .. } => Ok(()),
        }
    }
}

impl FileSource {
    /// The permissions in the account to make the file available to the nodes.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        match self {
            Self::Content { bucket: None, .. } => Permissions::default(),
            Self::Content {
                bucket: Some(bucket),
                ..
            } => {
                let objects_arn = s3_arn(&format!("{}/{SCRATCH_PREFIX}/*", literal(bucket)));
                Permissions::default()
                    .allow(
                        "upload the temporary file, if `bucket` is set",
                        &["s3:PutObject"],
                        [objects_arn.clone()],
                    )
                    .allow(
                        "sign the link through which nodes download the temporary file",
                        &["s3:GetObject"],
                        [objects_arn.clone()],
                    )
                    .allow(
                        "remove the temporary file",
                        &["s3:DeleteObject"],
                        [objects_arn],
                    )
                    .and(s3_key_permissions(
                        "upload to and download from a bucket with a KMS key",
                        &["kms:Decrypt", "kms:GenerateDataKey"],
                    ))
            }
            Self::Object { bucket, key } => Permissions::default()
                .allow(
                    "read the source object and sign the link through which nodes download it",
                    &["s3:GetObject"],
                    [s3_arn(&format!("{}/{}", literal(bucket), literal(key)))],
                )
                .and(s3_key_permissions(
                    "decrypt a source object with a KMS key",
                    &["kms:Decrypt"],
                )),
        }
    }

    /// The key of the temporary object in a bucket of the account, the same for every call.
    fn temporary_key(ctx: &Context) -> String {
        format!("{SCRATCH_PREFIX}/{}", ctx.client_token("file"))
    }

    fn temporary_object(&self, ctx: &Context) -> Result<TemporaryObject, StepError> {
        match self {
            Self::Content {
                bucket: Some(bucket),
                ..
            } => {
                let object = TemporaryObject::new(
                    ctx.client(aws_sdk_s3::Client::new),
                    bucket,
                    Self::temporary_key(ctx),
                );
                // If the bucket does not exist, anyone can create one with its name and would
                // receive the file.
                Ok(object.with_bucket_owner(&ctx.scope.account_id))
            }
            _ => ctx.temporary_object("file"),
        }
    }

    async fn compute_digest(&self, ctx: &Context) -> Result<Digest, StepError> {
        match self {
            Self::Content { content, .. } => Ok(Digest {
                bytes: content.len() as u64,
                sha256: hex(&Sha256::digest(content)),
            }),
            Self::Object { bucket, key } => object_digest(ctx, bucket, key).await,
        }
    }
}

/// Reads the metadata of an object in the bucket that a parameter names. S3 requires the same
/// permission as for downloading the object.
async fn head_object(
    ctx: &Context,
    parameter: &str,
    bucket: &str,
    key: &str,
) -> Result<HeadObjectOutput, StepError> {
    let (s3, owner) = (
        ctx.client(aws_sdk_s3::Client::new),
        ctx.scope.account_id.as_str(),
    );
    let request = s3
        .head_object()
        .bucket(bucket)
        .key(key)
        .checksum_mode(ChecksumMode::Enabled)
        .expected_bucket_owner(owner);
    let error = match request.send().await {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    let rejection = rejection_of_head(&error, &s3, bucket, key, Some(owner)).await;
    let error = rejection.unwrap_or_else(|| bucket_error(ctx, parameter, bucket, error));
    // The response to HeadObject has no body, so S3's error has no message.
    let reason = match error.name {
        ErrorName::NotFound => "the object does not exist".to_owned(),
        ErrorName::AccessDenied if !error.rejects_credentials() => denied("s3:GetObject", ""),
        _ => error.message,
    };
    Err(StepError {
        message: format!("s3://{bucket}/{key}: {reason}"),
        ..error
    })
}

/// Size and SHA-256 of an object: the checksum that S3 stores, or else computed from its content.
async fn object_digest(ctx: &Context, bucket: &str, key: &str) -> Result<Digest, StepError> {
    let head = head_object(ctx, "source", bucket, key).await?;
    let bytes = u64::try_from(head.content_length.unwrap_or_default()).unwrap_or_default();
    if let Some(sha256) = stored_sha256(&head) {
        return Ok(Digest { bytes, sha256 });
    }

    if bytes > MAX_HASHED_BYTES {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "parameter \"source\": s3://{bucket}/{key} has {bytes} bytes and no SHA-256 checksum, \
             and only objects of up to {MAX_HASHED_BYTES} bytes are read to compute it; upload the \
             object with a SHA-256 checksum of the whole object"
        )));
    }
    ctx.log(format_args!(
        "Reading s3://{bucket}/{key} ({bytes} bytes) to compute its SHA-256"
    ));
    hash_object(ctx, bucket, key, head.e_tag).await
}

/// The SHA-256 that S3 stores for an object's whole content, if any.
fn stored_sha256(head: &HeadObjectOutput) -> Option<String> {
    // A composite checksum is computed from the checksums of parts, not from the content.
    if head.checksum_type == Some(ChecksumType::Composite) {
        return None;
    }
    let checksum = head.checksum_sha256.as_deref()?;
    if checksum.contains('-') {
        return None;
    }
    let checksum = base64::decode(checksum).ok()?;
    (checksum.len() == 32).then(|| hex(&checksum))
}

/// Reads an object to compute its size and SHA-256.
async fn hash_object(
    ctx: &Context,
    bucket: &str,
    key: &str,
    e_tag: Option<String>,
) -> Result<Digest, StepError> {
    let request = ctx
        .client(aws_sdk_s3::Client::new)
        .get_object()
        .bucket(bucket)
        .key(key)
        .expected_bucket_owner(&ctx.scope.account_id)
        .set_if_match(e_tag);
    let response = request.send().await;
    let response = response.map_err(|error| bucket_error(ctx, "source", bucket, error))?;
    let mut body = response.body;

    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| {
            ErrorName::TimedOut.with_message(format!(
                "reading s3://{bucket}/{key} was interrupted: {error}; run the step again"
            ))
        })?;
        hasher.update(&chunk);
        bytes += chunk.len() as u64;
        if Instant::now() > ctx.deadline() {
            return Err(ErrorName::TimedOut.with_message(format!(
                "computing the SHA-256 of s3://{bucket}/{key} took too long; upload the object \
                 with a SHA-256 checksum of the whole object"
            )));
        }
    }
    Ok(Digest {
        bytes,
        sha256: hex(&hasher.finalize()),
    })
}
