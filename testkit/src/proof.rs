//! Proves, on a local cloud that enforces IAM, that a step needs just the actions that it declares,
//! each where it declares it: in the account that it works in, and in the second one where it works
//! in one. Whether a resource could be narrower is not proven here: the pages show them, and fleet
//! tests ask for a reason where one is `*`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a proof that cannot be made fails, and says why"
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

use crate::run_dir::new_run_dir;

const REGION: &str = "eu-west-1";
const CUSTOMER: &str = "acme";
const ACCOUNT: (&str, &str) = ("prod", "222222222222");
const PEER: (&str, &str) = ("peer", "333333333333");
const TABLE: &str = "stepward";
/// What one run of a step may take; the local cloud does most things at once.
const RUN: Duration = Duration::from_mins(1);
/// Between two calls of a pending step. What it says to wait is meant for AWS.
const PAUSE: Duration = Duration::from_millis(100);

/// The customer's accounts, as their owner sees them.
pub struct Scene {
    owner: Cloud,
    peer: Cloud,
    names: AtomicU32,
}

impl Scene {
    /// A client for the account that the step works in, with everything allowed.
    pub fn client<C>(&self, make: impl FnOnce(&SdkConfig) -> C) -> C {
        make(&self.owner.config)
    }

    /// A client for the customer's second account, `peer`, with everything allowed.
    pub fn peer<C>(&self, make: impl FnOnce(&SdkConfig) -> C) -> C {
        make(&self.peer.config)
    }

    /// The ID of the account that the step works in.
    #[must_use]
    pub fn account_id(&self) -> &'static str {
        ACCOUNT.1
    }

    /// The Region that the step works in.
    #[must_use]
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// A name that begins so and that nothing else has.
    #[must_use]
    pub fn name(&self, begin: &str) -> String {
        format!("{begin}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes what a CloudFormation template says, in the account that the step works in.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn make(&self, template: &Value) {
        apply(&self.owner, &self.name("scene"), template, &[]).await;
    }
}

/// Runs the step in a customer's account whose role may do just what the step declares, and expects
/// success; then, for every declared action, with a role that lacks this one, and expects
/// `AccessDenied` that names it.
///
/// `scene` makes what the step needs, anew for each run, and answers the step's parameters. `idle`
/// are actions that the local cloud or this scene does not ask for, each with its reason: without
/// them, in one of the two accounts at least, the step must succeed. The second account is part of
/// it where the scene's parameters name one.
///
/// # Panics
/// When anything turns out otherwise.
pub fn prove<S: Step>(idle: &[(&str, &str)], scene: impl AsyncFn(&Scene) -> Value) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a Tokio runtime").block_on(async {
        let proof = Proof::start::<S>().await;
        let found = proof.all::<S>(idle, scene).await;
        let dir = proof.local.dir.clone();
        drop(proof);
        assert!(
            found.is_empty(),
            "{}:\n{}\n{} has the local cloud's log",
            S::NAME,
            found.join("\n"),
            dir.display()
        );
        // Who looks for a failure finds the log; a proof that holds leaves nothing.
        let _ = std::fs::remove_dir_all(dir);
    });
}

struct Proof {
    scene: Scene,
    broker: Broker,
    /// What the broker is to the customer's role: its ARN and the external IDs of both accounts.
    broker_arn: String,
    external_ids: BTreeMap<&'static str, String>,
    manifest: Manifest,
    local: LocalCloud,
}

