//! Kills the process of a step while it works, and calls the step again with the last `resume`, as
//! Step Functions does. The final files and objects must be the same as after a run without
//! interruptions.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepward_cli::workspace::Workspace;

use super::case::{Case, Content, Node, Object, Operation, Verb};
use super::compare::{FinalState, find_differences};
use super::files;
use super::server::{Server, StoredObject};
use super::sides::{Outcome, Sandbox, start_aws, step_parameters};
use super::{create_files, read_files};
use crate::random::SeededRandom;
use crate::run_dir::create_run_dir;
use crate::runtime_api::{Function, Response};

const MIB: u64 = 1024 * 1024;
/// The maximum time of one operation, including all kills.
const OPERATION_LIMIT: Duration = Duration::from_mins(3);
/// The pause before a new call. Step Functions waits at least this long. By then the server has
/// handled all requests of the killed process.
const RETRY_DELAY: Duration = Duration::from_millis(300);

/// Source, destination, and whether the operation is recursive.
const TRANSFERS: [(&str, &str, bool); 5] = [
    ("{root}/src", "s3://{b}/dst", true),
    ("s3://{a}/src/", "{root}/dst", true),
    ("s3://{a}/src", "s3://{b}/dst", true),
    ("{root}/src/large-1", "s3://{b}/dst/", false),
    ("s3://{a}/src/large-1", "{root}/dst/", false),
];

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
enum KillTime {
    /// After this time.
    After(Duration),
    /// At this request to S3. True means that S3 handles the request before the kill.
    AtRequest(u64, bool),
}

/// The result of a test with kills.
#[derive(Debug, Default)]
pub struct KillSummary {
    /// The number of runs and kills, by kind of operation.
    pub operations: BTreeMap<String, [usize; 2]>,
    /// The number of calls with a pending response.
    pub pending_calls: usize,
    /// A report for each run with another result than the run without interruptions.
    pub reports: Vec<String>,
}

/// A case, and the result of its run without interruptions.
struct Scenario {
    case: Case,
    reference: ReferenceRun,
}

/// A run without interruptions.
struct ReferenceRun {
    outcome: Outcome,
    duration: Duration,
    requests: u64,
    objects: BTreeMap<String, BTreeMap<String, StoredObject>>,
    files: BTreeMap<String, files::Entry>,
}

/// The running processes of a test with kills. The first sandbox is for runs without interruptions.
struct KillTest {
    sandboxes: [Sandbox; 2],
    server: Server,
    binaries: BTreeMap<String, PathBuf>,
    executions: u64,
    pending_calls: usize,
}

/// Kills each of copy, move and sync `times` times, in turn with uploads, downloads and copies
/// between buckets.
///
/// # Errors
/// If a process cannot be started, or if an operation does not end.
pub fn kill_repeatedly(
    times: u64,
    seed: u64,
    on_progress: impl Fn(&str),
) -> Result<KillSummary, String> {
    const MAX_ROUNDS: usize = 1000;
    let workspace = Workspace::find().map_err(|error| error.to_string())?;
    let binaries = super::build_steps(&workspace)?;
    let dir = create_run_dir(&workspace.local_cloud(), "s3-kill")?;
    let sandboxes = ["one", "two"].map(|name| Sandbox::new(&dir, name));
    for sandbox in &sandboxes {
        std::fs::create_dir_all(sandbox.root())
            .map_err(|error| format!("{}: {error}", sandbox.root().display()))?;
    }
    let server = Server::start(&workspace, &dir)?;
    let mut test = KillTest {
        sandboxes,
        server,
        binaries,
        executions: 0,
        pending_calls: 0,
    };

    let mut summary = KillSummary::default();
    let random = &mut SeededRandom::new(seed);
    for (first, verb) in [Verb::Cp, Verb::Mv, Verb::Sync].into_iter().enumerate() {
        let mut scenarios: BTreeMap<usize, Scenario> = BTreeMap::new();
        let mut total_kills = 0;
        for round in 0.. {
            if total_kills >= times {
                break;
            }
            let index = (first + round) % TRANSFERS.len();
            let scenario = match scenarios.entry(index) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    entry.insert(test.run_reference(create_case(verb, TRANSFERS[index]))?)
                }
            };
            let kind = scenario.case.operation.kind();
            let (kills, report) = test.run_with_kills(scenario, random)?;
            total_kills += kills;

            let counts = summary.operations.entry(kind.clone()).or_default();
            counts[0] += 1;
            counts[1] += usize::try_from(kills).unwrap_or_default();
            on_progress(&format!("{kind}: killed {kills} times"));
            summary.reports.extend(report);

            // Without this limit the loop would not end if the operation were always faster than
            // the kill.
            if round > MAX_ROUNDS {
                return Err(format!(
                    "{kind}: the operation always ended before it could be killed"
                ));
            }
        }
    }
    summary.pending_calls = test.pending_calls;
    drop(test);

    // After a failure the logs stay for the investigation.
    if summary.reports.is_empty() {
        std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    Ok(summary)
}

