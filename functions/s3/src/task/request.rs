//! What a step's parameters ask for, and what of it is refused before anything is asked of AWS.

use aws_sdk_s3::types::StorageClass;
use stepward::model::input::require;
use stepward::model::merged::Merged;
use stepward::{ErrorName, StepError};

use crate::bucket::Encryption;
use crate::params::{Selection, Transfer, TransferOptions};
use crate::place::{Place, Uri};

/// What is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// As `aws s3 cp`.
    Copy,
    /// As `aws s3 mv`.
    Move,
    /// As `aws s3 sync`, with `--delete` where true.
    Sync(bool),
    /// As `aws s3 rm`: what is named as destination.
    Delete,
}

/// What a step's parameters ask for.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// What is done.
    pub operation: Operation,
    /// From where; the destination where it is a deletion.
    pub source: &'a str,
    /// To where.
    pub destination: &'a str,
    /// Whether all that begins with the source is meant.
    pub recursive: bool,
    /// Which objects are meant.
    pub selection: &'a Selection,
    /// How objects are read and written.
    pub options: &'a TransferOptions,
    /// The account that owns the bucket that is written, where it is not the target's.
    pub bucket_owner: Option<&'a str>,
}

impl<'a> Task<'a> {
    /// A transfer with the parameters that all transfers share.
    #[must_use]
    pub fn transfer(
        operation: Operation,
        (source, destination): (&'a str, &'a str),
        recursive: bool,
        Merged(selection, options): &'a Transfer,
    ) -> Self {
        let bucket_owner = options.bucket_owner.as_deref();
        Self {
            operation,
            source,
            destination,
            recursive,
            selection,
            options,
            bucket_owner,
        }
    }

    /// A deletion of what is at the URI.
    #[must_use]
    pub fn deletion(
        uri: &'a str,
        recursive: bool,
        selection: &'a Selection,
        bucket_owner: Option<&'a str>,
    ) -> Self {
        let (source, destination, options) = (uri, uri, &TransferOptions::NONE);
        Self {
            operation: Operation::Delete,
            source,
            destination,
            recursive,
            selection,
            options,
            bucket_owner,
        }
    }
}

impl Task<'_> {
    pub(super) fn places(&self) -> Result<(Place, Place), StepError> {
        Ok((
            Place::parse("source", self.source)?,
            Place::parse(self.name_of_destination(), self.destination)?,
        ))
    }

    /// Whether the source is read in another account or Region than the destination is written in.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.options.source_account.is_some() || self.options.source_region.is_some()
    }

    pub(super) fn name_of_destination(&self) -> &'static str {
        if self.operation == Operation::Delete {
            "uri"
        } else {
            "destination"
        }
    }

    /// Checks what can be checked before anything is asked of AWS.
    ///
    /// # Errors
    /// `InvalidInput` naming the parameter.
    pub fn validate(&self) -> Result<(), StepError> {
        if self.operation == Operation::Delete {
            let uri = Uri::parse("uri", self.destination)?;
            require(self.recursive || !uri.key.is_empty(), || {
                "uri names a whole bucket: name an object, or set recursive".into()
            })?;
        }
        let (source, destination) = self.places()?;
        let classes = StorageClass::values();
        require(
            self.options
                .storage_class
                .as_deref()
                .is_none_or(|class| classes.contains(&class)),
            || format!("storage_class is none of {}", classes.join(", ")),
        )?;
        require(
            self.options.sse_kms_key_id.is_none() || self.options.sse == Some(Encryption::Kms),
            || "sse_kms_key_id needs sse \"aws:kms\"".into(),
        )?;
        require(
            self.bucket_owner
                .is_none_or(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_digit())),
            || "bucket_owner is not an account ID of 12 digits".into(),
        )?;
        let single = !self.recursive && self.operation != Operation::Delete;
        match (&source, &destination) {
            (Place::Local(_), Place::Local(_)) => Err(ErrorName::InvalidInput.with_message(
                "source and destination are both local: at least one must be s3://bucket/key",
            )),
            (Place::Local(_), _) if self.is_elsewhere() => Err(ErrorName::InvalidInput.with_message(
                "source_account and source_region are for a source in S3, and this one is local",
            )),
            (Place::S3(uri), _) if single && (uri.key.is_empty() || uri.key.ends_with('/')) => {
                Err(ErrorName::InvalidInput.with_message(
                    "source names a prefix and not an object: set recursive, or name an object",
                ))
            }
            (Place::S3(from), Place::S3(to)) if self.operation == Operation::Move => {
                let (below, onto) = (prefix(&from.key), prefix(&to.key));
                let itself = if self.recursive {
                    onto.starts_with(&below)
                } else {
                    is_onto(&from.key, &to.key)
                };
                require(from.bucket != to.bucket || !itself, || {
                    "destination is source itself or below it: what was moved would be moved again, or lost".into()
                })
            }
            (Place::S3(from), Place::S3(to)) if self.operation == Operation::Sync(true) => {
                let (below, onto) = (prefix(&from.key), prefix(&to.key));
                require(
                    from.bucket != to.bucket || below == onto || !below.starts_with(&onto),
                    || {
                        "source is below destination, where delete would delete it: name another destination".into()
                    },
                )
            }
            _ => Ok(()),
        }
    }
}

/// A prefix that whole names follow: empty, or with a slash at its end.
pub(super) fn prefix(key: &str) -> String {
    if key.is_empty() || key.ends_with('/') {
        key.to_owned()
    } else {
        format!("{key}/")
    }
}

/// Whether a single object would be moved onto itself.
fn is_onto(from: &str, to: &str) -> bool {
    let name = from.rsplit('/').next().unwrap_or(from);
    from == to || (to.is_empty() || to.ends_with('/')) && *from == format!("{to}{name}")
}
