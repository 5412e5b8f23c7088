//! What the unit tests of the S3 steps share: a fake S3 that records every request, and a process
//! with a local root.
//!
//! The fake replaces the SDK's connection. A test sees the requests on the wire, with the checksums
//! that the SDK adds, and the SDK parses and checks the responses as usual.

mod parts;
mod process;
pub(crate) mod scenes;
mod sent;
mod store;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::body::Checksum;
use crate::bucket;
use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures_util::FutureExt;
use serde_json::Value;
use stepward::testing::RequestRecorder;
use stepward::{Context, Progress, Resume, Step, StepError};

pub(crate) use self::process::{run_in_root, run_with_root};
pub(crate) use self::sent::SentRequest;
pub(crate) use self::store::{Object, Store, Upload, refusal};

/// The target's account, which owns every bucket except `theirs`.
pub(crate) const TARGET_ACCOUNT: &str = "222222222222";
/// The customer's second account, which owns the bucket `theirs`.
pub(crate) const PEER_ACCOUNT: &str = "333333333333";
/// When a test's objects were written: 2026-01-31 10:40:00 UTC.
pub(crate) const WRITTEN_AT: i64 = 1_769_856_000;
const MIB: usize = 1024 * 1024;

/// A response: status, headers and body.
pub(crate) type Response = (u16, Vec<(String, String)>, Bytes);
type Silence = Box<dyn Fn(&SentRequest) -> bool + Send>;
type Hook = Box<dyn FnMut(&SentRequest, &mut Store) -> Option<Response> + Send>;

/// The fake S3.
#[derive(Clone, Default)]
pub(crate) struct FakeS3 {
    store: Arc<Mutex<Store>>,
    hooks: Arc<Mutex<Vec<(&'static str, Hook)>>>,
    silences: Arc<Mutex<Vec<(&'static str, Silence)>>>,
}

impl Debug for FakeS3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeS3")
    }
}

impl FakeS3 {
    /// The fake's content.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store
            .try_lock()
            .expect("drop the store before you lock it again")
    }

    /// The unfinished uploads, by ID.
    pub(crate) fn uploads(&self) -> BTreeMap<String, Upload> {
        self.store().uploads.clone()
    }

    /// Puts an object, like an upload with a checksum.
    pub(crate) fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let checksum = Some(crc_base64(&bytes));
        let object = Object {
            size: bytes.len() as u64,
            bytes,
            checksum,
            ..Object::default()
        };
        self.store().put(bucket, key, object);
    }

    /// Puts an object of this size, without content.
    pub(crate) fn put_size(&self, bucket: &str, key: &str, size: u64) {
        self.store().put(
            bucket,
            key,
            Object {
                size,
                ..Object::default()
            },
        );
    }

    /// An object.
    pub(crate) fn object(&self, bucket: &str, key: &str) -> Option<Object> {
        self.store()
            .objects
            .get(&(bucket.into(), key.into()))
            .cloned()
    }

    /// Calls `hook` before each request of an operation. The hook may change the content, and its
    /// result, if any, is the response.
    pub(crate) fn hook_operation(
        &self,
        operation: &'static str,
        hook: impl FnMut(&SentRequest, &mut Store) -> Option<Response> + Send + 'static,
    ) {
        self.hooks.lock().unwrap().push((operation, Box::new(hook)));
    }

    /// Refuses the next requests of an operation.
    pub(crate) fn refuse_requests(
        &self,
        operation: &'static str,
        times: usize,
        status: u16,
        code: &'static str,
    ) {
        let mut remaining = times;
        self.hook_operation(operation, move |_, _| {
            remaining = remaining.checked_sub(1)?;
            Some(refusal(status, code))
        });
    }

    /// Leaves requests of an operation without a response.
    pub(crate) fn never_respond(
        &self,
        operation: &'static str,
        is_silent: impl Fn(&SentRequest) -> bool + Send + 'static,
    ) {
        self.silences
            .lock()
            .unwrap()
            .push((operation, Box::new(is_silent)));
    }

    /// Ends [`Self::never_respond`].
    pub(crate) fn respond_again(&self) {
        self.silences.lock().unwrap().clear();
    }

    /// Spends the call's budget at the `n`th request of an operation.
    pub(crate) fn spend_budget_at(&self, operation: &'static str, n: usize) {
        let mut count = 0;
        self.hook_operation(operation, move |_, _| {
            count += 1;
            if count == n {
                let _ = tokio::time::advance(Duration::from_secs(31)).now_or_never();
            }
            None
        });
    }

    /// All requests since the last call, for example `PutObject data/a.csv` or
    /// `UploadPart data/a.csv 2`.
    pub(crate) fn take_summaries(&self) -> Vec<String> {
        self.take_requests()
            .iter()
            .map(SentRequest::summary)
            .collect()
    }

    /// All requests since the last call.
    pub(crate) fn take_requests(&self) -> Vec<SentRequest> {
        std::mem::take(&mut self.store().sent)
    }

    /// The recorded requests of one operation.
    pub(crate) fn sent_requests(&self, operation: &str) -> Vec<SentRequest> {
        self.store()
            .sent
            .iter()
            .filter(|sent| sent.operation == operation)
            .cloned()
            .collect()
    }

    /// A client with an account's credentials, made as steps make it.
    pub(crate) fn client(&self, account: &str) -> Client {
        let connector = SharedHttpConnector::new(self.clone());
        let keys = Credentials::new(account, "not-a-secret", None, None, "test");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(keys))
            .http_client(http_client_fn(move |_, _| connector.clone()));
        let client = bucket::transfer_client(&config.build());
        let recorded = client.config().to_builder().interceptor(RequestRecorder);
        Client::from_conf(recorded.build())
    }

    /// A context for one call of a step. Its budget is half a minute.
    pub(crate) fn context(&self) -> Context {
        stepward::testing::context(self.client(TARGET_ACCOUNT))
    }

    /// Like [`Self::context`], but in the role session of this ARN. New uploads have this session
    /// as their initiator.
    pub(crate) fn context_in_session(&self, session_arn: &str) -> Context {
        self.store().session = session_arn.into();
        stepward::testing::context_with_session(self.client(TARGET_ACCOUNT), session_arn)
    }

    /// Like [`Self::context`], with the second account as the peer.
    pub(crate) fn context_with_peer(&self) -> Context {
        stepward::testing::with_peer(
            self.context(),
            stepward::testing::context(self.client(PEER_ACCOUNT)),
        )
    }
}