impl Proof {
    async fn start<S: Step>() -> Self {
        let workspace = Workspace::find().expect("the checkout");
        // A step may have several proofs, which run at once.
        let dir = new_run_dir(&workspace.local_cloud(), &format!("proof-{}", S::NAME))
            .unwrap_or_else(|error| panic!("{error}"));
        let local = LocalCloud::start_private(&dir)
            .unwrap_or_else(|error| panic!("no local cloud: {error}"));
        let operator = Cloud::local(local.port, OPERATOR, Some(REGION));
        let (owner, peer) = (
            operator.other_account(ACCOUNT.1),
            operator.other_account(PEER.1),
        );
        let outputs = apply(&operator, "operator", &operator_template(), &[]).await;
        let broker_arn = outputs["BrokerRoleArn"].clone();
        let store = Store::new(operator.dynamodb(), TABLE);
        store
            .add_customer("test", CUSTOMER, None, None)
            .await
            .expect("a customer");
        let mut external_ids = BTreeMap::new();
        for (name, id) in [ACCOUNT, PEER] {
            let account = store
                .add_account("test", new_account(name, id))
                .await
                .expect("an account");
            external_ids.insert(id, account.external_id.expose().to_owned());
            let role = format!("arn:aws:iam::{id}:role/stepward/Stepward");
            let account = store
                .set_role("test", &account, &role)
                .await
                .expect("a role on record");
            store
                .set_trust("test", &account, Trust::Proven)
                .await
                .expect("a proven role");
        }
        let broker = Broker::new(
            assumed(&operator, &broker_arn).await,
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
        let manifest = Manifest::of::<S>().unwrap_or_else(|error| panic!("{error}"));
        Self {
            scene,
            broker,
            broker_arn,
            external_ids,
            manifest,
            local,
        }
    }

    /// What is not as it should be.
    async fn all<S: Step>(
        &self,
        idle: &[(&str, &str)],
        scene: impl AsyncFn(&Scene) -> Value,
    ) -> Vec<String> {
        let sides = [&self.manifest.permissions, &self.manifest.peer_permissions];
        let declared: BTreeSet<_> = sides.iter().flat_map(|side| actions(side)).collect();
        let mut found: Vec<_> = idle
            .iter()
            .filter(|(action, reason)| !declared.contains(action) || reason.is_empty())
            .map(|(action, _)| {
                format!("{action} is listed as idle, and not declared or without a reason")
            })
            .collect();
        self.set_roles(sides[0], sides[1]).await;
        let params = scene(&self.scene).await;
        found.extend(self.undeclared::<S>(&params));
        if let Err(error) = self.run::<S>(&params).await {
            found.push(format!(
                "with all that it declares it fails with {}: {error}",
                error.name
            ));
            return found;
        }
        let mut without_effect = BTreeSet::new();
        let step: S = serde_json::from_value(params).expect("the parameters that were just run");
        // Where the parameters name no second account, the role there is of no use.
        let places = if step.peer().is_some() { 2 } else { 1 };
        for (side, place) in ["its own account", "the second account"]
            .into_iter()
            .take(places)
            .enumerate()
        {
            for action in actions(sides[side]) {
                let less = without(sides[side], action);
                self.set_roles(
                    if side == 0 { &less } else { sides[0] },
                    if side == 1 { &less } else { sides[1] },
                )
                .await;
                let params = scene(&self.scene).await;
                match self.run::<S>(&params).await {
                    Ok(_) if idle.iter().any(|(idle, _)| *idle == action) => {
                        without_effect.insert(action);
                    }
                    Ok(output) => {
                        found.push(format!(
                            "without {action} in {place} it succeeds all the same: {output}"
                        ));
                    }
                    Err(error)
                        if error.name == ErrorName::AccessDenied
                            && error.message.contains(action) => {}
                    Err(error) => found.push(format!(
                        "without {action} in {place} it is not AccessDenied naming it: {} {error}",
                        error.name
                    )),
                }
            }
        }
        let wrongly = idle
            .iter()
            .filter(|(action, _)| declared.contains(action) && !without_effect.contains(action));
        found.extend(wrongly.map(|(action, _)| {
            format!("{action} is listed as idle, and missed where it is taken away")
        }));
        found
    }

    /// What these parameters need beyond what the step's examples say that it can ever need.
    fn undeclared<S: Step>(&self, params: &Value) -> Vec<String> {
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
            needed.filter(|one| !declared.iter().any(|all| covers(all, one)))
        })
        .map(|statement| format!("the examples do not show that it can need {statement:?}"))
        .collect()
    }

    /// The customer's roles, from the template that `stepward customer role-template` prints.
    async fn set_roles(&self, here: &[Statement], there: &[Statement]) {
        for (cloud, id, statements) in [
            (&self.scene.owner, ACCOUNT.1, here),
            (&self.scene.peer, PEER.1, there),
        ] {
            let mut manifest = Manifest {
                permissions: statements.to_vec(),
                peer_permissions: Vec::new(),
                ..self.manifest.clone()
            };
            if manifest.permissions.is_empty() {
                // A policy must say something; this says what everybody may do anyway.
                let nothing = json!({ "purpose": "identify the caller", "actions": ["sts:GetCallerIdentity"], "resources": ["*"] });
                manifest.permissions = vec![serde_json::from_value(nothing).expect("a statement")];
            }
            let template =
                role_template::template(&[manifest]).unwrap_or_else(|error| panic!("{error}"));
            let parameters = [
                ("BrokerRoleArn", self.broker_arn.as_str()),
                ("ExternalId", &self.external_ids[id]),
            ];
            apply(cloud, "Stepward", &template, &parameters).await;
        }
    }

    /// Calls the step as a state machine does, until it is done.
    async fn run<S: Step>(&self, params: &Value) -> Result<Value, StepError> {
        let mut envelope = json!({
            "target": { "customer": CUSTOMER, "account": ACCOUNT.0 },
            "params": params,
            "execution": { "id": self.scene.name("proof"), "job": "test/proof", "step": "one", "started_by": "test" },
        });
        let since = Instant::now();
        loop {
            let answer = testing::call::<S>(&self.broker, &envelope).await?;
            if answer["status"] == "done" {
                return Ok(answer["output"].clone());
            }
            if since.elapsed() > RUN {
                let progress = answer["progress"].as_str().unwrap_or_default();
                return Err(ErrorName::TimedOut
                    .with_message(format!("still pending after {RUN:?}: {progress}")));
            }
            envelope["resume"] = answer["resume"].clone();
            tokio::time::sleep(PAUSE).await;
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

fn without(statements: &[Statement], action: &str) -> Vec<Statement> {
    let mut statements = statements.to_vec();
    for statement in &mut statements {
        statement.actions.retain(|one| one != action);
    }
    statements.retain(|statement| !statement.actions.is_empty());
    statements
}

fn covers(all: &Statement, one: &Statement) -> bool {
    one.condition == all.condition
        && one
            .actions
            .iter()
            .all(|action| all.actions.contains(action))
        && one
            .resources
            .iter()
            .all(|resource| all.resources.contains(resource))
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
    }
}

async fn apply(
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
    let applied = stack::apply(cloud, name, &template, &parameters, &Progress::hidden()).await;
    applied.unwrap_or_else(|error| panic!("stack {name}: {error}"));
    let made = stack::describe(cloud, name)
        .await
        .unwrap_or_else(|error| panic!("stack {name}: {error}"));
    made.as_ref().map(stack::outputs).unwrap_or_default()
}

/// What a step needs of the operator's account: the table, and the broker's role, which the
/// account's owner may take.
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
    let become_customer = ["sts:AssumeRole", "sts:SetSourceIdentity"];
    let read = [
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
                    { "PolicyName": "customers", "PolicyDocument":
                        statement(Value::Null, json!(become_customer), json!("arn:aws:iam::*:role/stepward/*")) },
                    { "PolicyName": "table", "PolicyDocument":
                        statement(Value::Null, json!(read), json!({ "Fn::GetAtt": ["Table", "Arn"] })) },
                ],
            } },
        },
        "Outputs": { "BrokerRoleArn": { "Value": { "Fn::GetAtt": ["Broker", "Arn"] } } },
    })
}

