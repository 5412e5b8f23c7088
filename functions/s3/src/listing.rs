//! Lists a prefix or directory in byte order of keys, page by page, in bounded memory.

use std::ops::ControlFlow;
use std::time::SystemTime;

use aws_sdk_s3::types::{EncodingType, ObjectStorageClass};
use stepward::{ErrorName, StepError};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::base_location::BaseLocation;
use crate::bucket::Bucket;
use crate::keys::decode_listed_key;
use crate::local::{self, Root};

/// How many entries of a local listing are passed on together; S3's pages have as many.
const PAGE_SIZE: usize = 1000;
/// How many pages are read ahead.
const PAGES_AHEAD: usize = 1;

/// An object or a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The key without the listed prefix, or the path relative to the listed directory.
    pub key: String,
    /// The size, in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// An object's entity tag.
    pub etag: Option<String>,
    /// Whether the storage class prevents reading, unless the object was restored.
    pub archived: bool,
}

/// One name of a listing.
#[derive(Clone, Debug)]
pub enum ListedName {
    /// A name that can be transferred.
    Entry(Entry),
    /// A name that cannot be transferred.
    Skipped {
        /// As in [`Entry::key`].
        key: String,
        /// The reason, as the end of a sentence.
        reason: String,
    },
}

/// A running listing. Dropping it ends the task that reads ahead.
#[derive(Debug)]
pub struct Listing {
    /// Pages that are not empty, then an empty page as the end mark. A listing without an end mark
    /// was interrupted. It must not pass for a complete one, because a sync would delete the
    /// missing names at the destination.
    pages: Receiver<Result<Vec<ListedName>, StepError>>,
    page: std::vec::IntoIter<ListedName>,
    is_finished: bool,
}

impl Listing {
    /// Starts listing a location after the key `after`. With `with_folders` it includes empty
    /// objects with a final slash, which consoles create. With `is_optional` a missing directory is
    /// an empty listing.
    #[must_use]
    pub fn start(
        base: &BaseLocation,
        after: Option<&str>,
        with_folders: bool,
        is_optional: bool,
    ) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let after = after.map(str::to_owned);

        match base.clone() {
            BaseLocation::S3 { bucket, prefix } => {
                tokio::spawn(async move {
                    if let Err(error) =
                        list_objects(&bucket, &prefix, with_folders, after, &sender).await
                    {
                        let _ = sender.send(Err(error)).await;
                    }
                });
            }
            BaseLocation::Local { root, directory } => {
                tokio::task::spawn_blocking(move || {
                    match list_files(&root, &directory, after.as_deref(), &sender) {
                        Err(error) if error.name == ErrorName::NotFound && is_optional => {
                            let _ = sender.blocking_send(Ok(Vec::new()));
                        }
                        Err(error) => drop(sender.blocking_send(Err(error))),
                        Ok(()) => {}
                    }
                });
            }
        }

        Self {
            pages,
            page: Vec::new().into_iter(),
            is_finished: false,
        }
    }

    /// A listing of one entry.
    #[must_use]
    pub fn single(entry: Entry) -> Self {
        Self {
            page: vec![ListedName::Entry(entry)].into_iter(),
            ..Self::empty()
        }
    }

    /// A listing of these names, in this order.
    #[cfg(test)]
    pub(crate) fn from_names(names: Vec<ListedName>) -> Self {
        Self {
            page: names.into_iter(),
            ..Self::empty()
        }
    }

    /// A listing without names.
    #[must_use]
    pub fn empty() -> Self {
        let (_, pages) = mpsc::channel(PAGES_AHEAD);
        Self {
            pages,
            page: Vec::new().into_iter(),
            is_finished: true,
        }
    }

    /// The next name. The future can be dropped without losing a name.
    ///
    /// # Errors
    /// The error of S3 or of the file system.
    pub async fn next_name(&mut self) -> Result<Option<ListedName>, StepError> {
        loop {
            if let Some(listed) = self.page.next() {
                return Ok(Some(listed));
            }
            if self.is_finished {
                return Ok(None);
            }
            let page = self.pages.recv().await.unwrap_or_else(|| {
                Err(ErrorName::Internal.with_message(
                    "the listing of a bucket or directory was interrupted; run the step again, and \
                     report it as a bug if it fails again",
                ))
            })?;
            self.is_finished = page.is_empty();
            self.page = page.into_iter();
        }
    }
}

