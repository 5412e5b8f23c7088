//! The two sides of a comparison, the AWS CLI and the steps. Each side has its own sandbox.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepward_cli::local::venv;
use stepward_cli::workspace::Workspace;

use super::case::{Operation, Verb};
use super::json_program::JsonProgram;
use crate::fake_aws::FakeAws;
use crate::runtime_api::{Function, Response};

/// The pinned version of the AWS CLI.
pub(super) const REQUIREMENTS: &str = "local-cloud/requirements-s3.txt";
const SCRIPT: &str = include_str!("cli.py");
/// The customer's account ID. It is also the access key, because the server uses an access key of
/// twelve digits as the account ID.
pub(super) const ACCOUNT: &str = "222222222222";
/// The maximum time of one call, and of all calls of an operation, on a busy machine. A deployed
/// step has more time.
const OPERATION_LIMIT: Duration = Duration::from_mins(3);

/// The folders and buckets of one side. The names of both sides have the same length, so that
/// limits on lengths apply to both equally.
#[derive(Clone, Debug)]
pub(super) struct Sandbox {
    name: &'static str,
    dir: PathBuf,
}

/// The outcome of an operation.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Whether the operation succeeded without a warning.
    pub has_succeeded: bool,
    /// The plan of a dry run, in order: `copy: s3://… to s3://…`.
    pub planned: Vec<String>,
    /// The messages of the operation, for a report.
    pub messages: String,
}

/// The AWS CLI, which runs many operations in one process.
pub(super) struct Cli {
    program: JsonProgram,
}

/// The processes of the steps, which stay warm as on Lambda.
pub(super) struct Steps {
    _aws: FakeAws,
    functions: BTreeMap<&'static str, Function>,
    executions: u64,
}

impl Sandbox {
    pub(super) fn new(dir: &Path, name: &'static str) -> Self {
        Self {
            name,
            dir: dir.join(name),
        }
    }

    /// Returns the local root.
    pub(super) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Returns the folder next to the local root.
    pub(super) fn outside(&self) -> PathBuf {
        self.dir.join("outside")
    }

    /// Returns the name of a bucket of the case.
    pub(super) fn bucket(&self, placeholder: &str) -> String {
        format!("stepward-{}-{placeholder}", self.name)
    }

    /// Replaces the placeholders in a text by the names of this side.
    pub(super) fn with_names(&self, text: &str) -> String {
        let text = text.replace("{root}", &self.root().to_string_lossy());
        let text = text.replace("{outside}", &self.outside().to_string_lossy());
        ["a", "b", "none"].iter().fold(text, |text, placeholder| {
            text.replace(&format!("{{{placeholder}}}"), &self.bucket(placeholder))
        })
    }

    /// Replaces the names of this side in a text by placeholders, so that the texts of both sides
    /// can be compared.
    pub(super) fn with_placeholders(&self, text: &str) -> String {
        let text = text.replace(&*self.root().to_string_lossy(), "{root}");
        let text = text.replace(&*self.outside().to_string_lossy(), "{outside}");
        ["a", "b", "none"].iter().fold(text, |text, placeholder| {
            text.replace(&self.bucket(placeholder), &format!("{{{placeholder}}}"))
        })
    }

    /// Returns the lines of a dry run in a common format: paths are relative to the root, and each
    /// entry is one line.
    fn normalize_plan<'a>(&self, lines: impl Iterator<Item = &'a str>) -> Vec<String> {
        let normalize = |line: &str| {
            let line = self
                .with_placeholders(line)
                .replace("{root}/", "")
                .replace(": ./", ": ")
                .replace(" to ./", " to ");
            line.replace('\n', "\\n").replace('\t', "\\t")
        };
        lines.map(normalize).collect()
    }
}

impl Cli {
    pub(super) fn start(workspace: &Workspace, dir: &Path, endpoint: &str) -> Result<Self, String> {
        let to_text = |error: &dyn std::fmt::Display| error.to_string();
        let venv = venv::ensure_venv(workspace, REQUIREMENTS).map_err(|error| to_text(&error))?;
        std::fs::create_dir_all(dir.join("home/.aws")).map_err(|error| to_text(&error))?;
        // One request at a time. If two keys mean the same file, the result would otherwise depend
        // on the order of their downloads.
        std::fs::write(
            dir.join("home/.aws/config"),
            "[default]\ns3 =\n  max_concurrent_requests = 1\n",
        )
        .map_err(|error| to_text(&error))?;
        let script = dir.join("cli.py");
        std::fs::write(&script, SCRIPT).map_err(|error| to_text(&error))?;
        let log = File::create(dir.join("cli.log")).map_err(|error| to_text(&error))?;
        let mut command = Command::new(venv::interpreter(&venv));
        command
            .arg(&script)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", dir.join("home"))
            .stderr(log);
        command
            .env("TZ", "UTC")
            .env("LC_ALL", "C.UTF-8")
            .env("PYTHONUTF8", "1")
            .env("AWS_ENDPOINT_URL", endpoint);
        command
            .env("AWS_ACCESS_KEY_ID", ACCOUNT)
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "eu-west-1");
        command
            .env("AWS_DEFAULT_REGION", "eu-west-1")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        Ok(Self {
            program: JsonProgram::start("the AWS CLI", command)?,
        })
    }

    pub(super) fn run(
        &mut self,
        sandbox: &Sandbox,
        operation: &Operation,
    ) -> Result<Outcome, String> {
        let mut arguments = operation.arguments(|text| sandbox.with_names(text));
        arguments.extend((operation.verb != Verb::Rm).then(|| "--no-progress".to_owned()));
        let response = self
            .program
            .send_request(&json!({ "arguments": arguments, "directory": sandbox.root() }))?;
        let [stdout, stderr] =
            ["stdout", "stderr"].map(|stream| response[stream].as_str().unwrap_or_default());
        // A name can contain a line break, so the prefix separates the entries, not the line break.
        let lines = stdout
            .split("(dryrun) ")
            .skip(1)
            .map(|line| line.strip_suffix('\n').unwrap_or(line));
        Ok(Outcome {
            has_succeeded: response["status"] == 0,
            planned: sandbox.normalize_plan(lines),
            messages: sandbox
                .with_placeholders(&format!("status {}\n{stdout}{stderr}", response["status"])),
        })
    }
}

