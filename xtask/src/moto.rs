//! `cargo xtask moto`: runs the first example of every step against moto, an emulator of AWS that
//! shares no code with the local cloud.
//!
//! The steps run as Lambda runs them. `tests/moto/scenes.py` creates the resources of each example,
//! and `tests/moto/stubs.py` responds to the APIs that moto lacks. moto does not check permissions.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepward::access::store::{NewAccount, Store};
use stepward::model::customer::Trust;
use stepward::runtime::manifest::Manifest;
use stepward_cli::cloud::Cloud;
use stepward_cli::local::{OPERATOR, venv};
use stepward_cli::workspace::Workspace;
use stepward_testkit::build::{build_binaries, current_build, list_steps, root};
use stepward_testkit::envelope;
use stepward_testkit::fake_ecs_agent::FakeEcsAgent;
use stepward_testkit::run_dir::create_run_dir;
use stepward_testkit::runtime_api::{Function, Response};
use xtask::catalog;
use xtask::moto_results::{self, MotoResult};

const REQUIREMENTS: &str = "tests/moto/requirements.txt";
const SERVER: &str = "tests/moto/server.py";
const REGION: &str = "eu-west-1";
const CUSTOMER: &str = "acme";
/// The accounts of the examples. `shared-services` is the peer.
const ACCOUNTS: [(&str, &str); 2] = [
    ("prod", "222222222222"),
    ("shared-services", "333333333333"),
];
/// How long a step may stay pending. moto changes most states at once.
const RUN_LIMIT: Duration = Duration::from_mins(2);
/// The pause between two calls of a pending step.
const CALL_INTERVAL: Duration = Duration::from_millis(200);

/// Runs all steps, or those whose names contain `filter`. Only a run of all steps writes the file
/// with the results.
pub(crate) fn run_steps(filter: Option<&str>) -> Result<(), String> {
    let catalog = catalog::build_catalog()?;
    let (profile, target_dir) = current_build()?;
    let binaries = build_binaries(&list_steps()?, &profile, &target_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let workspace = Workspace::at(root()).map_err(|error| error.to_string())?;
    let dir = create_run_dir(&workspace.local_cloud(), "moto")?;
    let mut moto = Moto::start(&workspace, &dir)?;

    let mut steps: Vec<_> = catalog.values().flatten().collect();
    steps.sort_by(|a, b| a.name.cmp(&b.name));
    let mut results = Vec::new();
    for step in steps {
        if filter.is_some_and(|filter| !step.name.contains(filter)) {
            continue;
        }
        let row = moto.run_example(&runtime, step, &binaries[&step.name])?;
        println!("{}: {}", row.step, row.result);
        results.push(row);
    }
    println!(
        "\n{}",
        moto_results::results_table(results.iter().map(|row| row.step.as_str()), &results)
    );
    if filter.is_none() {
        let path = root().join(moto_results::PATH);
        std::fs::write(&path, moto_results::format_results(&results))
            .map_err(|error| format!("{}: {error}", moto_results::PATH))?;
        println!(
            "\nwrote {}; run `cargo xtask generate`, which copies the table to docs/PROOFS.md",
            moto_results::PATH
        );
    }
    drop(moto);
    std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))
}

/// A running moto. It ends when its standard input is closed.
struct Moto {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    port: u16,
    dir: PathBuf,
    agent: FakeEcsAgent,
}

impl Moto {
    fn start(workspace: &Workspace, dir: &Path) -> Result<Self, String> {
        let venv = venv::ensure_venv(workspace, REQUIREMENTS).map_err(|error| error.to_string())?;
        let log = dir.join("moto.log");
        let log_file =
            std::fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let mut process = Command::new(venv::interpreter(&venv))
            .arg(root().join(SERVER))
            .env("MOTO_EC2_LOAD_DEFAULT_AMIS", "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .map_err(|error| format!("python: {error}"))?;
        let input = process.stdin.take();
        let output = process
            .stdout
            .take()
            .ok_or("the output of moto is not piped")?;
        let mut moto = Self {
            process,
            input,
            output: BufReader::new(output),
            port: 0,
            dir: dir.to_owned(),
            agent: FakeEcsAgent::default(),
        };
        let port = moto.read()?["port"].as_u64().unwrap_or_default();
        moto.port = u16::try_from(port).map_err(|error| error.to_string())?;
        Ok(moto)
    }

    fn read(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        serde_json::from_str(&line).map_err(|_| {
            let log = self.dir.join("moto.log");
            format!("moto has ended; its log is in {}", log.display())
        })
    }

    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        let input = self.input.as_mut().ok_or("moto has ended")?;
        writeln!(input, "{request}").map_err(|error| format!("moto: {error}"))?;
        self.read()
    }

