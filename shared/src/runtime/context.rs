//! What a running step has at hand.

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
use crate::model::error::{ErrorName, StepError, without_role_arns};
use crate::model::partition::Partition;
use crate::model::permissions::ArnScope;
use crate::runtime::artifact;
use crate::runtime::scratch::TemporaryObject;
use crate::settings;

/// Log lines that one call keeps, in bytes; what goes beyond is in CloudWatch Logs only.
const LOG_LIMIT: usize = 1024 * 1024;

/// What a running step has at hand: the account it works in, clients for it, and a voice.
#[derive(Debug)]
pub struct Context {
    /// Where the step works.
    pub place: ArnScope,
    /// The execution that it belongs to.
    pub execution: Execution,
    pub(crate) customer: String,
    pub(crate) account: String,
    regions: Vec<String>,
    session: Arc<Session>,
    /// When the step must have answered.
    deadline: Instant,
    /// Where else the step works.
    peer: Option<Box<Context>>,
    /// Everything that must not be shown.
    pub(crate) secrets: Secrets,
    prober: Option<Prober>,
    artifacts: Option<Artifacts>,
    lines: Mutex<Lines>,
}

/// How the artifacts bucket is reached: as the function itself, never with a customer's
/// credentials.
#[derive(Debug)]
pub(crate) enum Artifacts {
    /// From the function's own configuration and settings.
    Own(Box<SdkConfig>),
    /// By this client, in this bucket; for tests.
    Given(aws_sdk_s3::Client, String),
}

/// What the trust proof needs; only a deployed step has it.
#[derive(Debug)]
pub(crate) struct Prober {
    pub(crate) sts: aws_sdk_sts::Client,
    pub(crate) record: Configuration,
    pub(crate) attribution: Attribution,
}

#[derive(Debug, Default)]
struct Lines {
    kept: Vec<String>,
    bytes: usize,
    dropped: usize,
}

impl Context {
    pub(crate) fn new(
        (customer, account): (&str, &str),
        place: ArnScope,
        execution: Execution,
        session: Arc<Session>,
        deadline: Instant,
        prober: Option<Prober>,
    ) -> Self {
        let regions = prober.as_ref().map_or_else(
            || vec![place.region.clone()],
            |p| p.record.account.regions.clone(),
        );
        let (customer, account) = (customer.to_owned(), account.to_owned());
        let secrets = session.secrets.clone();
        let (artifacts, lines) = (None, Mutex::default());
        Self {
            place,
            execution,
            customer,
            account,
            regions,
            session,
            deadline,
            peer: None,
            secrets,
            prober,
            artifacts,
            lines,
        }
    }

    /// With a way to the artifacts bucket.
    pub(crate) fn with_artifacts(mut self, artifacts: Artifacts) -> Self {
        self.artifacts = Some(artifacts);
        self
    }

    /// With a second place to work in.
    pub(crate) fn with_peer(mut self, peer: Option<Self>) -> Self {
        if let Some(peer) = &peer {
            self.secrets.join(&peer.secrets);
        }
        self.peer = peer.map(Box::new);
        self
    }

    /// With these Regions for the account's.
    pub(crate) fn with_regions(mut self, regions: &[&str]) -> Self {
        self.regions = regions.iter().map(ToString::to_string).collect();
        self
    }

    /// With secrets from key storage.
    pub(crate) fn with_secrets(mut self, secrets: &Secrets) -> Self {
        self.secrets.join(secrets);
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

    /// The Regions that the account's record allows, the one worked in among them. A step that
    /// looks into others than its own asks for no more than these.
    #[must_use]
    pub fn regions(&self) -> &[String] {
        &self.regions
    }

    /// The second place that the step works in: the one that its [`Step::peer`](crate::Step::peer)
    /// names. What it is to say, it says here and not there.
    ///
    /// # Errors
    /// `Internal` where it names none.
    pub fn peer(&self) -> Result<&Self, StepError> {
        self.peer.as_deref().ok_or_else(|| {
            ErrorName::Internal.with_message("the step names no second place to work in")
        })
    }

    /// A client for the account, as in `ctx.client(aws_sdk_ec2::Client::new)`; kept with the
    /// credentials.
    pub fn client<C: Clone + Send + Sync + 'static>(
        &self,
        make: impl FnOnce(&SdkConfig) -> C,
    ) -> C {
        self.session.client(make)
    }

