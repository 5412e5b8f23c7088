//! Opens sessions: credentials for a customer's account, with the clients that use them.

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

use crate::access::assume::{
    Attribution, assume_role, check_session_account, is_role_refusal, require_role_arn, sts_error,
};
use crate::access::http_client::RegionNaming;
use crate::access::keys;
use crate::access::mask::Secrets;
use crate::access::store::Store;
use crate::model::customer::{AccessKey, Configuration, ExternalId, Provider};
use crate::model::error::{ErrorName, StepError};
use crate::model::permissions::ArnScope;
use crate::settings;

/// How long a warm process uses a cached record. The suspension of a customer and a new role of an
/// account take effect within this time.
const RECORD_LIFETIME: Duration = Duration::from_secs(30);
/// How long a warm process uses a cached session. The credentials are valid for 60 minutes, and
/// must remain valid during the longest Lambda invocation (15 minutes) and one minute more.
const SESSION_LIFETIME: Duration = Duration::from_mins(60 - 16);
/// The maximum number of records, and of sessions, that a warm process caches.
const CACHE_SIZE: usize = 64;

/// Stepward's own credentials and clients, and the caches of records and sessions. A process
/// creates one broker.
#[derive(Debug)]
pub struct Broker {
    /// The configuration with the function's own credentials: the broker role.
    pub config: SdkConfig,
    /// The STS client in the broker's Region.
    pub sts: aws_sdk_sts::Client,
    /// The name of the deployment's stack.
    pub stack: String,
    /// How long a step waits in the process before it returns `pending`.
    pub inline_wait: Duration,
    store: Store,
    /// The function's own secret key and session token. Responses and logs must not contain them.
    secrets: Secrets,
    records: Cache<(String, String), Configuration>,
    sessions: Cache<SessionKey, Arc<Session>>,
}

/// Credentials for one account, Region and policy, with the clients that use them.
pub struct Session {
    /// The configuration of the clients.
    pub config: SdkConfig,
    /// The values that responses and logs must not contain.
    pub secrets: Secrets,
    /// The ARN of the role session. `None` if the credentials do not come from AssumeRole.
    pub(crate) arn: Option<String>,
    clients: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
}

