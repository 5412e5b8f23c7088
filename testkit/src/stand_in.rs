//! A small AWS on loopback: the operations that steps under test call, in the wire formats of the
//! AWS API references.
//!
//! It answers by the credentials that a request is signed with, as AWS does: the broker reads its
//! table, writes its artifacts and assumes roles; a session works in its account, within its
//! session policy. It does not check signatures, and knows no other policies: the local cloud is
//! there for those.

mod athena;
mod dynamodb;
mod ec2;
mod instance;
mod numbers;
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
pub use self::numbers::{Numbers, Seen};
pub use self::request::{ARTIFACTS, BROKER_ACCOUNT, Keys, Request};
use self::request::{TABLE, random};
use self::state::{Failure, Fault, State, lock};
use crate::http::Server;

/// A small AWS, until it is dropped.
pub struct StandIn {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl Default for StandIn {
    fn default() -> Self {
        let state = Arc::new(Mutex::new(State {
            broker: Keys::new("ASIABROKER"),
            sessions: HashMap::new(),
            fixed: false,
            roles: HashMap::new(),
            records: HashMap::new(),
            instances: Vec::new(),
            objects: HashMap::new(),
            numbers: HashMap::new(),
            faults: Vec::new(),
            held: Vec::new(),
            requests: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        Self {
            server: Server::start(move |call| wire::handle(&shared, call)),
            state,
        }
    }
}

impl StandIn {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The environment of a step's function: the broker's keys, table and bucket, and where AWS is.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut all = self.environment_of(&self.state().broker);
        all.extend(
            [
                ("STEPWARD_STACK", "stepward"),
                ("STEPWARD_TABLE", TABLE),
                ("STEPWARD_ARTIFACTS_BUCKET", ARTIFACTS),
            ]
            .map(owned),
        );
        all
    }

    /// The environment of a function that has these keys of its own.
    #[must_use]
    pub fn environment_of(&self, keys: &Keys) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.server.address());
        [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", &keys.id),
            ("AWS_SECRET_ACCESS_KEY", &keys.secret),
            ("AWS_SESSION_TOKEN", &keys.token),
        ]
        .map(owned)
        .into()
    }

    /// Keys for an account that may do everything there.
    #[must_use]
    pub fn keys(&self, account: &str) -> Keys {
        let arn = format!("arn:aws:sts::{account}:assumed-role/Function/function");
        self.state().open(account, &arn, None)
    }

    /// Adds an active customer.
    pub fn add_customer(&self, name: &str) {
        let record = json!({ "name": name, "status": "active", "created_at": "2026-01-01T00:00:00Z", "version": 1 });
        self.state()
            .records
            .insert(("CUSTOMERS".into(), name.into()), record);
    }

    /// Adds an account of a customer, in `eu-west-1` and `eu-central-1`, with a role that asks for
    /// the external ID on record.
    pub fn add_account(&self, customer: &str, name: &str, account_id: &str) {
        let (role, external_id) = (role_arn(account_id), random());
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

    /// Gives the broker and every session from now on this access key, for a server beside this one
    /// that knows just one. Their tokens still tell them apart here.
    pub fn set_keys(&self, id: &str, secret: &str) {
        let mut state = self.state();
        (state.broker.id, state.broker.secret) = (id.into(), secret.into());
        state.fixed = true;
    }

    /// Changes a field of a customer's record.
    pub fn set_customer(&self, name: &str, field: &str, value: &str) {
        self.set("CUSTOMERS", name, field, value);
    }

    /// Changes a field of an account's record.
    pub fn set_account(&self, customer: &str, name: &str, field: &str, value: &str) {
        self.set(
            &format!("CUSTOMER#{customer}"),
            &format!("ACCOUNT#{name}"),
            field,
            value,
        );
    }

    fn set(&self, pk: &str, sk: &str, field: &str, value: &str) {
        if let Some(record) = self.state().records.get_mut(&(pk.into(), sk.into())) {
            record[field] = value.into();
        }
    }

    /// Sets what the trust policy of an account's role asks for; `None` lets in everybody.
    pub fn set_trust_policy(&self, account_id: &str, external_id: Option<&str>) {
        self.state()
            .roles
            .insert(role_arn(account_id), external_id.map(str::to_owned));
    }

    /// Adds an instance in an account, in this state.
    pub fn add_instance(&self, account_id: &str, id: &str, state: &str) {
        self.state()
            .instances
            .push(Instance::new(account_id, id, state));
    }

    /// Brings an instance to a state, and says how often it will be seen on its way to another
    /// before it is there.
    pub fn set_instance(&self, id: &str, state: &str, looks_on_the_way: u32) {
        self.state()
            .instances
            .iter_mut()
            .filter(|instance| instance.id == id)
            .for_each(|instance| {
                instance.set(state, looks_on_the_way);
            });
    }

    /// An object: `bucket/key`.
    #[must_use]
    pub fn object(&self, path: &str) -> Option<Vec<u8>> {
        self.state().objects.get(path).cloned()
    }

    /// Adds a bucket of numbered objects, which every account can use.
    pub fn add_numbers(&self, bucket: &str, numbers: Numbers) {
        self.state().numbers.insert(bucket.into(), numbers);
    }

    /// Changes which objects a bucket of numbers has. What was written or deleted there stays so.
    pub fn set_numbers(&self, bucket: &str, is_there: impl Fn(u64) -> bool + Send + 'static) {
        if let Some(numbers) = self.state().numbers.get_mut(bucket) {
            numbers.set_rule(is_there);
        }
    }

    /// What a bucket of numbers was asked to do so far.
    #[must_use]
    pub fn seen(&self, bucket: &str) -> Seen {
        self.state()
            .numbers
            .get(bucket)
            .map(Numbers::seen)
            .unwrap_or_default()
    }

    /// Refuses an operation (as in `ec2:StartInstances`) with an error, this often.
    pub fn refuse(&self, operation: &str, times: usize, status: u16, code: &str, message: &str) {
        let failure = Failure::new(status, code, message);
        self.state()
            .faults
            .push((operation.into(), Fault::Refuse { times, failure }));
    }

    /// Never answers an operation.
    pub fn hang(&self, operation: &str) {
        self.state().faults.push((operation.into(), Fault::Hang));
    }

    /// Answers an operation only after a while.
    pub fn slow(&self, operation: &str, delay: Duration) {
        self.state()
            .faults
            .push((operation.into(), Fault::Slow(delay)));
    }

    /// Takes every fault back.
    pub fn mend(&self) {
        self.state().faults.clear();
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// The requests of one operation so far, as in `ec2:StartInstances`.
    #[must_use]
    pub fn calls(&self, operation: &str) -> Vec<Request> {
        self.requests()
            .into_iter()
            .filter(|request| request.name() == operation)
            .collect()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.state().requests.clear();
    }

    /// Waits until an operation has been called; whether it was, within half a minute.
    #[must_use]
    pub fn wait_for(&self, operation: &str) -> bool {
        let limit = Instant::now() + Duration::from_secs(30);
        while self.calls(operation).is_empty() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(5));
        }
        !self.calls(operation).is_empty()
    }

    /// All that must not show anywhere: secret access keys, session tokens, external IDs.
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

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.into(), value.into())
}

fn role_arn(account_id: &str) -> String {
    format!("arn:aws:iam::{account_id}:role/stepward/Stepward")
}
