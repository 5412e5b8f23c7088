//! A transfer as a step's parameters ask for it: what they mean, what they need, and the run.

mod ends;
mod permissions;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aws_sdk_s3::types::{MultipartUpload, StorageClass};
use stepward::model::input::require;
use stepward::{Context, ErrorName, Progress, Resume, StepError};
use tokio::sync::Semaphore;

use crate::body::blocking;
use crate::bucket::{Attributes, Encryption};
use crate::engine::{self, Run, Unfinished};
use crate::filter::{Filter, Filters, root_of_local, root_of_s3};
use crate::listing::Listing;
use crate::multipart::{abort, is_of, unfinished};
use crate::place::{Place, Uri};
use crate::plan::{Direction, Plan};
use crate::report::Done;
use crate::slice::Slice;
use crate::transfer::{End, MEMORY, Transfers, scratch_name};

use self::ends::{Ends, Look};

/// How long a transfer may take, over all its calls.
pub const TIMEOUT: Duration = Duration::from_hours(24);
/// Seconds by which our clock may be ahead of S3's.
const CLOCKS: i64 = 60;

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
    /// Which names are meant.
    pub filters: &'a [Filter],
    /// Whether nothing is changed, only shown.
    pub dry_run: bool,
    /// The storage class of what is written.
    pub storage_class: Option<&'a str>,
    /// The encryption of what is written.
    pub sse: Option<Encryption>,
    /// The KMS key of what is written.
    pub sse_kms_key_id: Option<&'a str>,
    /// Another account of the customer that the source is read in.
    pub source_account: Option<&'a str>,
    /// The Region of the source bucket, where it is another.
    pub source_region: Option<&'a str>,
    /// The account that owns the bucket that is written, where it is not the target's.
    pub bucket_owner: Option<&'a str>,
}

