//! Deleting: objects by the thousand, files one by one.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_s3::error::BuildError;
use aws_sdk_s3::types::{Delete, Error, ObjectIdentifier};
use futures_util::{StreamExt, stream};
use stepward::model::error::denied;
use stepward::model::s3_error::s3_error;
use stepward::{ErrorName, StepError};

use crate::body::blocking;
use crate::bucket::Bucket;
use crate::end::End;
use crate::keys::fits_xml;
use crate::listing::Entry;
use crate::slice::Slice;

/// Objects that one request deletes.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html>
pub const BATCH: usize = 1000;
/// Requests at once, where each deletes one object.
const AT_ONCE: usize = 16;

/// What is to be deleted together.
#[derive(Debug, Default)]
pub struct Batch {
    entries: Vec<Entry>,
    /// What has been added and names that are still to come may be below, with a slash.
    above: Vec<String>,
}

impl Batch {
    /// Adds one, in the order of keys.
    pub fn push(&mut self, entry: Entry) {
        self.is_above(&entry.key);
        self.above.push(format!("{}/", entry.key));
        self.entries.push(entry);
    }

    /// Whether what was added, also before all of it was taken, has the name of a directory that a
    /// key is in. Keys are asked for in their order.
    pub fn is_above(&mut self, key: &str) -> bool {
        self.above
            .retain(|above| key.starts_with(above) || key < above.as_str());
        self.above.iter().any(|above| key.starts_with(above))
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether one request takes no more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= BATCH
    }

    /// All of it, if there is any.
    pub fn take(&mut self) -> Option<Vec<Entry>> {
        (!self.entries.is_empty()).then(|| std::mem::take(&mut self.entries))
    }
}

/// Deletes entries; what became of each, at the slice's limit at the latest.
pub async fn all(
    end: &End,
    entries: Vec<Entry>,
    slice: &Slice,
) -> Vec<(Entry, Result<(), StepError>)> {
    match end {
        End::Local { root, .. } => {
            let paths: Vec<_> = entries.iter().map(|entry| end.path(&entry.key)).collect();
            let root = Arc::clone(root);
            let gone = |removed: Result<(), StepError>| match removed {
                // As in S3: what is not there any more is deleted.
                Err(error) if error.name == ErrorName::NotFound => Ok(()),
                removed => removed,
            };
            let removed = blocking(move || {
                Ok(paths
                    .iter()
                    .map(|path| gone(root.remove_file(path)))
                    .collect::<Vec<_>>())
            });
            match slice.within(removed).await {
                Ok(results) => entries.into_iter().zip(results).collect(),
                Err(error) => entries
                    .into_iter()
                    .map(|entry| (entry, Err(error.clone())))
                    .collect(),
            }
        }
        End::S3 { bucket, .. } => {
            let (together, mut alone): (Vec<_>, Vec<_>) = entries
                .into_iter()
                .partition(|entry| fits_xml(&end.path(&entry.key)));
            let keys: Vec<_> = together.iter().map(|entry| end.path(&entry.key)).collect();
            let mut refused = match slice.within(objects(bucket, &keys)).await {
                Ok(refused) => refused,
                Err(error) => keys
                    .iter()
                    .map(|key| (key.clone(), error.clone()))
                    .collect(),
            };
            let mut came = Vec::with_capacity(together.len() + alone.len());
            for (entry, key) in together.into_iter().zip(keys) {
                match refused.remove(&key) {
                    // The SDK tries a request again, and not what fails within one that went well.
                    Some(error) if error.name == ErrorName::Throttled && error.aws.is_none() => {
                        alone.push(entry)
                    }
                    refused => came.push((entry, refused.map_or(Ok(()), Err))),
                }
            }
            let alone = alone.into_iter().map(async |entry| {
                let request = bucket
                    .client
                    .delete_object()
                    .bucket(&bucket.name)
                    .key(end.path(&entry.key));
                let request = request.set_expected_bucket_owner(bucket.owner.clone());
                let deleted =
                    slice.within(async { request.send().await.map(drop).map_err(s3_error) });
                (entry, deleted.await)
            });
            came.extend(
                stream::iter(alone)
                    .buffer_unordered(AT_ONCE)
                    .collect::<Vec<_>>()
                    .await,
            );
            came
        }
    }
}

/// Deletes up to [`BATCH`] objects by one request; the keys that S3 refused, with why.
async fn objects(
    bucket: &Bucket,
    keys: &[String],
) -> Result<HashMap<String, StepError>, StepError> {
    let identifiers = keys
        .iter()
        .map(|key| ObjectIdentifier::builder().key(key).build())
        .collect();
    let refused: HashMap<_, _> = together(bucket, identifiers)
        .await?
        .into_iter()
        .map(refused)
        .collect();
    match refused.iter().find(|(key, _)| !keys.contains(key)) {
        Some((key, error)) => Err(ErrorName::Internal.with_message(format!(
            "of a key that it was not asked for, {key:?}: {}",
            error.message
        ))),
        None => Ok(refused),
    }
}

/// Deletes up to [`BATCH`] objects, or versions of them, by one request, if there are any; what S3
/// refused.
///
/// # Errors
/// Why S3 failed, or that an identifier is none.
pub async fn together(
    bucket: &Bucket,
    identifiers: Result<Vec<ObjectIdentifier>, BuildError>,
) -> Result<Vec<Error>, StepError> {
    if identifiers.as_ref().is_ok_and(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let delete =
        identifiers.and_then(|all| Delete::builder().set_objects(Some(all)).quiet(true).build());
    let delete = delete.map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
    let request = bucket
        .client
        .delete_objects()
        .bucket(&bucket.name)
        .delete(delete);
    let answer = request
        .set_expected_bucket_owner(bucket.owner.clone())
        .send()
        .await
        .map_err(s3_error)?;
    Ok(answer.errors.unwrap_or_default())
}

fn refused(error: Error) -> (String, StepError) {
    let (code, message) = (
        error.code.unwrap_or_default(),
        error.message.unwrap_or_default(),
    );
    let error_of_key = match code.as_str() {
        "AccessDenied" => ErrorName::AccessDenied.with_message(denied("s3:DeleteObject", &message)),
        "InternalError" | "ServiceUnavailable" | "SlowDown" => {
            ErrorName::Throttled.with_message(message)
        }
        _ => ErrorName::StepFailed
            .with_message(format!("S3 refused to delete it: {code}: {message}")),
    };
    (error.key.unwrap_or_default(), error_of_key)
}
