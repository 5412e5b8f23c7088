//! Proves that a step needs exactly the IAM actions that it declares, on a local cloud that
//! enforces IAM. The proof covers the step's own account, and the peer account of steps that use
//! one.
//!
//! It does not prove that the declared resources are as narrow as possible. The step pages list
//! them, and a test in `tests/fleet.rs` requires a reason for `*`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a proof that cannot be set up must fail its test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use serde_json::{Value, json};
use stepward::access::session::Broker;
use stepward::access::store::{NewAccount, Store};
use stepward::model::customer::Trust;
use stepward::model::permissions::Statement;
use stepward::runtime::manifest::Manifest;
use stepward::{ErrorName, Step, StepError, testing};
use stepward_cli::cloud::Cloud;
use stepward_cli::deploy::stack::{self, Template};
use stepward_cli::local::{LocalCloud, OPERATOR};
use stepward_cli::output::Progress;
use stepward_cli::role_template;
use stepward_cli::workspace::Workspace;

use crate::run_dir::create_run_dir;

const REGION: &str = "eu-west-1";
const CUSTOMER: &str = "acme";
const ACCOUNT: (&str, &str) = ("prod", "222222222222");
const PEER: (&str, &str) = ("peer", "333333333333");
const TABLE: &str = "stepward";
/// The maximum time of one run of a step. Most operations of the local cloud take no time.
const RUN_LIMIT: Duration = Duration::from_mins(1);
/// The pause between two calls of a pending step. The step's own `retry_after` suits AWS, which is
/// slower.
const CALL_INTERVAL: Duration = Duration::from_millis(100);

/// The customer's two accounts, with the permissions of their owner.
pub struct Scene {
    owner: Cloud,
    peer: Cloud,
    names: AtomicU32,
}

impl Scene {
    /// Returns a client for the step's account that may do everything.
    pub fn client<C>(&self, create: impl FnOnce(&SdkConfig) -> C) -> C {
        create(&self.owner.config)
    }

    /// Returns a client for the customer's peer account, `peer`, that may do everything.
    pub fn peer<C>(&self, create: impl FnOnce(&SdkConfig) -> C) -> C {
        create(&self.peer.config)
    }

    /// Returns the ID of the step's account.
    #[must_use]
    pub fn account_id(&self) -> &'static str {
        ACCOUNT.1
    }

    /// Returns the step's Region.
    #[must_use]
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// Returns a unique name with the given prefix.
    #[must_use]
    pub fn name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Creates a CloudFormation stack in the step's account.
    ///
    /// # Panics
    /// If CloudFormation cannot create the stack.
    pub async fn make(&self, template: &Value) {
        apply_stack(&self.owner, &self.name("scene"), template, &[]).await;
    }
}

/// Proves the permissions of a step:
///
/// 1. With a role that has exactly the declared permissions, the step succeeds.
/// 2. With a role that lacks one of the declared actions, the step fails with `AccessDenied` and
///    names the action. The proof repeats this for every action.
///
/// For each run, `scene` creates the resources that the step needs and returns the step's
/// parameters. `unproven` lists actions that the local cloud does not check, or that the scene
/// does not need, each with the reason. Without such an action the step must succeed in at
/// least one of the two accounts. The proof includes the peer account if the parameters name one.
///
/// # Panics
/// If the step behaves differently.
pub fn prove_permissions<S: Step>(unproven: &[(&str, &str)], scene: impl AsyncFn(&Scene) -> Value) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a Tokio runtime").block_on(async {
        let proof = Proof::start::<S>().await;
        let faults = proof.find_faults::<S>(unproven, scene).await;
        let dir = proof.local.dir.clone();
        drop(proof);
        assert!(
            faults.is_empty(),
            "the permissions of {} are wrong:\n{}\nThe local cloud's log is in {}",
            S::NAME,
            faults.join("\n"),
            dir.display()
        );
        // After a failure the log stays for the investigation.
        let _ = std::fs::remove_dir_all(dir);
    });
}

