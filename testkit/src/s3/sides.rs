//! The two that do the same operation, each in a place of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepward_cli::local::venv;
use stepward_cli::workspace::Workspace;

use super::case::{Operation, Verb};
use super::talk::Program;
use crate::runtime_api::{Answer, Function};
use crate::stand_in::StandIn;

/// The AWS CLI, pinned.
pub(super) const TOOLS: &str = "local-cloud/requirements-s3.txt";
const SCRIPT: &str = include_str!("cli.py");
/// The customer's account; on the server an access key of twelve digits is that account's own.
pub(super) const ACCOUNT: &str = "222222222222";
/// What one call may take, and all calls of an operation, on a machine that does much else. A
/// deployed step has longer.
const OPERATION: Duration = Duration::from_mins(3);

/// Where one side works. The names of both sides are of one length, so that limits on lengths are
/// the same for both.
#[derive(Clone, Debug)]
pub(super) struct Place {
    name: &'static str,
    dir: PathBuf,
}

/// What an operation came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Whether all of it was done, without a warning.
    pub succeeded: bool,
    /// What a dry run would do: `copy: s3://… to s3://…`, in order.
    pub planned: Vec<String>,
    /// What was said, for a person.
    pub said: String,
}

/// The AWS CLI, in one process for many operations.
pub(super) struct Cli {
    program: Program,
}

/// The steps' processes, kept warm as Lambda keeps them.
pub(super) struct Steps {
    _aws: StandIn,
    functions: BTreeMap<&'static str, Function>,
    executions: u64,
}

impl Place {
    pub(super) fn new(dir: &Path, name: &'static str) -> Self {
        Self {
            name,
            dir: dir.join(name),
        }
    }

    /// The local root.
    pub(super) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// What is beside the local root.
    pub(super) fn outside(&self) -> PathBuf {
        self.dir.join("outside")
    }

    pub(super) fn bucket(&self, which: &str) -> String {
        format!("stepward-{}-{which}", self.name)
    }

    /// A text of a case with this side's own names.
    pub(super) fn put(&self, text: &str) -> String {
        let text = text.replace("{root}", &self.root().to_string_lossy());
        let text = text.replace("{outside}", &self.outside().to_string_lossy());
        ["a", "b", "none"].iter().fold(text, |text, which| {
            text.replace(&format!("{{{which}}}"), &self.bucket(which))
        })
    }

    /// The opposite.
    pub(super) fn take(&self, text: &str) -> String {
        let text = text.replace(&*self.root().to_string_lossy(), "{root}");
        let text = text.replace(&*self.outside().to_string_lossy(), "{outside}");
        ["a", "b", "none"].iter().fold(text, |text, which| {
            text.replace(&self.bucket(which), &format!("{{{which}}}"))
        })
    }

    /// Lines of a dry run, with paths as both sides can have them: below the root, and on one line.
    fn plan<'a>(&self, lines: impl Iterator<Item = &'a str>) -> Vec<String> {
        let line = |line: &str| {
            let line = self
                .take(line)
                .replace("{root}/", "")
                .replace(": ./", ": ")
                .replace(" to ./", " to ");
            line.replace('\n', "\\n").replace('\t', "\\t")
        };
        lines.map(line).collect()
    }
}

impl Cli {
    pub(super) fn start(workspace: &Workspace, dir: &Path, endpoint: &str) -> Result<Self, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let venv = venv::ensure(workspace, TOOLS).map_err(|error| said(&error))?;
        std::fs::create_dir_all(dir.join("home/.aws")).map_err(|error| said(&error))?;
        // One at a time, so that what comes of two keys with one file does not depend on which is
        // the faster.
        std::fs::write(
            dir.join("home/.aws/config"),
            "[default]\ns3 =\n  max_concurrent_requests = 1\n",
        )
        .map_err(|error| said(&error))?;
        let script = dir.join("cli.py");
        std::fs::write(&script, SCRIPT).map_err(|error| said(&error))?;
        let log = File::create(dir.join("cli.log")).map_err(|error| said(&error))?;
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
            program: Program::start("the AWS CLI", command)?,
        })
    }

    pub(super) fn run(&mut self, place: &Place, operation: &Operation) -> Result<Outcome, String> {
        let mut arguments = operation.arguments(|text| place.put(text));
        arguments.extend((operation.verb != Verb::Rm).then(|| "--no-progress".to_owned()));
        let answer = self
            .program
            .ask(&json!({ "arguments": arguments, "directory": place.root() }))?;
        let [stdout, stderr] =
            ["stdout", "stderr"].map(|stream| answer[stream].as_str().unwrap_or_default());
        // A name may hold a line break, so that lines begin where the next one does.
        let lines = stdout
            .split("(dryrun) ")
            .skip(1)
            .map(|line| line.strip_suffix('\n').unwrap_or(line));
        Ok(Outcome {
            succeeded: answer["status"] == 0,
            planned: place.plan(lines),
            said: place.take(&format!("status {}\n{stdout}{stderr}", answer["status"])),
        })
    }
}

