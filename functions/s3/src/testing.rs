//! What the unit tests of the S3 steps share: a small S3 that is asked by the SDK as the real one
//! is and notes every request, and a process with a local root.
//!
//! It stands where the SDK's connection would: what a test sees are the requests as they go over
//! the wire, with the checksums that the SDK adds, and the SDK reads and checks the answers as it
//! always does.

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
use stepward::{Context, Progress, Resume, Step, StepError};

pub(crate) use self::process::{run_in_root, run_with_root};
pub(crate) use self::sent::SentRequest;
pub(crate) use self::store::{Object, Store, Upload, refusal};

/// The account that the steps work in, and that owns every bucket but `theirs`.
pub(crate) const TARGET_ACCOUNT: &str = "222222222222";
/// The customer's other account, which owns the bucket `theirs`.
pub(crate) const PEER_ACCOUNT: &str = "333333333333";
/// When objects were written that a test has put there: 2026-01-31 10:40:00 UTC.
pub(crate) const WRITTEN_AT: i64 = 1_769_856_000;
const MIB: usize = 1024 * 1024;

/// An answer: status, headers and body.
pub(crate) type Answer = (u16, Vec<(String, String)>, Bytes);
type Silence = Box<dyn Fn(&SentRequest) -> bool + Send>;
type Hook = Box<dyn FnMut(&SentRequest, &mut Store) -> Option<Answer> + Send>;

/// The small S3.
#[derive(Clone, Default)]
pub(crate) struct FakeS3 {
    store: Arc<Mutex<Store>>,
    hooks: Arc<Mutex<Vec<(&'static str, Hook)>>>,
    silences: Arc<Mutex<Vec<(&'static str, Silence)>>>,
}

impl Debug for FakeS3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("S3")
    }
}

impl FakeS3 {
    /// Its inside.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store
            .try_lock()
            .expect("let go of the store before it is taken again")
    }

    /// The unfinished uploads, by ID.
    pub(crate) fn uploads(&self) -> BTreeMap<String, Upload> {
        self.store().uploads.clone()
    }

    /// Puts an object there, as an upload with a checksum would have left it.
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

    /// Puts an object of this size there, without its bytes.
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

    /// What all requests of an operation get, where it is not `None`. It is asked first, and may
    /// change what is there.
    pub(crate) fn hook_operation(
        &self,
        operation: &'static str,
        hook: impl FnMut(&SentRequest, &mut Store) -> Option<Answer> + Send + 'static,
    ) {
        self.hooks.lock().unwrap().push((operation, Box::new(hook)));
    }

    /// Refuses an operation so many times.
    pub(crate) fn refuse_requests(
        &self,
        operation: &'static str,
        times: usize,
        status: u16,
        code: &'static str,
    ) {
        let mut left = times;
        self.hook_operation(operation, move |_, _| {
            left = left.checked_sub(1)?;
            Some(refusal(status, code))
        });
    }

    /// Leaves requests of an operation without an answer, for ever.
    pub(crate) fn never_answer(
        &self,
        operation: &'static str,
        which: impl Fn(&SentRequest) -> bool + Send + 'static,
    ) {
        self.silences
            .lock()
            .unwrap()
            .push((operation, Box::new(which)));
    }

    /// Answers again.
    pub(crate) fn answer_again(&self) {
        self.silences.lock().unwrap().clear();
    }

    /// Lets the time for a call be over when an operation is asked for the `n`th time.
    pub(crate) fn spend_budget_at(&self, operation: &'static str, n: usize) {
        let mut asked = 0;
        self.hook_operation(operation, move |_, _| {
            asked += 1;
            if asked == n {
                let _ = tokio::time::advance(Duration::from_secs(31)).now_or_never();
            }
            None
        });
    }

    /// All requests so far, as in `PutObject data/a.csv` or `UploadPart data/a.csv 2`; forgotten
    /// with that.
    pub(crate) fn take_summaries(&self) -> Vec<String> {
        self.take_requests().iter().map(SentRequest::line).collect()
    }

    /// All requests so far; forgotten with that.
    pub(crate) fn take_requests(&self) -> Vec<SentRequest> {
        std::mem::take(&mut self.store().sent)
    }

    /// The requests of one operation so far.
    pub(crate) fn sent_requests(&self, operation: &str) -> Vec<SentRequest> {
        self.store()
            .sent
            .iter()
            .filter(|sent| sent.operation == operation)
            .cloned()
            .collect()
    }

    /// A client as steps make it, for an account.
    pub(crate) fn client(&self, account: &str) -> Client {
        let connector = SharedHttpConnector::new(self.clone());
        let keys = Credentials::new(account, "not-a-secret", None, None, "test");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(keys))
            .http_client(http_client_fn(move |_, _| connector.clone()));
        bucket::client(&config.build())
    }

    /// A context for one call of a step. Its time is over after half a minute.
    pub(crate) fn context(&self) -> Context {
        stepward::testing::context(self.client(TARGET_ACCOUNT))
    }

    /// As [`Self::context`], in a role session of this ARN, which also begins the uploads.
    pub(crate) fn context_in_session(&self, session_arn: &str) -> Context {
        self.store().session = session_arn.into();
        stepward::testing::context_as(self.client(TARGET_ACCOUNT), session_arn)
    }

    /// As [`Self::context`], with the other account beside it.
    pub(crate) fn context_with_peer(&self) -> Context {
        stepward::testing::with_peer(
            self.context(),
            stepward::testing::context(self.client(PEER_ACCOUNT)),
        )
    }
}

