//! The step, s5cmd and the AWS CLI, each started as it is used, and what one transfer takes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use stepward::FunctionConfig as Limits;
use stepward_cli::local::venv;
use stepward_testkit::envelope;
use stepward_testkit::runtime_api::{Answer, Function};
use stepward_testkit::stand_in::StandIn;

use super::bed::{BIG, Bed, KEY, SMALL};
use super::choice::{Case, Tool};

const ACCOUNT: &str = "222222222222";
/// What the step's function is given.
const LIMITS: Limits = Limits::TRANSFER;
/// Longer than any of these transfers takes, also on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(LIMITS.timeout_seconds as u64);
/// Calls of a step for one transfer: more would be one that goes on and gets nowhere.
const CALLS: u32 = 20;

/// The programs.
pub(super) struct Tools {
    /// Those of the steps `s3-copy` and `s3-sync`; none where no step is measured.
    pub(super) steps: Option<[PathBuf; 2]>,
    /// Where s5cmd and the AWS CLI are installed.
    pub(super) venv: PathBuf,
    /// What DynamoDB and STS are for the steps.
    pub(super) aws: StandIn,
}

/// What one transfer took.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    /// Seconds from the start of the process to its end; a step's, to its answer.
    pub(super) wall: f64,
    /// Seconds of processor time, user's and system's.
    pub(super) cpu: f64,
    /// The most memory that it had, in bytes.
    pub(super) peak: u64,
    /// How often a step was called.
    pub(super) calls: u32,
}

impl Tools {
    pub(super) fn new(venv: PathBuf) -> Self {
        let aws = StandIn::default();
        aws.add_customer("acme");
        aws.add_account("acme", "prod", ACCOUNT);
        aws.set_keys(KEY.0, KEY.1);
        Self {
            steps: None,
            venv,
            aws,
        }
    }

    /// One transfer.
    pub(super) fn run(&self, tool: Tool, case: Case, bed: &Bed) -> Result<Measure, String> {
        let (source, destination) = bed.ends(case);
        match tool {
            Tool::Step => self.step(case, &source, &destination, bed),
            Tool::S5cmd => self.s5cmd(case, &source, &destination, bed),
            Tool::Awscli => self.awscli(case, &source, &destination, bed),
        }
    }

    /// Puts the files into the buckets that downloads take them from. The CLI does, because it
    /// sends checksums, as objects have them on S3.
    pub(super) fn fill(&self, bed: &mut Bed) -> Result<(), String> {
        for bucket in ["small", "big"] {
            let folder = bed.root().join(bucket).display().to_string();
            self.aws_s3(
                bed,
                &["cp", "--recursive", &folder, &format!("s3://{bucket}/")],
            )?;
        }
        bed.filled()
    }

    fn awscli(
        &self,
        case: Case,
        source: &str,
        destination: &str,
        bed: &Bed,
    ) -> Result<Measure, String> {
        let words: &[_] = match case {
            Case::SmallUp | Case::SmallDown => &["cp", "--recursive"],
            Case::BigUp | Case::BigDown => &["cp"],
            Case::NoChange => &["sync"],
        };
        self.aws_s3(bed, &[words, &[source, destination]].concat())
    }

    fn aws_s3(&self, bed: &Bed, arguments: &[&str]) -> Result<Measure, String> {
        let program = self.venv.join("bin/aws");
        self.measure(&program, &[&["s3", "--quiet"], arguments].concat(), bed)
    }

    fn s5cmd(
        &self,
        case: Case,
        source: &str,
        destination: &str,
        bed: &Bed,
    ) -> Result<Measure, String> {
        let all = format!("{source}*");
        let source = if case == Case::SmallDown {
            &all
        } else {
            source
        };
        let word = if case == Case::NoChange { "sync" } else { "cp" };
        self.measure(
            &self.s5cmd_program()?,
            &["--log", "error", word, source, destination],
            bed,
        )
    }

    /// The program itself: `bin/s5cmd` is a Python script that starts it, which is no part of
    /// s5cmd.
    fn s5cmd_program(&self) -> Result<PathBuf, String> {
        let lib = self.venv.join("lib");
        let versions =
            std::fs::read_dir(&lib).map_err(|error| format!("{}: {error}", lib.display()))?;
        let mut places = versions
            .flatten()
            .map(|version| version.path().join("site-packages/s5cmd/bin/s5cmd"));
        places
            .find(|place| place.is_file())
            .ok_or_else(|| format!("no s5cmd below {}", lib.display()))
    }