    /// Creates the resources of a step's first example, and runs the step until it is done.
    fn run_example(
        &mut self,
        runtime: &tokio::runtime::Runtime,
        step: &Manifest,
        binary: &Path,
    ) -> Result<MotoResult, String> {
        let files = self.dir.join(&step.name);
        std::fs::create_dir_all(&files).map_err(|error| format!("{}: {error}", files.display()))?;
        let scene = self.ask(&json!({
            "step": step.name,
            "parameters": step.examples[0].parameters,
            "stream": self.agent.stream_base_url(),
            "files": files,
        }))?;
        let result = if let Some(error) = scene["error"].as_str() {
            format!("not run: the scene failed: {error}")
        } else {
            let external_ids = runtime.block_on(self.add_accounts())?;
            self.ask(&json!({ "external_ids": external_ids }))?;
            self.run_step(binary, &scene["parameters"], &files)
        };
        let called = self.ask(&json!({}))?;
        let called = called["stubs"].as_array().cloned().unwrap_or_default();
        Ok(MotoResult {
            step: step.name.clone(),
            result,
            stubs: called
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        })
    }

    /// Adds the customer with both accounts, whose roles count as proven, and returns their external
    /// IDs.
    async fn add_accounts(&self) -> Result<Vec<String>, String> {
        let operator = Cloud::local(self.port, OPERATOR, Some(REGION));
        let store = Store::new(operator.dynamodb(), "stepward");
        let to_text = |error: stepward::StepError| error.to_string();
        store
            .add_customer("moto", CUSTOMER, None, None)
            .await
            .map_err(to_text)?;
        let mut external_ids = Vec::new();
        for (name, id) in ACCOUNTS {
            let new = NewAccount {
                customer: CUSTOMER.into(),
                name: name.into(),
                account_id: id.into(),
                provider: None,
                regions: vec![REGION.into()],
                default_region: None,
                access_key: None,
                mapping: None,
            };
            let account = store.add_account("moto", new).await.map_err(to_text)?;
            external_ids.push(account.external_id.expose().to_owned());
            let role = format!("arn:aws:iam::{id}:role/stepward/Stepward");
            let account = store
                .set_role("moto", &account, &role)
                .await
                .map_err(to_text)?;
            store
                .set_trust("moto", &account, Trust::Proven)
                .await
                .map_err(to_text)?;
        }
        Ok(external_ids)
    }

    /// Calls the step until it is done, as a state machine does, and returns the result.
    fn run_step(&self, binary: &Path, params: &Value, files: &Path) -> String {
        let environment = [
            (
                "AWS_ENDPOINT_URL",
                format!("http://127.0.0.1:{}", self.port),
            ),
            ("AWS_ACCESS_KEY_ID", OPERATOR.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "not-a-secret".to_owned()),
            ("STEPWARD_STACK", "stepward".to_owned()),
            ("STEPWARD_TABLE", "stepward".to_owned()),
            ("STEPWARD_ARTIFACTS_BUCKET", "stepward-artifacts".to_owned()),
            ("STEPWARD_LOCAL_ROOT", files.display().to_string()),
            ("STEPWARD_LINGER_SECONDS", "0".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let mut function = Function::start(Command::new(binary), &environment);
        let mut event = envelope(CUSTOMER, ACCOUNTS[0].0, params);
        let started = Instant::now();
        loop {
            let response = function.invoke(event.to_string().as_bytes());
            let body = response.json();
            if let Response::Failure { name, message } = response {
                return format!("failed: {name}: {message}");
            }
            if body["status"] == "done" {
                return "succeeded".to_owned();
            }
            if started.elapsed() > RUN_LIMIT {
                let progress = body["progress"].as_str().unwrap_or_default();
                return format!("failed: still pending after {RUN_LIMIT:?}: {progress}");
            }
            event["resume"] = body["resume"].clone();
            std::thread::sleep(CALL_INTERVAL);
        }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.process.wait();
    }
}
