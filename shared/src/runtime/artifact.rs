//! What is too large for Step Functions goes to a bucket, and a reference with a preview in its
//! place (claim check).

use aws_config::SdkConfig;
use aws_sdk_s3::primitives::ByteStream;
use serde_json::{Map, Value, json};

use crate::model::artifacts::prefix;
use crate::model::digest::sha256;
use crate::model::envelope::Execution;
use crate::model::error::StepError;
use crate::model::s3_error::s3_error;
use crate::settings;

/// Outputs and logs above this many bytes become artifacts. A state's whole input or output may
/// have 256 KiB, and a state machine gathers those of several steps.
pub const INLINE_LIMIT: usize = 48 * 1024;
/// Characters of the content that come back beside the reference.
const PREVIEW: usize = 1000;
/// Texts up to this many bytes stay beside the reference.
const SHORT_TEXT: usize = 200;
/// So many counts, flags and short texts at most.
const MEMBERS: usize = 16;

/// What the keys of a step's own artifacts begin with.
pub(crate) fn folder(customer: &str, execution: &Execution) -> Result<String, StepError> {
    let Execution { id, step, item, .. } = execution;
    Ok(format!(
        "{}{step}/{}/",
        prefix(customer, id)?,
        item.as_deref().unwrap_or("-")
    ))
}

/// The value itself up to `limit` bytes, or what stands for it:
/// `{"artifact":{bucket,key,bytes,sha256},"preview":"…"}`, and beside these the output's counts,
/// flags and short texts.
///
/// # Errors
/// Why S3 failed.
pub(crate) async fn store_if_large(
    own: &SdkConfig,
    folder: &str,
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
    // The content's hash keeps the pending answers of one step apart.
    let key = format!("{folder}{name}-{}.json", &digest[..12]);
    let preview: String = text.chars().take(PREVIEW).collect();
    let s3 = aws_sdk_s3::Client::new(own);
    let put = s3
        .put_object()
        .bucket(&bucket)
        .key(&key)
        .content_type("application/json");
    put.body(ByteStream::from(text.into_bytes()))
        .send()
        .await
        .map_err(s3_error)?;
    let mut stands_for = plain_members(value);
    let artifact = json!({ "bucket": bucket, "key": key, "bytes": bytes, "sha256": digest });
    stands_for.extend([
        ("artifact".to_owned(), artifact),
        ("preview".to_owned(), preview.into()),
    ]);
    Ok(stands_for.into())
}

/// Counts, flags and short texts of an output, which a state machine may want to choose by.
fn plain_members(value: Value) -> Map<String, Value> {
    let is_plain = |value: &Value| match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => text.len() <= SHORT_TEXT,
        Value::Array(_) | Value::Object(_) => false,
    };
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| is_plain(value))
            .take(MEMBERS)
            .collect(),
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_keeps_what_a_state_machine_chooses_by() {
        let output = json!({ "failed": 3, "ok": false, "status": "done", "text": "x".repeat(300), "nodes": {}, "ids": [] });
        assert_eq!(
            Value::from(plain_members(output)),
            json!({ "failed": 3, "ok": false, "status": "done" })
        );
        assert!(plain_members(json!("text")).is_empty());
    }
}
