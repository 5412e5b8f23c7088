//! The local cloud that the tests share, and how a test gets customers in it.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{LazyLock, OnceLock, atomic::AtomicU32, atomic::Ordering};
use std::time::Duration;

use aws_sdk_ec2::types::{InstanceType, ResourceType, Tag, TagSpecification};
use aws_sdk_lambda::primitives::Blob;
use serde_json::{Value, json};
use stepward::access::store::{NewAccount, Store};
use stepward::model::customer::{Account, Trust};
use stepward_cli::cloud::Cloud;
use stepward_cli::deploy::stack::{self, Template};
use stepward_cli::deploy::{Deployment, LOCAL_FOLDER, deploy};
use stepward_cli::jobs::{self, Finished};
use stepward_cli::local::{LocalCloud, OPERATOR};
use stepward_cli::onboarding::{self, Checked};
use stepward_cli::output::Progress;
use stepward_cli::package::{Build, binaries, release};
use stepward_cli::workspace::{Function, Workspace};

pub(crate) const REGION: &str = "eu-west-1";
pub(crate) const STACK: &str = "stepward";
/// The longest that anything here takes, with both cores busy.
const LIMIT: Duration = Duration::from_mins(4);

/// A deployed Stepward.
pub(crate) struct World {
    pub(crate) operator: Cloud,
    pub(crate) deployment: Deployment,
    pub(crate) store: Store,
    pub(crate) local: LocalCloud,
    workspace: Workspace,
    /// The program `stepward`, built when it is first run.
    program: OnceLock<PathBuf>,
    runtime: tokio::runtime::Runtime,
}

static WORLD: LazyLock<World> = LazyLock::new(World::start);

/// Runs a test in the shared world, within a limit.
pub(crate) fn in_the_world<F: Future<Output = ()>>(test: impl FnOnce(&'static World) -> F) {
    let world = &*WORLD;
    world.runtime.block_on(async {
        tokio::time::timeout(LIMIT, test(world))
            .await
            .expect("over within the limit")
    });
}

/// An account of a customer, with the credentials of its owner.
pub(crate) struct Owned {
    pub(crate) customer: String,
    pub(crate) account: String,
    pub(crate) owner: Cloud,
}

impl World {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let workspace = Workspace::find().unwrap();
        let dir = workspace
            .local_cloud()
            .join(format!("e2e-{}", std::process::id()));
        let local = LocalCloud::start_private(&dir)
            .unwrap_or_else(|error| panic!("no local cloud: {error}"));
        let operator = Cloud::local(local.port, OPERATOR, Some(REGION));
        let progress = Progress::hidden();
        let release = release(&workspace, Build::Local, &progress).unwrap();
        let files = local.files().unwrap().display().to_string();
        let parameters = BTreeMap::from([(LOCAL_FOLDER.to_owned(), files)]);
        let deployed = deploy(&operator, STACK, &release, &parameters, &progress);
        let deployment = runtime
            .block_on(deployed)
            .unwrap_or_else(|error| panic!("not deployed: {error}"));
        let store = onboarding::store(&operator, &deployment).unwrap();
        Self {
            operator,
            deployment,
            store,
            local,
            workspace,
            program: OnceLock::new(),
            runtime,
        }
    }

    /// An account ID and a customer's name that no other test has.
    #[expect(clippy::unused_self, reason = "they are names in this world")]
    pub(crate) fn new_names(&self) -> (String, String) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (format!("customer-{number}"), format!("9000{number:08}"))
    }

    /// A customer with one account that has data, instances and the role that customers launch.
    pub(crate) async fn customer(&self) -> Owned {
        let owned = self.customer_without_role().await;
        owned.data().await;
        self.onboard(&owned, &customer_role(self, &owned).await)
            .await
            .unwrap();
        owned
    }

    /// A new customer with one account, `prod`, where no role has been made.
    pub(crate) async fn customer_without_role(&self) -> Owned {
        let (customer, account_id) = self.new_names();
        self.store
            .add_customer("test", &customer, None, None)
            .await
            .unwrap();
        self.account(&customer, "prod", &account_id).await
    }

    /// An account of a customer, without a role.
    pub(crate) async fn account(&self, customer: &str, account: &str, account_id: &str) -> Owned {
        let new = NewAccount {
            customer: customer.into(),
            name: account.into(),
            account_id: account_id.into(),
            provider: None,
            regions: vec![REGION.into()],
            default_region: None,
            access_key: None,
        };
        self.store.add_account("test", new).await.unwrap();
        Owned {
            customer: customer.into(),
            account: account.into(),
            owner: self.operator.other_account(account_id),
        }
    }

    /// What a customer does to let Stepward in: launch a template, send the role's ARN; then
    /// `account set-role`.
    pub(crate) async fn onboard(&self, owned: &Owned, role: &Role) -> Result<Checked, String> {
        let template = Template::Body(role.template.clone());
        stack::apply(
            &owned.owner,
            "Stepward",
            &template,
            &role.parameters,
            &Progress::hidden(),
        )
        .await
        .unwrap();
        let made = stack::describe(&owned.owner, "Stepward")
            .await
            .unwrap()
            .expect("the stack is there");
        let arn = stack::outputs(&made)["RoleArn"].clone();
        onboarding::set_role(
            &self.operator,
            &self.deployment,
            &owned.customer,
            &owned.account,
            &arn,
        )
        .await
        .map_err(|error| error.to_string())
    }

    pub(crate) async fn record(&self, owned: &Owned) -> Account {
        self.store
            .account(&owned.customer, &owned.account)
            .await
            .unwrap()
    }

    pub(crate) fn file(&self, path: &str) -> String {
        String::from_utf8(self.workspace.read(path).unwrap()).unwrap()
    }

    pub(crate) fn broker(&self) -> &str {
        self.deployment.output("BrokerRoleArn").unwrap()
    }

    /// Everything that functions and state machines have logged.
    pub(crate) async fn logs(&self) -> Vec<String> {
        let mut logs = Vec::new();
        let client = aws_sdk_cloudwatchlogs::Client::new(&self.operator.config);
        for group in [
            format!("/{STACK}/steps"),
            format!("/aws/vendedlogs/states/{STACK}"),
        ] {
            let mut pages = client
                .filter_log_events()
                .log_group_name(group)
                .into_paginator()
                .send();
            while let Some(page) = pages.next().await {
                let events = page.unwrap().events.unwrap_or_default();
                logs.extend(events.into_iter().filter_map(|event| event.message));
            }
        }
        logs
    }

    /// Starts a job and waits for its end.
    pub(crate) async fn run(&self, job: &str, input: &Value) -> Finished {
        jobs::run(&self.operator, &self.deployment, job, input)
            .await
            .unwrap()
    }

    pub(crate) async fn morning_check(&self, customer: &str) -> Finished {
        self.run(
            "fleet/morning-check",
            &json!({ "customer": customer, "started_by": "test" }),
        )
        .await
    }

    /// Calls a function as a state machine would: the answer, or the error's name and message.
    pub(crate) async fn call(
        &self,
        function: &str,
        payload: &Value,
    ) -> Result<Value, (String, String)> {
        let lambda = aws_sdk_lambda::Client::new(&self.operator.config);
        let name = format!("{STACK}-{function}");
        let payload = Blob::new(payload.to_string());
        let answer = lambda
            .invoke()
            .function_name(name)
            .payload(payload)
            .send()
            .await
            .unwrap();
        let body: Value = serde_json::from_slice(answer.payload().unwrap().as_ref()).unwrap();
        if answer.function_error().is_none() {
            return Ok(body);
        }
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        Err((text("errorType"), text("errorMessage")))
    }
}

