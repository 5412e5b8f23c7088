//! A transfer as a step's parameters ask for it: what they mean, what they need, and the run.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aws_sdk_s3::types::{MultipartUpload, StorageClass};
use serde_json::json;
use stepward::input::require;
use stepward::permissions::{literal, s3_arn};
use stepward::{Context, ErrorName, Peer, Permissions, Progress, Resume, StepError};
use tokio::sync::Semaphore;

use crate::body::blocking;
use crate::bucket::{Attributes, Bucket, Encryption, Head, client};
use crate::engine::{self, Run};
use crate::filter::{Filter, Filters, root_of_local, root_of_s3};
use crate::listing::{Entry, Listing, is_archived};
use crate::local::Root;
use crate::multipart::{abort, is_of, unfinished};
use crate::place::{Place, Uri};
use crate::plan::{Direction, Plan};
use crate::report::Done;
use crate::slice::Slice;
use crate::transfer::{End, MEMORY, Transfers, scratch_name};

/// How long a transfer may take, over all its calls.
pub const TIMEOUT: Duration = Duration::from_hours(24);
/// Session policies let S3 alone use KMS keys, for objects that are encrypted with them.
/// <https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-via-service>
const VIA_S3: &str = "s3.*.amazonaws.com";

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

/// The two ends and, for a single entry, that entry and its name at the destination.
struct Ends {
    source: End,
    destination: End,
    single: Option<(Option<Entry>, String)>,
}

/// Whether a single source is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Look {
    /// It was there in an earlier call, and is begun or done.
    No,
    /// It was there in an earlier call, which may have moved it since.
    MayBeGone,
    /// It must be there.
    MustBeThere,
}