/// The key of a cached session. It contains everything that AWS checks or records.
///
/// It also contains the execution, which costs a warm process one AssumeRole call for each
/// execution. Otherwise, a customer's CloudTrail would show one person's actions under another
/// person's name.
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
    /// Creates the broker of this process from its environment.
    ///
    /// # Errors
    /// `Internal` if an environment variable is missing.
    pub async fn load() -> Result<Self, StepError> {
        Ok(Self::new(
            aws_config(None).await,
            settings::stack_name()?,
            settings::table_name()?,
            settings::inline_wait(),
        )
        .await)
    }

    /// Creates a broker with this configuration and table.
    pub async fn new(
        config: SdkConfig,
        stack: String,
        table: String,
        inline_wait: Duration,
    ) -> Self {
        let store = Store::new(aws_sdk_dynamodb::Client::new(&config), table);
        let sts = aws_sdk_sts::Client::new(&config);
        let own_credentials = match config.credentials_provider() {
            Some(provider) => provider.provide_credentials().await.ok(),
            None => None,
        };
        let secrets = own_credentials
            .as_ref()
            .map(credential_secrets)
            .unwrap_or_default();
        Self {
            config,
            sts,
            stack,
            inline_wait,
            store,
            secrets,
            records: Cache::new(RECORD_LIFETIME),
            sessions: Cache::new(SESSION_LIFETIME),
        }
    }

    /// Returns the records of an account. They are at most 30 seconds old.
    ///
    /// # Errors
    /// `NotFound` if the customer or the account does not exist, or the error of the DynamoDB call.
    pub async fn cached_configuration(
        &self,
        customer: &str,
        account: &str,
    ) -> Result<Configuration, StepError> {
        let key = (customer.to_owned(), account.to_owned());
        if let Some(record) = self.records.get(&key) {
            return Ok(record);
        }
        let record = self.store.configuration(customer, account).await?;
        self.records.put(key, record.clone());
        Ok(record)
    }

    /// Whether a record of the customer is cached.
    #[must_use]
    pub fn has_cached_records(&self, customer: &str) -> bool {
        self.records.contains_any(|(owner, _)| owner == customer)
    }

    /// Removes the customer's records from the cache.
    pub fn remove_cached_records(&self, customer: &str) {
        self.records.remove_all(|(owner, _)| owner == customer);
    }

    /// Returns a session for the account that is limited to the policy.
    ///
    /// # Errors
    /// `AccessDenied` if the role refuses Stepward, `TrustBroken` if the credentials belong to
    /// another account, or the error of the AWS call.
    pub async fn account_session(
        &self,
        record: &Configuration,
        scope: &ArnScope,
        policy: String,
        attribution: &Attribution,
    ) -> Result<Arc<Session>, StepError> {
        let account = &record.account;
        let key = SessionKey {
            customer: account.customer.clone(),
            account: account.name.clone(),
            version: account.version,
            region: scope.region.clone(),
            policy,
            attribution: attribution.clone(),
        };
        if let Some(session) = self.sessions.get(&key) {
            return Ok(session);
        }
        let session = self
            .open_session(record, scope, &key.policy, attribution)
            .await?;
        let session = Arc::new(session);
        self.sessions.put(key, session.clone());
        Ok(session)
    }

    async fn open_session(
        &self,
        record: &Configuration,
        scope: &ArnScope,
        policy: &str,
        attribution: &Attribution,
    ) -> Result<Session, StepError> {
        let account = &record.account;
        let new_session = |credentials: SharedCredentialsProvider, mut secrets: Secrets| {
            secrets.add_all(&self.secrets);
            let config = self
                .config
                .to_builder()
                .region(Region::new(scope.region.clone()));
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
                let role_arn = require_role_arn(account)?;
                let assume_role_with = async |external_id: &ExternalId| {
                    let account_id = &account.account_id;
                    let id = Some(external_id.expose());
                    assume_role(&self.sts, role_arn, account_id, id, attribution, policy).await
                };
                let mut external_id = &account.external_id;
                let assumed = assume_role_with(external_id).await;
                let (credentials, arn) = match (assumed, &account.next_external_id) {
                    // During a rotation, the role may require the new external ID already.
                    (Err(error), Some(next)) if is_role_refusal(&error) => {
                        external_id = next;
                        assume_role_with(next).await
                    }
                    (assumed, _) => assumed,
                }?;
                let mut secrets = credential_secrets(&credentials);
                secrets.add(external_id.expose());
                // `assume_role` has checked the account, so GetCallerIdentity is not necessary.
                let session = new_session(SharedCredentialsProvider::new(credentials), secrets);
                return Ok(Session {
                    arn: Some(arn),
                    ..session
                });
            }
            Provider::Ec2 => {
                let imds =
                    aws_config::imds::credentials::ImdsCredentialsProvider::builder().build();
                new_session(
                    check_provider(imds, "the EC2 instance profile").await?,
                    Secrets::default(),
                )
            }
            Provider::Ecs => {
                let ecs = aws_config::ecs::EcsCredentialsProvider::builder().build();
                new_session(
                    check_provider(ecs, "the ECS task role").await?,
                    Secrets::default(),
                )
            }
            Provider::ExecutionRole => new_session(self.own_credentials()?, Secrets::default()),
            Provider::AccessKey => {
                let AccessKey { id, secret_path } =
                    account.access_key.as_ref().ok_or_else(|| {
                        ErrorName::InvalidInput.with_message(format!(
                            "account {:?} of customer {:?} has no access key; remove the account \
                             and add it again with --access-key-id and --secret-path",
                            account.name, account.customer
                        ))
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
                let secrets = std::iter::once(secret.expose_secret()).collect();
                new_session(SharedCredentialsProvider::new(credentials), secrets)
            }
        };

        let sts = aws_sdk_sts::Client::new(&session.config);
        check_account(&sts, &account.account_id).await?;
        Ok(session)
    }

    fn own_credentials(&self) -> Result<SharedCredentialsProvider, StepError> {
        self.config.credentials_provider().ok_or_else(|| {
            ErrorName::Internal.with_message(
                "the step's function has no execution role; deploy the stack again with \
                 `stepward deploy`",
            )
        })
    }
}

/// The SDK configuration for a program's own credentials. `region` overrides the environment's
/// Region.
///
/// All clients with this configuration use one HTTP client, so they share connections and root
/// certificates.
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
        reason = "the lint refers to this function"
    )]
    let loader = aws_config::defaults(BehaviorVersion::latest());
    // Standard mode waits with jitter between attempts.
    // https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
    let retries = RetryConfig::standard().with_max_attempts(3);
    let loader = loader
        .http_client(RegionNaming(http))
        .timeout_config(timeouts)
        .retry_config(retries);
    match region {
        Some(region) => loader.region(Region::new(region)).load().await,
        None => loader.load().await,
    }
}

