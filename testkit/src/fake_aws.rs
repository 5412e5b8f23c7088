//! A fake of AWS on loopback. It implements the operations that steps call in tests, in the wire
//! formats of the AWS API references.
//!
//! Like AWS, it authorizes a request by its credentials. The broker can read its table, write its
//! artifacts and assume roles. A session can use its account, within its session policy. The fake
//! does not check signatures and has no other policies. Tests that need them use the local cloud.

mod athena;
mod dynamodb;
mod ec2;
mod instance;
mod numbered_bucket;
mod query;
mod request;
mod s3;
mod state;
mod sts;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::json;

use self::instance::Instance;
pub use self::numbered_bucket::{BucketActivity, NumberedBucket};
pub use self::request::{ARTIFACTS_BUCKET, AccessKeys, BROKER_ACCOUNT, Request};
use self::request::{TABLE, random_secret};
use self::state::{Failure, Fault, State, lock};
use crate::http::Server;

/// A running fake of AWS. It stops when dropped.
pub struct FakeAws {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl Default for FakeAws {
    fn default() -> Self {
        let state = Arc::new(Mutex::new(State {
            broker: AccessKeys::new("ASIABROKER"),
            sessions: HashMap::new(),
            has_fixed_key: false,
            roles: HashMap::new(),
            records: HashMap::new(),
            instances: Vec::new(),
            objects: HashMap::new(),
            numbered_buckets: HashMap::new(),
            faults: Vec::new(),
            unanswered: Vec::new(),
            requests: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        Self {
            server: Server::start(move |call| wire::handle_call(&shared, call)),
            state,
        }
    }
}

impl FakeAws {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns the environment variables of a step's function: the endpoint, the broker's
    /// credentials, and the names of its table and bucket.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut variables = self.environment_with_keys(&self.state().broker);
        variables.extend(
            [
                ("STEPWARD_STACK", "stepward"),
                ("STEPWARD_TABLE", TABLE),
                ("STEPWARD_ARTIFACTS_BUCKET", ARTIFACTS_BUCKET),
            ]
            .map(to_owned_pair),
        );
        variables
    }

    /// Returns the environment variables of a function with the given credentials.
    #[must_use]
    pub fn environment_with_keys(&self, keys: &AccessKeys) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.server.address());
        [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", &keys.id),
            ("AWS_SECRET_ACCESS_KEY", &keys.secret),
            ("AWS_SESSION_TOKEN", &keys.token),
        ]
        .map(to_owned_pair)
        .into()
    }

    /// Returns credentials that allow everything in an account.
    #[must_use]
    pub fn account_keys(&self, account: &str) -> AccessKeys {
        let arn = format!("arn:aws:sts::{account}:assumed-role/Function/function");
        self.state().open_session(account, &arn, None)
    }

    /// Adds an active customer.
    pub fn add_customer(&self, name: &str) {
        let record = json!({
            "name": name,
            "status": "active",
            "created_at": "2026-01-01T00:00:00Z",
            "version": 1,
        });
        self.state()
            .records
            .insert(("CUSTOMERS".into(), name.into()), record);
    }

    /// Adds an account of a customer in `eu-west-1` and `eu-central-1`. Its role requires the
    /// external ID of the account's record.
    pub fn add_account(&self, customer: &str, name: &str, account_id: &str) {
        let (role, external_id) = (role_arn(account_id), random_secret());
        let record = json!({
            "customer": customer, "name": name, "account_id": account_id,
            "role_arn": role, "external_id": external_id, "trust": "proven",
            "regions": ["eu-west-1", "eu-central-1"], "default_region": "eu-west-1", "version": 1,
        });
        let mut state = self.state();
        state.roles.insert(role, Some(external_id));
        state.records.insert(
            (format!("CUSTOMER#{customer}"), format!("ACCOUNT#{name}")),
            record,
        );
    }

    /// Uses one access key for the broker and for all new sessions, for tests with another server
    /// that accepts only one key. The session tokens still differ.
    pub fn set_access_key(&self, id: &str, secret: &str) {
        let mut state = self.state();
        (state.broker.id, state.broker.secret) = (id.into(), secret.into());
        state.has_fixed_key = true;
    }

    /// Changes a field of a customer's record.
    pub fn set_customer(&self, name: &str, field: &str, value: &str) {
        self.set_record_field("CUSTOMERS", name, field, value);
    }

    /// Changes a field of an account's record.
    pub fn set_account(&self, customer: &str, name: &str, field: &str, value: &str) {
        self.set_record_field(
            &format!("CUSTOMER#{customer}"),
            &format!("ACCOUNT#{name}"),
            field,
            value,
        );
    }

