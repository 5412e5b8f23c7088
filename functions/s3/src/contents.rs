//! Everything that keeps a bucket from being deleted, and its removal.

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types::{EncodingType, Error, ObjectIdentifier};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use stepward::model::error::denied;
use stepward::model::s3_error::s3_error;
use stepward::{Context, ErrorName, StepError};

use crate::bucket::Bucket;
use crate::delete::together;
use crate::keys::{fits_xml, listed, shown};
use crate::multipart::abort;
use crate::slice::Slice;

/// Keys that an error names.
const NAMED: usize = 10;
/// Requests at once, where each removes one thing.
const AT_ONCE: usize = 16;

/// What is in a bucket: versions of objects, delete markers, unfinished uploads.
#[derive(Debug)]
pub struct Contents<'a> {
    /// Who hears of it.
    pub ctx: &'a Context,
    /// The bucket.
    pub bucket: Bucket,
}

/// How far the removal is: what is kept between two calls.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Removal {
    /// Versions and delete markers that are gone.
    pub versions: u64,
    /// Uploads that were aborted.
    pub uploads: u64,
    /// Which time it goes through the bucket, from 0.
    pub pass: u32,
    /// What was refused in this pass.
    pub refused: u64,
    /// The first of them, with why.
    pub named: Vec<String>,
    /// The last version that was refused. All before it is gone or was refused, so the listing goes
    /// on behind it; unlike one that was deleted it is still there to go on from.
    after: Option<Version>,
}

/// A version of an object, or a delete marker.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Version {
    key: String,
    id: String,
}

impl Removal {
    /// The next time through the bucket, from its front.
    #[must_use]
    pub fn again(self) -> Self {
        let Self {
            versions,
            uploads,
            pass,
            ..
        } = self;
        Self {
            versions,
            uploads,
            pass: pass + 1,
            ..Self::default()
        }
    }
}

impl Contents<'_> {
    /// Whether there is any version or delete marker.
    ///
    /// # Errors
    /// `NotFound` where there is no such bucket, or why S3 failed.
    pub async fn any(&self) -> Result<bool, StepError> {
        Ok(!versions(self.page(None, 1).await?)?.is_empty())
    }

    /// Removes versions, then uploads, for as long as the slice is; true when it has gone through
    /// all of them.
    ///
    /// # Errors
    /// Why S3 failed. What it refuses for single versions is counted and no error.
    pub async fn remove(&self, removal: &mut Removal, slice: &Slice) -> Result<bool, StepError> {
        Ok(self.remove_versions(removal, slice).await?
            && self.abort_uploads(removal, slice).await?)
    }

    /// A page of versions.
    async fn page(
        &self,
        after: Option<&Version>,
        most: i32,
    ) -> Result<ListObjectVersionsOutput, StepError> {
        let Bucket {
            client,
            name,
            owner,
        } = &self.bucket;
        let list = client
            .list_object_versions()
            .bucket(name)
            .set_expected_bucket_owner(owner.clone());
        let list = list.max_keys(most).encoding_type(EncodingType::Url);
        let list = list.set_key_marker(after.map(|version| version.key.clone()));
        list.set_version_id_marker(after.map(|version| version.id.clone()))
            .send()
            .await
            .map_err(s3_error)
    }

    async fn remove_versions(
        &self,
        removal: &mut Removal,
        slice: &Slice,
    ) -> Result<bool, StepError> {
        loop {
            let page = self.page(removal.after.as_ref(), 1000).await?;
            let more = page.is_truncated == Some(true);
            let found = versions(page)?;
            let count = found.len();
            let refused = self.remove_page(found).await?;
            removal.versions += (count - refused.len()) as u64;
            for (version, reason) in refused {
                let line = format!("{} ({reason})", version.shown());
                self.ctx.log(format_args!("Could not delete {line}"));
                removal.refused += 1;
                if removal.named.len() < NAMED {
                    removal.named.push(line);
                }
                removal.after = Some(version);
            }
            if !more {
                return Ok(true);
            }
            if slice.is_over() {
                return Ok(false);
            }
        }
    }

    /// Removes up to 1,000 versions; those that were refused, in their order, with why.
    async fn remove_page(
        &self,
        versions: Vec<Version>,
    ) -> Result<Vec<(Version, String)>, StepError> {
        let (many, alone): (Vec<_>, Vec<_>) = versions
            .iter()
            .cloned()
            .partition(|version| fits_xml(&version.key));
        let identified = |version: &Version| {
            ObjectIdentifier::builder()
                .key(&version.key)
                .version_id(&version.id)
                .build()
        };
        let refused = together(&self.bucket, many.iter().map(identified).collect()).await?;
        let mut refused: Vec<_> = refused.into_iter().map(why).collect();
        let Bucket {
            client,
            name,
            owner,
        } = &self.bucket;
        let alone = alone.into_iter().map(async |version| {
            let request = client
                .delete_object()
                .bucket(name)
                .set_expected_bucket_owner(owner.clone());
            match request
                .key(&version.key)
                .version_id(&version.id)
                .send()
                .await
                .map_err(s3_error)
            {
                Ok(_) => Ok(None),
                Err(error) if error.name == ErrorName::AccessDenied => {
                    Ok(Some((version, error.message)))
                }
                Err(error) => Err(error),
            }
        });
        let alone: Vec<_> = stream::iter(alone)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        refused.extend(alone.into_iter().flatten());
        let place = |version: &Version| versions.iter().position(|one| one == version);
        refused.sort_by_cached_key(|(version, _)| place(version));
        Ok(refused)
    }

    async fn abort_uploads(&self, removal: &mut Removal, slice: &Slice) -> Result<bool, StepError> {
        let Bucket {
            client,
            name,
            owner,
        } = &self.bucket;
        let list = client
            .list_multipart_uploads()
            .bucket(name)
            .set_expected_bucket_owner(owner.clone());
        let list = list.encoding_type(EncodingType::Url);
        loop {
            // From the front each time: what was aborted is gone.
            let page = list.clone().send().await.map_err(s3_error)?;
            let encoding = page.encoding_type;
            let uploads = page.uploads.unwrap_or_default().into_iter().map(|upload| {
                Ok((
                    listed(encoding.as_ref(), upload.key.unwrap_or_default())?,
                    upload.upload_id.unwrap_or_default(),
                ))
            });
            let uploads: Vec<(String, String)> = uploads.collect::<Result<_, StepError>>()?;
            let count = uploads.len() as u64;
            let aborts = uploads
                .into_iter()
                .map(async |(key, id)| abort(&self.bucket, &key, &id).await);
            stream::iter(aborts)
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>()
                .await?;
            removal.uploads += count;
            if page.is_truncated != Some(true) {
                return Ok(true);
            }
            if slice.is_over() {
                return Ok(false);
            }
        }
    }
}