fn create_case(verb: Verb, (source, destination, recursive): (&str, &str, bool)) -> Case {
    let base_time = 1_769_839_200;
    let mut files = BTreeMap::new();
    let mut buckets = [BTreeMap::new(), BTreeMap::new()];
    for directory in ["src", "dst"] {
        files.insert(directory.to_owned(), Node::Directory);
    }
    let mut add = |name: &str, size: u64, fill: u32| {
        let content = Content { size, fill };
        files.insert(format!("src/{name}"), Node::File(content, base_time, false));
        buckets[0].insert(format!("src/{name}"), object(content, base_time - 60));
    };
    for number in 0..40 {
        add(
            &format!("small-{number:02}"),
            u64::from(number) * 1000,
            number,
        );
    }
    add("large-1", 17 * MIB + 1, 1);
    add("large-2", 9 * MIB, 2);
    for (name, size) in [("small-07", 7000), ("small-08", 1), ("extra", 10)] {
        let content = Content { size, fill: 7 };
        files.insert(
            format!("dst/{name}"),
            Node::File(content, base_time - 60, false),
        );
        buckets[1].insert(format!("dst/{name}"), object(content, base_time));
    }
    let operation = Operation {
        verb,
        source: if recursive {
            source
        } else {
            source.trim_end_matches("/large-1")
        }
        .into(),
        destination: destination.into(),
        recursive: recursive && verb != Verb::Sync,
        filters: Vec::new(),
        delete: verb == Verb::Sync,
        dry_run: false,
        size_only: false,
        storage_class: None,
        sse: None,
    };
    // A sync is always recursive.
    let source = if recursive || verb == Verb::Sync {
        operation.source.clone()
    } else {
        source.into()
    };
    Case {
        seed: 0,
        files,
        buckets,
        operation: Operation {
            source,
            ..operation
        },
    }
}

fn object(content: Content, modified: i64) -> Object {
    Object {
        content,
        modified,
        content_type: "binary/octet-stream".into(),
        storage_class: "STANDARD".into(),
        metadata: [("team".to_owned(), "ops".to_owned())].into(),
    }
}

impl KillTest {
    /// Runs an operation in the first sandbox without interruptions.
    fn run_reference(&mut self, case: Case) -> Result<Scenario, String> {
        // The first run does not count, because the server's first checksum of a content takes
        // seconds.
        self.reset_sandboxes(&case)?;
        self.run_operation(0, &case.operation, || None)?;

        self.reset_sandboxes(&case)?;
        let started = Instant::now();
        let (outcome, _) = self.run_operation(0, &case.operation, || None)?;
        if !outcome.has_succeeded {
            return Err(format!(
                "{} failed without any interruption: {}",
                case.operation, outcome.messages
            ));
        }
        let duration = started.elapsed();
        let requests = self.server.count_requests()?;
        let mut objects = self.server.read_contents()?.buckets;
        objects.retain(|bucket, _| {
            ["a", "b"]
                .iter()
                .any(|name| self.sandboxes[0].bucket(name) == *bucket)
        });
        let files = read_files(&self.sandboxes[0])?;
        let reference = ReferenceRun {
            outcome,
            duration,
            requests,
            objects,
            files,
        };
        Ok(Scenario { case, reference })
    }

    /// Runs the operation in the second sandbox and kills it one to three times. Returns the number
    /// of kills, and a report if the result differs from that of the reference run.
    fn run_with_kills(
        &mut self,
        scenario: &Scenario,
        random: &mut SeededRandom,
    ) -> Result<(u64, Option<String>), String> {
        let Scenario { case, reference } = scenario;
        self.reset_sandboxes(case)?;
        let mut kills_left = random.between(1, 3);
        let mut kill_times = Vec::new();
        let (outcome, kills) = {
            let next_kill = || {
                if kills_left == 0 {
                    return None;
                }
                kills_left -= 1;
                let millis = u64::try_from(reference.duration.as_millis())
                    .unwrap_or(u64::MAX)
                    .max(1);
                let kill_time = if random.percent(50) {
                    KillTime::After(Duration::from_millis(random.below(millis)))
                } else {
                    KillTime::AtRequest(
                        random.between(1, reference.requests.max(1)),
                        random.percent(50),
                    )
                };
                kill_times.push(kill_time);
                Some(kill_time)
            };
            self.run_operation(1, &case.operation, next_kill)?
        };

        let mut s3 = self.server.read_contents()?;
        s3.buckets.extend(reference.objects.clone());
        let states = [
            FinalState {
                sandbox: &self.sandboxes[0],
                outcome: &reference.outcome,
                files: reference.files.clone(),
            },
            FinalState {
                sandbox: &self.sandboxes[1],
                outcome: &outcome,
                files: read_files(&self.sandboxes[1])?,
            },
        ];
        let differences = find_differences(case, &states, &s3);
        let report = (!differences.is_empty()).then(|| {
            let lines: Vec<_> = differences.iter().map(ToString::to_string).collect();
            format!(
                "{}, killed {kill_times:?}: the result differs from that of a run without \
                 interruptions (shown as CLI)\n  {}\n  output: {}",
                case.operation,
                lines.join("\n  "),
                outcome.messages
            )
        });
        Ok((kills, report))
    }

