//! Buckets as transfers use them: clients, what an object is, what is written how.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::{TimeoutConfig, TimeoutConfigBuilder};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType, ServerSideEncryption, StorageClass};
use crc_fast::CrcAlgorithm;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::error::denied;
use stepward::model::s3_error::s3_error;
use stepward::{ErrorName, StepError};

use crate::body::Checksum;

/// How long a request may take until its answer begins, its body included: eight parts of 8 MiB may
/// have to be read from a file system that gives 1 MiB a second.
const ANSWER: Duration = Duration::from_mins(3);
/// How long it may think about copying up to 5 GiB, or about joining 10,000 parts: "several
/// minutes".
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html>
const LONG_ANSWER: Duration = Duration::from_mins(8);
/// How long such a request may take with all its tries: less than a call may.
const LONG_REQUEST: Duration = Duration::from_mins(12);
/// Tries of one request. S3 answers `503 Slow Down` while it makes room for a new load.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html>
const TRIES: u32 = 5;
/// What a copy's source is written with: all but these is encoded.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A bucket, and who may own it.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// A client that works as the account that reaches it.
    pub client: Client,
    /// Its name.
    pub name: String,
    /// The account that must own it. Bucket names are free for anybody to take, so what is written
    /// goes only to who is meant.
    /// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html>
    pub owner: Option<String>,
}

/// How objects are written.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// The storage class; `STANDARD` when absent.
    pub storage_class: Option<StorageClass>,
    /// The encryption; the bucket's default when absent.
    pub encryption: Option<ServerSideEncryption>,
    /// The KMS key for `aws:kms`.
    pub kms_key: Option<String>,
}

/// How S3 encrypts what is written.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
pub enum Encryption {
    /// With keys of S3 (SSE-S3).
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

/// A client for moving data: patient with answers, and with no limit on how long a body takes. A
/// body that stands still is given up by the SDK's own stalled stream protection.
#[must_use]
pub fn client(config: &SdkConfig) -> Client {
    let retries = RetryConfig::standard().with_max_attempts(TRIES);
    let config = aws_sdk_s3::config::Builder::from(config)
        .timeout_config(timeouts(ANSWER).build())
        .retry_config(retries);
    Client::from_conf(config.build())
}

/// What overrides a client's configuration for a request that S3 may think about for minutes.
#[must_use]
pub fn patient() -> aws_sdk_s3::config::Builder {
    let timeouts = timeouts(LONG_ANSWER)
        .operation_timeout(LONG_REQUEST)
        .build();
    aws_sdk_s3::Config::builder().timeout_config(timeouts)
}

fn timeouts(answer: Duration) -> TimeoutConfigBuilder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .read_timeout(answer);
    timeouts
        .disable_operation_timeout()
        .disable_operation_attempt_timeout()
}

/// `bucket/key`, as a request header takes it.
#[must_use]
pub fn copy_source(bucket: &str, key: &str) -> String {
    utf8_percent_encode(&format!("{bucket}/{key}"), UNRESERVED).to_string()
}

/// What is known of an object without its content.
#[derive(Debug)]
pub struct Head {
    /// Its size, in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// Its entity tag.
    pub etag: Option<String>,
    /// Checksums of all of it, where S3 has any.
    pub checksums: Vec<Checksum>,
    /// Everything else.
    pub answer: HeadObjectOutput,
}

impl Bucket {
    /// Looks at an object.
    ///
    /// # Errors
    /// `NotFound` when there is none, or why S3 failed.
    pub async fn head(&self, key: &str) -> Result<Head, StepError> {
        let head = self
            .client
            .head_object()
            .bucket(&self.name)
            .key(key)
            .checksum_mode(ChecksumMode::Enabled);
        let head = head
            .set_expected_bucket_owner(self.owner.clone())
            .send()
            .await;
        let answer = head.map_err(|error| match s3_error(error) {
            error if error.name == ErrorName::NotFound => StepError {
                message: format!(
                    "there is no object s3://{}/{}",
                    self.name,
                    key.escape_debug()
                ),
                ..error
            },
            // The answer has no body, which would name the action.
            error if error.name == ErrorName::AccessDenied => StepError {
                message: denied("s3:GetObject", ""),
                ..error
            },
            error => error,
        })?;
        let size = answer.content_length.unwrap_or_default().unsigned_abs();
        let modified = answer
            .last_modified
            .and_then(|time| SystemTime::try_from(time).ok());
        let whole = answer
            .checksum_type
            .as_ref()
            .is_none_or(|kind| *kind == ChecksumType::FullObject);
        let checksums = [
            (CrcAlgorithm::Crc64Nvme, &answer.checksum_crc64_nvme),
            (CrcAlgorithm::Crc32IsoHdlc, &answer.checksum_crc32),
            (CrcAlgorithm::Crc32Iscsi, &answer.checksum_crc32_c),
        ]
        .into_iter()
        .filter_map(|(algorithm, text)| Checksum::parse(algorithm, text.as_deref()?, size))
        .filter(|_| whole)
        .collect();
        Ok(Head {
            size,
            modified: modified.ok_or_else(|| {
                ErrorName::Internal.with_message("S3 answered with an object without a time")
            })?,
            etag: answer.e_tag.clone(),
            checksums,
            answer,
        })
    }

    /// `s3://bucket/key`, for a person.
    #[must_use]
    pub fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
    use aws_smithy_runtime_api::client::http::{
        HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
    };
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;

    use super::*;

    /// An S3 that never answers.
    #[derive(Debug)]
    struct Silent;

    impl HttpConnector for Silent {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            HttpConnectorFuture::new(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_s3_may_think_about_for_minutes_ends_all_the_same() {
        let silent = SharedHttpConnector::new(Silent);
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::for_tests()))
            .http_client(http_client_fn(move |_, _| silent.clone()));
        let copy = client(&config.build())
            .copy_object()
            .bucket("b")
            .key("k")
            .copy_source("b/l");
        let copy = copy.customize().config_override(patient()).send();
        let copied = tokio::time::timeout(Duration::from_mins(14), copy)
            .await
            .unwrap();
        assert_eq!(
            copied.map_err(s3_error).unwrap_err().name,
            ErrorName::TimedOut
        );
    }

    #[test]
    fn a_copys_source_is_encoded_but_for_its_slashes() {
        assert_eq!(
            copy_source("b", "a b/ü+%?.txt"),
            "b/a%20b/%C3%BC%2B%25%3F.txt"
        );
    }
}
