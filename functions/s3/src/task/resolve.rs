//! Resolves the source and destination of a task.

use std::time::SystemTime;

use aws_sdk_s3::types::StorageClass;
use stepward::{Context, ErrorName, StepError};

use super::request::{Operation, Task, folder_prefix};
use crate::base_location::BaseLocation;
use crate::body::run_blocking;
use crate::bucket::{Bucket, ObjectHead, SOURCE_REGION, TARGET_REGION, transfer_client};
use crate::listing::{Entry, is_archived};
use crate::local::Root;
use crate::location::{Location, S3Uri};

/// The resolved source and destination.
pub(super) struct ResolvedTransfer {
    pub(super) source: BaseLocation,
    pub(super) destination: BaseLocation,
    /// The entry, if the task handles a single one.
    pub(super) single: Option<SingleEntry>,
}

/// The only entry of a task.
pub(super) struct SingleEntry {
    /// The entry; `None` if it was not checked or does not exist any more.
    pub(super) entry: Option<Entry>,
    /// Its name at the destination.
    pub(super) name: String,
}

/// How the existence of a single source is checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SourceCheck {
    /// Not at all: it existed in an earlier call, which transferred it completely or partly.
    Skip,
    /// It existed in an earlier call, which may have moved it since.
    MayBeMoved,
    /// It must exist.
    MustExist,
}

impl Task<'_> {
    /// Resolves source and destination.
    pub(super) async fn resolve_locations(
        &self,
        ctx: &Context,
        check: SourceCheck,
    ) -> Result<ResolvedTransfer, StepError> {
        let (source, destination) = self.locations()?;
        let owner = self
            .bucket_owner
            .unwrap_or(&ctx.scope.account_id)
            .to_owned();
        let written_bucket = |uri: &S3Uri| Bucket {
            client: ctx.client(transfer_client),
            name: uri.bucket.clone(),
            owner: Some(owner),
            region_parameter: TARGET_REGION,
        };
        let parameter = self.destination_parameter();

        if self.operation == Operation::Delete {
            let Location::S3(uri) = &destination else {
                return Err(not_s3_error(parameter, self.destination));
            };
            let (prefix, name) = split_key(&uri.key, self.recursive);
            let base = BaseLocation::S3 {
                bucket: written_bucket(uri),
                prefix,
            };
            let single = name.map(|name| SingleEntry {
                entry: Some(Entry::with_name_only(&name)),
                name,
            });
            return Ok(ResolvedTransfer {
                source: base.clone(),
                destination: base,
                single,
            });
        }

        let (source, single) = match &source {
            Location::S3(uri) => self.resolve_s3_source(ctx, uri, check).await?,
            Location::Local(path) => resolve_local_source(path, self.recursive, check).await?,
        };
        let (destination, new_name) = match &destination {
            Location::S3(uri) => {
                let (prefix, name) = split_key(&uri.key, self.recursive);
                let base = BaseLocation::S3 {
                    bucket: written_bucket(uri),
                    prefix,
                };
                (base, name.filter(|name| !name.is_empty()))
            }
            Location::Local(path) => resolve_local_destination(path, self.recursive).await?,
        };
        let single = single.map(|single| SingleEntry {
            name: new_name.unwrap_or(single.name),
            ..single
        });
        Ok(ResolvedTransfer {
            source,
            destination,
            single,
        })
    }

    /// The source's prefix, and the object if a single one is transferred.
    async fn resolve_s3_source(
        &self,
        ctx: &Context,
        uri: &S3Uri,
        check: SourceCheck,
    ) -> Result<(BaseLocation, Option<SingleEntry>), StepError> {
        let source_ctx = if self.has_peer_source() {
            ctx.peer()?
        } else {
            ctx
        };
        let (prefix, name) = split_key(&uri.key, self.recursive);
        let bucket = Bucket {
            client: source_ctx.client(transfer_client),
            name: uri.bucket.clone(),
            owner: None,
            region_parameter: SOURCE_REGION,
        };
        let Some(name) = name else {
            return Ok((BaseLocation::S3 { bucket, prefix }, None));
        };

        let entry = if check == SourceCheck::Skip {
            None
        } else {
            match bucket.head_object(&uri.key).await {
                Err(error)
                    if error.name == ErrorName::NotFound && check == SourceCheck::MayBeMoved =>
                {
                    None
                }
                head => Some(Entry::from_head(&name, head?)),
            }
        };
        let single = SingleEntry { entry, name };
        Ok((BaseLocation::S3 { bucket, prefix }, Some(single)))
    }
}

