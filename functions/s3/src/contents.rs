//! Removes the contents of a bucket: versions, delete markers and unfinished uploads.

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types::{EncodingType, Error, ObjectIdentifier};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use stepward::model::error::denied;
use stepward::model::s3_error::s3_error;
use stepward::{Context, ErrorName, StepError};

use crate::bucket::Bucket;
use crate::call_budget::CallBudget;
use crate::delete::send_deletion;
use crate::keys::{decode_listed_key, escape_for_log, is_valid_in_xml};
use crate::multipart::abort_upload;

/// How many refused keys an error names.
const MAX_NAMED: usize = 10;
/// How many requests that remove a single version or upload run at the same time.
const MAX_CONCURRENT: usize = 16;

/// The contents of a bucket: versions of objects, delete markers and unfinished uploads.
#[derive(Debug)]
pub struct BucketContents<'a> {
    /// Where removals are logged.
    pub ctx: &'a Context,
    /// The bucket.
    pub bucket: Bucket,
}

/// The progress of a removal, which is kept between two calls.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Removal {
    /// How many versions and delete markers were removed.
    pub versions: u64,
    /// How many uploads were aborted.
    pub uploads: u64,
    /// The number of the pass through the bucket, from 0.
    pub pass: u32,
    /// How many versions S3 refused to delete in this pass.
    pub refused: u64,
    /// The first of them, with the reasons.
    pub named: Vec<String>,
    /// The last version that was refused. All versions before it are removed or were refused, so
    /// the listing continues after it. It still exists, unlike a deleted version, so it can be used
    /// as a marker.
    after: Option<Version>,
}

/// A version of an object, or a delete marker.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Version {
    key: String,
    id: String,
}