    fn reset_sandboxes(&mut self, case: &Case) -> Result<(), String> {
        super::fill_buckets(&mut self.server, &self.sandboxes, case)?;
        self.sandboxes.iter().try_for_each(|sandbox| {
            create_files(sandbox, case)
                .map_err(|error| format!("creating the files failed: {error}"))
        })
    }

    /// Calls the step until it is done. After a kill, starts a new process and calls it with the
    /// last `resume`. Returns the outcome and the number of kills.
    fn run_operation(
        &mut self,
        sandbox_index: usize,
        operation: &Operation,
        mut next_kill: impl FnMut() -> Option<KillTime>,
    ) -> Result<(Outcome, u64), String> {
        self.server.set_victim(None)?;
        let sandbox = self.sandboxes[sandbox_index].clone();
        let (_aws, environment) = start_aws(&sandbox, &self.server.endpoint);
        let binary = self
            .binaries
            .get(operation.verb.step_name())
            .ok_or("the step was not built")?
            .clone();
        let start_function = || Function::start(Command::new(&binary), &environment);

        self.executions += 1;
        let mut envelope = crate::envelope("acme", "prod", &step_parameters(&sandbox, operation));
        envelope["execution"]["id"] = format!("e{}", self.executions).into();
        let (started, mut kills, mut messages) = (Instant::now(), 0, Vec::new());
        let mut function = start_function();
        let mut kill_time = next_kill();
        loop {
            if started.elapsed() > OPERATION_LIMIT {
                return Err(format!(
                    "{operation} has not ended after {OPERATION_LIMIT:?}: {messages:?}"
                ));
            }
            // A call that will be killed has so little time that it may return a pending response
            // before.
            let timeout = if kill_time.is_some() {
                Duration::from_secs(8)
            } else {
                Duration::from_mins(1)
            };
            if let Some(KillTime::AtRequest(request, has_response)) = kill_time {
                self.server
                    .set_victim(Some((function.id(), request, has_response)))?;
            }
            function.send_event(timeout, envelope.to_string().as_bytes());
            if let Some(KillTime::After(delay)) = kill_time {
                std::thread::sleep(delay);
                function.kill();
            }

            match function.wait_for_response(timeout) {
                Response::Failure { name, message } if name == "Runtime.ExitError" => {
                    messages.push(format!("{name}: {message}"));
                    if kill_time.is_none() {
                        return Err(format!(
                            "{operation}: the process ended without being killed: {}",
                            function.output()
                        ));
                    }
                    kills += 1;
                    std::thread::sleep(RETRY_DELAY);
                    function = start_function();
                    kill_time = next_kill();
                }
                Response::Failure { name, message } => {
                    messages.push(format!("{name}: {message}"));
                    return Ok((create_outcome(&sandbox, false, &messages), kills));
                }
                response @ Response::Success(_) => {
                    let response = response.json();
                    messages.push(format!("{} {}", response["status"], response["progress"]));
                    if response["status"] == "done" {
                        return Ok((create_outcome(&sandbox, true, &messages), kills));
                    }
                    self.pending_calls += 1;
                    envelope["resume"] = response["resume"].clone();
                }
            }
        }
    }
}

fn create_outcome(sandbox: &Sandbox, has_succeeded: bool, messages: &[String]) -> Outcome {
    Outcome {
        has_succeeded,
        planned: Vec::new(),
        messages: sandbox.with_placeholders(&messages.join("\n")),
    }
}

impl Server {
    /// Resets the count of requests, and sets the process to kill: its ID, the number of the
    /// request, and whether the server handles the request before the kill.
    fn set_victim(&mut self, victim: Option<(u32, u64, bool)>) -> Result<(), String> {
        let (process, request, has_response) = victim
            .map_or((None, 0, false), |(id, request, has_response)| {
                (Some(id), request, has_response)
            });
        let victim =
            json!({ "process": process, "request": request, "has_response": has_response });
        self.send_request(&json!({ "kill": victim })).map(drop)
    }

    /// Returns the number of requests since the last reset.
    fn count_requests(&mut self) -> Result<u64, String> {
        let contents: Value = self.send_request(&json!({ "look": true }))?;
        contents["requests"]
            .as_u64()
            .ok_or_else(|| "the S3 server returned no count of requests".into())
    }
}