/// The source's directory, and the file if a single one is transferred.
async fn resolve_local_source(
    path: &str,
    recursive: bool,
    check: SourceCheck,
) -> Result<(BaseLocation, Option<SingleEntry>), StepError> {
    let parameter = path.to_owned();
    run_blocking(move || {
        let root = Root::open()?;
        let path = root.resolve("source", &parameter)?;
        let invalid = |problem: &str| {
            Err(ErrorName::InvalidInput.with_message(format!("source {parameter:?} {problem}")))
        };
        let not_found = |kind: &str| {
            Err(ErrorName::NotFound.with_message(format!(
                "source {kind} {parameter:?} does not exist below the local root; check the path"
            )))
        };
        let stat = if check == SourceCheck::Skip {
            None
        } else {
            root.stat(&path)?
        };

        if recursive {
            return match stat {
                // Later calls list the directory anyway, and `cancel` needs no source.
                None if check != SourceCheck::Skip => not_found("directory"),
                Some(stat) if !stat.is_dir => {
                    invalid("is a file; omit recursive, or name a directory")
                }
                _ => {
                    let directory = path;
                    Ok((BaseLocation::Local { root, directory }, None))
                }
            };
        }

        let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let entry = match stat {
            None if check == SourceCheck::MustExist => return not_found("file"),
            Some(stat) if stat.is_dir => {
                return invalid("is a directory: set recursive, or name a file");
            }
            // A file has no content that these could name, and a move would delete it.
            Some(_)
                if ["/", "/.", "/.."]
                    .iter()
                    .any(|end| parameter.ends_with(end)) =>
            {
                return invalid("names a directory but is a file; omit what follows its name");
            }
            stat => stat.map(|stat| Entry {
                key: name.into(),
                size: stat.size,
                modified: stat.modified,
                etag: None,
                archived: false,
            }),
        };
        let single = SingleEntry {
            entry,
            name: name.into(),
        };
        let directory = directory.into();
        Ok((BaseLocation::Local { root, directory }, Some(single)))
    })
    .await
}

/// The destination's directory, and the name in it if the parameter has one.
async fn resolve_local_destination(
    path: &str,
    recursive: bool,
) -> Result<(BaseLocation, Option<String>), StepError> {
    let parameter = path.to_owned();
    run_blocking(move || {
        let root = Root::open()?;
        let path = root.resolve("destination", &parameter)?;
        let stat = root.stat(&path)?;
        let is_dir = stat.as_ref().is_some_and(|stat| stat.is_dir);
        if recursive && !is_dir && stat.is_some() {
            return Err(ErrorName::InvalidInput.with_message(format!(
                "destination {parameter:?} is a file, not a directory; name a directory"
            )));
        }
        if recursive || is_dir || parameter.ends_with('/') {
            let directory = path;
            return Ok((BaseLocation::Local { root, directory }, None));
        }

        let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let directory = directory.into();
        Ok((BaseLocation::Local { root, directory }, Some(name.into())))
    })
    .await
}

fn not_s3_error(parameter: &str, text: &str) -> StepError {
    ErrorName::InvalidInput.with_message(format!(
        "parameter \"{parameter}\": expected a URI such as s3://bucket/key, got {text:?}"
    ))
}

/// Splits a key into a prefix and, if a single object is meant, the name after it.
fn split_key(key: &str, recursive: bool) -> (String, Option<String>) {
    if recursive {
        return (folder_prefix(key), None);
    }
    let end = key.rfind('/').map_or(0, |slash| slash + 1);
    (key[..end].to_owned(), Some(key[end..].to_owned()))
}

impl Entry {
    /// An entry of which only the name is known.
    fn with_name_only(name: &str) -> Self {
        Self {
            key: name.into(),
            size: 0,
            modified: SystemTime::UNIX_EPOCH,
            etag: None,
            archived: false,
        }
    }

    fn from_head(name: &str, head: ObjectHead) -> Self {
        let storage_class = head.response.storage_class.as_ref();
        let is_restored = head
            .response
            .restore
            .is_some_and(|restore| restore.contains("\"false\""));
        Self {
            key: name.into(),
            size: head.size,
            modified: head.modified,
            etag: head.etag,
            archived: is_archived(storage_class.map(StorageClass::as_str)) && !is_restored,
        }
    }
}
