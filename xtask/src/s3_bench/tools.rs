//! Runs one transfer with a step, s5cmd or the AWS CLI, and measures it. Each tool is started as
//! its users start it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use stepward::FunctionConfig;
use stepward_cli::local::venv;
use stepward_testkit::envelope;
use stepward_testkit::fake_aws::FakeAws;
use stepward_testkit::runtime_api::{Function, Response};

use super::choice::{Case, Tool};
use super::environment::{ACCESS_KEY, BIG_FILE, Environment, SMALL_FILES};

const ACCOUNT: &str = "222222222222";
/// The memory and timeout of the step's function.
const CONFIG: FunctionConfig = FunctionConfig::TRANSFER;
/// Longer than any of these transfers takes, also on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(CONFIG.timeout_seconds as u64);
/// The maximum number of calls of a step for one transfer. A step that needs more makes no
/// progress.
const MAX_CALLS: u32 = 20;

/// The programs to measure.
pub(super) struct Tools {
    /// The binaries of the steps `s3-copy` and `s3-sync`. `None` if no step is measured.
    pub(super) steps: Option<[PathBuf; 2]>,
    /// The virtual environment with s5cmd and the AWS CLI.
    pub(super) venv: PathBuf,
    /// DynamoDB and STS for the steps.
    pub(super) aws: FakeAws,
}

/// The cost of one transfer.
#[derive(Clone, Copy)]
pub(super) struct Measurement {
    /// Seconds from the start of the process to its end, or to the response of a step.
    pub(super) wall_seconds: f64,
    /// Seconds of CPU time in user and system mode.
    pub(super) cpu_seconds: f64,
    /// The peak memory in bytes.
    pub(super) peak_memory: u64,
    /// The number of calls of a step.
    pub(super) calls: u32,
}

impl Tools {
    pub(super) fn new(venv: PathBuf) -> Self {
        let aws = FakeAws::default();
        aws.add_customer("acme");
        aws.add_account("acme", "prod", ACCOUNT);
        aws.set_access_key(ACCESS_KEY.0, ACCESS_KEY.1);
        Self {
            steps: None,
            venv,
            aws,
        }
    }

    /// Runs one transfer.
    pub(super) fn run_transfer(
        &self,
        tool: Tool,
        case: Case,
        environment: &Environment,
    ) -> Result<Measurement, String> {
        let (source, destination) = environment.source_and_destination(case);
        match tool {
            Tool::Step => self.run_step(case, &source, &destination, environment),
            Tool::S5cmd => self.run_s5cmd(case, &source, &destination, environment),
            Tool::Awscli => self.run_awscli(case, &source, &destination, environment),
        }
    }

    /// Uploads the files to the source buckets of downloads. The AWS CLI does it, because it sends
    /// checksums, which objects on S3 have too.
    pub(super) fn fill_buckets(&self, environment: &mut Environment) -> Result<(), String> {
        for bucket in ["small", "big"] {
            let folder = environment.root().join(bucket).display().to_string();
            self.run_aws_s3(
                environment,
                &["cp", "--recursive", &folder, &format!("s3://{bucket}/")],
            )?;
        }
        environment.record_initial_state()
    }

    fn run_awscli(
        &self,
        case: Case,
        source: &str,
        destination: &str,
        environment: &Environment,
    ) -> Result<Measurement, String> {
        let command: &[_] = match case {
            Case::SmallUp | Case::SmallDown => &["cp", "--recursive"],
            Case::BigUp | Case::BigDown => &["cp"],
            Case::NoChange => &["sync"],
        };
        self.run_aws_s3(environment, &[command, &[source, destination]].concat())
    }

    fn run_aws_s3(
        &self,
        environment: &Environment,
        arguments: &[&str],
    ) -> Result<Measurement, String> {
        let program = self.venv.join("bin/aws");
        let arguments = [&["s3", "--quiet"], arguments].concat();
        self.measure_program(&program, &arguments, environment)
    }

    fn run_s5cmd(
        &self,
        case: Case,
        source: &str,
        destination: &str,
        environment: &Environment,
    ) -> Result<Measurement, String> {
        let all_objects = format!("{source}*");
        let source = if case == Case::SmallDown {
            &all_objects
        } else {
            source
        };
        let command = if case == Case::NoChange { "sync" } else { "cp" };
        self.measure_program(
            &self.s5cmd_program()?,
            &["--log", "error", command, source, destination],
            environment,
        )
    }

    /// Returns the path of the program itself, because `bin/s5cmd` is a Python script that starts
    /// it.
    fn s5cmd_program(&self) -> Result<PathBuf, String> {
        let lib = self.venv.join("lib");
        let versions =
            std::fs::read_dir(&lib).map_err(|error| format!("{}: {error}", lib.display()))?;
        let mut candidates = versions
            .flatten()
            .map(|version| version.path().join("site-packages/s5cmd/bin/s5cmd"));
        candidates.find(|path| path.is_file()).ok_or_else(|| {
            format!(
                "found no s5cmd in {}; delete the folder {} and run the benchmark again",
                lib.display(),
                self.venv.display()
            )
        })
    }