    /// A place in Stepward's own artifacts bucket for an object that a customer's machines fetch by
    /// a link: another for every step, item and purpose, and for every call of it the same. The
    /// bucket is reached as the function itself.
    ///
    /// # Errors
    /// `Internal` where the function has no artifacts bucket, `InvalidInput` where a name of the
    /// execution leads elsewhere.
    pub fn scratch(&self, purpose: &str) -> Result<TemporaryObject, StepError> {
        let folder = artifact::folder(&self.customer, &self.execution)?;
        let key = format!("{folder}.scratch/{}", self.client_token(purpose));
        match &self.artifacts {
            Some(Artifacts::Own(own)) => Ok(TemporaryObject::new(
                aws_sdk_s3::Client::new(own),
                settings::artifacts_bucket()?,
                key,
            )),
            Some(Artifacts::Given(s3, bucket)) => Ok(TemporaryObject::new(s3.clone(), bucket, key)),
            None => Err(ErrorName::Internal
                .with_message("this function has no way to the artifacts bucket")),
        }
    }

    /// What clients for the account are made from: its credentials, Region and endpoints, for what
    /// the SDK has no client for.
    #[must_use]
    pub fn config(&self) -> &SdkConfig {
        &self.session.config
    }

    /// The ARN of the role session that the step works as, as AWS shows it with what the session
    /// made: no other execution has the same. `None` where the account is entered without a role.
    /// It is not for the log.
    #[must_use]
    pub fn session_arn(&self) -> Option<&str> {
        self.session.arn.as_deref()
    }

    /// When the step must have answered: a little before Lambda ends it.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Says something to the operator: a line in the step's answer and in CloudWatch Logs, without
    /// secrets and role ARNs.
    pub fn log(&self, line: impl Display) {
        let line = without_role_arns(&self.mask(&line.to_string()));
        tracing::info!("{line}");
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.bytes + line.len() > LOG_LIMIT {
            lines.dropped += 1;
        } else {
            lines.bytes += line.len();
            lines.kept.push(line);
        }
    }

    pub(crate) fn take_log(&self) -> Vec<String> {
        let mut lines =
            std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        if lines.dropped > 0 {
            lines.kept.push(format!(
                "… {} more lines are in CloudWatch Logs",
                lines.dropped
            ));
        }
        lines.kept
    }

    /// The text with every secret masked.
    pub(crate) fn mask(&self, text: &str) -> String {
        self.secrets.mask(text)
    }

    /// The value with every secret in it masked.
    pub(crate) fn mask_json(&self, value: Value) -> Value {
        self.secrets.mask_json(value)
    }

    /// A client token: the same for every call for the same step of the same execution, another for
    /// any other. 64 characters, which every AWS API with client tokens takes.
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
            &self.place.region,
            id,
            job,
            step,
            item,
            purpose,
        ];
        // JSON, because it keeps ("ab", "c") and ("a", "bc") apart.
        sha256(&serde_json::json!(parts).to_string())
    }

    /// A link into the AWS console, as in `ctx.console("ec2/home", "Instances:instanceId=i-1")`.
    #[must_use]
    pub fn console(&self, page: &str, fragment: &str) -> String {
        let ArnScope {
            partition, region, ..
        } = &self.place;
        let domain = Partition::named_or_standard(partition).console;
        format!("https://{region}.{domain}/{page}?region={region}#{fragment}")
    }

    /// Whether an operator has decided to run in this account although its role lets strangers in.
    #[must_use]
    pub fn trust_is_overridden(&self) -> bool {
        self.prober
            .as_ref()
            .is_some_and(|prober| prober.record.account.trust == Trust::Overridden)
    }

    /// Proves that the account's role keeps strangers out. `None` for a provider that assumes no
    /// role.
    ///
    /// # Errors
    /// What [`trust::prove`] answers.
    pub async fn prove_trust(&self) -> Result<Option<TrustProof>, StepError> {
        match &self.prober {
            Some(Prober {
                sts,
                record,
                attribution,
            }) if record.provider() == Provider::AssumeRole => {
                Box::pin(trust::prove(sts, &record.account, attribution))
                    .await
                    .map(Some)
            }
            _ => Ok(None),
        }
    }
}