/// A template that makes a role, with its parameters.
pub(crate) struct Role {
    pub(crate) template: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

/// The role that customers launch, allowing everything that it can.
pub(crate) async fn customer_role(world: &World, owned: &Owned) -> Role {
    let external_id = world.record(owned).await.external_id.expose().to_owned();
    let parameters = [
        ("BrokerRoleArn", world.broker()),
        ("ExternalId", &external_id),
        ("AllowEc2StartStop", "yes"),
        ("AllowNodes", "yes"),
        ("AllowCommands", "yes"),
        ("AllowAthena", "yes"),
        ("AllowS3List", "yes"),
    ];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Role {
        template: world.file("infra/customer-role.yaml"),
        parameters: parameters.into(),
    }
}

/// The role that `stepward customer role-template` makes for these steps or jobs.
pub(crate) async fn cut_role(world: &World, owned: &Owned, what: &[&str]) -> Role {
    let printed = world.stepward(&[&["customer", "role-template"], what].concat(), false);
    assert!(printed.status.success(), "{printed:?}");
    let parameters = [
        ("BrokerRoleArn".to_owned(), world.broker().to_owned()),
        (
            "ExternalId".to_owned(),
            world.record(owned).await.external_id.expose().to_owned(),
        ),
    ];
    Role {
        template: String::from_utf8(printed.stdout).unwrap(),
        parameters: parameters.into(),
    }
}

/// A role of a test's own making: these statements, and a trust policy with this external ID, or
/// without a condition.
pub(crate) fn made_role(world: &World, external_id: Option<&str>, statements: &Value) -> Role {
    let mut trust = json!({
        "Effect": "Allow",
        "Principal": { "AWS": world.broker() },
        "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
    });
    if let Some(id) = external_id {
        trust["Condition"] = json!({ "StringEquals": { "sts:ExternalId": id } });
    }
    let policy = |statements: &Value| json!({ "Version": "2012-10-17", "Statement": statements });
    let role = json!({
        "Type": "AWS::IAM::Role",
        "Properties": {
            "Path": "/stepward/",
            "RoleName": "Stepward",
            "AssumeRolePolicyDocument": policy(&trust),
            "Policies": [{ "PolicyName": "steps", "PolicyDocument": policy(statements) }],
        },
    });
    let outputs = json!({ "RoleArn": { "Value": { "Fn::GetAtt": ["Role", "Arn"] } } });
    let template = json!({ "Resources": { "Role": role }, "Outputs": outputs }).to_string();
    Role {
        template,
        parameters: BTreeMap::new(),
    }
}

impl Owned {
    /// What the account has before Stepward comes: buckets, a table over CSV files, two stopped
    /// instances.
    pub(crate) async fn data(&self) {
        let template = include_str!("../../infra/demo/customer-data.yaml");
        let progress = Progress::hidden();
        stack::apply(
            &self.owner,
            "data",
            &Template::Body(template.into()),
            &BTreeMap::new(),
            &progress,
        )
        .await
        .unwrap();
        let csv = "night,name,status,size_gb,finished_at\n\
                   2026-01-30,crm,succeeded,12.5,2026-01-30 02:10:00\n\
                   2026-01-31,crm,failed,0.0,\n\
                   2026-01-31,mail,succeeded,80.1,2026-01-31 03:00:00\n";
        let bucket = format!("stepward-data-{}", self.owner.account);
        let put = self
            .owner
            .s3()
            .put_object()
            .bucket(bucket)
            .key("backups/2026-01.csv");
        put.body(csv.as_bytes().to_vec().into())
            .send()
            .await
            .unwrap();
        let ids = self.run_instances(2).await;
        self.owner
            .ec2()
            .stop_instances()
            .set_instance_ids(Some(ids))
            .send()
            .await
            .unwrap();
    }