impl Steps {
    /// Starts the four steps' processes, which work below this place's root.
    pub(super) fn start(
        binaries: &BTreeMap<String, PathBuf>,
        place: &Place,
        endpoint: &str,
    ) -> Result<Self, String> {
        let (aws, environment) = aws(place, endpoint);
        let start = |verb: Verb| {
            let binary = binaries
                .get(verb.step())
                .ok_or_else(|| format!("{} was not built", verb.step()))?;
            Ok((
                verb.step(),
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

    pub(super) fn run(&mut self, place: &Place, operation: &Operation) -> Result<Outcome, String> {
        self.executions += 1;
        let function = self
            .functions
            .get_mut(operation.verb.step())
            .ok_or("no such step")?;
        let mut envelope = crate::envelope("acme", "prod", &parameters(place, operation));
        envelope["execution"]["id"] = format!("e{}", self.executions).into();
        let since = Instant::now();
        let (mut log, mut said) = (Vec::new(), Vec::new());
        let succeeded = loop {
            let written = function.output().len();
            let answer = function.invoke_within(OPERATION, envelope.to_string().as_bytes());
            if let Answer::Failure { name, message } = &answer {
                said.push(format!("{name}: {message}"));
                if name.starts_with("Runtime.") || name.starts_with("Sandbox.") {
                    return Err(format!(
                        "{}: {}\n{}",
                        operation.verb.step(),
                        said.join("\n"),
                        function.output()
                    ));
                }
                // The log is only what it has written, which arrives a moment later.
                std::thread::sleep(Duration::from_millis(30));
                said.push(function.output().split_off(written));
                break false;
            }
            let answer = answer.json();
            log.extend(
                answer["log"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(str::to_owned),
            );
            said.push(format!(
                "{}: {}",
                answer["status"].as_str().unwrap_or_default(),
                answer["output"]
            ));
            if answer["status"] == "done" {
                break true;
            }
            if since.elapsed() > OPERATION {
                return Err(format!(
                    "{} is still pending after {OPERATION:?}: {}",
                    operation.verb.step(),
                    answer["progress"]
                ));
            }
            envelope["resume"] = answer["resume"].clone();
        };
        let planned = place.plan(
            log.iter()
                .filter_map(|line: &String| line.strip_prefix("(dryrun) ")),
        );
        Ok(Outcome {
            succeeded,
            planned,
            said: place.take(&[said, log].concat().join("\n")),
        })
    }
}

/// An AWS for everything but S3 and STS, and what a step's process must know: these, and the local
/// root.
pub(super) fn aws(place: &Place, endpoint: &str) -> (StandIn, Vec<(String, String)>) {
    let aws = StandIn::default();
    aws.add_customer("acme");
    aws.add_account("acme", "prod", ACCOUNT);
    let mut environment = aws.environment();
    environment.extend([
        ("AWS_ENDPOINT_URL_S3".into(), endpoint.into()),
        ("AWS_ENDPOINT_URL_STS".into(), endpoint.into()),
        (
            "STEPWARD_LOCAL_ROOT".into(),
            place.root().to_string_lossy().into_owned(),
        ),
    ]);
    (aws, environment)
}

pub(super) fn parameters(place: &Place, operation: &Operation) -> Value {
    let filter = |(is_include, pattern): &(bool, String)| json!({ (if *is_include { "include" } else { "exclude" }): place.put(pattern) });
    let filters: Vec<_> = operation.filters.iter().map(filter).collect();
    let mut parameters = json!({ "filters": filters, "dry_run": operation.dry_run });
    if operation.verb == Verb::Rm {
        parameters["uri"] = place.put(&operation.source).into();
    } else {
        parameters["source"] = place.put(&operation.source).into();
        parameters["destination"] = place.put(&operation.destination).into();
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
