//! The deployed stack on a local cloud that all tests share, and helpers that create customers.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{LazyLock, OnceLock, atomic::AtomicU32, atomic::Ordering};
use std::time::Duration;

use aws_sdk_ec2::types::{InstanceType, ResourceType, Tag, TagSpecification};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_sfn::types::HistoryEvent;
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
use stepward_cli::package::{Build, build_binaries, build_release};
use stepward_cli::workspace::{Function, Workspace};

pub(crate) const REGION: &str = "eu-west-1";
pub(crate) const STACK: &str = "stepward";
/// The maximum time of one test, on a busy machine.
const TEST_LIMIT: Duration = Duration::from_mins(4);

/// Stepward, deployed on a local cloud.
pub(crate) struct TestStack {
    pub(crate) operator: Cloud,
    pub(crate) deployment: Deployment,
    pub(crate) store: Store,
    pub(crate) local: LocalCloud,
    workspace: Workspace,
    /// The path of the program `stepward`, which the first use builds.
    program: OnceLock<PathBuf>,
    runtime: tokio::runtime::Runtime,
}

static STACK_FIXTURE: LazyLock<TestStack> = LazyLock::new(TestStack::start);

/// Runs a test on the shared stack, with a time limit.
pub(crate) fn with_stack<F: Future<Output = ()>>(test: impl FnOnce(&'static TestStack) -> F) {
    let test_stack = &*STACK_FIXTURE;
    test_stack.runtime.block_on(async {
        tokio::time::timeout(TEST_LIMIT, test(test_stack))
            .await
            .expect("the test ends within its limit");
    });
}

/// An account of a customer, with the credentials of its owner.
pub(crate) struct CustomerAccount {
    pub(crate) customer: String,
    pub(crate) account: String,
    pub(crate) owner: Cloud,
}

impl TestStack {
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
            .unwrap_or_else(|error| panic!("the local cloud did not start: {error}"));
        let operator = Cloud::local(local.port, OPERATOR, Some(REGION));
        let progress = Progress::hidden();
        let release = build_release(&workspace, Build::Local, &progress).unwrap();
        let files = local.files().unwrap().display().to_string();
        let parameters = BTreeMap::from([(LOCAL_FOLDER.to_owned(), files)]);
        let deployed = deploy(&operator, STACK, &release, &parameters, &progress);
        let deployment = runtime
            .block_on(deployed)
            .unwrap_or_else(|error| panic!("the deployment failed: {error}"));
        let store = onboarding::open_store(&operator, &deployment).unwrap();
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

    /// Returns a unique customer name and a unique account ID.
    #[expect(clippy::unused_self, reason = "the names belong to this stack")]
    pub(crate) fn new_names(&self) -> (String, String) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (format!("customer-{number}"), format!("9000{number:08}"))
    }

    /// Creates a customer with one account, which has data, instances and the role of customers.
    pub(crate) async fn create_customer(&self) -> CustomerAccount {
        let customer_account = self.create_customer_without_role().await;
        customer_account.create_data().await;
        self.onboard(
            &customer_account,
            &customer_role(self, &customer_account).await,
        )
        .await
        .unwrap();
        customer_account
    }

    /// Creates a customer with one account, `prod`, without a role.
    pub(crate) async fn create_customer_without_role(&self) -> CustomerAccount {
        let (customer, account_id) = self.new_names();
        self.store
            .add_customer("test", &customer, None, None)
            .await
            .unwrap();
        self.account(&customer, "prod", &account_id).await
    }

    /// Adds an account without a role to a customer.
    pub(crate) async fn account(
        &self,
        customer: &str,
        account: &str,
        account_id: &str,
    ) -> CustomerAccount {
        let new = NewAccount {
            customer: customer.into(),
            name: account.into(),
            account_id: account_id.into(),
            provider: None,
            regions: vec![REGION.into()],
            default_region: None,
            access_key: None,
            mapping: None,
        };
        self.store.add_account("test", new).await.unwrap();
        CustomerAccount {
            customer: customer.into(),
            account: account.into(),
            owner: self.operator.other_account(account_id),
        }
    }

    /// Onboards an account: launches the role's template in the account and registers the role.
    pub(crate) async fn onboard(
        &self,
        customer_account: &CustomerAccount,
        role: &Role,
    ) -> Result<Checked, String> {
        let template = Template::Body(role.template.clone());
        stack::apply_template(
            &customer_account.owner,
            "Stepward",
            &template,
            &role.parameters,
            &Progress::hidden(),
        )
        .await
        .unwrap();
        let made = stack::describe_stack(&customer_account.owner, "Stepward")
            .await
            .unwrap()
            .expect("the stack is there");
        let arn = stack::outputs(&made)["RoleArn"].clone();
        onboarding::set_role(
            &self.operator,
            &self.deployment,
            &customer_account.customer,
            &customer_account.account,
            &arn,
        )
        .await
        .map_err(|error| error.to_string())
    }

    /// Onboards an account with the role that `stepward customer role-template` prints for these
    /// steps or jobs. The check of the role must pass.
    pub(crate) async fn onboard_with_template(
        &self,
        customer_account: &CustomerAccount,
        arguments: &[&str],
    ) {
        let role = role_from_template(self, customer_account, arguments).await;
        let checked = self.onboard(customer_account, &role).await.unwrap();
        assert!(checked.passed(), "{checked:?}");
    }

    pub(crate) async fn account_record(&self, customer_account: &CustomerAccount) -> Account {
        self.store
            .account(&customer_account.customer, &customer_account.account)
            .await
            .unwrap()
    }

    pub(crate) fn read_file(&self, path: &str) -> String {
        String::from_utf8(self.workspace.read(path).unwrap()).unwrap()
    }

    pub(crate) fn broker_role_arn(&self) -> &str {
        self.deployment.output("BrokerRoleArn").unwrap()
    }

    /// Returns all log lines of functions and state machines.
    pub(crate) async fn read_logs(&self) -> Vec<String> {
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

    /// Runs a job until it ends.
    pub(crate) async fn run_job(&self, job: &str, input: &Value) -> Finished {
        jobs::run(&self.operator, &self.deployment, job, input)
            .await
            .unwrap()
    }

    /// Returns all events of an execution, which is given by its ARN.
    pub(crate) async fn history(&self, execution: &str) -> Vec<HistoryEvent> {
        let request = self.operator.sfn().get_execution_history();
        let mut events = request
            .execution_arn(execution)
            .include_execution_data(true)
            .into_paginator()
            .items()
            .send();
        let mut history = Vec::new();
        while let Some(event) = events.next().await {
            history.push(event.unwrap());
        }
        history
    }

    pub(crate) async fn morning_check(&self, customer: &str) -> Finished {
        self.run_job(
            "fleet/morning-check",
            &json!({ "customer": customer, "started_by": "test" }),
        )
        .await
    }

    /// Calls a function as a state machine does. Returns the response, or the error's name and
    /// message.
    pub(crate) async fn call_function(
        &self,
        function: &str,
        payload: &Value,
    ) -> Result<Value, (String, String)> {
        let lambda = aws_sdk_lambda::Client::new(&self.operator.config);
        let name = format!("{STACK}-{function}");
        let payload = Blob::new(payload.to_string());
        let response = lambda
            .invoke()
            .function_name(name)
            .payload(payload)
            .send()
            .await
            .unwrap();
        let body: Value = serde_json::from_slice(response.payload().unwrap().as_ref()).unwrap();
        if response.function_error().is_none() {
            return Ok(body);
        }
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        Err((text("errorType"), text("errorMessage")))
    }
}

/// A template of a role, with its parameters.
pub(crate) struct Role {
    pub(crate) template: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

/// Returns the role that customers launch, with all optional permissions.
pub(crate) async fn customer_role(
    test_stack: &TestStack,
    customer_account: &CustomerAccount,
) -> Role {
    let external_id = test_stack
        .account_record(customer_account)
        .await
        .external_id
        .expose()
        .to_owned();
    let parameters = [
        ("BrokerRoleArn", test_stack.broker_role_arn()),
        ("ExternalId", &external_id),
        ("AllowEc2StartStop", "yes"),
        ("AllowNodes", "yes"),
        ("AllowCommands", "yes"),
        ("AllowAthena", "yes"),
        ("AllowS3List", "yes"),
    ];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Role {
        template: test_stack.read_file("infra/customer-role.yaml"),
        parameters: parameters.into(),
    }
}

/// Returns the role that `stepward customer role-template` prints for these steps or jobs.
pub(crate) async fn role_from_template(
    test_stack: &TestStack,
    customer_account: &CustomerAccount,
    arguments: &[&str],
) -> Role {
    let printed = test_stack.stepward(&[&["customer", "role-template"], arguments].concat(), false);
    assert!(printed.status.success(), "{printed:?}");
    let parameters = [
        (
            "BrokerRoleArn".to_owned(),
            test_stack.broker_role_arn().to_owned(),
        ),
        (
            "ExternalId".to_owned(),
            test_stack
                .account_record(customer_account)
                .await
                .external_id
                .expose()
                .to_owned(),
        ),
    ];
    Role {
        template: String::from_utf8(printed.stdout).unwrap(),
        parameters: parameters.into(),
    }
}

/// Returns a role with the given statements. Its trust policy requires the external ID, or has no
/// condition.
pub(crate) fn custom_role(
    test_stack: &TestStack,
    external_id: Option<&str>,
    statements: &Value,
) -> Role {
    let mut trust = json!({
        "Effect": "Allow",
        "Principal": { "AWS": test_stack.broker_role_arn() },
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

impl CustomerAccount {
    /// Creates the customer's own resources: buckets, an Athena table of CSV files, and two stopped
    /// instances.
    pub(crate) async fn create_data(&self) {
        let template = include_str!("../../infra/demo/customer-data.yaml");
        let progress = Progress::hidden();
        stack::apply_template(
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
        self.owner
            .s3()
            .put_object()
            .bucket(bucket)
            .key("backups/2026-01.csv")
            .body(csv.as_bytes().to_vec().into())
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

    /// Launches instances with the tag of the morning check.
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

    /// Creates a role for functions of the account, and returns its ARN.
    pub(crate) async fn function_role(&self) -> String {
        let trust = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow",
            "Principal": { "Service": "lambda.amazonaws.com" },
            "Action": "sts:AssumeRole",
        }] });
        let role = json!({ "Type": "AWS::IAM::Role", "Properties": {
            "RoleName": "functions", "AssumeRolePolicyDocument": trust } });
        let template = Template::Body(json!({ "Resources": { "Role": role } }).to_string());
        stack::apply_template(
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

    /// Returns the states of all instances of the account.
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

    /// Returns an envelope for this account.
    pub(crate) fn envelope(&self, params: &Value) -> Value {
        json!({
            "target": { "customer": self.customer, "account": self.account },
            "params": params,
            "execution": { "id": "e2e", "job": "test/direct", "step": "one", "started_by": "test" },
        })
    }
}

/// Returns a ZIP file with one executable file.
pub(crate) fn create_zip(name: &str, content: &[u8]) -> Vec<u8> {
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

pub(crate) fn is_trust_open(checked: &Checked) -> bool {
    checked.account.trust == Trust::Open
}

impl TestStack {
    /// Runs the command line against this stack.
    pub(crate) fn stepward(&self, arguments: &[&str], json: bool) -> std::process::Output {
        self.stepward_reading("", arguments, json)
    }

    /// Runs the command line against this stack with the given standard input.
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
            let built = build_binaries(
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
