//! A fake of S3 in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::delete_object::DeleteObjectOutput;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::operation::head_object::{HeadObjectError, HeadObjectOutput};
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_smithy_mocks::{MockResponse, Rule, RuleMode, mock};
use aws_smithy_types::error::ErrorMetadata;
use stepward::mock_client;

/// A fake of S3 that counts the requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeBucket(Arc<Mutex<Objects>>);

#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// The existing objects, by `bucket/key`.
    pub(crate) stored: BTreeMap<String, Vec<u8>>,
    pub(crate) puts: usize,
    /// S3's SHA-256 of every object, in Base64.
    pub(crate) checksum: Option<String>,
    pub(crate) gets: usize,
    /// The expected bucket owner of each upload and removal.
    pub(crate) expected_owners: Vec<Option<String>>,
}

impl FakeBucket {
    /// How many objects were uploaded, how many were read, and how many exist.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let objects = self.lock();
        (objects.puts, objects.gets, objects.stored.len())
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        let rules = [
            self.put_rule(),
            self.delete_rule(),
            self.get_rule(),
            self.head_rule(),
        ];
        mock_client!(aws_sdk_s3, RuleMode::MatchAny, rules.each_ref())
    }

    fn put_rule(&self) -> Rule {
        let bucket = self.clone();
        mock!(Client::put_object).then_compute_output(move |request| {
            let mut objects = bucket.lock();
            objects.puts += 1;
            objects
                .expected_owners
                .push(request.expected_bucket_owner().map(Into::into));
            let content = request.body().bytes().unwrap().to_vec();
            objects
                .stored
                .insert(object_path(request.bucket(), request.key()), content);
            PutObjectOutput::builder().build()
        })
    }

    fn delete_rule(&self) -> Rule {
        let bucket = self.clone();
        mock!(Client::delete_object).then_compute_output(move |request| {
            let mut objects = bucket.lock();
            objects
                .expected_owners
                .push(request.expected_bucket_owner().map(Into::into));
            objects
                .stored
                .remove(&object_path(request.bucket(), request.key()));
            DeleteObjectOutput::builder().build()
        })
    }

    fn get_rule(&self) -> Rule {
        let bucket = self.clone();
        // Requests that are only signed arrive here too. They have no `If-Match`.
        mock!(Client::get_object).then_compute_response(move |request| {
            let mut objects = bucket.lock();
            objects.gets += usize::from(request.if_match().is_some());
            let content = objects
                .stored
                .get(&object_path(request.bucket(), request.key()));
            match content {
                Some(content) => MockResponse::Output(
                    GetObjectOutput::builder()
                        .body(content.clone().into())
                        .build(),
                ),
                None => MockResponse::Error(GetObjectError::generic(
                    ErrorMetadata::builder().code("NoSuchKey").build(),
                )),
            }
        })
    }

    fn head_rule(&self) -> Rule {
        let bucket = self.clone();
        mock!(Client::head_object).then_compute_response(move |request| {
            let objects = bucket.lock();
            let content = objects
                .stored
                .get(&object_path(request.bucket(), request.key()));
            match content {
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
        })
    }
}

fn object_path(bucket: Option<&str>, key: Option<&str>) -> String {
    format!("{}/{}", bucket.unwrap(), key.unwrap())
}
