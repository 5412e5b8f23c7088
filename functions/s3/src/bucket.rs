//! Buckets as transfers use them: clients, the metadata of objects, and how objects are written.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::{TimeoutConfig, TimeoutConfigBuilder};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::head_object::{HeadObjectError, HeadObjectOutput};
use aws_sdk_s3::types::{ChecksumMode, ChecksumType, ServerSideEncryption, StorageClass};
use crc_fast::CrcAlgorithm;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::error::denied;
use stepward::model::s3_error::s3_error_with_region;
use stepward::runtime::head_rejection::rejection_of_head;
use stepward::{AwsError, ErrorName, StepError};

use crate::body::Checksum;
use crate::bucket_name::copy_source;

/// How long S3 may take to start its response, including the time to read the request's body: eight
/// parts of 8 MiB may come from a file system that delivers 1 MiB/s.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(3);
/// How long S3 may take to copy up to 5 GiB or to complete an upload of 10,000 parts, which can
/// take "several minutes":
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html>
const LONG_RESPONSE_TIMEOUT: Duration = Duration::from_mins(8);
/// How long such a request may take with all its attempts: less than a call may take.
const LONG_REQUEST_TIMEOUT: Duration = Duration::from_mins(12);
/// The maximum number of attempts per request. S3 returns `503 Slow Down` while it scales up for a
/// new load:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html>
const MAX_ATTEMPTS: u32 = 5;
/// The characters that are not percent-encoded in the header `x-amz-copy-source`.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// How errors name the parameter that sets the Region of most buckets.
pub(crate) const TARGET_REGION: &str = "the step's Region";
/// How errors name the parameter that sets the Region of a source bucket.
pub(crate) const SOURCE_REGION: &str = "\"source_region\"";

/// A bucket, with a client that can access it and the account that must own it.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// A client with the credentials of the account that accesses the bucket.
    pub client: Client,
    /// The bucket's name, or the alias or ARN of an access point.
    pub name: String,
    /// The account that must own the bucket. Any account can take a free bucket name, so S3 has to
    /// check the owner before it writes:
    /// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html>
    pub owner: Option<String>,
    /// The parameter that sets the Region of the client, for errors.
    pub region_parameter: &'static str,
}

/// The storage class and encryption of written objects.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// The storage class; `STANDARD` if absent.
    pub storage_class: Option<StorageClass>,
    /// The encryption; the bucket's default if absent.
    pub encryption: Option<ServerSideEncryption>,
    /// The KMS key for `aws:kms`.
    pub kms_key: Option<String>,
}

/// How S3 encrypts an object.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
pub enum Encryption {
    /// With S3 managed keys (SSE-S3).
    #[serde(rename = "AES256")]
    Aes256,
    /// With a KMS key (SSE-KMS).
    #[serde(rename = "aws:kms")]
    Kms,
}

impl From<Encryption> for ServerSideEncryption {
    fn from(encryption: Encryption) -> Self {
        match encryption {
            Encryption::Aes256 => Self::Aes256,
            Encryption::Kms => Self::AwsKms,
        }
    }
}

/// A client for transfers. It waits longer for responses and sets no limit on the duration of a
/// body; the SDK's stalled stream protection ends a body that stops.
#[must_use]
pub fn transfer_client(config: &SdkConfig) -> Client {
    let retries = RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS);
    let config = aws_sdk_s3::config::Builder::from(config)
        .timeout_config(base_timeouts(RESPONSE_TIMEOUT).build())
        .retry_config(retries);
    Client::from_conf(config.build())
}

/// A configuration override for requests that S3 may process for minutes.
#[must_use]
pub fn long_request_config() -> aws_sdk_s3::config::Builder {
    let timeouts = base_timeouts(LONG_RESPONSE_TIMEOUT)
        .operation_timeout(LONG_REQUEST_TIMEOUT)
        .build();
    aws_sdk_s3::Config::builder().timeout_config(timeouts)
}

fn base_timeouts(response: Duration) -> TimeoutConfigBuilder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .read_timeout(response);
    timeouts
        .disable_operation_timeout()
        .disable_operation_attempt_timeout()
}

/// An object as the header `x-amz-copy-source` names it.
#[must_use]
pub fn copy_source_header(bucket: &str, key: &str) -> String {
    utf8_percent_encode(&copy_source(bucket, key), UNRESERVED).to_string()
}

