//! A step's process is killed while it works, and called again as Step Functions does: with the
//! last `resume`, until it is over. What is there then must be what is there after a run that
//! nothing has disturbed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepward_cli::workspace::Workspace;

use super::case::{Case, Content, Node, Object, Operation, Verb};
use super::compare::{After, compare};
use super::dice::Dice;
use super::files;
use super::server::{SeenObject, Server};
use super::sides::{Outcome, Place, aws, parameters};
use super::{look, prepare};
use crate::run_dir::new_run_dir;
use crate::runtime_api::{Answer, Function};

const MIB: u64 = 1024 * 1024;
/// What one operation may take, with all its deaths.
const ALL: Duration = Duration::from_mins(3);
/// What Step Functions waits at least before it tries again; what was sent before the death is
/// through by then.
const PAUSE: Duration = Duration::from_millis(300);

/// Source, destination, and whether it is all below them.
const WAYS: [(&str, &str, bool); 5] = [
    ("{root}/src", "s3://{b}/dst", true),
    ("s3://{a}/src/", "{root}/dst", true),
    ("s3://{a}/src", "s3://{b}/dst", true),
    ("{root}/src/large-1", "s3://{b}/dst/", false),
    ("s3://{a}/src/large-1", "{root}/dst/", false),
];

/// When a process dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// After this time.
    After(Duration),
    /// At this request to S3, before or after S3 has done what it asks for.
    AtRequest(u64, bool),
}

/// What the deaths came to.
#[derive(Debug, Default)]
pub struct Killed {
    /// Operations by kind: how many were run, and how many deaths they had.
    pub operations: BTreeMap<String, [usize; 2]>,
    /// How often a call answered that it is not over.
    pub pending: usize,
    /// What was not as it should be.
    pub found: Vec<String>,
}

/// One operation with the way that it goes.
struct Scenario {
    case: Case,
    undisturbed: Undisturbed,
}

/// How an operation ends when nothing happens to it.
struct Undisturbed {
    outcome: Outcome,
    took: Duration,
    requests: u64,
    objects: BTreeMap<String, BTreeMap<String, SeenObject>>,
    files: BTreeMap<String, files::Seen>,
}

struct Arena {
    places: [Place; 2],
    server: Server,
    binaries: BTreeMap<String, PathBuf>,
    executions: u64,
    pending: usize,
}

/// Kills so many processes of each of copy, move and sync, up, down and between buckets in turn.
pub fn kill(times: u64, seed: u64, tell: impl Fn(&str)) -> Result<Killed, String> {
    let workspace = Workspace::find().map_err(|error| error.to_string())?;
    let binaries = super::steps(&workspace)?;
    let dir = new_run_dir(&workspace.local_cloud(), "s3-kill")?;
    let places = ["one", "two"].map(|name| Place::new(&dir, name));
    for place in &places {
        std::fs::create_dir_all(place.root())
            .map_err(|error| format!("{}: {error}", place.root().display()))?;
    }
    let server = Server::start(&workspace, &dir)?;
    let mut arena = Arena {
        places,
        server,
        binaries,
        executions: 0,
        pending: 0,
    };
    let mut killed = Killed::default();
    let dice = &mut Dice::new(seed);
    for (first, verb) in [Verb::Cp, Verb::Mv, Verb::Sync].into_iter().enumerate() {
        let mut scenarios: BTreeMap<usize, Scenario> = BTreeMap::new();
        let mut deaths = 0;
        for round in 0.. {
            if deaths >= times {
                break;
            }
            let way = (first + round) % WAYS.len();
            let scenario = match scenarios.entry(way) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(arena.scenario(scenario(verb, WAYS[way]))?),
            };
            let kind = scenario.case.operation.kind();
            let (died, found) = arena.disturbed(scenario, dice)?;
            deaths += died;
            let counts = killed.operations.entry(kind.clone()).or_default();
            counts[0] += 1;
            counts[1] += usize::try_from(died).unwrap_or_default();
            tell(&format!("{kind}: {died} deaths"));
            killed.found.extend(found);
            // An operation that is over before its time to die comes would go on for ever.
            if round > 1000 {
                return Err(format!("{kind} is over before it can be killed"));
            }
        }
    }
    killed.pending = arena.pending;
    drop(arena);
    if killed.found.is_empty() {
        std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    Ok(killed)
}

