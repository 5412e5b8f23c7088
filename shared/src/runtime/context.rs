//! The context of a running step: its target, clients, log and identifiers.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use aws_config::SdkConfig;
use serde_json::Value;
use tokio::time::Instant;

use crate::access::assume::Attribution;
use crate::access::mask::Secrets;
use crate::access::session::Session;
use crate::access::trust::{self, TrustProof};
use crate::model::customer::{Configuration, Provider, Trust};
use crate::model::digest::sha256;
use crate::model::envelope::Execution;
use crate::model::error::{ErrorName, StepError, redact_role_arns};
use crate::model::partition::Partition;
use crate::model::permissions::ArnScope;
use crate::runtime::artifact;
use crate::runtime::temporary_object::TemporaryObject;
use crate::settings;

/// The maximum number of bytes of log lines that one response contains. CloudWatch Logs has the
/// lines beyond that.
const LOG_LIMIT: usize = 1024 * 1024;

/// The context of a running step: the target account, clients for it, the log and the deadline.
#[derive(Debug)]
pub struct Context {
    /// The partition, Region and account ID that the step works in.
    pub scope: ArnScope,
    /// The execution that the step belongs to.
    pub execution: Execution,
    pub(crate) customer: String,
    pub(crate) account: String,
    regions: Vec<String>,
    session: Arc<Session>,
    /// The time by which the step must return.
    deadline: Instant,
    /// The context of the second account or Region.
    peer: Option<Box<Context>>,
    /// The values that responses and logs must not contain.
    pub(crate) secrets: Secrets,
    prober: Option<Prober>,
    artifacts: Option<Artifacts>,
    log: Mutex<Log>,
}

/// The access to the artifacts bucket. It uses the function's own credentials, never a customer's.
#[derive(Debug)]
pub(crate) enum Artifacts {
    /// The function's configuration. The bucket's name comes from the settings.
    Settings(Box<SdkConfig>),
    /// A client and the bucket's name, for tests.
    Explicit(aws_sdk_s3::Client, String),
}

/// The data for a trust proof. Only a deployed step has it.
#[derive(Debug)]
pub(crate) struct Prober {
    pub(crate) sts: aws_sdk_sts::Client,
    pub(crate) record: Configuration,
    pub(crate) attribution: Attribution,
}

#[derive(Debug, Default)]
struct Log {
    lines: Vec<String>,
    bytes: usize,
    dropped_lines: usize,
}

impl Context {
    pub(crate) fn new(
        (customer, account): (&str, &str),
        scope: ArnScope,
        execution: Execution,
        session: Arc<Session>,
        deadline: Instant,
        prober: Option<Prober>,
    ) -> Self {
        let regions = prober.as_ref().map_or_else(
            || vec![scope.region.clone()],
            |prober| prober.record.account.regions.clone(),
        );
        Self {
            scope,
            execution,
            customer: customer.to_owned(),
            account: account.to_owned(),
            regions,
            secrets: session.secrets.clone(),
            session,
            deadline,
            peer: None,
            prober,
            artifacts: None,
            log: Mutex::default(),
        }
    }

    /// Adds the access to the artifacts bucket.
    pub(crate) fn with_artifacts(mut self, artifacts: Artifacts) -> Self {
        self.artifacts = Some(artifacts);
        self
    }

    /// Adds the context of the second account or Region, and its secrets.
    pub(crate) fn with_peer(mut self, peer: Option<Self>) -> Self {
        if let Some(peer) = &peer {
            self.secrets.add_all(&peer.secrets);
        }
        self.peer = peer.map(Box::new);
        self
    }

    /// Replaces the Regions of the account.
    pub(crate) fn with_regions(mut self, regions: &[&str]) -> Self {
        self.regions = regions.iter().map(ToString::to_string).collect();
        self
    }

    /// Adds secrets from key storage.
    pub(crate) fn with_secrets(mut self, secrets: &Secrets) -> Self {
        self.secrets.add_all(secrets);
        self
    }

    /// The customer's name.
    #[must_use]
    pub fn customer(&self) -> &str {
        &self.customer
    }

    /// The name of the account that the step works in.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The Regions that the account's record allows, including the target Region. A step that works
    /// in other Regions than its target must use only these.
    #[must_use]
    pub fn regions(&self) -> &[String] {
        &self.regions
    }

    /// The context of the second account or Region, which [`Step::peer`](crate::Step::peer) names.
    ///
    /// Write log lines to the main context; responses do not contain the log of the peer.
    ///
    /// # Errors
    /// `Internal` if `Step::peer` returns `None`.
    pub fn peer(&self) -> Result<&Self, StepError> {
        self.peer.as_deref().ok_or_else(|| {
            ErrorName::Internal.with_message(
                "the step uses a second account or Region that it does not declare; \
                 report this bug in the step",
            )
        })
    }