impl Steps {
    /// Starts the processes of the four steps with the local root of a sandbox.
    pub(super) fn start(
        binaries: &BTreeMap<String, PathBuf>,
        sandbox: &Sandbox,
        endpoint: &str,
    ) -> Result<Self, String> {
        let (aws, environment) = start_aws(sandbox, endpoint);
        let start = |verb: Verb| {
            let binary = binaries
                .get(verb.step_name())
                .ok_or_else(|| format!("{} was not built", verb.step_name()))?;
            Ok((
                verb.step_name(),
                Function::start(Command::new(binary), &environment),
            ))
        };
        let functions = [Verb::Cp, Verb::Mv, Verb::Sync, Verb::Rm]
            .into_iter()
            .map(start)
            .collect::<Result<_, String>>()?;
        Ok(Self {
            _aws: aws,
            functions,
            executions: 0,
        })
    }

    pub(super) fn run(
        &mut self,
        sandbox: &Sandbox,
        operation: &Operation,
    ) -> Result<Outcome, String> {
        self.executions += 1;
        let function = self
            .functions
            .get_mut(operation.verb.step_name())
            .ok_or("the step was not started")?;
        let mut envelope = crate::envelope("acme", "prod", &step_parameters(sandbox, operation));
        envelope["execution"]["id"] = format!("e{}", self.executions).into();
        let started = Instant::now();
        let (mut log, mut messages) = (Vec::new(), Vec::new());
        let has_succeeded = loop {
            let output_before = function.output().len();
            let response = function.invoke_within(OPERATION_LIMIT, envelope.to_string().as_bytes());
            if let Response::Failure { name, message } = &response {
                messages.push(format!("{name}: {message}"));
                if name.starts_with("Runtime.") || name.starts_with("Sandbox.") {
                    return Err(format!(
                        "{}: {}\n{}",
                        operation.verb.step_name(),
                        messages.join("\n"),
                        function.output()
                    ));
                }
                // A failure contains no log, so read the process's output, which arrives a moment
                // later.
                std::thread::sleep(Duration::from_millis(30));
                messages.push(function.output().split_off(output_before));
                break false;
            }
            let response = response.json();
            log.extend(
                response["log"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(str::to_owned),
            );
            messages.push(format!(
                "{}: {}",
                response["status"].as_str().unwrap_or_default(),
                response["output"]
            ));
            if response["status"] == "done" {
                break true;
            }
            if started.elapsed() > OPERATION_LIMIT {
                return Err(format!(
                    "{} is still pending after {OPERATION_LIMIT:?}: {}",
                    operation.verb.step_name(),
                    response["progress"]
                ));
            }
            envelope["resume"] = response["resume"].clone();
        };
        let planned = sandbox.normalize_plan(
            log.iter()
                .filter_map(|line: &String| line.strip_prefix("(dryrun) ")),
        );
        Ok(Outcome {
            has_succeeded,
            planned,
            messages: sandbox.with_placeholders(&[messages, log].concat().join("\n")),
        })
    }
}

/// Starts a fake of AWS for all services except S3 and STS. Also returns the environment variables
/// of a step's process.
pub(super) fn start_aws(sandbox: &Sandbox, endpoint: &str) -> (FakeAws, Vec<(String, String)>) {
    let aws = FakeAws::default();
    aws.add_customer("acme");
    aws.add_account("acme", "prod", ACCOUNT);
    let mut environment = aws.environment();
    environment.extend([
        ("AWS_ENDPOINT_URL_S3".into(), endpoint.into()),
        ("AWS_ENDPOINT_URL_STS".into(), endpoint.into()),
        (
            "STEPWARD_LOCAL_ROOT".into(),
            sandbox.root().to_string_lossy().into_owned(),
        ),
    ]);
    (aws, environment)
}

/// Returns the step's parameters for an operation.
pub(super) fn step_parameters(sandbox: &Sandbox, operation: &Operation) -> Value {
    let to_filter = |(is_include, pattern): &(bool, String)| {
        let kind = if *is_include { "include" } else { "exclude" };
        json!({ kind: sandbox.with_names(pattern) })
    };
    let filters: Vec<_> = operation.filters.iter().map(to_filter).collect();
    let mut parameters = json!({ "filters": filters, "dry_run": operation.dry_run });
    if operation.verb == Verb::Rm {
        parameters["uri"] = sandbox.with_names(&operation.source).into();
    } else {
        parameters["source"] = sandbox.with_names(&operation.source).into();
        parameters["destination"] = sandbox.with_names(&operation.destination).into();
    }
    if operation.verb == Verb::Sync {
        parameters["delete"] = operation.delete.into();
    } else {
        parameters["recursive"] = operation.recursive.into();
    }
    for (name, value) in [
        ("storage_class", operation.storage_class),
        ("sse", operation.sse),
    ] {
        if let Some(value) = value {
            parameters[name] = value.into();
        }
    }
    parameters
}
