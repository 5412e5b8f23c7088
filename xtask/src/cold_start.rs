//! `cargo xtask bench cold-start`: what a step costs in addition to the AWS call that it makes.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};
use stepward_cli::workspace::Function;
use stepward_testkit::build::{build_binaries, current_build, list_steps, root};
use stepward_testkit::envelope;
use stepward_testkit::fake_aws::{FakeAws, Request};
use stepward_testkit::runtime_api::{self, Response};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const ACCOUNT: &str = "222222222222";
const RUNNING_INSTANCE: &str = "i-0aaaaaaaaaaaaaaaa";
const STOPPED_INSTANCE: &str = "i-0bbbbbbbbbbbbbbbb";
const QUERY_ID: &str = "a1b2c3d4-5678-90ab-cdef-000000000000";
const EMPTY_FUNCTION: &str = "bare-empty";

/// A step with an input for which it makes only one AWS call if possible, and the bare function
/// that makes only this call.
struct Case {
    step: &'static str,
    envelope: Value,
    /// The AWS calls that are the step's own work, not Stepward's.
    step_calls: &'static [&'static str],
    /// The name of the bare function, without the prefix `bare-`.
    bare: &'static str,
    /// The input of the bare function.
    event: Value,
}

/// A program to measure.
struct Subject {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    event: String,
    times: Vec<Duration>,
    peak_memory: u64,
}

/// A step and the programs that it is compared with.
struct Row {
    case: Case,
    step: Subject,
    bare: Subject,
    python: Subject,
}

pub(crate) fn run_benchmark(
    runs: u16,
    profile: &str,
    python: Option<PathBuf>,
) -> Result<(), String> {
    let cases = cases();
    // One or two steps of a service are enough: the cost of a start depends on the code that all
    // steps share and on the size of the service's SDK.
    let (steps, other_steps): (Vec<_>, Vec<_>) = list_steps()?
        .into_iter()
        .partition(|step| cases.iter().any(|case| case.step == step.name));
    let (_, target) = current_build()?;
    let python = python.map_or_else(|| find_local_python(&target), Ok)?;

    let bare_function = |name| Function {
        name,
        package: "xtask".into(),
    };
    let mut functions: Vec<_> = cases
        .iter()
        .map(|case| bare_function(format!("bare-{}", case.bare)))
        .collect();
    functions.push(bare_function(EMPTY_FUNCTION.into()));
    functions.sort();
    functions.dedup();
    functions.extend(steps);
    let binaries = build_binaries(&functions, profile, &target)?;

    let aws = FakeAws::default();
    aws.add_customer("acme");
    aws.add_account("acme", "prod", ACCOUNT);
    aws.add_instance(ACCOUNT, RUNNING_INSTANCE, "running");
    aws.add_instance(ACCOUNT, STOPPED_INSTANCE, "stopped");
    let mut empty = Subject::new(
        &binaries[EMPTY_FUNCTION],
        &[],
        &aws.environment(),
        &json!({}),
    );
    let mut rows: Vec<_> = cases
        .into_iter()
        .map(|case| create_row(case, &binaries, &python, &aws))
        .collect();

    for run in 0..=runs {
        eprint!("\rrun {run} of {runs}");
        let subjects = rows
            .iter_mut()
            .flat_map(|row| [&mut row.step, &mut row.bare, &mut row.python]);
        for subject in subjects.chain([&mut empty]) {
            let time = subject.measure_start()?;
            // The first run reads the files from disk, so it does not count.
            if run > 0 {
                subject.times.push(time);
            }
        }
        aws.clear_requests();
    }
    eprintln!();
    let mut table = Table::new();
    table.set_header([
        "step",
        "ms",
        "(a)",
        "(b)",
        "(c)",
        "step/(b)",
        "(c)/step",
        "zip MB",
        "MB",
        "(a)",
        "(b)",
        "(c)",
        "additional warm calls",
        "… in the next execution",
    ]);
    for row in &rows {
        table.add_row(row.cells(&empty, &aws)?);
    }
    table
        .column_iter_mut()
        .skip(1)
        .take(11)
        .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    println!("{table}");
    println!(
        "Medians of {runs} runs, with the programs alternating; profile {profile}. (a): a function \
         with lambda_runtime only; (b): the step's last AWS call with the Rust SDK; (c): the same \
         call with Python and boto3.\n\
         ms: from process start to the first response. MB: peak memory (VmHWM).\n\
         {} other steps are not part of this benchmark.",
        other_steps.len()
    );
    Ok(())
}

fn cases() -> Vec<Case> {
    let instance = |id: &str| {
        (
            envelope("acme", "prod", &json!({ "instance_ids": [id] })),
            json!({ "instance_id": id }),
        )
    };
    let (start, running) = instance(RUNNING_INSTANCE);
    let (stop, stopped) = instance(STOPPED_INSTANCE);
    let mut query = envelope(
        "acme",
        "prod",
        &json!({ "query": "SELECT 1", "database": "d", "bucket": "results" }),
    );
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    // The second call of a step whose query still runs: it polls once.
    query["resume"] = json!({ "since": since, "state": { "query_execution_id": QUERY_ID } });
    let list = envelope("acme", "prod", &json!({ "uri": "s3://data/logs/" }));
    let describe: &[_] = &["ec2:DescribeInstances"];
    let proof: &[_] = &[
        "sts:GetCallerIdentity",
        "sts:AssumeRole",
        "sts:AssumeRole",
        "sts:AssumeRole",
    ];
    [
        (
            "validate-credentials",
            envelope("acme", "prod", &json!({})),
            proof,
            "get-caller-identity",
            json!({}),
        ),
        ("ec2-start", start, describe, "describe-instances", running),
        ("ec2-stop", stop, describe, "describe-instances", stopped),
        (
            "athena-query",
            query,
            &["athena:GetQueryExecution"],
            "get-query-execution",
            json!({ "query_execution_id": QUERY_ID }),
        ),
        (
            "s3-list",
            list,
            &["s3:ListObjectsV2"],
            "list-objects",
            json!({ "bucket": "data", "prefix": "logs/" }),
        ),
    ]
    .map(|(step, envelope, step_calls, bare, event)| Case {
        step,
        envelope,
        step_calls,
        bare,
        event,
    })
    .into()
}