    /// Runs and measures a program that is not a Lambda function.
    fn measure_program(
        &self,
        program: &Path,
        arguments: &[&str],
        environment: &Environment,
    ) -> Result<Measurement, String> {
        let mut command = Command::new(venv::interpreter(&self.venv));
        command
            .args(["-c", include_str!("measure.py")])
            .arg(TIMEOUT.as_secs().to_string());
        command.arg(program).args(arguments);
        // The AWS profile and endpoint settings of the user must not change the result.
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", environment.root());
        command
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY.0)
            .env("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.1);
        command
            .env("AWS_DEFAULT_REGION", "eu-west-1")
            .env("AWS_REGION", "eu-west-1");
        command
            .env("AWS_ENDPOINT_URL", &environment.endpoint)
            .env("S3_ENDPOINT_URL", &environment.endpoint);
        let output = command
            .output()
            .map_err(|error| format!("{}: {error}", self.venv.display()))?;
        let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        match (
            result["status"].as_i64(),
            result["wall"].as_f64(),
            result["cpu"].as_f64(),
            result["peak"].as_u64(),
        ) {
            (Some(0), Some(wall_seconds), Some(cpu_seconds), Some(peak_memory)) => {
                Ok(Measurement {
                    wall_seconds,
                    cpu_seconds,
                    peak_memory,
                    calls: 1,
                })
            }
            (status, ..) => {
                let outcome = status.map_or("did not start".into(), |status| {
                    format!("failed with exit status {status}")
                });
                Err(format!(
                    "`{} {}` {outcome}: {}",
                    program.display(),
                    arguments.join(" "),
                    String::from_utf8_lossy(&output.stderr).trim()
                ))
            }
        }
    }

    /// Calls a step as a state machine does, until it is done.
    fn run_step(
        &self,
        case: Case,
        source: &str,
        destination: &str,
        environment: &Environment,
    ) -> Result<Measurement, String> {
        let [copy, sync] = self.steps.as_ref().ok_or("the steps were not built")?;
        let mut params = json!({ "source": source, "destination": destination });
        if matches!(case, Case::SmallUp | Case::SmallDown) {
            params["recursive"] = true.into();
        }
        let mut event = envelope("acme", "prod", &params);
        let program = if case == Case::NoChange { sync } else { copy };
        let mut function = Function::start(
            Command::new(program),
            &self.function_environment(environment),
        );
        for calls in 1..=MAX_CALLS {
            let mut response = match function.invoke_within(TIMEOUT, event.to_string().as_bytes()) {
                Response::Failure { name, message } => {
                    return Err(format!(
                        "{}: {name}: {message}\n{}",
                        program.display(),
                        function.output()
                    ));
                }
                response @ Response::Success(_) => response.json(),
            };
            if response["status"] == "pending" {
                event["resume"] = response["resume"].take();
                continue;
            }
            let wall_seconds = function.age().as_secs_f64();
            let usage = function.cpu_time().zip(function.peak_memory());
            let (cpu_time, peak_memory) = usage.ok_or(
                "this system does not report the CPU time and memory of processes; use Linux",
            )?;
            check_output(case, &response["output"])?;
            return Ok(Measurement {
                wall_seconds,
                cpu_seconds: cpu_time.as_secs_f64(),
                peak_memory,
                calls,
            });
        }
        Err(format!(
            "{} is still pending after {MAX_CALLS} calls\n{}",
            program.display(),
            function.output()
        ))
    }

    fn function_environment(&self, environment: &Environment) -> Vec<(String, String)> {
        let mut variables = self.aws.environment();
        variables.extend([
            ("AWS_ENDPOINT_URL_S3".into(), environment.endpoint.clone()),
            (
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE".into(),
                CONFIG.memory_mib.to_string(),
            ),
            (
                "STEPWARD_LOCAL_ROOT".into(),
                environment.root().display().to_string(),
            ),
        ]);
        variables
    }
}

/// Checks that the counts in a step's output are right.
fn check_output(case: Case, output: &Value) -> Result<(), String> {
    let (transferred, bytes, unchanged) = match case {
        Case::SmallUp | Case::SmallDown => (SMALL_FILES.0, SMALL_FILES.0 * SMALL_FILES.1, 0),
        Case::BigUp | Case::BigDown => (1, BIG_FILE, 0),
        Case::NoChange => (0, 0, SMALL_FILES.0),
    };
    let counts = ["transferred", "bytes", "unchanged", "deleted"]
        .map(|name| output[name].as_u64().unwrap_or_default());
    if counts == [transferred, bytes, unchanged, 0] {
        return Ok(());
    }
    Err(format!(
        "expected {transferred} transferred and {unchanged} unchanged, the output of the step is \
         {output}"
    ))
}
