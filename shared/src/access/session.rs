//! From "customer acme, account prod" to credentials for that account.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_http_client::tls::{Provider as Tls, rustls_provider::CryptoMode};
use secrecy::ExposeSecret;

use crate::access::assume::{Attribution, assume, check_landed, role_of, sts_error};
use crate::access::keys;
use crate::access::mask::Secrets;
use crate::access::store::Store;
use crate::model::customer::{AccessKey, Configuration, Provider};
use crate::model::error::{ErrorName, StepError};
use crate::model::permissions::ArnScope;
use crate::settings;

/// How long a warm process goes on with a customer's record: a suspension takes effect within this
/// time.
const RECORD_LIFE: Duration = Duration::from_secs(30);
/// Credentials are used only while they outlive the longest Lambda invocation (15 minutes), with a
/// minute to spare.
const SESSION_LIFE: Duration = Duration::from_mins(60 - 16);
/// Records and sessions that a warm process keeps at most.
const CACHE_SIZE: usize = 64;

/// What one process needs of Stepward's own account, made once.
#[derive(Debug)]
pub struct Broker {
    /// The function's own credentials: the broker role.
    pub config: SdkConfig,
    /// STS in the broker's Region.
    pub sts: aws_sdk_sts::Client,
    /// The name of the stack that this is.
    pub stack: String,
    /// How long a step is waited with before it answers `pending`.
    pub linger: Duration,
    store: Store,
    /// The function's own secret key and session token: no step may show those either.
    secrets: Secrets,
    records: Cache<(String, String), Configuration>,
    sessions: Cache<SessionKey, Arc<Session>>,
}

/// Credentials for one account, Region and policy, with the clients made from them.
pub struct Session {
    /// What clients are made from.
    pub config: SdkConfig,
    /// What must not be shown.
    pub secrets: Secrets,
    /// Who AWS takes the session for; `None` where no role was assumed.
    pub(crate) arn: Option<String>,
    clients: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
}

/// Two sessions are the same only if nothing differs that AWS would check or record.
///
/// The execution is part of it, although that costs a warm process one AssumeRole for each
/// execution: otherwise a customer's CloudTrail would show one person's actions under another's
/// name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct SessionKey {
    customer: String,
    account: String,
    version: u64,
    region: String,
    policy: String,
    attribution: Attribution,
}

impl Broker {
    /// The broker of this process.
    ///
    /// # Errors
    /// `Internal` when a setting is missing.
    pub async fn load() -> Result<Self, StepError> {
        Ok(Self::new(
            aws_config(None).await,
            settings::stack()?,
            settings::table()?,
            settings::inline_wait(),
        )
        .await)
    }

    /// A broker with these credentials and this table.
    pub async fn new(config: SdkConfig, stack: String, table: String, linger: Duration) -> Self {
        let store = Store::new(aws_sdk_dynamodb::Client::new(&config), table);
        let sts = aws_sdk_sts::Client::new(&config);
        let own = match config.credentials_provider() {
            Some(provider) => provider.provide_credentials().await.ok(),
            None => None,
        };
        let secrets = own.as_ref().map(secrets_of).unwrap_or_default();
        let (records, sessions) = (Cache::new(RECORD_LIFE), Cache::new(SESSION_LIFE));
        Self {
            config,
            sts,
            stack,
            linger,
            store,
            secrets,
            records,
            sessions,
        }
    }

    /// The customer's record, at most 30 seconds old.
    ///
    /// # Errors
    /// `NotFound`, or why DynamoDB failed.
    pub async fn configuration(
        &self,
        customer: &str,
        account: &str,
    ) -> Result<Configuration, StepError> {
        let key = (customer.to_owned(), account.to_owned());
        if let Some(found) = self.records.get(&key) {
            return Ok(found);
        }
        let found = self.store.configuration(customer, account).await?;
        self.records.put(key, found.clone());
        Ok(found)
    }

    /// Whether a record of the customer would come from an earlier call.
    #[must_use]
    pub fn keeps_records(&self, customer: &str) -> bool {
        self.records.any(|(of, _)| of == customer)
    }

    /// Reads the customer's records anew at the next call.
    pub fn forget_records(&self, customer: &str) {
        self.records.remove(|(of, _)| of == customer);
    }