/// The alias of an access point of the bucket `data`.
pub(crate) const ALIAS: &str = "points-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias";
/// The ARN of an access point of the bucket `data`.
pub(crate) const ACCESS_POINT: &str = "arn:aws:s3:eu-west-1:222222222222:accesspoint/points";

impl HttpConnector for FakeS3 {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let s3 = self.clone();
        HttpConnectorFuture::new(async move {
            let sent = SentRequest::read(request).await;
            let hook_response = {
                let (mut hooks, mut store) = (s3.hooks.lock().unwrap(), s3.store());
                store.sent.push(sent.clone());
                let mut matching = hooks
                    .iter_mut()
                    .filter(|(operation, _)| *operation == sent.operation);
                matching.find_map(|(_, hook)| hook(&sent, &mut store))
            };
            let is_silent = s3
                .silences
                .lock()
                .unwrap()
                .iter()
                .any(|(operation, is_silent)| *operation == sent.operation && is_silent(&sent));
            if is_silent {
                return std::future::pending().await;
            }
            let (status, headers, body) =
                hook_response.unwrap_or_else(|| s3.store().response(&sent));
            // A response to HEAD has no body, not even an error.
            let body = if sent.operation == "HeadObject" {
                Bytes::new()
            } else {
                body
            };
            let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
            for (name, value) in headers {
                response.headers_mut().insert(name, value);
            }
            Ok(response)
        })
    }
}

/// The CRC-64/NVME of these bytes, in Base64.
pub(crate) fn crc_base64(bytes: &[u8]) -> String {
    Checksum::compute(CrcAlgorithm::Crc64Nvme, bytes).to_base64()
}

/// `n` MiB, each with different bytes.
pub(crate) fn mib_bytes(n: u8) -> Bytes {
    (0..n)
        .map(|at| vec![at; MIB])
        .collect::<Vec<_>>()
        .concat()
        .into()
}

/// A step with these parameters, validated as the runtime does it.
pub(crate) fn valid_step<S: Step>(params: Value) -> S {
    let step: S = stepward::testing::parse_step(params);
    step.validate().unwrap();
    step
}

/// Returns the resume state and the progress of a pending step, without the delay. The state says
/// that the step started before all of the fake's content was written.
pub(crate) fn unwrap_pending<T: Debug>(
    response: Result<Progress<T>, StepError>,
) -> (Resume, String) {
    let (mut resume, _, progress) = stepward::testing::expect_pending(response);
    resume.since = 0;
    (resume, progress)
}

/// Fails if a call outlives its deadline.
pub(crate) fn before_deadline<T>(call: impl Future<Output = T>) -> impl Future<Output = T> {
    let call = Box::pin(tokio::time::timeout(Duration::from_secs(59), call));
    async { call.await.expect("the call outlived its deadline") }
}