struct Proof {
    scene: Scene,
    broker: Broker,
    broker_arn: String,
    /// The external IDs of both accounts, by account ID.
    external_ids: BTreeMap<&'static str, String>,
    manifest: Manifest,
    local: LocalCloud,
}

impl Proof {
    async fn start<S: Step>() -> Self {
        let workspace = Workspace::find().expect("the checkout");
        // A step can have several proofs, which run at the same time.
        let dir = create_run_dir(&workspace.local_cloud(), &format!("proof-{}", S::NAME))
            .unwrap_or_else(|error| panic!("{error}"));
        let local = LocalCloud::start_private(&dir)
            .unwrap_or_else(|error| panic!("the local cloud did not start: {error}"));
        let operator = Cloud::local(local.port, OPERATOR, Some(REGION));
        let (owner, peer) = (
            operator.other_account(ACCOUNT.1),
            operator.other_account(PEER.1),
        );
        let outputs = apply_stack(&operator, "operator", &operator_template(), &[]).await;
        let broker_arn = outputs["BrokerRoleArn"].clone();
        let store = Store::new(operator.dynamodb(), TABLE);
        store
            .add_customer("test", CUSTOMER, None, None)
            .await
            .expect("the customer is added");
        let mut external_ids = BTreeMap::new();
        for (name, id) in [ACCOUNT, PEER] {
            let account = store
                .add_account("test", new_account(name, id))
                .await
                .expect("the account is added");
            external_ids.insert(id, account.external_id.expose().to_owned());
            let role = format!("arn:aws:iam::{id}:role/stepward/Stepward");
            let account = store
                .set_role("test", &account, &role)
                .await
                .expect("the role is registered");
            store
                .set_trust("test", &account, Trust::Proven)
                .await
                .expect("the role is marked as proven");
        }
        let broker = Broker::new(
            assume_role(&operator, &broker_arn).await,
            "stepward".into(),
            TABLE.into(),
            Duration::ZERO,
        )
        .await;
        let scene = Scene {
            owner,
            peer,
            names: AtomicU32::new(1),
        };
        let manifest = Manifest::for_step::<S>().unwrap_or_else(|error| panic!("{error}"));
        Self {
            scene,
            broker,
            broker_arn,
            external_ids,
            manifest,
            local,
        }
    }

    /// Returns one line for each difference between the declared and the needed permissions.
    async fn find_faults<S: Step>(
        &self,
        unproven: &[(&str, &str)],
        scene: impl AsyncFn(&Scene) -> Value,
    ) -> Vec<String> {
        let permissions = [&self.manifest.permissions, &self.manifest.peer_permissions];
        let declared: BTreeSet<_> = permissions
            .iter()
            .flat_map(|statements| actions(statements))
            .collect();
        let mut faults: Vec<_> = unproven
            .iter()
            .filter(|(action, reason)| !declared.contains(action) || reason.is_empty())
            .map(|(action, _)| {
                format!(
                    "{action} is listed as unproven, but the step does not declare it \
                     or the reason is missing; remove it from the list, or add the reason"
                )
            })
            .collect();

        self.set_roles(permissions[0], permissions[1]).await;
        let params = scene(&self.scene).await;
        faults.extend(self.find_undeclared::<S>(&params));
        if let Err(error) = self.run_step::<S>(&params).await {
            faults.push(format!(
                "with all declared permissions the step fails with {}: {error}; \
                 declare the missing action, or correct the resources that the test creates",
                error.name
            ));
            return faults;
        }

        let mut succeeded_without = BTreeSet::new();
        let step: S = serde_json::from_value(params).expect("the parameters that were just run");
        // Without a peer account in the parameters, the role there has no effect.
        let account_count = if step.peer().is_some() { 2 } else { 1 };
        for (index, account) in ["the step's account", "the peer account"]
            .into_iter()
            .take(account_count)
            .enumerate()
        {
            for action in actions(permissions[index]) {
                let reduced = without_action(permissions[index], action);
                self.set_roles(
                    if index == 0 { &reduced } else { permissions[0] },
                    if index == 1 { &reduced } else { permissions[1] },
                )
                .await;
                let params = scene(&self.scene).await;
                match self.run_step::<S>(&params).await {
                    Ok(_) if unproven.iter().any(|(unproven, _)| *unproven == action) => {
                        succeeded_without.insert(action);
                    }
                    Ok(output) => {
                        faults.push(format!(
                            "the step succeeds without {action} in {account}: {output}; remove the \
                             action from the permissions, or list it as unproven with the reason"
                        ));
                    }
                    Err(error)
                        if error.name == ErrorName::AccessDenied
                            && error.message.contains(action) => {}
                    Err(error) => faults.push(format!(
                        "without {action} in {account} the step must fail with AccessDenied and \
                         name the action, but it fails with {}: {error}",
                        error.name
                    )),
                }
            }
        }

        let wrongly_listed = unproven
            .iter()
            .filter(|(action, _)| declared.contains(action) && !succeeded_without.contains(action));
        faults.extend(wrongly_listed.map(|(action, _)| {
            format!(
                "{action} is listed as unproven, but the step fails without it; \
                 remove it from the list"
            )
        }));
        faults
    }