impl HttpConnector for FakeS3 {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let s3 = self.clone();
        HttpConnectorFuture::new(async move {
            let sent = SentRequest::read(request).await;
            let hooked = {
                let (mut hooks, mut store) = (s3.hooks.lock().unwrap(), s3.store());
                store.sent.push(sent.clone());
                let mut of_operation = hooks
                    .iter_mut()
                    .filter(|(operation, _)| *operation == sent.operation);
                of_operation.find_map(|(_, hook)| hook(&sent, &mut store))
            };
            let is_silent = s3
                .silences
                .lock()
                .unwrap()
                .iter()
                .any(|(one, which)| *one == sent.operation && which(&sent));
            if is_silent {
                return std::future::pending().await;
            }
            let (status, headers, body) = hooked.unwrap_or_else(|| s3.store().answer(&sent));
            // An answer to a HEAD is without a body, also where it is a refusal.
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

/// CRC-64/NVME in Base64.
pub(crate) fn crc_base64(bytes: &[u8]) -> String {
    Checksum::compute(CrcAlgorithm::Crc64Nvme, bytes).text()
}

/// So many MiB, each of other bytes than the one before.
pub(crate) fn mib_bytes(n: u8) -> Bytes {
    (0..n)
        .map(|at| vec![at; MIB])
        .collect::<Vec<_>>()
        .concat()
        .into()
}

/// A step with these parameters, which are checked as the runtime does.
pub(crate) fn step<S: Step>(params: Value) -> S {
    let step: S = stepward::testing::step(params);
    step.validate().unwrap();
    step
}

/// As [`stepward::testing::pending`], of a step that began before all that the small S3 has;
/// without how long it waits.
pub(crate) fn pending<T: Debug>(answer: Result<Progress<T>, StepError>) -> (Resume, String) {
    let (mut resume, _, progress) = stepward::testing::pending(answer);
    resume.since = 0;
    (resume, progress)
}

/// What comes of a call before Lambda would end it.
pub(crate) fn before_deadline<T>(call: impl Future<Output = T>) -> impl Future<Output = T> {
    let call = Box::pin(tokio::time::timeout(Duration::from_secs(59), call));
    async { call.await.expect("the call outlived its deadline") }
}
