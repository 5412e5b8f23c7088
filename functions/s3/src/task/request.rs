//! What a step's parameters request, and which requests are refused before any call to AWS.

use aws_sdk_s3::types::StorageClass;
use stepward::model::input::require;
use stepward::model::merged::Merged;
use stepward::{ErrorName, StepError};

use crate::bucket::Encryption;
use crate::bucket_name::may_be_same_bucket;
use crate::location::{Location, S3Uri};
use crate::params::{Selection, Transfer, TransferOptions};

/// The operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Copies like `aws s3 cp`.
    Copy,
    /// Moves like `aws s3 mv`.
    Move,
    /// Synchronizes like `aws s3 sync`, with `--delete` if true.
    Sync(bool),
    /// Deletes the destination like `aws s3 rm`.
    Delete,
}

/// A transfer or deletion that a step's parameters request.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The operation.
    pub operation: Operation,
    /// Where to read; for a deletion, the same as the destination.
    pub source: &'a str,
    /// Where to write or delete.
    pub destination: &'a str,
    /// Whether everything below the source is handled, not a single entry.
    pub recursive: bool,
    /// Which objects are handled.
    pub selection: &'a Selection,
    /// How objects are read and written.
    pub options: &'a TransferOptions,
    /// The account that owns the destination bucket; the step's account if absent.
    pub bucket_owner: Option<&'a str>,
}

impl<'a> Task<'a> {
    /// A transfer with the parameters that all transfers share.
    #[must_use]
    pub fn for_transfer(
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

    /// A deletion of the objects at a URI.
    #[must_use]
    pub fn for_deletion(
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
    pub(super) fn locations(&self) -> Result<(Location, Location), StepError> {
        Ok((
            Location::parse("source", self.source)?,
            Location::parse(self.destination_parameter(), self.destination)?,
        ))
    }

    /// Whether the source is read in another account or Region than the destination is written in.
    pub(super) fn has_peer_source(&self) -> bool {
        self.options.source_account.is_some() || self.options.source_region.is_some()
    }

    pub(super) fn destination_parameter(&self) -> &'static str {
        if self.operation == Operation::Delete {
            "uri"
        } else {
            "destination"
        }
    }

    /// Checks everything that can be checked without a call to AWS.
    ///
    /// # Errors
    /// `InvalidInput` with the parameter's name.
    pub fn validate(&self) -> Result<(), StepError> {
        if self.operation == Operation::Delete {
            let uri = S3Uri::parse("uri", self.destination)?;
            require(self.recursive || !uri.key.is_empty(), || {
                format!(
                    "parameter \"uri\": {:?} names a whole bucket; name an object, or set \
                     recursive",
                    self.destination
                )
            })?;
        }

        let (source, destination) = self.locations()?;
        let classes = StorageClass::values();
        require(
            self.options
                .storage_class
                .as_deref()
                .is_none_or(|class| classes.contains(&class)),
            || {
                format!(
                    "parameter \"storage_class\": expected one of {}, got {:?}",
                    classes.join(", "),
                    self.options.storage_class.as_deref().unwrap_or_default()
                )
            },
        )?;
        require(
            self.options.sse_kms_key_id.is_none() || self.options.sse == Some(Encryption::Kms),
            || "parameter \"sse_kms_key_id\": set sse to \"aws:kms\", or omit the key".into(),
        )?;
        require(
            self.bucket_owner
                .is_none_or(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_digit())),
            || {
                format!(
                    "parameter \"bucket_owner\": expected an account ID of 12 digits, got {:?}",
                    self.bucket_owner.unwrap_or_default()
                )
            },
        )?;
        let is_single = !self.recursive && self.operation != Operation::Delete;

        match (&source, &destination) {
            (Location::Local(_), Location::Local(_)) => Err(ErrorName::InvalidInput.with_message(
                "source and destination are both local; at least one must be a URI such as \
                 s3://bucket/key",
            )),
            (Location::Local(_), _) if self.has_peer_source() => Err(ErrorName::InvalidInput
                .with_message(
                    "source_account and source_region require a source in S3, but the source is \
                     local; omit them",
                )),
            (Location::S3(uri), _)
                if is_single && (uri.key.is_empty() || uri.key.ends_with('/')) =>
            {
                Err(ErrorName::InvalidInput.with_message(format!(
                    "source {:?} names a prefix and not an object: set recursive, or name an \
                     object",
                    self.source
                )))
            }
            (Location::S3(source), Location::S3(destination)) => {
                self.validate_copy(source, destination)
            }
            _ => Ok(()),
        }
    }

    /// Checks that a move or sync does not damage its own source, if both locations are in the same
    /// bucket or may be.
    fn validate_copy(&self, source: &S3Uri, destination: &S3Uri) -> Result<(), StepError> {
        if !may_be_same_bucket(&source.bucket, &destination.bucket) {
            return Ok(());
        }

        let source_prefix = folder_prefix(&source.key);
        let destination_prefix = folder_prefix(&destination.key);
        let caution = if source.bucket == destination.bucket {
            String::new()
        } else {
            format!(
                "{:?} and {:?} may be the same bucket, because the name of an access point does \
                 not tell its bucket: ",
                source.bucket, destination.bucket
            )
        };

        match self.operation {
            Operation::Move => {
                let is_onto_itself = if self.recursive {
                    destination_prefix.starts_with(&source_prefix)
                } else {
                    is_same_object(&source.key, &destination.key)
                };
                require(!is_onto_itself, || {
                    format!(
                        "{caution}destination {:?} is the source {:?} itself or under it, so \
                         objects would be moved repeatedly or lost; choose another destination",
                        self.destination, self.source
                    )
                })
            }
            Operation::Sync(true) => {
                let is_under_destination = source_prefix != destination_prefix
                    && source_prefix.starts_with(&destination_prefix);
                require(!is_under_destination, || {
                    format!(
                        "{caution}source {:?} is under destination {:?}, so \"delete\" would \
                         delete the source objects; choose another destination",
                        self.source, self.destination
                    )
                })
            }
            _ => Ok(()),
        }
    }
}

/// A prefix that a name can follow: empty, or with a slash at its end.
pub(super) fn folder_prefix(key: &str) -> String {
    if key.is_empty() || key.ends_with('/') {
        key.to_owned()
    } else {
        format!("{key}/")
    }
}

/// Whether a move of a single object would move it onto itself.
fn is_same_object(source: &str, destination: &str) -> bool {
    let name = source.rsplit('/').next().unwrap_or(source);
    let keeps_name = destination.is_empty() || destination.ends_with('/');
    source == destination || keeps_name && *source == format!("{destination}{name}")
}