    /// Runs a program that is no function.
    fn measure(&self, program: &Path, arguments: &[&str], bed: &Bed) -> Result<Measure, String> {
        let mut command = Command::new(venv::interpreter(&self.venv));
        command
            .args(["-c", include_str!("measure.py")])
            .arg(LIMIT.as_secs().to_string());
        command.arg(program).args(arguments);
        // Nothing of whoever runs the bench: no profile, no settings of another endpoint.
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", bed.root());
        command
            .env("AWS_ACCESS_KEY_ID", KEY.0)
            .env("AWS_SECRET_ACCESS_KEY", KEY.1);
        command
            .env("AWS_DEFAULT_REGION", "eu-west-1")
            .env("AWS_REGION", "eu-west-1");
        command
            .env("AWS_ENDPOINT_URL", &bed.endpoint)
            .env("S3_ENDPOINT_URL", &bed.endpoint);
        let output = command
            .output()
            .map_err(|error| format!("{}: {error}", self.venv.display()))?;
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let number = |name: &str| told[name].as_f64();
        match (
            told["status"].as_i64(),
            number("wall"),
            number("cpu"),
            told["peak"].as_u64(),
        ) {
            (Some(0), Some(wall), Some(cpu), Some(peak)) => Ok(Measure {
                wall,
                cpu,
                peak,
                calls: 1,
            }),
            (status, ..) => {
                let (command, said) =
                    (arguments.join(" "), String::from_utf8_lossy(&output.stderr));
                let end = status.map_or("was not started".into(), |status| {
                    format!("ended with {status}")
                });
                Err(format!(
                    "{} {command} {end}: {}",
                    program.display(),
                    said.trim()
                ))
            }
        }
    }

    /// Calls a step as a state machine does, until it is done.
    fn step(
        &self,
        case: Case,
        source: &str,
        destination: &str,
        bed: &Bed,
    ) -> Result<Measure, String> {
        let [copy, sync] = self.steps.as_ref().ok_or("the steps have not been built")?;
        let mut params = json!({ "source": source, "destination": destination });
        if matches!(case, Case::SmallUp | Case::SmallDown) {
            params["recursive"] = true.into();
        }
        let mut event = envelope("acme", "prod", &params);
        let program = if case == Case::NoChange { sync } else { copy };
        let mut function = Function::start(Command::new(program), &self.environment(bed));
        for calls in 1..=CALLS {
            let mut answer = match function.invoke_within(LIMIT, event.to_string().as_bytes()) {
                Answer::Failure { name, message } => {
                    return Err(format!(
                        "{}: {name}: {message}\n{}",
                        program.display(),
                        function.output()
                    ));
                }
                answer @ Answer::Success(_) => answer.json(),
            };
            if answer["status"] == "pending" {
                event["resume"] = answer["resume"].take();
                continue;
            }
            let wall = function.age().as_secs_f64();
            let used = function.cpu_time().zip(function.peak_memory());
            let (cpu, peak) =
                used.ok_or("this system does not tell what a process uses; Linux does")?;
            counted(case, &answer["output"])?;
            return Ok(Measure {
                wall,
                cpu: cpu.as_secs_f64(),
                peak,
                calls,
            });
        }
        Err(format!(
            "{} is not done after {CALLS} calls\n{}",
            program.display(),
            function.output()
        ))
    }

    fn environment(&self, bed: &Bed) -> Vec<(String, String)> {
        let mut all = self.aws.environment();
        all.extend([
            ("AWS_ENDPOINT_URL_S3".into(), bed.endpoint.clone()),
            (
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE".into(),
                LIMITS.memory_mib.to_string(),
            ),
            (
                "STEPWARD_LOCAL_ROOT".into(),
                bed.root().display().to_string(),
            ),
        ]);
        all
    }
}

/// That a step says of its transfer what is true.
fn counted(case: Case, output: &Value) -> Result<(), String> {
    let (transferred, bytes, unchanged) = match case {
        Case::SmallUp | Case::SmallDown => (SMALL.0, SMALL.0 * SMALL.1, 0),
        Case::BigUp | Case::BigDown => (1, BIG, 0),
        Case::NoChange => (0, 0, SMALL.0),
    };
    let said = |name: &str| output[name].as_u64().unwrap_or_default();
    if [
        said("transferred"),
        said("bytes"),
        said("unchanged"),
        said("deleted"),
    ] == [transferred, bytes, unchanged, 0]
    {
        return Ok(());
    }
    Err(format!(
        "the step says {output} where {transferred} were to be transferred and {unchanged} to be left"
    ))
}
