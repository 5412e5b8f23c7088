//! What is run on the nodes.

use std::future::Future;
use std::time::Duration;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use aws_smithy_types::base64;
use sha2::{Digest as _, Sha256};
use stepward::model::digest::hex;
use stepward::model::error::denied;
use stepward::model::permissions::{literal, s3_arn};
use stepward::model::s3_error::s3_error;
use stepward::runtime::scratch::{TemporaryObject, link};
use stepward::{Context, ErrorName, Permissions, StepError};
use tokio::time::Instant;

use crate::deliver::Fetch;
use crate::plan::encrypted;
use crate::state::Digest;

/// How long a link lives. Nodes fetch when they begin, and begin within
/// [`DELIVERY`](crate::plan::DELIVERY) of the link's making; the credentials that sign it live for
/// 16 minutes at least.
const LINK: Duration = Duration::from_mins(15);
/// Where files for nodes are in a customer's bucket.
const SCRATCH: &str = "stepward/scratch";
/// The largest object that is read to know its SHA-256, where S3 does not.
const READ: u64 = 5 << 30;

/// What is run on the nodes, as text for the plan's shell.
pub trait Payload: Send + Sync {
    /// The text, made right before it is sent: it may hold what lives for a short time. Called
    /// again for a repeated call. What an object of the account must be is kept in `digest` once it
    /// is known.
    fn text(
        &self,
        ctx: &Context,
        digest: &mut Option<Digest>,
    ) -> impl Future<Output = Result<String, StepError>> + Send;

    /// Takes away what [`text`](Self::text) has put somewhere. Called when the run is over, has
    /// failed or is stopped, also when there is nothing to take away.
    fn clean(&self, ctx: &Context) -> impl Future<Output = Result<(), StepError>> + Send;
}

/// A command of the operator's: nothing to fetch and nothing to take away.
#[derive(Clone, Debug)]
pub struct Command(pub String);

impl Payload for Command {
    async fn text(&self, _: &Context, _: &mut Option<Digest>) -> Result<String, StepError> {
        Ok(self.0.clone())
    }

    async fn clean(&self, _: &Context) -> Result<(), StepError> {
        Ok(())
    }
}

/// Where the file that nodes fetch comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// From the step's parameters, by way of this bucket of the account, or of Stepward's own
    /// artifacts bucket.
    Content {
        /// What is in it.
        content: Vec<u8>,
        /// The bucket of the account.
        bucket: Option<String>,
    },
    /// From S3, in the account: it stays there.
    Object {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
}

/// A file that nodes fetch, and what they do with it.
pub struct File<T> {
    /// Where it comes from.
    pub origin: Origin,
    /// What runs on the node.
    pub on_node: T,
}

impl<T: Fn(&Fetch<'_>) -> String + Send + Sync> Payload for File<T> {
    async fn text(&self, ctx: &Context, digest: &mut Option<Digest>) -> Result<String, StepError> {
        let known = match digest.take() {
            Some(known) => known,
            None => self.origin.digest(ctx).await?,
        };
        let url = match &self.origin {
            Origin::Content { content, bucket } => {
                let scratch = self.origin.scratch(ctx)?;
                // Also where an earlier call has put it: another may have removed it since.
                scratch.put(content.clone()).await?;
                if let Some(bucket) = bucket {
                    // The nodes could say only that their link does not open it.
                    head(ctx, bucket, &Origin::key(ctx)).await?;
                }
                scratch.link(LINK).await?
            }
            Origin::Object { bucket, key } => {
                link(&ctx.client(aws_sdk_s3::Client::new), bucket, key, LINK).await?
            }
        };
        let text = (self.on_node)(&Fetch {
            url: &url,
            digest: &known,
        });
        // The text of parameters can be secret, and short enough to be guessed from its SHA-256.
        *digest = matches!(self.origin, Origin::Object { .. }).then_some(known);
        Ok(text)
    }

    async fn clean(&self, ctx: &Context) -> Result<(), StepError> {
        match &self.origin {
            Origin::Content { .. } => self.origin.scratch(ctx)?.remove().await,
            Origin::Object { .. } => Ok(()),
        }
    }
}

