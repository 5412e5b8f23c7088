//! The state of the fake, and the authorization of requests.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::instance::Instance;
use super::numbered_bucket::NumberedBucket;
use super::request::{AccessKeys, BROKER_ACCOUNT, Request};
use crate::http::Call;

pub(super) struct State {
    pub(super) broker: AccessKeys,
    /// Sessions by access key ID.
    pub(super) sessions: HashMap<String, Session>,
    /// Whether all sessions use the broker's access key.
    pub(super) has_fixed_key: bool,
    /// The external ID that the trust policy of each role requires.
    pub(super) roles: HashMap<String, Option<String>>,
    /// Records of the table by `pk` and `sk`, as plain JSON.
    pub(super) records: HashMap<(String, String), Value>,
    pub(super) instances: Vec<Instance>,
    pub(super) objects: HashMap<String, Vec<u8>>,
    /// Buckets of numbered objects, by name.
    pub(super) numbered_buckets: HashMap<String, NumberedBucket>,
    pub(super) faults: Vec<(String, Fault)>,
    /// Requests that are never answered.
    pub(super) unanswered: Vec<Call>,
    pub(super) requests: Vec<Request>,
}

pub(super) struct Session {
    pub(super) keys: AccessKeys,
    pub(super) account: String,
    pub(super) arn: String,
    /// The session policy. `None` allows everything.
    pub(super) policy: Option<Value>,
}

/// Who signed a request.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    Broker,
    /// A session, by its access key ID.
    Session(String),
}

#[derive(Clone)]
pub(super) enum Fault {
    Fail { times: usize, failure: Failure },
    NeverRespond,
    Delay(Duration),
}

/// An error response of AWS.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
}

pub(super) type Response = Result<String, Failure>;

impl Failure {
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
        }
    }
}

impl State {
    pub(super) fn open_session(
        &mut self,
        account: &str,
        arn: &str,
        policy: Option<Value>,
    ) -> AccessKeys {
        let mut keys = AccessKeys::new(&format!("ASIA{:016}", self.sessions.len()));
        if self.has_fixed_key {
            (keys.id, keys.secret) = (self.broker.id.clone(), self.broker.secret.clone());
        }
        let session = Session {
            keys: keys.clone(),
            account: account.into(),
            arn: arn.into(),
            policy,
        };
        self.sessions.insert(keys.id.clone(), session);
        keys
    }

    /// Returns the caller with this access key ID and session token.
    pub(super) fn find_caller(&self, key_id: &str, token: Option<&str>) -> Result<Caller, Failure> {
        if self
            .sessions
            .get(key_id)
            .is_some_and(|session| token == Some(&session.keys.token))
        {
            return Ok(Caller::Session(key_id.into()));
        }
        if key_id == self.broker.id && token == Some(&self.broker.token) {
            return Ok(Caller::Broker);
        }
        Err(Failure::new(
            403,
            "InvalidClientTokenId",
            "The security token included in the request is invalid.",
        ))
    }

    pub(super) fn account(&self, caller: &Caller) -> &str {
        match caller {
            Caller::Broker => BROKER_ACCOUNT,
            Caller::Session(id) => self.sessions.get(id).map_or("", |session| &session.account),
        }
    }

    pub(super) fn arn(&self, caller: &Caller) -> String {
        match caller {
            Caller::Broker => {
                format!("arn:aws:sts::{BROKER_ACCOUNT}:assumed-role/stepward-broker/stepward-test")
            }
            Caller::Session(id) => self
                .sessions
                .get(id)
                .map_or_else(String::new, |session| session.arn.clone()),
        }
    }

    /// Returns the next fault of an operation, and removes it if it was the last time.
    pub(super) fn next_fault(&mut self, operation: &str) -> Option<Fault> {
        let index = self
            .faults
            .iter()
            .position(|(faulty, _)| faulty == operation)?;
        let fault = self.faults[index].1.clone();
        if let (_, Fault::Fail { times, .. }) = &mut self.faults[index] {
            *times -= 1;
            if *times == 0 {
                self.faults.remove(index);
            }
        }
        Some(fault)
    }

    /// Checks that the broker's role or the session policy allows the request. The format of the
    /// message is that of
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html>.
    pub(super) fn authorize(&self, caller: &Caller, request: &Request) -> Result<(), Failure> {
        // Some operations of S3 need a permission with another name.
        let action = match request.name().as_str() {
            "s3:ListObjectsV2" => "s3:ListBucket".to_owned(),
            "s3:ListBuckets" => "s3:ListAllMyBuckets".to_owned(),
            "s3:CopyObject" => "s3:PutObject".to_owned(),
            "s3:DeleteObjects" => "s3:DeleteObject".to_owned(),
            name => name.to_owned(),
        };
        let (is_allowed, kind) = match caller {
            _ if action == "sts:GetCallerIdentity" => return Ok(()),
            Caller::Broker => {
                let broker_actions = ["dynamodb:BatchGetItem", "s3:PutObject", "sts:AssumeRole"];
                (broker_actions.contains(&action.as_str()), "identity-based")
            }
            Caller::Session(id) => {
                let policy = self
                    .sessions
                    .get(id)
                    .and_then(|session| session.policy.as_ref());
                (
                    policy.is_none_or(|policy| policy_allows(policy, &action)),
                    "session",
                )
            }
        };
        if is_allowed {
            return Ok(());
        }
        let message = format!(
            "User: {} is not authorized to perform: {action} because no {kind} policy allows \
             the {action} action",
            self.arn(caller)
        );
        let (code, message) = match request.service.as_str() {
            "ec2" => (
                "UnauthorizedOperation",
                format!("You are not authorized to perform this operation. {message}"),
            ),
            "dynamodb" | "athena" => ("AccessDeniedException", message),
            _ => ("AccessDenied", message),
        };
        Err(Failure::new(403, code, message))
    }
}

fn policy_allows(policy: &Value, action: &str) -> bool {
    let statements = policy["Statement"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let names = |actions: &Value| {
        actions == action
            || actions
                .as_array()
                .is_some_and(|actions| actions.iter().any(|name| name == action))
    };
    statements
        .iter()
        .any(|statement| statement["Effect"] == "Allow" && names(&statement["Action"]))
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