    /// Returns one line for each permission that these parameters need and that the manifest lacks.
    /// The manifest contains the permissions of the step's examples.
    fn find_undeclared<S: Step>(&self, params: &Value) -> Vec<String> {
        let step: S = serde_json::from_value(params.clone())
            .unwrap_or_else(|error| panic!("{params}: {error}"));
        let peer = step.peer().map(|peer| peer.permissions).unwrap_or_default();
        [
            (step.permissions(), &self.manifest.permissions),
            (peer, &self.manifest.peer_permissions),
        ]
        .into_iter()
        .flat_map(|(needed, declared)| {
            let needed = needed.for_any_parameters().into_iter();
            needed.filter(|statement| !declared.iter().any(|declared| covers(declared, statement)))
        })
        .map(|statement| {
            format!(
                "no example of the step needs this permission, so its page does not list it: \
                 {statement:?}; add an example with such parameters"
            )
        })
        .collect()
    }

    /// Creates the customer's roles from the template that `stepward customer role-template`
    /// prints.
    async fn set_roles(&self, permissions: &[Statement], peer_permissions: &[Statement]) {
        for (cloud, id, statements) in [
            (&self.scene.owner, ACCOUNT.1, permissions),
            (&self.scene.peer, PEER.1, peer_permissions),
        ] {
            let mut manifest = Manifest {
                permissions: statements.to_vec(),
                peer_permissions: Vec::new(),
                ..self.manifest.clone()
            };
            if manifest.permissions.is_empty() {
                // A policy needs a statement. This action is allowed without any permission.
                let statement = json!({
                    "actions": ["sts:GetCallerIdentity"],
                    "resources": ["*"],
                    "purpose": "keep the role's policy from being empty",
                });
                manifest.permissions =
                    vec![serde_json::from_value(statement).expect("a valid statement")];
            }
            let template =
                role_template::role_template(&[manifest]).unwrap_or_else(|error| panic!("{error}"));
            let parameters = [
                ("BrokerRoleArn", self.broker_arn.as_str()),
                ("ExternalId", &self.external_ids[id]),
            ];
            apply_stack(cloud, "Stepward", &template, &parameters).await;
        }
    }