impl Task<'_> {
    fn places(&self) -> Result<(Place, Place), StepError> {
        Ok((Place::parse("source", self.source)?, Place::parse(self.name_of_destination(), self.destination)?))
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
            (Place::Local(_), _) if self.source_account.is_some() || self.source_region.is_some() => {
                Err(ErrorName::InvalidInput
                    .because("source_account and source_region are for a source in S3, and this one is local"))
            }
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

    /// What the task does in the target's account.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        let Ok((source, destination)) = self.places() else { return Permissions::default() };
        let mut all = Permissions::default();
        if self.operation != Operation::Delete {
            // Also where another account reads the source: S3 copies with the permissions of who writes.
            if let Place::S3(from) = &source {
                let elsewhere = self.source_account.is_some() || self.source_region.is_some();
                let copies = matches!(destination, Place::S3(_));
                match (elsewhere, copies) {
                    (false, _) => all = all.and(self.reading(from, copies)),
                    (true, true) => all = all.allow(&["s3:GetObject", "s3:GetObjectTagging"], [self.objects(from)]),
                    (true, false) => {}
                }
            }
        }
        if let Place::S3(to) = &destination {
            all = all.and(self.writing(to, matches!(source, Place::S3(_))));
        }
        all
    }

    /// Where the source is read, if not in the target's account and Region.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        let (account, region) = (self.source_account.map(str::to_owned), self.source_region.map(str::to_owned));
        let Ok((Place::S3(from), destination)) = self.places() else { return None };
        let permissions = self.reading(&from, matches!(destination, Place::S3(_)));
        (account.is_some() || region.is_some()).then_some(Peer { account, region, permissions })
    }

    fn reading(&self, from: &Uri, copies: bool) -> Permissions {
        let mut actions = vec!["s3:GetObject"];
        if copies {
            actions.push("s3:GetObjectTagging");
        }
        if self.operation == Operation::Move {
            actions.push("s3:DeleteObject");
        }
        decrypting(Permissions::default().allow(&["s3:ListBucket"], [s3_arn(&literal(&from.bucket))]))
            .allow(&actions, [self.objects(from)])
    }

    fn writing(&self, to: &Uri, copies: bool) -> Permissions {
        let bucket = s3_arn(&literal(&to.bucket));
        let delete = Permissions::default().allow(&["s3:DeleteObject"], [self.objects(to)]);
        if self.operation == Operation::Delete {
            return if self.recursive { delete.allow(&["s3:ListBucket"], [bucket]) } else { delete };
        }
        let mut of_bucket = vec!["s3:ListBucketMultipartUploads"];
        let mut of_objects = vec!["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"];
        if copies {
            of_objects.push("s3:PutObjectTagging");
        }
        match self.operation {
            // What was written is looked at before its source is deleted.
            Operation::Move => of_objects.push("s3:GetObject"),
            Operation::Sync(_) => of_bucket.push("s3:ListBucket"),
            Operation::Copy | Operation::Delete => {}
        }
        let all = decrypting(Permissions::default().allow(&of_bucket, [bucket])).allow(&of_objects, [self.objects(to)]);
        if self.operation == Operation::Sync(true) { all.and(delete) } else { all }
    }

    /// The ARN of the objects that are meant.
    fn objects(&self, uri: &Uri) -> String {
        let many = self.recursive || uri.key.is_empty() || uri.key.ends_with('/');
        let (bucket, key) = (literal(&uri.bucket), if many { prefix(&uri.key) } else { uri.key.clone() });
        s3_arn(&format!("{bucket}/{}{}", literal(&key), if many { "*" } else { "" }))
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
            let kept: Vec<_> = position.unfinished.iter().map(|one| transfers.source.path(&one.key)).collect();
            let kept: Vec<_> = kept.iter().map(|key| scratch_name(key)).collect();
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
            None => end.range(folders, optional).list(after),
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
            let is_own = |upload: &MultipartUpload| {
                is_of(upload, session_arn) && (only.is_none() || only.as_deref() == upload.key.as_deref())
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
            two_accounts: self.source_account.is_some() || self.source_region.is_some(),
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

    /// Finds out what source and destination are.
    async fn ends(&self, ctx: &Context, look: Look) -> Result<Ends, StepError> {
        let (source, destination) = self.places()?;
        let owner = self.bucket_owner.unwrap_or(&ctx.place.account_id).to_owned();
        let written = |uri: &Uri| Bucket { client: ctx.client(client), name: uri.bucket.clone(), owner: Some(owner) };
        let name = self.name_of_destination();
        if self.operation == Operation::Delete {
            let Place::S3(uri) = &destination else { return Err(not_s3(name)) };
            let (prefix, last) = split(&uri.key, self.recursive);
            let end = End::S3 { bucket: written(uri), prefix };
            let single = last.map(|last| (Some(Entry::named(&last)), last));
            return Ok(Ends { source: end.clone(), destination: end, single });
        }
        let read = match &source {
            Place::S3(uri) => {
                let elsewhere = self.source_account.is_some() || self.source_region.is_some();
                let there = if elsewhere { ctx.peer()? } else { ctx };
                let (prefix, last) = split(&uri.key, self.recursive);
                let bucket = Bucket { client: there.client(client), name: uri.bucket.clone(), owner: None };
                let single = match last {
                    Some(name) if look != Look::No => match bucket.head(&uri.key).await {
                        Err(error) if error.name == ErrorName::NotFound && look == Look::MayBeGone => {
                            Some((None, name))
                        }
                        Err(error) => return Err(error),
                        Ok(Head { size, modified, etag, answer, .. }) => {
                            let archived = is_archived(answer.storage_class.as_ref().map(StorageClass::as_str));
                            let archived =
                                archived && !answer.restore.is_some_and(|restore| restore.contains("\"false\""));
                            Some((Some(Entry { key: name.clone(), size, modified, etag, archived }), name))
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
                (End::S3 { bucket: written(uri), prefix }, last.filter(|last| !last.is_empty()))
            }
            Place::Local(path) => local_destination(path, self.recursive).await?,
        };
        let single = single.map(|(entry, name)| (entry, renamed.unwrap_or(name)));
        Ok(Ends { source, destination, single })
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
        let invalid = |why: &str| Err(ErrorName::InvalidInput.because(format!("source {given} {why}")));
        let stat = if look == Look::No { None } else { root.stat(&path)? };
        if recursive {
            return match stat {
                // Whoever lists it finds out; who only stops a run needs no source.
                None if look == Look::No => Ok((End::Local { root, base: path }, None)),
                None => Err(ErrorName::NotFound.because(format!("there is no directory {given}"))),
                Some(stat) if !stat.is_dir => invalid("is a file: leave recursive away"),
                Some(_) => Ok((End::Local { root, base: path }, None)),
            };
        }
        let (base, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let entry = match stat {
            None if look == Look::MustBeThere => {
                return Err(ErrorName::NotFound.because(format!("there is no file {given}")));
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
        Ok((End::Local { root, base: base.into() }, Some((entry, name.into()))))
    })
    .await
}

/// The directory, and the name in it where one is given.
async fn local_destination(path: &str, recursive: bool) -> Result<(End, Option<String>), StepError> {
    let given = path.to_owned();
    blocking(move || {
        let root = Root::open()?;
        let path = root.resolve("destination", &given)?;
        let stat = root.stat(&path)?;
        let is_dir = stat.as_ref().is_some_and(|stat| stat.is_dir);
        if recursive && !is_dir && stat.is_some() {
            return Err(ErrorName::InvalidInput.because(format!("destination {given} is a file, not a directory")));
        }
        if recursive || is_dir || given.ends_with('/') {
            return Ok((End::Local { root, base: path }, None));
        }
        let (base, name) = path.rsplit_once('/').unwrap_or(("", &path));
        Ok((End::Local { root, base: base.into() }, Some(name.into())))
    })
    .await
}

fn not_s3(parameter: &str) -> StepError {
    ErrorName::InvalidInput.because(format!("{parameter} is no URI as in s3://bucket/key"))
}

/// Permission to use KMS keys, for S3 alone: objects and buckets may be encrypted with any, of other Regions and accounts
/// too. Which ones is for the role and for the keys' own policies to say.
fn decrypting(permissions: Permissions) -> Permissions {
    let via = json!({ "StringLike": { "kms:ViaService": VIA_S3 } });
    permissions.allow_if(via, &["kms:Decrypt", "kms:GenerateDataKey"], ["arn:$partition:kms:*:*:key/*"])
}

/// A prefix that whole names follow: empty, or with a slash at its end.
fn prefix(key: &str) -> String {
    if key.is_empty() || key.ends_with('/') { key.to_owned() } else { format!("{key}/") }
}

/// What a key is below, and its last name where only that is meant.
fn split(key: &str, recursive: bool) -> (String, Option<String>) {
    if recursive {
        return (prefix(key), None);
    }
    let end = key.rfind('/').map_or(0, |slash| slash + 1);
    (key[..end].to_owned(), Some(key[end..].to_owned()))
}

/// Whether a single object would be moved onto itself.
fn is_onto(from: &str, to: &str) -> bool {
    let name = from.rsplit('/').next().unwrap_or(from);
    from == to || (to.is_empty() || to.ends_with('/')) && *from == format!("{to}{name}")
}

impl Entry {
    /// An entry of which only the name is known.
    fn named(name: &str) -> Self {
        Self { key: name.into(), size: 0, modified: std::time::SystemTime::UNIX_EPOCH, etag: None, archived: false }
    }
}