    fn set_record_field(&self, pk: &str, sk: &str, field: &str, value: &str) {
        if let Some(record) = self.state().records.get_mut(&(pk.into(), sk.into())) {
            record[field] = value.into();
        }
    }

    /// Sets the external ID that the trust policy of an account's role requires. With `None`
    /// everybody can assume the role.
    pub fn set_trust_policy(&self, account_id: &str, external_id: Option<&str>) {
        self.state()
            .roles
            .insert(role_arn(account_id), external_id.map(str::to_owned));
    }

    /// Adds an instance in the given state to an account.
    pub fn add_instance(&self, account_id: &str, id: &str, state: &str) {
        self.state()
            .instances
            .push(Instance::new(account_id, id, state));
    }

    /// Sets the state of an instance. When it changes its state later, the next `transition_polls`
    /// calls of `DescribeInstances` still return the transitional state.
    pub fn set_instance(&self, id: &str, state: &str, transition_polls: u32) {
        self.state()
            .instances
            .iter_mut()
            .filter(|instance| instance.id == id)
            .for_each(|instance| {
                instance.set_state(state, transition_polls);
            });
    }

    /// Returns the content of an object, given as `bucket/key`.
    #[must_use]
    pub fn object(&self, path: &str) -> Option<Vec<u8>> {
        self.state().objects.get(path).cloned()
    }

    /// Adds a bucket of numbered objects. Every account can use it.
    pub fn add_numbered_bucket(&self, name: &str, bucket: NumberedBucket) {
        self.state().numbered_buckets.insert(name.into(), bucket);
    }

    /// Changes which objects exist in a bucket of numbered objects. Objects that were written or
    /// deleted do not change.
    pub fn set_existing_objects(&self, name: &str, exists: impl Fn(u64) -> bool + Send + 'static) {
        if let Some(bucket) = self.state().numbered_buckets.get_mut(name) {
            bucket.set_rule(exists);
        }
    }

    /// Returns the requests to a bucket of numbered objects so far.
    #[must_use]
    pub fn bucket_activity(&self, name: &str) -> BucketActivity {
        self.state()
            .numbered_buckets
            .get(name)
            .map(NumberedBucket::activity)
            .unwrap_or_default()
    }

    /// Fails the next `times` calls of an operation, for example `ec2:StartInstances`, with an
    /// error.
    pub fn fail_calls(
        &self,
        operation: &str,
        times: usize,
        status: u16,
        code: &str,
        message: &str,
    ) {
        let failure = Failure::new(status, code, message);
        self.state()
            .faults
            .push((operation.into(), Fault::Fail { times, failure }));
    }

    /// Never responds to calls of an operation.
    pub fn never_respond(&self, operation: &str) {
        self.state()
            .faults
            .push((operation.into(), Fault::NeverRespond));
    }

    /// Responses calls of an operation after a delay.
    pub fn delay_calls(&self, operation: &str, delay: Duration) {
        self.state()
            .faults
            .push((operation.into(), Fault::Delay(delay)));
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Returns all requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// Returns all requests of one operation so far, for example `ec2:StartInstances`.
    #[must_use]
    pub fn calls(&self, operation: &str) -> Vec<Request> {
        self.requests()
            .into_iter()
            .filter(|request| request.name() == operation)
            .collect()
    }

    /// Clears the list of requests.
    pub fn clear_requests(&self) {
        self.state().requests.clear();
    }

    /// Waits until an operation is called. Returns false if it is not called within 30 seconds.
    #[must_use]
    pub fn wait_for_call(&self, operation: &str) -> bool {
        let limit = Instant::now() + Duration::from_secs(30);
        while self.calls(operation).is_empty() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(5));
        }
        !self.calls(operation).is_empty()
    }

    /// Returns all secrets: secret access keys, session tokens and external IDs. They must not
    /// appear in any output.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let state = self.state();
        let keys = state
            .sessions
            .values()
            .map(|session| &session.keys)
            .chain([&state.broker]);
        let keys = keys.flat_map(|keys| [keys.secret.clone(), keys.token.clone()]);
        keys.chain(state.roles.values().flatten().cloned())
            .collect()
    }
}

fn to_owned_pair((name, value): (&str, &str)) -> (String, String) {
    (name.into(), value.into())
}

fn role_arn(account_id: &str) -> String {
    format!("arn:aws:iam::{account_id}:role/stepward/Stepward")
}