impl Origin {
    /// What bringing it to the nodes needs in the account.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        match self {
            Self::Content { bucket: None, .. } => Permissions::default(),
            Self::Content {
                bucket: Some(bucket),
                ..
            } => Permissions::default()
                .allow(
                    "TODO",
                    &["s3:PutObject", "s3:GetObject", "s3:DeleteObject"],
                    [s3_arn(&format!("{}/{SCRATCH}/*", literal(bucket)))],
                )
                .and(encrypted(&["kms:Decrypt", "kms:GenerateDataKey"])),
            Self::Object { bucket, key } => Permissions::default()
                .allow(
                    "TODO",
                    &["s3:GetObject"],
                    [s3_arn(&format!("{}/{}", literal(bucket), literal(key)))],
                )
                .and(encrypted(&["kms:Decrypt"])),
        }
    }

    /// The key in a bucket of the account, for every call the same.
    fn key(ctx: &Context) -> String {
        format!("{SCRATCH}/{}", ctx.client_token("file"))
    }

    fn scratch(&self, ctx: &Context) -> Result<TemporaryObject, StepError> {
        match self {
            Self::Content {
                bucket: Some(bucket),
                ..
            } => {
                let scratch = TemporaryObject::new(
                    ctx.client(aws_sdk_s3::Client::new),
                    bucket,
                    Self::key(ctx),
                );
                // A free bucket name can be taken by anybody, who would get what is put there.
                Ok(scratch.with_bucket_owner(&ctx.place.account_id))
            }
            _ => ctx.scratch("file"),
        }
    }

    async fn digest(&self, ctx: &Context) -> Result<Digest, StepError> {
        match self {
            Self::Content { content, .. } => Ok(Digest {
                bytes: content.len() as u64,
                sha256: hex(&Sha256::digest(content)),
            }),
            Self::Object { bucket, key } => of_object(ctx, bucket, key).await,
        }
    }
}

/// Looks at an object, for which S3 asks for the permission that its link needs.
async fn head(ctx: &Context, bucket: &str, key: &str) -> Result<HeadObjectOutput, StepError> {
    let request = ctx
        .client(aws_sdk_s3::Client::new)
        .head_object()
        .bucket(bucket)
        .key(key);
    let request = request
        .checksum_mode(ChecksumMode::Enabled)
        .expected_bucket_owner(&ctx.place.account_id);
    request.send().await.map_err(|error| {
        let error = s3_error(error);
        // S3 gives no reason to who asks for the head alone.
        let said = match error.name {
            ErrorName::NotFound => "it does not exist".to_owned(),
            ErrorName::AccessDenied => denied("s3:GetObject", ""),
            _ => error.message,
        };
        StepError {
            message: format!("s3://{bucket}/{key}: {said}"),
            ..error
        }
    })
}

/// Size and SHA-256 of an object: as S3 has it, else by reading it once.
async fn of_object(ctx: &Context, bucket: &str, key: &str) -> Result<Digest, StepError> {
    let s3 = ctx.client(aws_sdk_s3::Client::new);
    let head = head(ctx, bucket, key).await?;
    let bytes = u64::try_from(head.content_length.unwrap_or_default()).unwrap_or_default();
    // A checksum of checksums of parts is none of the content.
    let whole = head.checksum_type != Some(ChecksumType::Composite);
    let known = head
        .checksum_sha256
        .filter(|sum| whole && !sum.contains('-'));
    if let Some(sum) = known
        .and_then(|sum| base64::decode(sum).ok())
        .filter(|sum| sum.len() == 32)
    {
        return Ok(Digest {
            bytes,
            sha256: hex(&sum),
        });
    }
    if bytes > READ {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "source s3://{bucket}/{key} has {bytes} bytes and no SHA-256 in S3; up to {READ} are read to know it: upload \
             it with a SHA-256 checksum of the whole object"
        )));
    }
    ctx.log(format_args!(
        "Reading s3://{bucket}/{key} ({bytes} bytes) for its SHA-256"
    ));
    let get = s3
        .get_object()
        .bucket(bucket)
        .key(key)
        .expected_bucket_owner(&ctx.place.account_id)
        .set_if_match(head.e_tag);
    let mut body = get.send().await.map_err(s3_error)?.body;
    let (mut sum, mut read) = (Sha256::new(), 0);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| {
            ErrorName::TimedOut.with_message(format!(
                "reading s3://{bucket}/{key} broke off: {error}; run it again"
            ))
        })?;
        sum.update(&chunk);
        read += chunk.len() as u64;
        if Instant::now() > ctx.deadline() {
            return Err(ErrorName::TimedOut.with_message(format!(
                "s3://{bucket}/{key} could not be read for its SHA-256 in time; upload it with a SHA-256 checksum of \
                 the whole object"
            )));
        }
    }
    Ok(Digest {
        bytes: read,
        sha256: hex(&sum.finalize()),
    })
}