    /// Credentials for the account, cut to the policy.
    ///
    /// # Errors
    /// `AccessDenied` when the role refuses, `TrustBroken` when the credentials are of another
    /// account, or why AWS failed.
    pub async fn session(
        &self,
        record: &Configuration,
        place: &ArnScope,
        policy: String,
        attribution: &Attribution,
    ) -> Result<Arc<Session>, StepError> {
        let account = &record.account;
        let key = SessionKey {
            customer: account.customer.clone(),
            account: account.name.clone(),
            version: account.version,
            region: place.region.clone(),
            policy,
            attribution: attribution.clone(),
        };
        if let Some(session) = self.sessions.get(&key) {
            return Ok(session);
        }
        let session = Arc::new(self.open(record, place, &key.policy, attribution).await?);
        self.sessions.put(key, session.clone());
        Ok(session)
    }

    async fn open(
        &self,
        record: &Configuration,
        place: &ArnScope,
        policy: &str,
        attribution: &Attribution,
    ) -> Result<Session, StepError> {
        let account = &record.account;
        let with = |credentials: SharedCredentialsProvider, mut secrets: Secrets| {
            secrets.join(&self.secrets);
            let config = self
                .config
                .to_builder()
                .region(Region::new(place.region.clone()));
            let identities = aws_config::identity::IdentityCache::lazy().build();
            Session::new(
                config
                    .credentials_provider(credentials)
                    .identity_cache(identities)
                    .build(),
                secrets,
            )
        };
        let session = match record.provider() {
            Provider::AssumeRole => {
                let role = role_of(account)?;
                let mut external_id = &account.external_id;
                let assumed = assume(
                    &self.sts,
                    role,
                    &account.account_id,
                    Some(external_id.expose()),
                    attribution,
                    policy,
                );
                let (credentials, arn) = match (assumed.await, &account.next_external_id) {
                    (Err(error), Some(next)) if error.name == ErrorName::AccessDenied => {
                        external_id = next;
                        let id = Some(next.expose());
                        assume(
                            &self.sts,
                            role,
                            &account.account_id,
                            id,
                            attribution,
                            policy,
                        )
                        .await
                    }
                    (answer, _) => answer,
                }?;
                let mut secrets = secrets_of(&credentials);
                secrets.add(external_id.expose());
                // The account is in the answer itself, so that no further call has to ask for it.
                let session = with(SharedCredentialsProvider::new(credentials), secrets);
                return Ok(Session {
                    arn: Some(arn),
                    ..session
                });
            }
            Provider::Ec2 => {
                let imds =
                    aws_config::imds::credentials::ImdsCredentialsProvider::builder().build();
                with(
                    available(imds, "the EC2 instance profile").await?,
                    Secrets::default(),
                )
            }
            Provider::Ecs => {
                let ecs = aws_config::ecs::EcsCredentialsProvider::builder().build();
                with(
                    available(ecs, "the ECS task role").await?,
                    Secrets::default(),
                )
            }
            Provider::ExecutionRole => with(self.own_credentials()?, Secrets::default()),
            Provider::AccessKey => {
                let AccessKey { id, secret_path } =
                    account.access_key.as_ref().ok_or_else(|| {
                        ErrorName::InvalidInput.with_message(
                            "the account has no access key; remove it and add it again with one",
                        )
                    })?;
                keys::check_owner(secret_path, &account.customer)?;
                let secret = keys::read_secret(&self.config, &self.stack, secret_path).await?;
                let credentials = Credentials::new(
                    id,
                    secret.expose_secret(),
                    None,
                    None,
                    "stepward key storage",
                );
                let shown_nowhere = std::iter::once(secret.expose_secret()).collect();
                with(SharedCredentialsProvider::new(credentials), shown_nowhere)
            }
        };
        in_account(
            &aws_sdk_sts::Client::new(&session.config),
            &account.account_id,
        )
        .await?;
        Ok(session)
    }

    fn own_credentials(&self) -> Result<SharedCredentialsProvider, StepError> {
        self.config
            .credentials_provider()
            .ok_or_else(|| ErrorName::Internal.with_message("this function has no role"))
    }
}