    /// Instances that the morning check starts.
    pub(crate) async fn run_instances(&self, count: i32) -> Vec<String> {
        let tag = Tag::builder()
            .key("stepward:morning-check")
            .value("start")
            .build();
        let tags = TagSpecification::builder()
            .resource_type(ResourceType::Instance)
            .tags(tag)
            .build();
        let request = self
            .owner
            .ec2()
            .run_instances()
            .image_id("ami-12345678")
            .instance_type(InstanceType::T3Micro);
        let made = request
            .min_count(count)
            .max_count(count)
            .tag_specifications(tags)
            .send()
            .await
            .unwrap();
        made.instances()
            .iter()
            .map(|instance| instance.instance_id().unwrap().to_owned())
            .collect()
    }

    /// A role that functions of the account can have; its ARN.
    pub(crate) async fn function_role(&self) -> String {
        let trust = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow",
            "Principal": { "Service": "lambda.amazonaws.com" },
            "Action": "sts:AssumeRole",
        }] });
        let role = json!({ "Type": "AWS::IAM::Role", "Properties": {
            "RoleName": "functions", "AssumeRolePolicyDocument": trust } });
        let template = Template::Body(json!({ "Resources": { "Role": role } }).to_string());
        stack::apply(
            &self.owner,
            "functions",
            &template,
            &BTreeMap::new(),
            &Progress::hidden(),
        )
        .await
        .unwrap();
        format!("arn:aws:iam::{}:role/functions", self.owner.account)
    }

    /// The states of all instances, as the owner sees them.
    pub(crate) async fn instance_states(&self) -> Vec<String> {
        let seen = self.owner.ec2().describe_instances().send().await.unwrap();
        let instances = seen
            .reservations()
            .iter()
            .flat_map(aws_sdk_ec2::types::Reservation::instances);
        instances
            .map(|instance| instance.state().unwrap().name().unwrap().to_string())
            .collect()
    }

    /// An envelope for this account.
    pub(crate) fn envelope(&self, params: &Value) -> Value {
        json!({
            "target": { "customer": self.customer, "account": self.account },
            "params": params,
            "execution": { "id": "e2e", "job": "test/direct", "step": "one", "started_by": "test" },
        })
    }
}

/// A zip of one file that can be run.
pub(crate) fn zipped(name: &str, content: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
    zip.start_file(
        name,
        options.compression_method(zip::CompressionMethod::Stored),
    )
    .unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap().into_inner()
}

pub(crate) fn is_open(checked: &Checked) -> bool {
    checked.account.trust == Trust::Open
}

impl World {
    /// Runs the command line against this world.
    pub(crate) fn stepward(&self, arguments: &[&str], json: bool) -> std::process::Output {
        self.stepward_reading("", arguments, json)
    }

    /// Runs the command line against this world, with this on its standard input.
    pub(crate) fn stepward_reading(
        &self,
        input: &str,
        arguments: &[&str],
        json: bool,
    ) -> std::process::Output {
        let program = self.program.get_or_init(|| {
            let function = Function {
                name: "stepward".into(),
                package: "stepward-cli".into(),
            };
            let built = binaries(
                &self.workspace,
                &[function],
                Build::Local,
                &Progress::hidden(),
            );
            built.unwrap().remove("stepward").unwrap()
        });
        let mut command = std::process::Command::new(program);
        command
            .args([
                "--local",
                "--region",
                REGION,
                "--port",
                &self.local.port.to_string(),
            ])
            .args(arguments);
        if json {
            command.arg("--json");
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.current_dir(&self.workspace.root).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }
}