impl Task<'_> {
    fn places(&self) -> Result<(Place, Place), StepError> {
        Ok((Place::parse("source", self.source)?, Place::parse(self.name_of_destination(), self.destination)?))
    }

    /// Whether the source is read in another account or Region than the destination is written in.
    fn is_elsewhere(&self) -> bool {
        self.source_account.is_some() || self.source_region.is_some()
    }

    fn name_of_destination(&self) -> &'static str {
        if self.operation == Operation::Delete { "uri" } else { "destination" }
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
        require(self.storage_class.is_none_or(|class| classes.contains(&class)), || {
            format!("storage_class is none of {}", classes.join(", "))
        })?;
        require(self.sse_kms_key_id.is_none() || self.sse == Some(Encryption::Kms), || {
            "sse_kms_key_id needs sse \"aws:kms\"".into()
        })?;
        require(self.bucket_owner.is_none_or(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_digit())), || {
            "bucket_owner is not an account ID of 12 digits".into()
        })?;
        let single = !self.recursive && self.operation != Operation::Delete;
        match (&source, &destination) {
            (Place::Local(_), Place::Local(_)) => Err(ErrorName::InvalidInput
                .because("source and destination are both local: at least one must be s3://bucket/key")),
            (Place::Local(_), _) if self.is_elsewhere() => Err(ErrorName::InvalidInput
                .because("source_account and source_region are for a source in S3, and this one is local")),
            (Place::S3(uri), _) if single && (uri.key.is_empty() || uri.key.ends_with('/')) => {
                Err(ErrorName::InvalidInput
                    .because("source names a prefix and not an object: set recursive, or name an object"))
            }
            (Place::S3(from), Place::S3(to)) if self.operation == Operation::Move => {
                let (below, onto) = (prefix(&from.key), prefix(&to.key));
                let itself = if self.recursive { onto.starts_with(&below) } else { is_onto(&from.key, &to.key) };
                require(from.bucket != to.bucket || !itself, || {
                    "destination is source itself or below it: what was moved would be moved again, or lost".into()
                })
            }
            (Place::S3(from), Place::S3(to)) if self.operation == Operation::Sync(true) => {
                let (below, onto) = (prefix(&from.key), prefix(&to.key));
                require(from.bucket != to.bucket || below == onto || !below.starts_with(&onto), || {
                    "source is below destination, where delete would delete it: name another destination".into()
                })
            }
            _ => Ok(()),
        }
    }

    /// Works until all is done or the time for a call is over.
    ///
    /// # Errors
    /// `NotFound` when the source is not there, `InvalidInput` when a path leaves the local root, or what single objects
    /// failed with, once all others are done.
    pub async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Done>, StepError> {
        let slice = Slice::of(ctx);
        let resumed = resume.is_some();
        let position = engine::position(resume.as_ref())?;
        let look = if position.after.is_some() || !position.unfinished.is_empty() {
            Look::No
        } else if resumed {
            Look::MayBeGone
        } else {
            Look::MustBeThere
        };
        let Ends { source, destination, single } = self.ends(ctx, look).await?;
        if self.operation == Operation::Move && !self.recursive && !resumed && !self.dry_run {
            // A source that is gone at the next call has been moved by one whose answer was lost.
            return Progress::pending(&position, Duration::ZERO, "the source is there and will be moved");
        }
        let transfers = self.transfers(ctx, (source, destination), slice)?;
        if let Some(scratch) = transfers.scratch.clone() {
            let path = |one: &Unfinished| scratch_name(&transfers.source.path(&one.key));
            let kept: Vec<_> = position.unfinished.iter().map(path).collect();
            blocking(move || scratch.keep_only(&kept.iter().map(String::as_str).collect::<Vec<_>>())).await?;
        }
        let (source, destination) = (&transfers.source, &transfers.destination);
        let filters = self.filters(&transfers)?;
        let is_meant = |key: &str| filters.accepts(&source.full_path(key));
        let is_meant_there = |key: &str| filters.accepts(&destination.full_path(key));
        let after = position.after.as_deref();
        let listed = |end: &End, folders, optional| match &single {
            Some((Some(entry), _)) if look != Look::No => Listing::of(entry.clone()),
            Some(_) => Listing::empty(),
            None => Listing::below(end, after, folders, optional),
        };
        let plan = match self.operation {
            Operation::Copy | Operation::Move => Plan::copy(listed(source, false, false), is_meant),
            Operation::Sync(delete) => {
                let to_files = matches!(destination, End::Local { .. });
                let direction = if to_files { Direction::ToFiles } else { Direction::ToS3 };
                let there = (listed(destination, false, true), is_meant_there);
                Plan::sync((listed(source, false, false), is_meant), there, direction, delete)
            }
            Operation::Delete => {
                let there = (listed(destination, self.recursive, false), is_meant_there);
                Plan::sync((Listing::empty(), |_: &str| false), there, Direction::ToS3, true)
            }
        };
        let plan = plan.resumed(after);
        let rename = single.map(|(_, name)| name);
        let run = Run { transfers: &transfers, rename, dry_run: self.dry_run, verb: self.verb(source, destination) };
        Box::pin(run.run(plan, position)).await
    }

    /// Leaves nothing behind of what is under way.
    ///
    /// # Errors
    /// Why it cannot be ended.
    pub async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        if self.operation == Operation::Delete {
            return Ok(());
        }
        let position = engine::position(resume.as_ref())?;
        let Ends { source, destination, single } = self.ends(ctx, Look::No).await?;
        let verb = self.verb(&source, &destination);
        let transfers = self.transfers(ctx, (source, destination), Slice::of(ctx))?;
        let rename = single.map(|(_, name)| name);
        let only = rename.as_deref().map(|name| transfers.destination.path(name));
        let run = Run { transfers: &transfers, rename, dry_run: self.dry_run, verb };
        run.give_up(&position.unfinished).await?;
        // A call whose answer was lost may have begun others.
        if let (End::S3 { bucket, prefix }, Some(session_arn)) = (&transfers.destination, ctx.session_arn()) {
            // The session is the execution's: other steps and branches of it upload too.
            let since = resume.as_ref().map_or(i64::MIN, |resume| resume.since - CLOCKS);
            let is_own = |upload: &MultipartUpload| {
                let is_since = upload.initiated.is_none_or(|initiated| initiated.secs() >= since);
                is_since && is_of(upload, session_arn) && (only.is_none() || only.as_deref() == upload.key.as_deref())
            };
            for (key, upload_id) in unfinished(bucket, only.as_deref().unwrap_or(prefix), is_own).await? {
                abort(bucket, &key, &upload_id).await?;
            }
        }
        ctx.log("what was transferred stays; unfinished uploads and files are removed");
        Ok(())
    }

    fn transfers<'a>(
        &self,
        ctx: &'a Context,
        (source, destination): (End, End),
        slice: Slice,
    ) -> Result<Transfers<'a>, StepError> {
        let scratch = match (&source, &destination) {
            (End::S3 { .. }, End::Local { root, .. }) => Some(Arc::new(root.scratch(&ctx.client_token("scratch"))?)),
            _ => None,
        };
        Ok(Transfers {
            ctx,
            source,
            destination,
            attributes: Attributes {
                storage_class: self.storage_class.map(StorageClass::from),
                encryption: self.sse.map(Into::into),
                kms_key: self.sse_kms_key_id.map(str::to_owned),
            },
            is_move: self.operation == Operation::Move,
            recursive: self.recursive,
            slice,
            scratch,
            relay: AtomicBool::new(false),
            two_accounts: self.is_elsewhere(),
            memory: Semaphore::new(MEMORY),
        })
    }

    fn verb(&self, source: &End, destination: &End) -> &'static str {
        match (self.operation, source, destination) {
            (Operation::Delete, ..) => "delete",
            (Operation::Move, ..) => "move",
            (_, End::Local { .. }, _) => "upload",
            (_, _, End::Local { .. }) => "download",
            _ => "copy",
        }
    }

    fn filters(&self, transfers: &Transfers<'_>) -> Result<Filters, StepError> {
        let root = |end: &End, given: &str| match end {
            End::S3 { bucket, .. } => {
                let key = Uri::parse("uri", given).map(|uri| uri.key).unwrap_or_default();
                root_of_s3(&bucket.name, &key, self.recursive)
            }
            End::Local { root, .. } => root_of_local(root.path(), given, self.recursive),
        };
        Filters::new(
            self.filters,
            &root(&transfers.source, self.source),
            &root(&transfers.destination, self.destination),
        )
    }
}

/// A prefix that whole names follow: empty, or with a slash at its end.
fn prefix(key: &str) -> String {
    if key.is_empty() || key.ends_with('/') { key.to_owned() } else { format!("{key}/") }
}

/// Whether a single object would be moved onto itself.
fn is_onto(from: &str, to: &str) -> bool {
    let name = from.rsplit('/').next().unwrap_or(from);
    from == to || (to.is_empty() || to.ends_with('/')) && *from == format!("{to}{name}")
}
