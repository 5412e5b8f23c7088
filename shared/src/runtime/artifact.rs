//! Stores outputs and logs that are too large for Step Functions in the artifacts bucket. The
//! response then contains a reference and a preview (claim check pattern).

use aws_config::SdkConfig;
use aws_sdk_s3::primitives::ByteStream;
use serde_json::{Map, Value, json};

use crate::model::artifacts::execution_prefix;
use crate::model::digest::sha256;
use crate::model::envelope::Execution;
use crate::model::error::StepError;
use crate::model::s3_error::s3_error;
use crate::settings;

/// Outputs and logs with more bytes than this become artifacts. Step Functions limits the input and
/// the output of a state to 256 KiB, and a state machine collects the outputs of several steps.
pub const INLINE_LIMIT: usize = 48 * 1024;
/// The length of the preview, in characters.
const PREVIEW_LENGTH: usize = 1000;
/// The longest text, in bytes, that is copied from the output to the reference.
const MAX_TEXT_LENGTH: usize = 200;
/// The maximum number of members that are copied from the output to the reference.
const MAX_MEMBERS: usize = 16;

/// The prefix of the keys of a step's artifacts.
pub(crate) fn step_prefix(customer: &str, execution: &Execution) -> Result<String, StepError> {
    let Execution { id, step, item, .. } = execution;
    Ok(format!(
        "{}{step}/{}/",
        execution_prefix(customer, id)?,
        item.as_deref().unwrap_or("-")
    ))
}

/// Returns the value unchanged if it has at most `limit` bytes. Otherwise stores it in the
/// artifacts bucket and returns `{"artifact":{bucket,key,bytes,sha256},"preview":"…"}`, with the
/// numbers, flags and short texts of the output.
///
/// # Errors
/// The error of the S3 call.
pub(crate) async fn store_if_large(
    config: &SdkConfig,
    prefix: &str,
    name: &str,
    value: Value,
    limit: usize,
) -> Result<Value, StepError> {
    let text = value.to_string();
    if text.len() <= limit {
        return Ok(value);
    }

    let bucket = settings::artifacts_bucket()?;
    let (bytes, digest) = (text.len(), sha256(&text));
    // The hash in the key distinguishes the logs of a step's successive pending responses.
    let key = format!("{prefix}{name}-{}.json", &digest[..12]);
    let preview: String = text.chars().take(PREVIEW_LENGTH).collect();

    let s3 = aws_sdk_s3::Client::new(config);
    let put = s3
        .put_object()
        .bucket(&bucket)
        .key(&key)
        .content_type("application/json");
    put.body(ByteStream::from(text.into_bytes()))
        .send()
        .await
        .map_err(s3_error)?;

    let mut reference = short_members(value);
    let artifact = json!({ "bucket": bucket, "key": key, "bytes": bytes, "sha256": digest });
    reference.extend([
        ("artifact".to_owned(), artifact),
        ("preview".to_owned(), preview.into()),
    ]);
    Ok(reference.into())
}

/// The numbers, flags and short texts of an output, so a state machine can branch on them.
fn short_members(value: Value) -> Map<String, Value> {
    let is_short = |value: &Value| match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => text.len() <= MAX_TEXT_LENGTH,
        Value::Array(_) | Value::Object(_) => false,
    };
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| is_short(value))
            .take(MAX_MEMBERS)
            .collect(),
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_keeps_numbers_flags_and_short_texts() {
        let output = json!({
            "failed": 3, "ok": false, "status": "done",
            "text": "x".repeat(300), "nodes": {}, "ids": [],
        });
        assert_eq!(
            Value::from(short_members(output)),
            json!({ "failed": 3, "ok": false, "status": "done" })
        );
        assert!(short_members(json!("text")).is_empty());
    }
}