/// An object's metadata.
#[derive(Debug)]
pub struct ObjectHead {
    /// The size, in bytes.
    pub size: u64,
    /// When the object was last written.
    pub modified: SystemTime,
    /// The entity tag.
    pub etag: Option<String>,
    /// S3's checksums of the whole object, if it has any.
    pub checksums: Vec<Checksum>,
    /// The complete response.
    pub response: HeadObjectOutput,
}

impl Bucket {
    /// Converts the error of a request to this bucket. If the bucket is in another Region, the
    /// message names the Region and the parameter that sets it.
    pub(crate) fn request_error(&self, error: impl AwsError<aws_sdk_s3::Error>) -> StepError {
        s3_error_with_region(error, self.region_parameter)
    }

    /// Reads an object's metadata.
    ///
    /// # Errors
    /// `NotFound` if the object does not exist; the error of S3.
    pub async fn head_object(&self, key: &str) -> Result<ObjectHead, StepError> {
        let head = self
            .client
            .head_object()
            .bucket(&self.name)
            .key(key)
            .checksum_mode(ChecksumMode::Enabled);
        // Boxed to keep the futures of transfers small.
        let request = head.set_expected_bucket_owner(self.owner.clone());
        let response = Box::pin(request.send()).await;
        let response = match response {
            Ok(response) => response,
            Err(error) => return Err(Box::pin(self.head_error(key, error)).await),
        };
        let size = response.content_length.unwrap_or_default().unsigned_abs();
        let modified = response
            .last_modified
            .and_then(|time| SystemTime::try_from(time).ok());
        let is_of_whole_object = response
            .checksum_type
            .as_ref()
            .is_none_or(|kind| *kind == ChecksumType::FullObject);
        let checksums = [
            (CrcAlgorithm::Crc64Nvme, &response.checksum_crc64_nvme),
            (CrcAlgorithm::Crc32IsoHdlc, &response.checksum_crc32),
            (CrcAlgorithm::Crc32Iscsi, &response.checksum_crc32_c),
        ]
        .into_iter()
        .filter_map(|(algorithm, text)| Checksum::parse(algorithm, text.as_deref()?, size))
        .filter(|_| is_of_whole_object)
        .collect();
        Ok(ObjectHead {
            size,
            modified: modified.ok_or_else(|| {
                ErrorName::Internal.with_message(
                    "S3 returned an object without a modification time; report this as a bug",
                )
            })?,
            etag: response.e_tag.clone(),
            checksums,
            response,
        })
    }