/// The parts of credentials that responses and logs must not contain.
fn credential_secrets(credentials: &Credentials) -> Secrets {
    [
        Some(credentials.secret_access_key()),
        credentials.session_token(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Checks that a client's credentials belong to the account.
async fn check_account(sts: &aws_sdk_sts::Client, account_id: &str) -> Result<(), StepError> {
    let identity = sts.get_caller_identity().send().await.map_err(sts_error)?;
    check_session_account(identity.account.as_deref().unwrap_or_default(), account_id)
}

/// Checks that a provider returns credentials.
async fn check_provider(
    provider: impl ProvideCredentials + 'static,
    source: &str,
) -> Result<SharedCredentialsProvider, StepError> {
    let credentials = provider.provide_credentials();
    match tokio::time::timeout(Duration::from_secs(5), credentials).await {
        Ok(Ok(_)) => Ok(SharedCredentialsProvider::new(provider)),
        Ok(Err(_)) | Err(_) => Err(ErrorName::AccessDenied.with_message(format!(
            "{source} provides no credentials; \
             the providers ec2 and ecs work only where the step runs on EC2 or ECS with a role; \
             elsewhere, remove the account and add it again with another --provider"
        ))),
    }
}

impl Session {
    /// Creates a session with this configuration.
    #[must_use]
    pub fn new(config: SdkConfig, secrets: Secrets) -> Self {
        Self {
            config,
            secrets,
            arn: None,
            clients: Mutex::default(),
        }
    }

    /// Returns the client of a service, which the session creates once.
    pub fn client<C: Clone + Send + Sync + 'static>(
        &self,
        new_client: impl FnOnce(&SdkConfig) -> C,
    ) -> C {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients
            .entry(TypeId::of::<C>())
            .or_insert_with(|| Box::new(new_client(&self.config)));
        client
            .downcast_ref::<C>()
            .cloned()
            .unwrap_or_else(|| unreachable!("the key of an entry is its type"))
    }
}

/// Values that a warm process caches for a limited time.
#[derive(Debug)]
struct Cache<K, V> {
    lifetime: Duration,
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            entries: Mutex::default(),
        }
    }

    fn get(&self, key: &K) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(key)
            .filter(|(since, _)| since.elapsed() < self.lifetime)
            .map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, (since, _)| since.elapsed() < self.lifetime);
        if entries.len() >= CACHE_SIZE {
            entries.clear();
        }
        entries.insert(key, (Instant::now(), value));
    }

    fn contains_any(&self, is_selected: impl Fn(&K) -> bool) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .iter()
            .any(|(key, (since, _))| is_selected(key) && since.elapsed() < self.lifetime)
    }

    fn remove_all(&self, is_selected: impl Fn(&K) -> bool) {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|key, _| !is_selected(key));
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::mock_client;
    use aws_sdk_sts::operation::assume_role::{AssumeRoleError, AssumeRoleOutput};
    use aws_sdk_sts::types::{AssumedRoleUser, Credentials as StsCredentials};
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;
    use crate::access::trust::{TrustVerdict, prove_trust};
    use crate::testing::{account_record, attribution};

    fn arn_scope() -> ArnScope {
        ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        }
    }

    fn assumed_role(account_id: &str) -> AssumeRoleOutput {
        let time = aws_smithy_types::DateTime::from_secs(4_000_000_000);
        let keys = StsCredentials::builder()
            .access_key_id("AKIA")
            .secret_access_key("hidden")
            .session_token("t")
            .expiration(time);
        let arn = format!("arn:aws:sts::{account_id}:assumed-role/Stepward/s");
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

    fn accepting_rule() -> Rule {
        mock!(aws_sdk_sts::Client::assume_role).then_output(|| assumed_role("222222222222"))
    }

    fn refusing_rule() -> Rule {
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
            inline_wait: Duration::ZERO,
            store,
            secrets: Secrets::default(),
            records: Cache::new(RECORD_LIFETIME),
            sessions: Cache::new(SESSION_LIFETIME),
        }
    }

    async fn open_session(
        broker: &Broker,
        record: &Configuration,
        policy: &str,
        execution: &str,
    ) -> Result<(), StepError> {
        broker
            .account_session(
                record,
                &arn_scope(),
                policy.into(),
                &attribution(execution, "ann"),
            )
            .await
            .map(|_| ())
    }

    #[tokio::test]
    async fn assume_role_sends_external_id_policy_and_attribution() {
        let record = account_record("acme");
        let external_id = record.account.external_id.expose().to_owned();
        let rule = mock!(aws_sdk_sts::Client::assume_role)
            .match_requests(move |request| {
                request.role_arn() == Some("arn:aws:iam::222222222222:role/stepward/Stepward")
                    && request.external_id() == Some(external_id.as_str())
                    && request.policy() == Some("POLICY")
                    && request.role_session_name() == Some("acme@e1")
                    && request.source_identity() == Some("ann")
            })
            .then_output(|| assumed_role("222222222222"));
        open_session(&broker(&[&rule]), &record, "POLICY", "e1")
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn sessions_are_reused_only_for_identical_requests() {
        let rules: Vec<_> = (0..6).map(|_| accepting_rule()).collect();
        let broker = broker(&rules.iter().collect::<Vec<_>>());
        let calls = || rules.iter().map(Rule::num_calls).sum::<usize>();
        let acme = account_record("acme");
        open_session(&broker, &acme, "p", "e1").await.unwrap();
        open_session(&broker, &acme, "p", "e1").await.unwrap();
        assert_eq!(calls(), 1, "the same request");
        open_session(&broker, &acme, "other", "e1").await.unwrap();
        assert_eq!(calls(), 2, "another policy");
        open_session(&broker, &acme, "p", "e2").await.unwrap();
        assert_eq!(calls(), 3, "another execution");
        open_session(&broker, &account_record("globex"), "p", "e1")
            .await
            .unwrap();
        assert_eq!(calls(), 4, "another customer, even with the same role");
        let mut changed = account_record("acme");
        changed.account.version += 1;
        open_session(&broker, &changed, "p", "e1").await.unwrap();
        assert_eq!(calls(), 5, "a changed record");
    }

    #[tokio::test]
    async fn credentials_for_another_account_are_not_used() {
        let rule =
            mock!(aws_sdk_sts::Client::assume_role).then_output(|| assumed_role("333333333333"));
        let error = open_session(&broker(&[&rule]), &account_record("acme"), "p", "e1")
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::TrustBroken);
    }

    #[tokio::test]
    async fn during_a_rotation_the_new_external_id_is_tried_second() {
        let mut rotating = account_record("acme");
        let next = ExternalId::generate().unwrap();
        rotating.account.next_external_id = Some(next.clone());
        let accepts_next = mock!(aws_sdk_sts::Client::assume_role)
            .match_requests(move |request| request.external_id() == Some(next.expose()))
            .then_output(|| assumed_role("222222222222"));
        open_session(
            &broker(&[&refusing_rule(), &accepts_next]),
            &rotating,
            "p",
            "e1",
        )
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn rejected_broker_credentials_are_not_a_refusal_by_the_role() {
        let rule = mock!(aws_sdk_sts::Client::assume_role).then_error(|| {
            let metadata = ErrorMetadata::builder()
                .code("RegionDisabledException")
                .message("STS is not activated in this region");
            AssumeRoleError::generic(metadata.build())
        });
        let record = account_record("acme");
        let broker = broker(&[&rule]);
        let error = open_session(&broker, &record, "p", "e1").await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("STS is not activated"), "{text}");
        assert!(!text.contains("trust policy"), "{text}");

        let rules: Vec<_> = (0..5).map(|_| rule.clone()).collect();
        let sts = mock_client!(aws_sdk_sts, RuleMode::MatchAny, rules.iter());
        let attribution = attribution("e1", "ann");
        let proof = Box::pin(prove_trust(&sts, &record.account, &attribution))
            .await
            .unwrap();
        assert!(
            matches!(proof.without_external_id, TrustVerdict::Unknown(_)),
            "{proof:?}"
        );
    }

    #[tokio::test]
    async fn a_refusal_explains_the_trust_policy_without_secrets() {
        let record = account_record("acme");
        let error = open_session(&broker(&[&refusing_rule()]), &record, "p", "e1")
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        let text = error.to_string();
        assert!(text.contains("trust policy must allow"), "{text}");
        assert!(
            !text.contains(record.account.external_id.expose()) && !text.contains("arn:aws:iam"),
            "{text}"
        );
    }
}