    /// Calls the step until it is done, as a state machine does.
    async fn run_step<S: Step>(&self, params: &Value) -> Result<Value, StepError> {
        let mut envelope = json!({
            "target": { "customer": CUSTOMER, "account": ACCOUNT.0 },
            "params": params,
            "execution": {
                "id": self.scene.name("proof"),
                "job": "test/proof",
                "step": "one",
                "started_by": "test",
            },
        });
        let started = Instant::now();
        loop {
            let response = testing::call_function::<S>(&self.broker, &envelope).await?;
            if response["status"] == "done" {
                return Ok(response["output"].clone());
            }
            if started.elapsed() > RUN_LIMIT {
                let progress = response["progress"].as_str().unwrap_or_default();
                return Err(ErrorName::TimedOut
                    .with_message(format!("still pending after {RUN_LIMIT:?}: {progress}")));
            }
            envelope["resume"] = response["resume"].clone();
            tokio::time::sleep(CALL_INTERVAL).await;
        }
    }
}

fn actions(statements: &[Statement]) -> BTreeSet<&str> {
    statements
        .iter()
        .flat_map(|statement| &statement.actions)
        .map(String::as_str)
        .collect()
}

fn without_action(statements: &[Statement], action: &str) -> Vec<Statement> {
    let mut statements = statements.to_vec();
    for statement in &mut statements {
        statement.actions.retain(|other| other != action);
    }
    statements.retain(|statement| !statement.actions.is_empty());
    statements
}

/// Returns whether a declared statement allows everything that a needed one does.
fn covers(declared: &Statement, needed: &Statement) -> bool {
    needed.condition == declared.condition
        && needed
            .actions
            .iter()
            .all(|action| declared.actions.contains(action))
        && needed
            .resources
            .iter()
            .all(|resource| declared.resources.contains(resource))
}

fn new_account(name: &str, account_id: &str) -> NewAccount {
    NewAccount {
        customer: CUSTOMER.into(),
        name: name.into(),
        account_id: account_id.into(),
        provider: None,
        regions: vec![REGION.into(), "eu-central-1".into()],
        default_region: None,
        access_key: None,
        mapping: None,
    }
}

/// Creates or updates a stack, and returns its outputs.
async fn apply_stack(
    cloud: &Cloud,
    name: &str,
    template: &Value,
    parameters: &[(&str, &str)],
) -> BTreeMap<String, String> {
    let parameters = parameters
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let template = Template::Body(template.to_string());
    let applied =
        stack::apply_template(cloud, name, &template, &parameters, &Progress::hidden()).await;
    applied.unwrap_or_else(|error| panic!("stack {name}: {error}"));
    let stack = stack::describe_stack(cloud, name)
        .await
        .unwrap_or_else(|error| panic!("stack {name}: {error}"));
    stack.as_ref().map(stack::outputs).unwrap_or_default()
}

/// Returns a template for the operator's account with the table and with the broker's role. The
/// root of the account can assume the role.
fn operator_template() -> Value {
    let statement = |principal: Value, action: Value, resource: Value| {
        let mut statement = json!({ "Effect": "Allow", "Action": action });
        let (key, value) = if principal.is_null() {
            ("Resource", resource)
        } else {
            ("Principal", principal)
        };
        statement[key] = value;
        json!({ "Version": "2012-10-17", "Statement": [statement] })
    };
    let owner = json!({ "AWS": format!("arn:aws:iam::{OPERATOR}:root") });
    let assume_customer_role = ["sts:AssumeRole", "sts:SetSourceIdentity"];
    let read_table = [
        "dynamodb:BatchGetItem",
        "dynamodb:GetItem",
        "dynamodb:Query",
    ];
    let key = |name: &str, kind: &str| json!({ "AttributeName": name, "KeyType": kind });
    let attribute = |name: &str| json!({ "AttributeName": name, "AttributeType": "S" });
    json!({
        "Resources": {
            "Table": { "Type": "AWS::DynamoDB::Table", "Properties": {
                "TableName": TABLE,
                "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [attribute("pk"), attribute("sk")],
                "KeySchema": [key("pk", "HASH"), key("sk", "RANGE")],
            } },
            "Broker": { "Type": "AWS::IAM::Role", "Properties": {
                "AssumeRolePolicyDocument": statement(owner, json!("sts:AssumeRole"), Value::Null),
                "Policies": [
                    { "PolicyName": "customers", "PolicyDocument": statement(
                        Value::Null,
                        json!(assume_customer_role),
                        json!("arn:aws:iam::*:role/stepward/*"),
                    ) },
                    { "PolicyName": "table", "PolicyDocument": statement(
                        Value::Null,
                        json!(read_table),
                        json!({ "Fn::GetAtt": ["Table", "Arn"] }),
                    ) },
                ],
            } },
        },
        "Outputs": { "BrokerRoleArn": { "Value": { "Fn::GetAtt": ["Broker", "Arn"] } } },
    })
}

