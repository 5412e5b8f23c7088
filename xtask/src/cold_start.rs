//! `cargo xtask bench cold-start`: what a step costs over the AWS call that it makes.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};
use stepward_cli::workspace::Function;
use stepward_testkit::build::{build, of_this_program, root, steps};
use stepward_testkit::envelope;
use stepward_testkit::runtime_api::{self, Answer};
use stepward_testkit::stand_in::StandIn;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const ACCOUNT: &str = "222222222222";
const RUNNING: &str = "i-0aaaaaaaaaaaaaaaa";
const STOPPED: &str = "i-0bbbbbbbbbbbbbbbb";
const QUERY: &str = "a1b2c3d4-5678-90ab-cdef-000000000000";
const EMPTY: &str = "bare-empty";

/// A step with input for which it makes one call of its own where it can, and the function that
/// makes that call alone.
struct Case {
    step: &'static str,
    envelope: Value,
    /// The calls that are the step's own work.
    own: &'static [&'static str],
    /// The bare function's name behind `bare-`, and its event.
    bare: &'static str,
    event: Value,
}

/// What is started to be measured.
struct Subject {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    event: String,
    times: Vec<Duration>,
    peak: u64,
}

/// A step, and the subjects that it is compared with: (a), (b) and (c).
struct Row {
    case: Case,
    step: Subject,
    bare: Subject,
    python: Subject,
}

pub(crate) fn bench(runs: u16, profile: &str, python: Option<PathBuf>) -> Result<(), String> {
    let cases = cases();
    // What a start costs is decided by what all steps share and by the size of the service's SDK.
    let (steps, others): (Vec<_>, Vec<_>) = steps()?
        .into_iter()
        .partition(|step| cases.iter().any(|case| case.step == step.name));
    let (_, target) = of_this_program()?;
    let python = python.map_or_else(|| local_python(&target), Ok)?;
    let bare = |name| Function {
        name,
        package: "xtask".into(),
    };
    let mut wanted: Vec<_> = cases
        .iter()
        .map(|case| bare(format!("bare-{}", case.bare)))
        .collect();
    wanted.push(bare(EMPTY.into()));
    wanted.sort();
    wanted.dedup();
    wanted.extend(steps);
    let built = build(&wanted, profile, &target)?;

    let aws = StandIn::default();
    aws.add_customer("acme");
    aws.add_account("acme", "prod", ACCOUNT);
    aws.add_instance(ACCOUNT, RUNNING, "running");
    aws.add_instance(ACCOUNT, STOPPED, "stopped");
    let mut empty = Subject::new(&built[EMPTY], &[], &aws.environment(), &json!({}));
    let mut rows: Vec<_> = cases
        .into_iter()
        .map(|case| row(case, &built, &python, &aws))
        .collect();

    for run in 0..=runs {
        eprint!("\rrun {run} of {runs}");
        let all = rows
            .iter_mut()
            .flat_map(|row| [&mut row.step, &mut row.bare, &mut row.python]);
        for subject in all.chain([&mut empty]) {
            let time = subject.cold_start()?;
            // The first run fetches the files from disk, and is not counted.
            if run > 0 {
                subject.times.push(time);
            }
        }
        aws.forget();
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
        "warm calls beyond its own",
        "… next execution",
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
        "Medians of {runs} runs in turn, profile {profile}. (a): lambda_runtime alone; (b): with the step's last AWS call, by \
         the SDK alone; (c): the same with Python and boto3.\nms: process start to first response. MB: peak memory (VmHWM).\n\
         {} steps more have no input in this bench.",
        others.len()
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
    let (start, running) = instance(RUNNING);
    let (stop, stopped) = instance(STOPPED);
    let mut query = envelope(
        "acme",
        "prod",
        &json!({ "query": "SELECT 1", "database": "d", "bucket": "results" }),
    );
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    // The second call of a query that goes on: one look.
    query["resume"] = json!({ "since": since, "state": { "query_execution_id": QUERY } });
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
            json!({ "query_execution_id": QUERY }),
        ),
        (
            "s3-list",
            list,
            &["s3:ListObjectsV2"],
            "list-objects",
            json!({ "bucket": "data", "prefix": "logs/" }),
        ),
    ]
    .map(|(step, envelope, own, bare, event)| Case {
        step,
        envelope,
        own,
        bare,
        event,
    })
    .into()
}