async fn assumed(operator: &Cloud, role_arn: &str) -> SdkConfig {
    let request = operator
        .sts()
        .assume_role()
        .role_arn(role_arn)
        .role_session_name("stepward-test");
    let given = request
        .send()
        .await
        .expect("the broker's role is assumed")
        .credentials
        .expect("with credentials");
    let keys = Credentials::new(
        given.access_key_id,
        given.secret_access_key,
        Some(given.session_token),
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

    /// Look at instances.
    ///
    /// It declares what it does not need.
    ///
    /// Proven here.
    #[derive(Deserialize, JsonSchema)]
    struct Look {}

    impl Step for Look {
        const NAME: &'static str = "look";
        const RUNDECK: &'static [stepward::RundeckPlugin] = &[];
        const EXAMPLES: &'static [stepward::Example] = &[stepward::Example {
            title: "Run it",
            parameters: "{}",
            output: "null",
        }];
        const ERRORS: &'static [(ErrorName, &'static str)] = &[];
        type Output = ();

        fn permissions(&self) -> Permissions {
            let needless = ["ec2:RebootInstances", "kms:CreateGrant"];
            Permissions::default()
                .allow("TODO", &["ec2:DescribeInstances"], ["*"])
                .allow("TODO", &needless, ["*"])
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
    async fn a_proof_finds_what_is_not_needed_not_declared_and_not_idle() {
        let idle = [
            ("kms:CreateGrant", "Nothing is encrypted here."),
            ("ec2:DescribeInstances", "Wrongly listed."),
            ("ec2:StopInstances", "Not declared."),
        ];
        let proof = Proof::start::<Look>().await;
        let found = proof.all::<Look>(&idle, async |_| json!({})).await;
        let dir = proof.local.dir.clone();
        drop(proof);
        let [stop, reboot, describe] = &found[..] else {
            panic!("three findings expected: {found:?}")
        };
        assert!(
            stop.starts_with("ec2:StopInstances is listed as idle, and not declared"),
            "{stop}"
        );
        assert!(
            reboot.starts_with("without ec2:RebootInstances in its own account it succeeds"),
            "{reboot}"
        );
        assert!(
            describe.starts_with("ec2:DescribeInstances is listed as idle, and missed"),
            "{describe}"
        );
        std::fs::remove_dir_all(dir).unwrap();
    }
}
