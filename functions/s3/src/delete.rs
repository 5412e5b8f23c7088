//! Deletions: up to 1,000 objects per request, files one after the other.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_s3::error::BuildError;
use aws_sdk_s3::types::{Delete, Error, ObjectIdentifier};
use futures_util::{StreamExt, stream};
use stepward::model::error::denied;
use stepward::model::s3_error::s3_error;
use stepward::{ErrorName, StepError};

use crate::base_location::BaseLocation;
use crate::body::run_blocking;
use crate::bucket::Bucket;
use crate::call_budget::CallBudget;
use crate::keys::is_valid_in_xml;
use crate::listing::Entry;

/// How many objects one request deletes:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html>
pub const MAX_BATCH: usize = 1000;
/// How many requests that delete a single object run at the same time.
const MAX_CONCURRENT: usize = 16;

/// Entries to delete together.
#[derive(Debug, Default)]
pub struct DeletionBatch {
    entries: Vec<Entry>,
    /// Added keys, each with a slash, that later keys may begin with.
    file_prefixes: Vec<String>,
}

impl DeletionBatch {
    /// Adds an entry, in the order of keys.
    pub fn push(&mut self, entry: Entry) {
        self.has_file_above(&entry.key);
        self.file_prefixes.push(format!("{}/", entry.key));
        self.entries.push(entry);
    }

    /// Whether a file that was added, even if it was taken since, has the name of a directory of
    /// `key`. Ask in the order of keys.
    pub fn has_file_above(&mut self, key: &str) -> bool {
        self.file_prefixes
            .retain(|prefix| key.starts_with(prefix) || key < prefix.as_str());
        self.file_prefixes
            .iter()
            .any(|prefix| key.starts_with(prefix))
    }

    /// Whether the batch has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether one request cannot delete more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= MAX_BATCH
    }

    /// Takes all entries; `None` if the batch is empty.
    pub fn take_entries(&mut self) -> Option<Vec<Entry>> {
        (!self.entries.is_empty()).then(|| std::mem::take(&mut self.entries))
    }
}

/// Deletes entries and returns the result for each, at the budget's cutoff at the latest.
pub async fn delete_entries(
    base: &BaseLocation,
    entries: Vec<Entry>,
    budget: &CallBudget,
) -> Vec<(Entry, Result<(), StepError>)> {
    match base {
        BaseLocation::Local { root, .. } => {
            let paths: Vec<_> = entries
                .iter()
                .map(|entry| base.path_of(&entry.key))
                .collect();
            let root = Arc::clone(root);
            let or_missing = |removed: Result<(), StepError>| match removed {
                // As in S3, a file that does not exist counts as deleted.
                Err(error) if error.name == ErrorName::NotFound => Ok(()),
                removed => removed,
            };
            let removed = run_blocking(move || {
                Ok(paths
                    .iter()
                    .map(|path| or_missing(root.remove_file(path)))
                    .collect::<Vec<_>>())
            });
            match budget.run_before_cutoff(removed).await {
                Ok(results) => entries.into_iter().zip(results).collect(),
                Err(error) => entries
                    .into_iter()
                    .map(|entry| (entry, Err(error.clone())))
                    .collect(),
            }
        }
        BaseLocation::S3 { bucket, .. } => {
            let (batched, mut single): (Vec<_>, Vec<_>) = entries
                .into_iter()
                .partition(|entry| is_valid_in_xml(&base.path_of(&entry.key)));
            let keys: Vec<_> = batched
                .iter()
                .map(|entry| base.path_of(&entry.key))
                .collect();
            let mut refused = match budget
                .run_before_cutoff(delete_objects(bucket, &keys))
                .await
            {
                Ok(refused) => refused,
                Err(error) => keys
                    .iter()
                    .map(|key| (key.clone(), error.clone()))
                    .collect(),
            };
            let mut results = Vec::with_capacity(batched.len() + single.len());
            for (entry, key) in batched.into_iter().zip(keys) {
                match refused.remove(&key) {
                    // The SDK repeats failed requests, but not single keys that failed within a
                    // successful request.
                    Some(error) if error.name == ErrorName::Throttled && error.aws.is_none() => {
                        single.push(entry);
                    }
                    refused => results.push((entry, refused.map_or(Ok(()), Err))),
                }
            }
            let single = single.into_iter().map(async |entry| {
                let request = bucket
                    .client
                    .delete_object()
                    .bucket(&bucket.name)
                    .key(base.path_of(&entry.key));
                let request = request.set_expected_bucket_owner(bucket.owner.clone());
                let deleted = budget
                    .run_before_cutoff(async { request.send().await.map(drop).map_err(s3_error) });
                (entry, deleted.await)
            });
            results.extend(
                stream::iter(single)
                    .buffer_unordered(MAX_CONCURRENT)
                    .collect::<Vec<_>>()
                    .await,
            );
            results
        }
    }
}

/// Deletes up to [`MAX_BATCH`] objects with one request. Returns the keys that S3 refused, with the
/// reasons.
async fn delete_objects(
    bucket: &Bucket,
    keys: &[String],
) -> Result<HashMap<String, StepError>, StepError> {
    let identifiers = keys
        .iter()
        .map(|key| ObjectIdentifier::builder().key(key).build())
        .collect();
    let refused: HashMap<_, _> = send_deletion(bucket, identifiers)
        .await?
        .into_iter()
        .map(refused_key)
        .collect();
    match refused.iter().find(|(key, _)| !keys.contains(key)) {
        Some((key, error)) => Err(ErrorName::Internal.with_message(format!(
            "S3 reported that it could not delete {key:?}, which the step had not asked it to \
             delete: {}; report this as a bug",
            error.message
        ))),
        None => Ok(refused),
    }
}

/// Deletes up to [`MAX_BATCH`] objects or versions with one request, if there are any. Returns what
/// S3 refused.
///
/// # Errors
/// The error of S3, or of an invalid identifier.
pub async fn send_deletion(
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
    let response = request
        .set_expected_bucket_owner(bucket.owner.clone())
        .send()
        .await
        .map_err(s3_error)?;
    Ok(response.errors.unwrap_or_default())
}

fn refused_key(error: Error) -> (String, StepError) {
    let (code, message) = (
        error.code.unwrap_or_default(),
        error.message.unwrap_or_default(),
    );
    let key_error = match code.as_str() {
        "AccessDenied" => ErrorName::AccessDenied.with_message(denied("s3:DeleteObject", &message)),
        "InternalError" | "ServiceUnavailable" | "SlowDown" => {
            ErrorName::Throttled.with_message(message)
        }
        _ => ErrorName::StepFailed.with_message(format!(
            "S3 refused to delete the object: {code}: {message}"
        )),
    };
    (error.key.unwrap_or_default(), key_error)
}
