//! Deleting: objects by the thousand, files one by one.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures_util::{StreamExt, stream};
use stepward::{ErrorName, StepError};

use crate::body::blocking;
use crate::bucket::Bucket;
use crate::listing::Entry;
use crate::transfer::End;

/// Objects that one request deletes. <https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html>
pub const BATCH: usize = 1000;
/// Requests at once, where each deletes one object.
const AT_ONCE: usize = 16;

/// What is to be deleted together.
#[derive(Debug, Default)]
pub struct Batch(Vec<Entry>);

impl Batch {
    /// Adds one.
    pub fn push(&mut self, entry: Entry) {
        self.0.push(entry);
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one request takes no more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() >= BATCH
    }

    /// All of it, if there is any.
    pub fn take(&mut self) -> Option<Vec<Entry>> {
        (!self.0.is_empty()).then(|| std::mem::take(&mut self.0))
    }
}

/// Deletes entries; what became of each.
pub async fn all(end: &End, entries: Vec<Entry>) -> Vec<(Entry, Result<(), StepError>)> {
    match end {
        End::Local { root, .. } => {
            let paths: Vec<_> = entries.iter().map(|entry| end.path(&entry.key)).collect();
            let root = Arc::clone(root);
            let removed = blocking(move || Ok(paths.iter().map(|path| root.remove_file(path)).collect::<Vec<_>>()));
            match removed.await {
                Ok(results) => entries.into_iter().zip(results).collect(),
                Err(error) => entries.into_iter().map(|entry| (entry, Err(error.clone()))).collect(),
            }
        }
        End::S3 { bucket, .. } => {
            let (together, alone): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|entry| is_writable(&end.path(&entry.key)));
            let keys: Vec<_> = together.iter().map(|entry| end.path(&entry.key)).collect();
            let mut failed = objects(bucket, &keys).await;
            let mut came: Vec<_> = together
                .into_iter()
                .zip(keys)
                .map(|(entry, key)| (entry, failed.remove(&key).map_or(Ok(()), Err)))
                .collect();
            let alone = alone.into_iter().map(async |entry| {
                let request = bucket.client.delete_object().bucket(&bucket.name).key(end.path(&entry.key));
                let deleted = request.set_expected_bucket_owner(bucket.owner.clone()).send().await;
                (entry, deleted.map(drop).map_err(StepError::from))
            });
            came.extend(stream::iter(alone).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await);
            came
        }
    }
}

/// Deletes up to [`BATCH`] objects by one request; the keys that failed, with why.
async fn objects(bucket: &Bucket, keys: &[String]) -> HashMap<String, StepError> {
    let identifiers = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build()).collect::<Result<_, _>>();
    let delete = identifiers.and_then(|all| Delete::builder().set_objects(Some(all)).quiet(true).build());
    let delete = match delete {
        Ok(_) if keys.is_empty() => return HashMap::new(),
        Ok(delete) => delete,
        Err(error) => return every(keys, &ErrorName::Internal.because(error.to_string())),
    };
    let request = bucket.client.delete_objects().bucket(&bucket.name).delete(delete);
    match request.set_expected_bucket_owner(bucket.owner.clone()).send().await {
        Ok(answer) => answer.errors.unwrap_or_default().into_iter().filter_map(refused).collect(),
        Err(error) => every(keys, &error.into()),
    }
}

fn every(keys: &[String], error: &StepError) -> HashMap<String, StepError> {
    keys.iter().map(|key| (key.clone(), error.clone())).collect()
}

fn refused(error: aws_sdk_s3::types::Error) -> Option<(String, StepError)> {
    let (code, message) = (error.code.unwrap_or_default(), error.message.unwrap_or_default());
    let name = if code == "AccessDenied" { ErrorName::AccessDenied } else { ErrorName::StepFailed };
    Some((error.key?, name.because(format!("S3 refused to delete it: {code}: {message}"))))
}

/// Whether XML, which carries many keys at once, can carry this one. <https://www.w3.org/TR/xml/#charsets>
fn is_writable(key: &str) -> bool {
    // A reader makes one line end of both, and newlines of tabs in places; S3 gets those keys one by one.
    key.chars().all(|c| c >= ' ' && !matches!(c, '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_xml_cannot_carry_go_alone() {
        assert!(is_writable("a/ü &<>\"'/🦀"));
        for key in ["a\nb", "a\rb", "a\u{1}", "\u{ffff}"] {
            assert!(!is_writable(key), "{key:?}");
        }
    }
}