fn scenario(verb: Verb, (source, destination, recursive): (&str, &str, bool)) -> Case {
    let then = 1_769_839_200;
    let mut files = BTreeMap::new();
    let mut buckets = [BTreeMap::new(), BTreeMap::new()];
    for directory in ["src", "dst"] {
        files.insert(directory.to_owned(), Node::Directory);
    }
    let mut add = |name: &str, size: u64, fill: u32| {
        let content = Content { size, fill };
        files.insert(format!("src/{name}"), Node::File(content, then, false));
        buckets[0].insert(format!("src/{name}"), object(content, then - 60));
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
        files.insert(format!("dst/{name}"), Node::File(content, then - 60, false));
        buckets[1].insert(format!("dst/{name}"), object(content, then));
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
    // A sync is always of all.
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

impl Arena {
    /// Runs an operation to its end in the first place, undisturbed.
    fn scenario(&mut self, case: Case) -> Result<Scenario, String> {
        // Once before: the server's first checksum of a content takes seconds.
        self.fill(&case)?;
        self.run(0, &case.operation, || None)?;
        self.fill(&case)?;
        let since = Instant::now();
        let (outcome, _) = self.run(0, &case.operation, || None)?;
        if !outcome.succeeded {
            return Err(format!(
                "{} fails undisturbed: {}",
                case.operation, outcome.said
            ));
        }
        let (took, requests) = (since.elapsed(), self.server.watched()?);
        let mut objects = self.server.look()?.buckets;
        objects.retain(|bucket, _| {
            ["a", "b"]
                .iter()
                .any(|which| self.places[0].bucket(which) == *bucket)
        });
        let files = look(&self.places[0])?;
        let undisturbed = Undisturbed {
            outcome,
            took,
            requests,
            objects,
            files,
        };
        Ok(Scenario { case, undisturbed })
    }

    /// Runs it once more from the beginning, in the second place, with deaths; how many they were,
    /// and what is otherwise.
    fn disturbed(
        &mut self,
        scenario: &Scenario,
        dice: &mut Dice,
    ) -> Result<(u64, Option<String>), String> {
        let Scenario { case, undisturbed } = scenario;
        self.fill(case)?;
        let mut left = dice.between(1, 3);
        let mut deaths = Vec::new();
        let (outcome, died) = {
            let next = || {
                if left == 0 {
                    return None;
                }
                left -= 1;
                let millis = u64::try_from(undisturbed.took.as_millis())
                    .unwrap_or(u64::MAX)
                    .max(1);
                let death = if dice.percent(50) {
                    Death::After(Duration::from_millis(dice.below(millis)))
                } else {
                    Death::AtRequest(
                        dice.between(1, undisturbed.requests.max(1)),
                        dice.percent(50),
                    )
                };
                deaths.push(death);
                Some(death)
            };
            self.run(1, &case.operation, next)?
        };
        let mut s3 = self.server.look()?;
        s3.buckets.extend(undisturbed.objects.clone());
        let after = [
            After {
                place: &self.places[0],
                outcome: &undisturbed.outcome,
                files: undisturbed.files.clone(),
            },
            After {
                place: &self.places[1],
                outcome: &outcome,
                files: look(&self.places[1])?,
            },
        ];
        let found = compare(case, &after, &s3);
        let report = (!found.is_empty()).then(|| {
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            format!(
                "{} with {deaths:?}:\n  {}\n  said: {}",
                case.operation,
                found.join("\n  "),
                outcome.said
            )
        });
        Ok((died, report))
    }

    fn fill(&mut self, case: &Case) -> Result<(), String> {
        super::fill(&mut self.server, &self.places, case)?;
        self.places.iter().try_for_each(|place| {
            prepare(place, case).map_err(|error| format!("making the files: {error}"))
        })
    }

    /// Calls the step until it is over. A process that dies is started anew and called with the
    /// last `resume`.
    fn run(
        &mut self,
        which: usize,
        operation: &Operation,
        mut next: impl FnMut() -> Option<Death>,
    ) -> Result<(Outcome, u64), String> {
        self.server.watch(None)?;
        let place = self.places[which].clone();
        let (_aws, environment) = aws(&place, &self.server.endpoint);
        let binary = self
            .binaries
            .get(operation.verb.step())
            .ok_or("the step was not built")?
            .clone();
        let start = || Function::start(Command::new(&binary), &environment);
        self.executions += 1;
        let mut envelope = crate::envelope("acme", "prod", &parameters(&place, operation));
        envelope["execution"]["id"] = format!("e{}", self.executions).into();
        let (since, mut died, mut said) = (Instant::now(), 0, Vec::new());
        let mut function = start();
        let mut death = next();
        loop {
            if since.elapsed() > ALL {
                return Err(format!("{operation} is not over after {ALL:?}: {said:?}"));
            }
            // Some calls are given so little time that they answer before they are through.
            let limit = if death.is_some() {
                Duration::from_secs(8)
            } else {
                Duration::from_mins(1)
            };
            if let Some(Death::AtRequest(request, is_answered)) = death {
                self.server
                    .watch(Some((function.id(), request, is_answered)))?;
            }
            function.send(limit, envelope.to_string().as_bytes());
            if let Some(Death::After(delay)) = death {
                std::thread::sleep(delay);
                function.kill();
            }
            match function.answer(limit) {
                Answer::Failure { name, message } if name == "Runtime.ExitError" => {
                    said.push(format!("{name}: {message}"));
                    died += u64::from(death.is_some());
                    if death.is_none() {
                        return Err(format!(
                            "{operation}: a process died by itself: {}",
                            function.output()
                        ));
                    }
                    std::thread::sleep(PAUSE);
                    function = start();
                    death = next();
                }
                Answer::Failure { name, message } => {
                    said.push(format!("{name}: {message}"));
                    return Ok((outcome(&place, false, &said), died));
                }
                answer @ Answer::Success(_) => {
                    let answer = answer.json();
                    said.push(format!("{} {}", answer["status"], answer["progress"]));
                    if answer["status"] == "done" {
                        return Ok((outcome(&place, true, &said), died));
                    }
                    self.pending += 1;
                    envelope["resume"] = answer["resume"].clone();
                }
            }
        }
    }
}

fn outcome(place: &Place, succeeded: bool, said: &[String]) -> Outcome {
    Outcome {
        succeeded,
        planned: Vec::new(),
        said: place.take(&said.join("\n")),
    }
}

impl Server {
    /// Counts requests anew, and kills a process at one of them: its ID, the request, and whether
    /// that is still answered.
    fn watch(&mut self, victim: Option<(u32, u64, bool)>) -> Result<(), String> {
        let (process, request, is_answered) =
            victim.map_or((None, 0, false), |(id, at, after)| (Some(id), at, after));
        let victim = json!({ "process": process, "request": request, "is_answered": is_answered });
        self.ask(&json!({ "kill": victim })).map(drop)
    }

    /// How many requests there were since.
    fn watched(&mut self) -> Result<u64, String> {
        let seen: Value = self.ask(&json!({ "look": true }))?;
        seen["requests"]
            .as_u64()
            .ok_or_else(|| "the S3 server counts nothing".into())
    }
}
