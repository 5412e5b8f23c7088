//! What is too large for Step Functions goes to a bucket, and a reference with a preview in its place (claim check).

use aws_config::SdkConfig;
use aws_sdk_s3::primitives::ByteStream;
use serde_json::{Value, json};

use crate::context::{Context, sha256};
use crate::envelope::Execution;
use crate::error::StepError;
use crate::settings;

/// Outputs and logs above this many bytes become artifacts. A state's whole input or output may have 256 KiB, and a
/// state machine gathers those of several steps.
pub const INLINE_LIMIT: usize = 48 * 1024;
/// Characters of the content that come back beside the reference.
const PREVIEW: usize = 1000;

/// The value itself up to `limit` bytes, or what stands for it: `{"artifact":{bucket,key,bytes,sha256},"preview":"…"}`.
///
/// # Errors
/// Why S3 failed.
pub(crate) async fn claim_check(
    own: &SdkConfig,
    ctx: &Context,
    name: &str,
    value: Value,
    limit: usize,
) -> Result<Value, StepError> {
    let text = value.to_string();
    if text.len() <= limit {
        return Ok(value);
    }
    let bucket = settings::artifacts_bucket()?;
    let Execution { id, step, item, .. } = &ctx.execution;
    let item = item.as_deref().unwrap_or("-");
    let (bytes, digest) = (text.len(), sha256(&text));
    // The content's hash keeps the pending answers of one step apart.
    let key = format!("executions/{}/{id}/{step}/{item}/{name}-{}.json", ctx.customer, &digest[..12]);
    let preview: String = text.chars().take(PREVIEW).collect();
    let s3 = aws_sdk_s3::Client::new(own);
    let put = s3.put_object().bucket(&bucket).key(&key).content_type("application/json");
    put.body(ByteStream::from(text.into_bytes())).send().await?;
    Ok(json!({ "artifact": { "bucket": bucket, "key": key, "bytes": bytes, "sha256": digest }, "preview": preview }))
}
