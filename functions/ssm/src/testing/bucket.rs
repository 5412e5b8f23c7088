//! S3 in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::delete_object::DeleteObjectOutput;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::operation::head_object::{HeadObjectError, HeadObjectOutput};
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_smithy_mocks::{MockResponse, RuleMode, mock, mock_client};
use aws_smithy_types::error::ErrorMetadata;

/// S3 in memory: what was written and not removed, and how often that was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bucket(Arc<Mutex<Objects>>);

#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) kept: BTreeMap<String, Vec<u8>>,
    pub(crate) puts: usize,
    /// S3's own SHA-256 of any object, in Base64.
    pub(crate) checksum: Option<String>,
    pub(crate) gets: usize,
    /// Whose the bucket was to be, of all that was written and removed.
    pub(crate) owners: Vec<Option<String>>,
}

impl Bucket {
    /// How many objects were written, read, and are there.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let objects = self.lock();
        (objects.puts, objects.gets, objects.kept.len())
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        let path = |bucket: Option<&str>, key: Option<&str>| {
            format!("{}/{}", bucket.unwrap(), key.unwrap())
        };
        let (of_put, of_delete, of_get, of_head) =
            (self.clone(), self.clone(), self.clone(), self.clone());
        let put = mock!(Client::put_object).then_compute_output(move |request| {
            let mut objects = of_put.lock();
            objects.puts += 1;
            objects
                .owners
                .push(request.expected_bucket_owner().map(Into::into));
            let content = request.body().bytes().unwrap().to_vec();
            objects
                .kept
                .insert(path(request.bucket(), request.key()), content);
            PutObjectOutput::builder().build()
        });
        let delete = mock!(Client::delete_object).then_compute_output(move |request| {
            let mut objects = of_delete.lock();
            objects
                .owners
                .push(request.expected_bucket_owner().map(Into::into));
            objects.kept.remove(&path(request.bucket(), request.key()));
            DeleteObjectOutput::builder().build()
        });
        // Also what is signed and not sent comes by here.
        let get = mock!(Client::get_object).then_compute_response(move |request| {
            let mut objects = of_get.lock();
            objects.gets += usize::from(request.if_match().is_some());
            match objects.kept.get(&path(request.bucket(), request.key())) {
                Some(content) => MockResponse::Output(
                    GetObjectOutput::builder()
                        .body(content.clone().into())
                        .build(),
                ),
                None => MockResponse::Error(GetObjectError::generic(
                    ErrorMetadata::builder().code("NoSuchKey").build(),
                )),
            }
        });
        let head = mock!(Client::head_object).then_compute_response(move |request| {
            let objects = of_head.lock();
            match objects.kept.get(&path(request.bucket(), request.key())) {
                Some(content) => MockResponse::Output(
                    HeadObjectOutput::builder()
                        .content_length(i64::try_from(content.len()).unwrap())
                        .e_tag("tag")
                        .set_checksum_sha256(objects.checksum.clone())
                        .build(),
                ),
                None => MockResponse::Error(HeadObjectError::generic(
                    ErrorMetadata::builder().code("NotFound").build(),
                )),
            }
        });
        mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&put, &delete, &get, &head])
    }
}