fn row(case: Case, built: &BTreeMap<String, PathBuf>, python: &Path, aws: &StandIn) -> Row {
    let mut broker = aws.environment();
    broker.push(("STEPWARD_LINGER_SECONDS".into(), "0".into()));
    // The others go straight into the account: what they make is one call.
    let direct = aws.environment_of(&aws.keys(ACCOUNT));
    let script = root().join("xtask/src/bare.py").display().to_string();
    Row {
        step: Subject::new(&built[case.step], &[], &broker, &case.envelope),
        bare: Subject::new(
            &built[&format!("bare-{}", case.bare)],
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
            peak: 0,
        }
    }

    fn start(&self) -> runtime_api::Function {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        runtime_api::Function::start(command, &self.environment)
    }

    fn cold_start(&mut self) -> Result<Duration, String> {
        let mut function = self.start();
        let answer = function.invoke(self.event.as_bytes());
        let time = function.age();
        self.peak = self.peak.max(function.peak_memory().unwrap_or_default());
        self.check(&answer, &function)?;
        Ok(time)
    }

    fn check(&self, answer: &Answer, function: &runtime_api::Function) -> Result<(), String> {
        match answer {
            Answer::Success(_) => Ok(()),
            Answer::Failure { name, message } => Err(format!(
                "{}: {name}: {message}\n{}",
                self.program.display(),
                function.output()
            )),
        }
    }

    fn milliseconds(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1000.0
    }
}

impl Row {
    fn cells(&self, empty: &Subject, aws: &StandIn) -> Result<Vec<String>, String> {
        let Self {
            case,
            step,
            bare,
            python,
        } = self;
        let all = [step, empty, bare, python];
        let [ms, a, b, c] = all.map(Subject::milliseconds);
        let mut cells = vec![case.step.to_owned()];
        cells.extend([ms, a, b, c].map(|time| format!("{time:.1}")));
        cells.extend([
            format!("{:.2}", ms / b),
            format!("{:.1}", c / ms),
            megabytes(zipped(&step.program)?),
        ]);
        cells.extend(all.map(|subject| megabytes(subject.peak)));
        cells.extend(self.warm_calls(aws)?.map(|calls| {
            if calls.is_empty() {
                "none".into()
            } else {
                calls.join(", ")
            }
        }));
        Ok(cells)
    }

    /// The AWS calls that a warm process makes beyond the step's own, for the same execution and
    /// for the next.
    fn warm_calls(&self, aws: &StandIn) -> Result<[Vec<String>; 2], String> {
        let mut function = self.step.start();
        let mut calls = |execution: &str| {
            aws.forget();
            let mut event = self.case.envelope.clone();
            event["execution"]["id"] = execution.into();
            let answer = function.invoke(event.to_string().as_bytes());
            self.step.check(&answer, &function)?;
            let mut made: Vec<_> = aws
                .requests()
                .iter()
                .map(stepward_testkit::stand_in::Request::name)
                .collect();
            for own in self.case.own {
                made.iter()
                    .position(|call| call == own)
                    .map(|place| made.remove(place));
            }
            Ok::<_, String>(made)
        };
        calls("e1")?;
        Ok([calls("e1")?, calls("e2")?])
    }
}

/// Bytes of the zip that Lambda would load.
fn zipped(program: &Path) -> Result<u64, String> {
    let binary =
        std::fs::read(program).map_err(|error| format!("{}: {error}", program.display()))?;
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let whole = zip.start_file(
        "bootstrap",
        SimpleFileOptions::default().compression_level(Some(9)),
    );
    whole.map_err(|error| error.to_string())?;
    zip.write_all(&binary).map_err(|error| error.to_string())?;
    let whole = zip.finish().map_err(|error| error.to_string())?;
    Ok(whole.into_inner().len() as u64)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// The interpreter of the local cloud's virtual environment, which has boto3.
fn local_python(target: &Path) -> Result<PathBuf, String> {
    let dir = target.join("local-cloud");
    let entries = std::fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin/python"));
    let mut found: Vec<_> = entries.filter(|python| has_boto3(python)).collect();
    found.sort();
    found.pop().ok_or_else(|| {
        format!(
            "no Python with boto3 below {}; run `cargo run -- local up` once, or name an interpreter with --python",
            dir.display()
        )
    })
}

fn has_boto3(python: &Path) -> bool {
    Command::new(python)
        .args(["-c", "import boto3"])
        .output()
        .is_ok_and(|answer| answer.status.success())
}