/// The SDK's configuration for a program's own credentials; `region` overrides the environment's.
///
/// One HTTP client serves all that is made from it, so that connections and root certificates are
/// shared.
pub async fn aws_config(region: Option<String>) -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Tls::Rustls(CryptoMode::AwsLc))
        .build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(15))
        .operation_timeout(Duration::from_secs(40))
        .build();
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that the lint sends everybody to"
    )]
    let loader = aws_config::defaults(BehaviorVersion::latest());
    // Standard mode waits with jitter between attempts.
    // https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
    let retries = RetryConfig::standard().with_max_attempts(3);
    let loader = loader
        .http_client(http)
        .timeout_config(timeouts)
        .retry_config(retries);
    match region {
        Some(region) => loader.region(Region::new(region)).load().await,
        None => loader.load().await,
    }
}

fn secrets_of(credentials: &Credentials) -> Secrets {
    [
        Some(credentials.secret_access_key()),
        credentials.session_token(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

async fn in_account(sts: &aws_sdk_sts::Client, account_id: &str) -> Result<(), StepError> {
    let identity = sts.get_caller_identity().send().await.map_err(sts_error)?;
    check_landed(identity.account.as_deref().unwrap_or_default(), account_id)
}

async fn available(
    provider: impl ProvideCredentials + 'static,
    source: &str,
) -> Result<SharedCredentialsProvider, StepError> {
    let asked = tokio::time::timeout(Duration::from_secs(5), provider.provide_credentials()).await;
    match asked {
        Ok(Ok(_)) => Ok(SharedCredentialsProvider::new(provider)),
        Ok(Err(_)) | Err(_) => Err(ErrorName::AccessDenied.with_message(format!(
            "{source} gives no credentials here; the provider works only where the step runs on EC2 or ECS with a role"
        ))),
    }
}

impl Session {
    /// A session with these credentials.
    #[must_use]
    pub fn new(config: SdkConfig, secrets: Secrets) -> Self {
        Self {
            config,
            secrets,
            arn: None,
            clients: Mutex::default(),
        }
    }

    /// The client of a service, made once for a session.
    pub fn client<C: Clone + Send + Sync + 'static>(
        &self,
        make: impl FnOnce(&SdkConfig) -> C,
    ) -> C {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients
            .entry(TypeId::of::<C>())
            .or_insert_with(|| Box::new(make(&self.config)));
        client
            .downcast_ref::<C>()
            .cloned()
            .unwrap_or_else(|| unreachable!("entries are keyed by their type"))
    }
}

/// Values that a warm process keeps for a while.
#[derive(Debug)]
struct Cache<K, V> {
    life: Duration,
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    fn new(life: Duration) -> Self {
        Self {
            life,
            entries: Mutex::default(),
        }
    }

    fn get(&self, key: &K) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(key)
            .filter(|(since, _)| since.elapsed() < self.life)
            .map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, (since, _)| since.elapsed() < self.life);
        if entries.len() >= CACHE_SIZE {
            entries.clear();
        }
        entries.insert(key, (Instant::now(), value));
    }

    fn any(&self, chosen: impl Fn(&K) -> bool) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .iter()
            .any(|(key, (since, _))| chosen(key) && since.elapsed() < self.life)
    }

    fn remove(&self, chosen: impl Fn(&K) -> bool) {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|key, _| !chosen(key));
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sts::operation::assume_role::{AssumeRoleError, AssumeRoleOutput};
    use aws_sdk_sts::types::{AssumedRoleUser, Credentials as Given};
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;
    use crate::model::customer::ExternalId;
    use crate::testing::{attribution, record};

    fn place() -> ArnScope {
        ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        }
    }

    fn given(account: &str) -> AssumeRoleOutput {
        let time = aws_smithy_types::DateTime::from_secs(4_000_000_000);
        let keys = Given::builder()
            .access_key_id("AKIA")
            .secret_access_key("hidden")
            .session_token("t")
            .expiration(time);
        let arn = format!("arn:aws:sts::{account}:assumed-role/Stepward/s");
        let user = AssumedRoleUser::builder()
            .assumed_role_id("r:s")
            .arn(arn)
            .build()
            .unwrap();
        AssumeRoleOutput::builder()
            .credentials(keys.build().unwrap())
            .assumed_role_user(user)
            .build()
    }

    fn accepts() -> Rule {
        mock!(aws_sdk_sts::Client::assume_role).then_output(|| given("222222222222"))
    }

    fn refuses() -> Rule {
        mock!(aws_sdk_sts::Client::assume_role).then_error(|| {
            AssumeRoleError::generic(ErrorMetadata::builder().code("AccessDenied").build())
        })
    }

    fn broker(rules: &[&Rule]) -> Broker {
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .build();
        let store = Store::new(
            mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, Vec::<&Rule>::new()),
            "table",
        );
        let sts = mock_client!(aws_sdk_sts, RuleMode::Sequential, rules);
        Broker {
            config,
            sts,
            stack: "stepward".into(),
            linger: Duration::ZERO,
            store,
            secrets: Secrets::default(),
            records: Cache::new(RECORD_LIFE),
            sessions: Cache::new(SESSION_LIFE),
        }
    }

    async fn open(
        broker: &Broker,
        record: &Configuration,
        policy: &str,
        execution: &str,
    ) -> Result<(), StepError> {
        broker
            .session(
                record,
                &place(),
                policy.into(),
                &attribution(execution, "ann"),
            )
            .await
            .map(|_| ())
    }

    #[tokio::test]
    async fn assume_role_carries_external_id_policy_session_name_and_source_identity() {
        let record = record("acme");
        let external_id = record.account.external_id.expose().to_owned();
        let rule = mock!(aws_sdk_sts::Client::assume_role)
            .match_requests(move |request| {
                request.role_arn() == Some("arn:aws:iam::222222222222:role/stepward/Stepward")
                    && request.external_id() == Some(external_id.as_str())
                    && request.policy() == Some("POLICY")
                    && request.role_session_name() == Some("acme@e1")
                    && request.source_identity() == Some("ann")
            })
            .then_output(|| given("222222222222"));
        open(&broker(&[&rule]), &record, "POLICY", "e1")
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn credentials_are_reused_only_where_nothing_differs() {
        let rules: Vec<_> = (0..6).map(|_| accepts()).collect();
        let broker = broker(&rules.iter().collect::<Vec<_>>());
        let calls = || rules.iter().map(Rule::num_calls).sum::<usize>();
        let acme = record("acme");
        open(&broker, &acme, "p", "e1").await.unwrap();
        open(&broker, &acme, "p", "e1").await.unwrap();
        assert_eq!(calls(), 1, "the same again");
        open(&broker, &acme, "other", "e1").await.unwrap();
        assert_eq!(calls(), 2, "another policy");
        open(&broker, &acme, "p", "e2").await.unwrap();
        assert_eq!(calls(), 3, "another execution");
        open(&broker, &record("globex"), "p", "e1").await.unwrap();
        assert_eq!(calls(), 4, "another customer, even with the same role");
        let mut changed = record("acme");
        changed.account.version += 1;
        open(&broker, &changed, "p", "e1").await.unwrap();
        assert_eq!(calls(), 5, "a changed record");
    }

    #[tokio::test]
    async fn credentials_for_another_account_are_not_used() {
        let rule = mock!(aws_sdk_sts::Client::assume_role).then_output(|| given("333333333333"));
        let error = open(&broker(&[&rule]), &record("acme"), "p", "e1")
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::TrustBroken);
    }

    #[tokio::test]
    async fn during_a_rotation_the_next_external_id_is_tried_after_the_first() {
        let mut rotating = record("acme");
        let next = ExternalId::generate().unwrap();
        rotating.account.next_external_id = Some(next.clone());
        let takes_next = mock!(aws_sdk_sts::Client::assume_role)
            .match_requests(move |request| request.external_id() == Some(next.expose()))
            .then_output(|| given("222222222222"));
        open(&broker(&[&refuses(), &takes_next]), &rotating, "p", "e1")
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_refusal_says_what_the_trust_policy_needs_and_nothing_secret() {
        let record = record("acme");
        let error = open(&broker(&[&refuses()]), &record, "p", "e1")
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        let text = error.to_string();
        assert!(text.contains("stepward account check"));
        assert!(
            !text.contains(record.account.external_id.expose()) && !text.contains("arn:aws:iam"),
            "{text}"
        );
    }
}