    /// Returns a client for the target account, for example `ctx.client(aws_sdk_ec2::Client::new)`.
    ///
    /// The session caches the client, so later calls return the same one.
    pub fn client<C: Clone + Send + Sync + 'static>(
        &self,
        new_client: impl FnOnce(&SdkConfig) -> C,
    ) -> C {
        self.session.client(new_client)
    }

    /// An object in Stepward's artifacts bucket that a customer's machines download with a
    /// presigned URL.
    ///
    /// Its key depends on the step, the item and the purpose, and is the same in every call. The
    /// object is accessed with the function's own credentials.
    ///
    /// # Errors
    /// `Internal` if the function has no artifacts bucket, `InvalidInput` if a name of the
    /// execution cannot be part of an S3 key.
    pub fn temporary_object(&self, purpose: &str) -> Result<TemporaryObject, StepError> {
        let prefix = artifact::step_prefix(&self.customer, &self.execution)?;
        let key = format!("{prefix}.scratch/{}", self.client_token(purpose));
        match &self.artifacts {
            Some(Artifacts::Settings(config)) => Ok(TemporaryObject::new(
                aws_sdk_s3::Client::new(config),
                settings::artifacts_bucket()?,
                key,
            )),
            Some(Artifacts::Explicit(s3, bucket)) => {
                Ok(TemporaryObject::new(s3.clone(), bucket, key))
            }
            None => Err(ErrorName::Internal.with_message(
                "this function has no access to the artifacts bucket; report this bug",
            )),
        }
    }

    /// The configuration of the target account's clients: credentials, Region and endpoints. Use it
    /// for requests that the SDK has no client for.
    #[must_use]
    pub fn config(&self) -> &SdkConfig {
        &self.session.config
    }

    /// The ARN of the step's role session. AWS shows it as the creator of resources, and no other
    /// execution has the same. `None` if the account's credentials do not come from a role.
    ///
    /// Do not write it to the log.
    #[must_use]
    pub fn session_arn(&self) -> Option<&str> {
        self.session.arn.as_deref()
    }

    /// The time by which the step must return, 2 seconds before Lambda's own limit.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Writes a line for the operator to the step's response and to CloudWatch Logs. Secrets are
    /// masked and role ARNs are removed.
    pub fn log(&self, line: impl Display) {
        let line = redact_role_arns(&self.mask(&line.to_string()));
        tracing::info!("{line}");

        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.bytes + line.len() > LOG_LIMIT {
            log.dropped_lines += 1;
        } else {
            log.bytes += line.len();
            log.lines.push(line);
        }
    }

    /// Returns the log lines so far, and clears the log.
    pub(crate) fn take_log_lines(&self) -> Vec<String> {
        let mut log = std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner));
        if log.dropped_lines > 0 {
            log.lines.push(format!(
                "… {} more lines are in CloudWatch Logs",
                log.dropped_lines
            ));
        }
        log.lines
    }

    /// Masks every secret in a text.
    pub(crate) fn mask(&self, text: &str) -> String {
        self.secrets.mask(text)
    }

    /// Masks every secret in a value.
    pub(crate) fn mask_json(&self, value: Value) -> Value {
        self.secrets.mask_json(value)
    }

    /// A client token, which makes a request idempotent.
    ///
    /// Every call of the same step in the same execution gets the same token for a purpose, and no
    /// other step does. The token has 64 characters, which every AWS API with client tokens
    /// accepts.
    #[must_use]
    pub fn client_token(&self, purpose: &str) -> String {
        let Execution {
            id,
            job,
            step,
            item,
            ..
        } = &self.execution;
        let item = item.as_deref().unwrap_or_default();
        let parts = [
            &self.customer,
            &self.account,
            &self.scope.region,
            id,
            job,
            step,
            item,
            purpose,
        ];
        // JSON distinguishes ("ab", "c") from ("a", "bc").
        sha256(&serde_json::json!(parts).to_string())
    }

    /// The URL of a page of the AWS console, for example
    /// `ctx.console("ec2/home", "Instances:instanceId=i-1")`.
    #[must_use]
    pub fn console(&self, page: &str, fragment: &str) -> String {
        let ArnScope {
            partition, region, ..
        } = &self.scope;
        let domain = Partition::find_or_standard(partition).console;
        format!("https://{region}.{domain}/{page}?region={region}#{fragment}")
    }

    /// Whether an operator decided to run steps in this account although its role accepts callers
    /// without the right external ID.
    #[must_use]
    pub fn trust_is_overridden(&self) -> bool {
        self.prober
            .as_ref()
            .is_some_and(|prober| prober.record.account.trust == Trust::Overridden)
    }

    /// Runs the trust proof for the account's role. Returns `None` for a credential provider
    /// without a role.
    ///
    /// # Errors
    /// The errors of [`trust::prove_trust`].
    pub async fn prove_trust(&self) -> Result<Option<TrustProof>, StepError> {
        match &self.prober {
            Some(Prober {
                sts,
                record,
                attribution,
            }) if record.provider() == Provider::AssumeRole => {
                Box::pin(trust::prove_trust(sts, &record.account, attribution))
                    .await
                    .map(Some)
            }
            _ => Ok(None),
        }
    }
}