impl Removal {
    /// The next pass through the bucket, from its start.
    #[must_use]
    pub fn next_pass(self) -> Self {
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

impl BucketContents<'_> {
    /// Whether the bucket has any version or delete marker.
    ///
    /// # Errors
    /// `NotFound` if the bucket does not exist; the error of S3.
    pub async fn has_versions(&self) -> Result<bool, StepError> {
        Ok(!page_versions(self.list_page(None, 1).await?)?.is_empty())
    }

    /// Removes versions, then uploads, until the budget is spent. Returns whether the pass is
    /// complete.
    ///
    /// # Errors
    /// The error that S3 returned. A version that S3 refuses to delete is counted and is not an
    /// error.
    pub async fn remove_all(
        &self,
        removal: &mut Removal,
        budget: &CallBudget,
    ) -> Result<bool, StepError> {
        Ok(self.remove_versions(removal, budget).await?
            && self.abort_uploads(removal, budget).await?)
    }

    /// Reads a page of versions.
    async fn list_page(
        &self,
        after: Option<&Version>,
        max_versions: i32,
    ) -> Result<ListObjectVersionsOutput, StepError> {
        let Bucket {
            client,
            name,
            owner,
            ..
        } = &self.bucket;
        let list = client
            .list_object_versions()
            .bucket(name)
            .set_expected_bucket_owner(owner.clone());
        let list = list.max_keys(max_versions).encoding_type(EncodingType::Url);
        let list = list.set_key_marker(after.map(|version| version.key.clone()));
        list.set_version_id_marker(after.map(|version| version.id.clone()))
            .send()
            .await
            .map_err(s3_error)
    }

    async fn remove_versions(
        &self,
        removal: &mut Removal,
        budget: &CallBudget,
    ) -> Result<bool, StepError> {
        loop {
            let page = self.list_page(removal.after.as_ref(), 1000).await?;
            let has_more = page.is_truncated == Some(true);
            let versions = page_versions(page)?;
            let count = versions.len();
            let refused = self.remove_page(versions).await?;
            removal.versions += (count - refused.len()) as u64;
            for (version, reason) in refused {
                let line = format!("{} ({reason})", version.display());
                self.ctx.log(format_args!("Could not delete {line}"));
                removal.refused += 1;
                if removal.named.len() < MAX_NAMED {
                    removal.named.push(line);
                }
                removal.after = Some(version);
            }
            if !has_more {
                return Ok(true);
            }
            if budget.is_spent() {
                return Ok(false);
            }
        }
    }

    /// Removes up to 1,000 versions. Returns those that S3 refused, in their order, with the
    /// reasons.
    async fn remove_page(
        &self,
        versions: Vec<Version>,
    ) -> Result<Vec<(Version, String)>, StepError> {
        let (batched, single): (Vec<_>, Vec<_>) = versions
            .iter()
            .cloned()
            .partition(|version| is_valid_in_xml(&version.key));
        let identify = |version: &Version| {
            ObjectIdentifier::builder()
                .key(&version.key)
                .version_id(&version.id)
                .build()
        };
        let refused = send_deletion(&self.bucket, batched.iter().map(identify).collect()).await?;
        let mut refused: Vec<_> = refused.into_iter().map(refused_version).collect();
        let Bucket {
            client,
            name,
            owner,
            ..
        } = &self.bucket;
        let single = single.into_iter().map(async |version| {
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
        let single: Vec<_> = stream::iter(single)
            .buffer_unordered(MAX_CONCURRENT)
            .try_collect()
            .await?;
        refused.extend(single.into_iter().flatten());
        refused.sort_by_cached_key(|(version, _)| {
            versions.iter().position(|listed| listed == version)
        });
        Ok(refused)
    }

    async fn abort_uploads(
        &self,
        removal: &mut Removal,
        budget: &CallBudget,
    ) -> Result<bool, StepError> {
        let Bucket {
            client,
            name,
            owner,
            ..
        } = &self.bucket;
        let list = client
            .list_multipart_uploads()
            .bucket(name)
            .set_expected_bucket_owner(owner.clone());
        let list = list.encoding_type(EncodingType::Url);

        loop {
            // Each page starts at the front, because aborted uploads are not listed again.
            let page = list.clone().send().await.map_err(s3_error)?;
            let encoding = page.encoding_type;
            let uploads = page.uploads.unwrap_or_default().into_iter().map(|upload| {
                Ok((
                    decode_listed_key(encoding.as_ref(), upload.key.unwrap_or_default())?,
                    upload.upload_id.unwrap_or_default(),
                ))
            });
            let uploads: Vec<(String, String)> = uploads.collect::<Result<_, StepError>>()?;
            let count = uploads.len() as u64;
            let aborts = uploads
                .into_iter()
                .map(async |(key, id)| abort_upload(&self.bucket, &key, &id).await);
            stream::iter(aborts)
                .buffer_unordered(MAX_CONCURRENT)
                .try_collect::<()>()
                .await?;
            removal.uploads += count;
            if page.is_truncated != Some(true) {
                return Ok(true);
            }
            if budget.is_spent() {
                return Ok(false);
            }
        }
    }
}

impl Version {
    /// The version for log lines.
    fn display(&self) -> String {
        let key = escape_for_log(&self.key);
        if self.id == "null" {
            key
        } else {
            format!("{key} version {}", self.id)
        }
    }
}

/// The versions and delete markers of a page, in the order of its keys.
fn page_versions(page: ListObjectVersionsOutput) -> Result<Vec<Version>, StepError> {
    let encoding = page.encoding_type;
    let objects = page
        .versions
        .unwrap_or_default()
        .into_iter()
        .map(|version| (version.key, version.last_modified, version.version_id));
    let markers = page.delete_markers.unwrap_or_default().into_iter();
    let mut all: Vec<_> = objects
        .chain(markers.map(|marker| (marker.key, marker.last_modified, marker.version_id)))
        .collect();
    for (key, ..) in &mut all {
        *key = Some(decode_listed_key(
            encoding.as_ref(),
            key.take().unwrap_or_default(),
        )?);
    }

    // S3 lists versions and markers together, the newest of each key first. The SDK separates
    // them.
    all.sort_by(|(a, at, _), (b, bt, _)| a.cmp(b).then(bt.cmp(at)));
    let version = |(key, _, id): (Option<String>, _, Option<String>)| Version {
        key: key.unwrap_or_default(),
        id: id.unwrap_or_else(|| "null".into()),
    };

    Ok(all.into_iter().map(version).collect())
}

/// A version that S3 refused to delete, and the reason.
fn refused_version(error: Error) -> (Version, String) {
    let version = Version {
        key: error.key.unwrap_or_default(),
        id: error.version_id.unwrap_or_else(|| "null".into()),
    };
    let (code, message) = (
        error.code.unwrap_or_default(),
        error.message.unwrap_or_default(),
    );
    // The reason is kept between two calls, and must not contain a role's ARN.
    let reason = match message.as_str() {
        "" => code,
        text if text.contains("authorized to perform") => denied("s3:DeleteObjectVersion", text),
        _ => message,
    };
    (version, reason)
}
