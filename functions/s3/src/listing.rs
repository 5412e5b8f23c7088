//! What is in a bucket or below a directory: in byte order of keys, page after page, in bounded
//! memory.

use std::ops::ControlFlow;
use std::time::SystemTime;

use aws_sdk_s3::types::{EncodingType, ObjectStorageClass};
use stepward::model::s3_error::s3_error;
use stepward::{ErrorName, StepError};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::bucket::Bucket;
use crate::end::End;
use crate::keys::listed;
use crate::local::{self, Root};

/// Entries of a local listing that are handed over at once; S3's pages have as many.
const PAGE: usize = 1000;
/// Pages that are read ahead while others are worked on.
const AHEAD: usize = 1;

/// An object or a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its key behind the listed prefix, or its path below the listed directory with slashes.
    pub key: String,
    /// Its size, in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// An object's entity tag.
    pub etag: Option<String>,
    /// Whether its storage class keeps it from being read, unless it has been restored.
    pub archived: bool,
}

/// One name of a listing.
#[derive(Clone, Debug)]
pub enum Listed {
    /// What can be transferred.
    Entry(Entry),
    /// What cannot, and why.
    Skipped {
        /// As in [`Entry::key`].
        key: String,
        /// The reason, for a person.
        reason: String,
    },
}

/// A listing on its way. What it reads ahead ends when it is dropped.
#[derive(Debug)]
pub struct Listing {
    /// Pages that are not empty, and at the end one that is: an end that is not told is a fault,
    /// because what is taken for the end of a source would be deleted at the destination.
    pages: Receiver<Result<Vec<Listed>, StepError>>,
    page: std::vec::IntoIter<Listed>,
    is_over: bool,
}

impl Listing {
    /// Lists what is below an end, after the key `after`. With `folders` also empty objects with a
    /// slash at the end, as consoles make them; with `optional` a directory that is not there is an
    /// empty one.
    #[must_use]
    pub fn below(end: &End, after: Option<&str>, folders: bool, optional: bool) -> Self {
        let (sender, pages) = mpsc::channel(AHEAD);
        let after = after.map(str::to_owned);
        match end.clone() {
            End::S3 { bucket, prefix } => {
                tokio::spawn(async move {
                    if let Err(error) = objects(&bucket, &prefix, folders, after, &sender).await {
                        let _ = sender.send(Err(error)).await;
                    }
                });
            }
            End::Local { root, base } => {
                tokio::task::spawn_blocking(move || {
                    match files(&root, &base, after.as_deref(), &sender) {
                        Err(error) if error.name == ErrorName::NotFound && optional => {
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
            is_over: false,
        }
    }

    /// A listing of one entry.
    #[must_use]
    pub fn of(entry: Entry) -> Self {
        Self {
            page: vec![Listed::Entry(entry)].into_iter(),
            ..Self::empty()
        }
    }

    /// A listing of these names, in this order.
    #[cfg(test)]
    pub(crate) fn of_all(names: Vec<Listed>) -> Self {
        Self {
            page: names.into_iter(),
            ..Self::empty()
        }
    }

    /// A listing of nothing.
    #[must_use]
    pub fn empty() -> Self {
        let (_, pages) = mpsc::channel(AHEAD);
        Self {
            pages,
            page: Vec::new().into_iter(),
            is_over: true,
        }
    }

    /// The next name. Nothing is lost where the future is dropped.
    ///
    /// # Errors
    /// Why S3 or the file system failed.
    pub async fn next(&mut self) -> Result<Option<Listed>, StepError> {
        loop {
            if let Some(listed) = self.page.next() {
                return Ok(Some(listed));
            }
            if self.is_over {
                return Ok(None);
            }
            let page = self.pages.recv().await.unwrap_or_else(|| {
                Err(ErrorName::Internal.with_message(
                    "a listing broke off; run it again, and report it if it comes back",
                ))
            })?;
            self.is_over = page.is_empty();
            self.page = page.into_iter();
        }
    }
}

/// Whether objects of a storage class cannot be read before they are restored.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/archived-objects.html>
#[must_use]
pub fn is_archived(storage_class: Option<&str>) -> bool {
    matches!(storage_class, Some("GLACIER" | "DEEP_ARCHIVE"))
}

async fn objects(
    bucket: &Bucket,
    prefix: &str,
    folders: bool,
    after: Option<String>,
    sender: &Sender<Result<Vec<Listed>, StepError>>,
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
        let page = page.map_err(s3_error)?;
        let mut entries = Vec::new();
        for object in page.contents.unwrap_or_default() {
            let key = listed(page.encoding_type.as_ref(), object.key.unwrap_or_default())?;
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(out_of_order(&bucket.name, &key));
            }
            last = Some(key.clone());
            let size = object.size.unwrap_or_default().unsigned_abs();
            if size == 0 && (key.ends_with('/') || key.is_empty()) && !folders {
                continue;
            }
            let Some(relative) = key.strip_prefix(prefix) else {
                return Err(ErrorName::Internal.with_message(format!(
                    "S3 listed {key:?}, which does not begin {prefix:?}"
                )));
            };
            let modified = object
                .last_modified
                .and_then(|time| SystemTime::try_from(time).ok());
            let modified = modified.ok_or_else(|| {
                ErrorName::Internal.with_message("S3 listed an object without a time")
            })?;
            let archived = is_archived(
                object
                    .storage_class
                    .as_ref()
                    .map(ObjectStorageClass::as_str),
            );
            entries.push(Listed::Entry(Entry {
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

/// Whoever compares two listings side by side, or goes on behind a key, relies on their order.
/// Directory buckets have none.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html> ("Sorting order of
/// returned objects")
fn out_of_order(bucket: &str, key: &str) -> StepError {
    ErrorName::StepFailed.with_message(format!(
        "bucket {bucket} does not list its keys in order ({key:?} came too late): directory buckets, and what is only \
         similar to S3, cannot be used here"
    ))
}

fn files(
    root: &Root,
    base: &str,
    after: Option<&str>,
    sender: &Sender<Result<Vec<Listed>, StepError>>,
) -> Result<(), StepError> {
    let mut page = Vec::with_capacity(PAGE);
    root.walk(base, after, &mut |found| {
        page.push(match found {
            local::Listed::File { key, stat } => Listed::Entry(Entry {
                key,
                size: stat.size,
                modified: stat.modified,
                etag: None,
                archived: false,
            }),
            local::Listed::Skipped { key, reason } => Listed::Skipped { key, reason },
        });
        if page.len() < PAGE || sender.blocking_send(Ok(std::mem::take(&mut page))).is_ok() {
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
    async fn a_listing_that_breaks_off_is_not_taken_for_one_that_is_over() {
        let (sender, pages) = mpsc::channel(AHEAD);
        let mut listing = Listing {
            pages,
            page: Vec::new().into_iter(),
            is_over: false,
        };
        tokio::spawn(async move {
            let entry = Listed::Skipped {
                key: "a".into(),
                reason: "of a test".into(),
            };
            sender.send(Ok(vec![entry])).await.unwrap();
            panic!("as any fault would");
        });
        assert!(listing.next().await.unwrap().is_some());
        assert_eq!(listing.next().await.unwrap_err().name, ErrorName::Internal);
        assert!(Listing::empty().next().await.unwrap().is_none());
    }
}