fn create_row(
    case: Case,
    binaries: &BTreeMap<String, PathBuf>,
    python: &Path,
    aws: &FakeAws,
) -> Row {
    let mut broker = aws.environment();
    broker.push(("STEPWARD_LINGER_SECONDS".into(), "0".into()));
    // The functions without Stepward have credentials of the customer's account, so that they make
    // only one call.
    let direct = aws.environment_with_keys(&aws.account_keys(ACCOUNT));
    let script = root().join("xtask/src/bare.py").display().to_string();
    Row {
        step: Subject::new(&binaries[case.step], &[], &broker, &case.envelope),
        bare: Subject::new(
            &binaries[&format!("bare-{}", case.bare)],
            &[],
            &direct,
            &case.event,
        ),
        python: Subject::new(
            python,
            &[script, case.bare.to_owned()],
            &direct,
            &case.event,
        ),
        case,
    }
}

impl Subject {
    fn new(
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        event: &Value,
    ) -> Self {
        let (arguments, environment) = (arguments.to_vec(), environment.to_vec());
        Self {
            program: program.into(),
            arguments,
            environment,
            event: event.to_string(),
            times: Vec::new(),
            peak_memory: 0,
        }
    }

    fn start_function(&self) -> runtime_api::Function {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        runtime_api::Function::start(command, &self.environment)
    }

    /// Returns the time from the start of the process to its first response.
    fn measure_start(&mut self) -> Result<Duration, String> {
        let mut function = self.start_function();
        let response = function.invoke(self.event.as_bytes());
        let time = function.age();
        self.peak_memory = self
            .peak_memory
            .max(function.peak_memory().unwrap_or_default());
        self.check_success(&response, &function)?;
        Ok(time)
    }

    fn check_success(
        &self,
        response: &Response,
        function: &runtime_api::Function,
    ) -> Result<(), String> {
        match response {
            Response::Success(_) => Ok(()),
            Response::Failure { name, message } => Err(format!(
                "{}: {name}: {message}\n{}",
                self.program.display(),
                function.output()
            )),
        }
    }

    fn median_milliseconds(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1000.0
    }
}

impl Row {
    fn cells(&self, empty: &Subject, aws: &FakeAws) -> Result<Vec<String>, String> {
        let Self {
            case,
            step,
            bare,
            python,
        } = self;
        let subjects = [step, empty, bare, python];
        let [ms, a, b, c] = subjects.map(Subject::median_milliseconds);
        let mut cells = vec![case.step.to_owned()];
        cells.extend([ms, a, b, c].map(|time| format!("{time:.1}")));
        cells.extend([
            format!("{:.2}", ms / b),
            format!("{:.1}", c / ms),
            format_megabytes(zip_size(&step.program)?),
        ]);
        cells.extend(subjects.map(|subject| format_megabytes(subject.peak_memory)));
        cells.extend(self.additional_warm_calls(aws)?.map(|calls| {
            if calls.is_empty() {
                "none".into()
            } else {
                calls.join(", ")
            }
        }));
        Ok(cells)
    }

    /// Returns the AWS calls that a warm process makes in addition to the step's own calls: for the
    /// same execution and for the next one.
    fn additional_warm_calls(&self, aws: &FakeAws) -> Result<[Vec<String>; 2], String> {
        let mut function = self.step.start_function();
        let mut calls = |execution: &str| {
            aws.clear_requests();
            let mut event = self.case.envelope.clone();
            event["execution"]["id"] = execution.into();
            let response = function.invoke(event.to_string().as_bytes());
            self.step.check_success(&response, &function)?;

            let mut calls: Vec<_> = aws.requests().iter().map(Request::name).collect();
            for step_call in self.case.step_calls {
                calls
                    .iter()
                    .position(|call| call == step_call)
                    .map(|index| calls.remove(index));
            }
            Ok::<_, String>(calls)
        };
        calls("e1")?;
        Ok([calls("e1")?, calls("e2")?])
    }
}

/// Returns the size in bytes of the ZIP file that Lambda would load.
fn zip_size(program: &Path) -> Result<u64, String> {
    let binary =
        std::fs::read(program).map_err(|error| format!("{}: {error}", program.display()))?;
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_level(Some(9));
    zip.start_file("bootstrap", options)
        .map_err(|error| error.to_string())?;
    zip.write_all(&binary).map_err(|error| error.to_string())?;
    let archive = zip.finish().map_err(|error| error.to_string())?;
    Ok(archive.into_inner().len() as u64)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn format_megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// Returns the Python interpreter of the local cloud's virtual environment, which has boto3.
fn find_local_python(target: &Path) -> Result<PathBuf, String> {
    let dir = target.join("local-cloud");
    let entries = std::fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin/python"));
    let mut interpreters: Vec<_> = entries.filter(|python| has_boto3(python)).collect();
    interpreters.sort();
    interpreters.pop().ok_or_else(|| {
        format!(
            "found no Python with boto3 in {}; run `cargo run -- local up` once to install it, or \
             set --python to an interpreter that has boto3",
            dir.display()
        )
    })
}

fn has_boto3(python: &Path) -> bool {
    Command::new(python)
        .args(["-c", "import boto3"])
        .output()
        .is_ok_and(|output| output.status.success())
}