    /// Converts the error of a `HeadObject` request.
    async fn head_error(&self, key: &str, error: SdkError<HeadObjectError>) -> StepError {
        let owner = self.owner.as_deref();
        let rejection = rejection_of_head(&error, &self.client, &self.name, key, owner);
        if let Some(rejection) = rejection.await {
            return rejection;
        }
        match self.request_error(error) {
            error if error.name == ErrorName::NotFound => StepError {
                message: format!(
                    "object \"s3://{}/{}\" does not exist; check the bucket and the key",
                    self.name,
                    key.escape_debug()
                ),
                ..error
            },
            // A response to HEAD has no body, which would name the action.
            error if error.name == ErrorName::AccessDenied => StepError {
                message: denied("s3:GetObject", ""),
                ..error
            },
            error => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
    use aws_smithy_runtime_api::client::http::{
        HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
    };
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use serde_json::{Value, json};
    use std::fmt::Debug;
    use stepward::Step;
    use stepward::model::s3_error::s3_error;

    use super::*;
    use crate::steps::s3_copy::S3Copy;
    use crate::steps::s3_delete::S3Delete;
    use crate::steps::s3_list::S3List;
    use crate::steps::s3_move::S3Move;
    use crate::steps::s3_sync::S3Sync;
    use crate::testing::{FakeS3, run_in_root, unwrap_pending, valid_step};

    /// A fake S3 that never responds.
    #[derive(Debug)]
    struct Silent;

    impl HttpConnector for Silent {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            HttpConnectorFuture::new(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_request_without_a_response_times_out() {
        let silent = SharedHttpConnector::new(Silent);
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::for_tests()))
            .http_client(http_client_fn(move |_, _| silent.clone()));
        let copy = transfer_client(&config.build())
            .copy_object()
            .bucket("b")
            .key("k")
            .copy_source("b/l");
        let copy = copy
            .customize()
            .config_override(long_request_config())
            .send();
        let copied = tokio::time::timeout(Duration::from_mins(14), copy)
            .await
            .unwrap();
        assert_eq!(
            copied.map_err(s3_error).unwrap_err().name,
            ErrorName::TimedOut
        );
    }

    /// The error of a step's calls for a bucket in another Region.
    async fn error_of<S: Step<Output: Debug>>(s3: &FakeS3, params: Value) -> StepError {
        let step = valid_step::<S>(params);
        match step.run(&s3.context(), None).await {
            Err(error) => error,
            progress => {
                let (resume, _) = unwrap_pending(progress);
                step.run(&s3.context(), Some(resume)).await.unwrap_err()
            }
        }
    }

    #[test]
    fn every_step_names_the_region_of_a_bucket_elsewhere() {
        run_in_root(async |root| {
            let s3 = FakeS3::default();
            s3.put("data", "a", "content");
            std::fs::write(root.join("a"), "content").unwrap();
            let (here, file, there) = ("s3://data/a", "a", "s3://elsewhere/a");
            let from_to = |source: &str, destination: &str, recursive| json!({ "source": source, "destination": destination, "recursive": recursive });
            let sync = |source: &str, destination: &str| json!({ "source": source, "destination": destination });
            let (source, target) = ("\"source_region\"", "the step's Region");
            for (parameter, error) in [
                (
                    source,
                    error_of::<S3Copy>(&s3, from_to(there, here, false)).await,
                ),
                (
                    source,
                    error_of::<S3Copy>(&s3, from_to(there, here, true)).await,
                ),
                (
                    source,
                    error_of::<S3Copy>(&s3, from_to(there, file, false)).await,
                ),
                (
                    target,
                    error_of::<S3Copy>(&s3, from_to(here, there, false)).await,
                ),
                (
                    target,
                    error_of::<S3Copy>(&s3, from_to(file, there, false)).await,
                ),
                (
                    source,
                    error_of::<S3Move>(&s3, from_to(there, here, false)).await,
                ),
                (
                    target,
                    error_of::<S3Move>(&s3, from_to(file, there, false)).await,
                ),
                (
                    source,
                    error_of::<S3Sync>(&s3, sync(there, "s3://data")).await,
                ),
                (
                    target,
                    error_of::<S3Sync>(&s3, sync("s3://data", "s3://elsewhere")).await,
                ),
                (
                    target,
                    error_of::<S3Delete>(&s3, json!({ "uri": there })).await,
                ),
                (
                    target,
                    error_of::<S3Delete>(&s3, json!({ "uri": there, "recursive": true })).await,
                ),
                (
                    target,
                    error_of::<S3List>(&s3, json!({ "uri": there })).await,
                ),
            ] {
                let advice = format!(
                    "is in Region eu-central-1, and the request went to another Region; set \
                     {parameter} to eu-central-1"
                );
                assert!(error.message.contains(&advice), "{parameter}: {error}");
                assert_eq!(error.name, ErrorName::InvalidInput, "{error}");
            }
        });
    }

    #[test]
    fn rejected_credentials_of_a_head_are_explained() {
        run_in_root(async |_| {
            for (status, code) in [
                (403, "InvalidAccessKeyId"),
                (403, "SignatureDoesNotMatch"),
                (400, "ExpiredToken"),
                (400, "InvalidToken"),
            ] {
                let s3 = FakeS3::default();
                s3.put("data", "a", "content");
                s3.refuse_requests("HeadObject", 1, status, code);
                s3.refuse_requests("GetObject", 1, status, code);
                let params = json!({ "source": "s3://data/a", "destination": "a" });
                let error = error_of::<S3Copy>(&s3, params).await;
                assert!(error.rejects_credentials(), "{error}");
                assert!(error.message.contains("(AWS: S3 says no)"), "{error}");
                let sent = s3.sent_requests("GetObject");
                assert_eq!(sent[0].header("range"), Some("bytes=0-0"));
            }
        });
    }

    #[test]
    fn a_head_without_permission_names_the_action() {
        run_in_root(async |_| {
            // The object can also have become readable in the meantime.
            for is_readable in [false, true] {
                let s3 = FakeS3::default();
                s3.put("data", "a", "content");
                s3.refuse_requests("HeadObject", 1, 403, "AccessDenied");
                if !is_readable {
                    s3.refuse_requests("GetObject", 1, 403, "AccessDenied");
                }
                let params = json!({ "source": "s3://data/a", "destination": "a" });
                let error = error_of::<S3Copy>(&s3, params).await;
                assert_eq!(error.message, denied("s3:GetObject", ""));
            }
        });
    }

    #[test]
    fn a_copy_source_is_encoded_except_its_slashes() {
        assert_eq!(
            copy_source_header("b", "a b/ü+%?.txt"),
            "b/a%20b/%C3%BC%2B%25%3F.txt"
        );
    }
}