/// Whether objects of a storage class must be restored before they can be read:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/archived-objects.html>
#[must_use]
pub fn is_archived(storage_class: Option<&str>) -> bool {
    matches!(storage_class, Some("GLACIER" | "DEEP_ARCHIVE"))
}

async fn list_objects(
    bucket: &Bucket,
    prefix: &str,
    with_folders: bool,
    after: Option<String>,
    sender: &Sender<Result<Vec<ListedName>, StepError>>,
) -> Result<(), StepError> {
    let request = bucket
        .client
        .list_objects_v2()
        .bucket(&bucket.name)
        .prefix(prefix)
        .encoding_type(EncodingType::Url);
    let request = request.set_expected_bucket_owner(bucket.owner.clone());
    let mut last = after.map(|after| format!("{prefix}{after}"));
    let request = request.set_start_after(last.clone());
    let mut pages = request.into_paginator().send();

    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| bucket.request_error(error))?;
        let mut entries = Vec::new();
        for object in page.contents.unwrap_or_default() {
            let key =
                decode_listed_key(page.encoding_type.as_ref(), object.key.unwrap_or_default())?;
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(unordered_listing_error(&bucket.name, &key));
            }
            last = Some(key.clone());
            let size = object.size.unwrap_or_default().unsigned_abs();
            if size == 0 && (key.ends_with('/') || key.is_empty()) && !with_folders {
                continue;
            }
            let Some(relative) = key.strip_prefix(prefix) else {
                return Err(ErrorName::Internal.with_message(format!(
                    "S3 listed {key:?} below the prefix {prefix:?}; report this as a bug"
                )));
            };
            let modified = object
                .last_modified
                .and_then(|time| SystemTime::try_from(time).ok());
            let modified = modified.ok_or_else(|| {
                ErrorName::Internal.with_message(
                    "S3 listed an object without a modification time; report this as a bug",
                )
            })?;
            let archived = is_archived(
                object
                    .storage_class
                    .as_ref()
                    .map(ObjectStorageClass::as_str),
            );
            entries.push(ListedName::Entry(Entry {
                key: relative.into(),
                size,
                modified,
                etag: object.e_tag,
                archived,
            }));
        }
        if !entries.is_empty() && sender.send(Ok(entries)).await.is_err() {
            return Ok(());
        }
    }

    let _ = sender.send(Ok(Vec::new())).await;
    Ok(())
}

/// The error of a listing that is not in the order of keys. Comparing two listings and resuming
/// after a key rely on the order, which directory buckets do not have:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html> ("Sorting order of
/// returned objects")
fn unordered_listing_error(bucket: &str, key: &str) -> StepError {
    ErrorName::StepFailed.with_message(format!(
        "bucket \"{bucket}\" does not list its keys in order ({key:?} came too late); use a \
         general purpose bucket, not a directory bucket or an S3-compatible server"
    ))
}

fn list_files(
    root: &Root,
    directory: &str,
    after: Option<&str>,
    sender: &Sender<Result<Vec<ListedName>, StepError>>,
) -> Result<(), StepError> {
    let mut page = Vec::with_capacity(PAGE_SIZE);
    root.walk(directory, after, &mut |entry| {
        page.push(match entry {
            local::WalkedEntry::File { key, stat } => ListedName::Entry(Entry {
                key,
                size: stat.size,
                modified: stat.modified,
                etag: None,
                archived: false,
            }),
            local::WalkedEntry::Skipped { key, reason } => ListedName::Skipped { key, reason },
        });
        if page.len() < PAGE_SIZE || sender.blocking_send(Ok(std::mem::take(&mut page))).is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    if page.is_empty() || sender.blocking_send(Ok(page)).is_ok() {
        let _ = sender.blocking_send(Ok(Vec::new()));
    }

    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_interrupted_listing_is_an_error() {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let mut listing = Listing {
            pages,
            page: Vec::new().into_iter(),
            is_finished: false,
        };
        tokio::spawn(async move {
            let entry = ListedName::Skipped {
                key: "a".into(),
                reason: "of a test".into(),
            };
            sender.send(Ok(vec![entry])).await.unwrap();
            panic!("as a bug would");
        });
        assert!(listing.next_name().await.unwrap().is_some());
        assert_eq!(
            listing.next_name().await.unwrap_err().name,
            ErrorName::Internal
        );
        assert!(Listing::empty().next_name().await.unwrap().is_none());
    }
}