async fn assume_role(operator: &Cloud, role_arn: &str) -> SdkConfig {
    let request = operator
        .sts()
        .assume_role()
        .role_arn(role_arn)
        .role_session_name("stepward-test");
    let issued = request
        .send()
        .await
        .expect("the root of the account can assume the broker's role")
        .credentials
        .expect("STS returns credentials");
    let keys = Credentials::new(
        issued.access_key_id,
        issued.secret_access_key,
        Some(issued.session_token),
        None,
        "test",
    );
    operator
        .config
        .to_builder()
        .credentials_provider(SharedCredentialsProvider::new(keys))
        .build()
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;
    use stepward::{Context, Permissions, Resume, Service};

    use super::*;

    const EC2: Service = Service {
        iam_prefix: "ec2",
        codes: |_, _| None,
    };

    /// Describe EC2 instances.
    ///
    /// A sample step for the tests of the proof. It declares more actions than it needs.
    ///
    /// # Behavior
    ///
    /// The step calls `DescribeInstances` once and returns nothing.
    ///
    /// # Cost
    ///
    /// The step has no charge.
    ///
    /// # Proof
    ///
    /// Proven by this test only.
    #[derive(Deserialize, JsonSchema)]
    struct DescribeInstances {}

    impl Step for DescribeInstances {
        const NAME: &'static str = "describe-instances";
        const RUNDECK: &'static [stepward::RundeckPlugin] = &[];
        const EXAMPLES: &'static [stepward::Example] = &[stepward::Example {
            title: "Describe all instances",
            parameters: "{}",
            output: "null",
        }];
        const ERRORS: &'static [(ErrorName, &'static str)] = &[];
        type Output = ();

        fn permissions(&self) -> Permissions {
            let not_needed = ["ec2:RebootInstances", "kms:CreateGrant"];
            Permissions::default()
                .allow("list the instances", &["ec2:DescribeInstances"], ["*"])
                .allow("test the proof", &not_needed, ["*"])
        }

        async fn run(
            &self,
            ctx: &Context,
            _: Option<Resume>,
        ) -> Result<stepward::Progress<()>, StepError> {
            let ec2 = ctx.client(aws_sdk_ec2::Client::new);
            ec2.describe_instances()
                .send()
                .await
                .map_err(|error| EC2.step_error(&error))?;
            Ok(stepward::Progress::Done(()))
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_proof_reports_unneeded_undeclared_and_wrongly_listed_actions() {
        let unproven = [
            ("kms:CreateGrant", "No volume is encrypted here."),
            ("ec2:DescribeInstances", "Listed by mistake."),
            ("ec2:StopInstances", "Not declared."),
        ];
        let proof = Proof::start::<DescribeInstances>().await;
        let faults = proof
            .find_faults::<DescribeInstances>(&unproven, async |_| json!({}))
            .await;
        let dir = proof.local.dir.clone();
        drop(proof);
        assert_eq!(faults.len(), 3, "{faults:?}");
        for (fault, beginning) in faults.iter().zip([
            "ec2:StopInstances is listed as unproven, but the step does not declare it",
            "the step succeeds without ec2:RebootInstances in the step's account",
            "ec2:DescribeInstances is listed as unproven, but the step fails without it",
        ]) {
            assert!(fault.starts_with(beginning), "{fault}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
