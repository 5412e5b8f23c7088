//! What source and destination are.

use aws_sdk_s3::types::StorageClass;
use stepward::{Context, ErrorName, StepError};

use super::request::{Operation, Task, prefix};
use crate::body::blocking;
use crate::bucket::{Bucket, Head, client};
use crate::end::End;
use crate::listing::{Entry, is_archived};
use crate::local::Root;
use crate::place::{Place, Uri};

/// The two ends and, for a single entry, that entry and its name at the destination.
pub(super) struct Ends {
    pub(super) source: End,
    pub(super) destination: End,
    pub(super) single: Option<(Option<Entry>, String)>,
}

/// Whether a single source is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Look {
    /// It was there in an earlier call, and is begun or done.
    No,
    /// It was there in an earlier call, which may have moved it since.
    MayBeGone,
    /// It must be there.
    MustBeThere,
}

impl Task<'_> {
    /// Finds out what source and destination are.
    pub(super) async fn ends(&self, ctx: &Context, look: Look) -> Result<Ends, StepError> {
        let (source, destination) = self.places()?;
        let owner = self
            .bucket_owner
            .unwrap_or(&ctx.place.account_id)
            .to_owned();
        let written = |uri: &Uri| Bucket {
            client: ctx.client(client),
            name: uri.bucket.clone(),
            owner: Some(owner),
        };
        let name = self.name_of_destination();
        if self.operation == Operation::Delete {
            let Place::S3(uri) = &destination else {
                return Err(not_s3(name));
            };
            let (prefix, last) = split(&uri.key, self.recursive);
            let end = End::S3 {
                bucket: written(uri),
                prefix,
            };
            let single = last.map(|last| (Some(Entry::named(&last)), last));
            return Ok(Ends {
                source: end.clone(),
                destination: end,
                single,
            });
        }
        let read = match &source {
            Place::S3(uri) => {
                let there = if self.is_elsewhere() {
                    ctx.peer()?
                } else {
                    ctx
                };
                let (prefix, last) = split(&uri.key, self.recursive);
                let bucket = Bucket {
                    client: there.client(client),
                    name: uri.bucket.clone(),
                    owner: None,
                };
                let single = match last {
                    Some(name) if look != Look::No => match bucket.head(&uri.key).await {
                        Err(error)
                            if error.name == ErrorName::NotFound && look == Look::MayBeGone =>
                        {
                            Some((None, name))
                        }
                        Err(error) => return Err(error),
                        Ok(Head {
                            size,
                            modified,
                            etag,
                            answer,
                            ..
                        }) => {
                            let archived = is_archived(
                                answer.storage_class.as_ref().map(StorageClass::as_str),
                            );
                            let archived = archived
                                && !answer
                                    .restore
                                    .is_some_and(|restore| restore.contains("\"false\""));
                            Some((
                                Some(Entry {
                                    key: name.clone(),
                                    size,
                                    modified,
                                    etag,
                                    archived,
                                }),
                                name,
                            ))
                        }
                    },
                    last => last.map(|name| (None, name)),
                };
                (End::S3 { bucket, prefix }, single)
            }
            Place::Local(path) => local_source(path, self.recursive, look).await?,
        };
        let (source, single) = read;
        let (destination, renamed) = match &destination {
            Place::S3(uri) => {
                let (prefix, last) = split(&uri.key, self.recursive);
                (
                    End::S3 {
                        bucket: written(uri),
                        prefix,
                    },
                    last.filter(|last| !last.is_empty()),
                )
            }
            Place::Local(path) => local_destination(path, self.recursive).await?,
        };
        let single = single.map(|(entry, name)| (entry, renamed.unwrap_or(name)));
        Ok(Ends {
            source,
            destination,
            single,
        })
    }
}

/// The directory and, for a single file, that file and its name in it.
async fn local_source(
    path: &str,
    recursive: bool,
    look: Look,
) -> Result<(End, Option<(Option<Entry>, String)>), StepError> {
    let given = path.to_owned();
    blocking(move || {
        let root = Root::open()?;
        let path = root.resolve("source", &given)?;
        let invalid =
            |why: &str| Err(ErrorName::InvalidInput.with_message(format!("source {given} {why}")));
        let stat = if look == Look::No {
            None
        } else {
            root.stat(&path)?
        };
        if recursive {
            return match stat {
                // Whoever lists it finds out; who only stops a run needs no source.
                None if look == Look::No => Ok((End::Local { root, base: path }, None)),
                None => {
                    Err(ErrorName::NotFound.with_message(format!("there is no directory {given}")))
                }
                Some(stat) if !stat.is_dir => invalid("is a file: leave recursive away"),
                Some(_) => Ok((End::Local { root, base: path }, None)),
            };
        }
        let (base, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let entry = match stat {
            None if look == Look::MustBeThere => {
                return Err(ErrorName::NotFound.with_message(format!("there is no file {given}")));
            }
            Some(stat) if stat.is_dir => return invalid("is a directory: set recursive"),
            stat => stat.map(|stat| Entry {
                key: name.into(),
                size: stat.size,
                modified: stat.modified,
                etag: None,
                archived: false,
            }),
        };
        Ok((
            End::Local {
                root,
                base: base.into(),
            },
            Some((entry, name.into())),
        ))
    })
    .await
}

/// The directory, and the name in it where one is given.
async fn local_destination(
    path: &str,
    recursive: bool,
) -> Result<(End, Option<String>), StepError> {
    let given = path.to_owned();
    blocking(move || {
        let root = Root::open()?;
        let path = root.resolve("destination", &given)?;
        let stat = root.stat(&path)?;
        let is_dir = stat.as_ref().is_some_and(|stat| stat.is_dir);
        if recursive && !is_dir && stat.is_some() {
            return Err(ErrorName::InvalidInput
                .with_message(format!("destination {given} is a file, not a directory")));
        }
        if recursive || is_dir || given.ends_with('/') {
            return Ok((End::Local { root, base: path }, None));
        }
        let (base, name) = path.rsplit_once('/').unwrap_or(("", &path));
        Ok((
            End::Local {
                root,
                base: base.into(),
            },
            Some(name.into()),
        ))
    })
    .await
}

fn not_s3(parameter: &str) -> StepError {
    ErrorName::InvalidInput.with_message(format!("{parameter} is no URI as in s3://bucket/key"))
}

/// What a key is below, and its last name where only that is meant.
fn split(key: &str, recursive: bool) -> (String, Option<String>) {
    if recursive {
        return (prefix(key), None);
    }
    let end = key.rfind('/').map_or(0, |slash| slash + 1);
    (key[..end].to_owned(), Some(key[end..].to_owned()))
}

impl Entry {
    /// An entry of which only the name is known.
    fn named(name: &str) -> Self {
        Self {
            key: name.into(),
            size: 0,
            modified: std::time::SystemTime::UNIX_EPOCH,
            etag: None,
            archived: false,
        }
    }
}