impl Version {
    /// For a person.
    fn shown(&self) -> String {
        let key = shown(&self.key);
        if self.id == "null" {
            key
        } else {
            format!("{key} version {}", self.id)
        }
    }
}

/// The versions and delete markers of a page, in the order of its keys.
fn versions(page: ListObjectVersionsOutput) -> Result<Vec<Version>, StepError> {
    let encoding = page.encoding_type;
    let objects = page
        .versions
        .unwrap_or_default()
        .into_iter()
        .map(|it| (it.key, it.last_modified, it.version_id));
    let markers = page.delete_markers.unwrap_or_default().into_iter();
    let mut all: Vec<_> = objects
        .chain(markers.map(|it| (it.key, it.last_modified, it.version_id)))
        .collect();
    for (key, ..) in &mut all {
        *key = Some(listed(encoding.as_ref(), key.take().unwrap_or_default())?);
    }
    // S3 mixes both, newer ones first within a key; the SDK has taken them apart.
    all.sort_by(|(a, at, _), (b, bt, _)| a.cmp(b).then(bt.cmp(at)));
    let version = |(key, _, id): (Option<String>, _, Option<String>)| Version {
        key: key.unwrap_or_default(),
        id: id.unwrap_or_else(|| "null".into()),
    };
    Ok(all.into_iter().map(version).collect())
}

/// A version that S3 refused to delete, and why.
fn why(error: Error) -> (Version, String) {
    let version = Version {
        key: error.key.unwrap_or_default(),
        id: error.version_id.unwrap_or_else(|| "null".into()),
    };
    let (code, message) = (
        error.code.unwrap_or_default(),
        error.message.unwrap_or_default(),
    );
    // The reason is kept between two calls, where no role's ARN belongs.
    let reason = match message.as_str() {
        "" => code,
        said if said.contains("authorized to perform") => denied("s3:DeleteObjectVersion", said),
        _ => message,
    };
    (version, reason)
}
