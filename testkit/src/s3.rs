//! The S3 steps beside the AWS CLI: random trees and buckets, one operation, done by both from
//! equal beginnings.

mod case;
mod compare;
mod dice;
mod draw;
pub mod explained;
mod files;
mod kill;
mod server;
mod sides;
mod talk;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use stepward_cli::workspace::Workspace;

pub use self::case::{Case, Operation, Verb};
pub use self::compare::{Difference, Of};
pub use self::draw::draw;
pub use self::explained::{EXPLAINED, Explained, why};
pub use self::kill::{Killed, kill};

use self::compare::After;
use self::server::Server;
use self::sides::{Cli, Outcome, Place, Steps};
use crate::build;
use crate::run_dir::new_run_dir;

/// Differing seeds that are kept; the rest of a run is only counted.
const SHOWN: usize = 50;

/// What the AWS CLI is compared with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Against {
    /// The steps.
    Steps,
    /// Itself, which must come to the same.
    Itself,
    /// Itself with a decision that is wrong, another for each seed, which must be found.
    Wrong,
}

/// A decision taken wrongly.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wrong {
    /// What the last filter says, the first says.
    Filters,
    /// Times do not count.
    Times,
    /// What is not in the source is left, or deleted, the other way round.
    Delete,
    /// A dry run is none, and the other way round.
    DryRun,
    /// It works on one where it should work on all, and the other way round.
    Recursive,
}

impl Wrong {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Filters,
        Self::Times,
        Self::Delete,
        Self::DryRun,
        Self::Recursive,
    ];

    /// The one that is tried with a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self::ALL[usize::try_from(seed % Self::ALL.len() as u64).unwrap_or_default()]
    }

    fn applied(self, operation: &Operation) -> Operation {
        let mut operation = operation.clone();
        let is_sync = operation.verb == Verb::Sync;
        match self {
            Self::Filters => operation.filters.reverse(),
            // The CLI's own word for it.
            Self::Times => operation.size_only = is_sync,
            Self::Delete => operation.delete = is_sync && !operation.delete,
            Self::DryRun => operation.dry_run = !operation.dry_run,
            Self::Recursive => operation.recursive = !is_sync && !operation.recursive,
        }
        operation
    }
}

/// What a run over many seeds came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many of each kind of operation there were: all, those that succeeded with the CLI, and
    /// those that changed or planned something.
    pub operations: BTreeMap<String, [usize; 3]>,
    /// How many seeds had a difference that is explained, by reason.
    pub explained: BTreeMap<&'static str, usize>,
    /// Seeds with differences that are not, each with a report.
    pub found: Vec<(u64, String)>,
    /// How many more there were.
    pub more: usize,
}

/// Both sides, their server and their places.
struct World {
    dir: PathBuf,
    places: [Place; 2],
    server: Server,
    cli: Cli,
    other: Other,
}

enum Other {
    Steps(Steps),
    /// The AWS CLI, and whether it is to decide wrongly.
    Cli(Cli, bool),
}

/// One seed's result.
struct Compared {
    kind: String,
    succeeded: bool,
    effective: bool,
    explained: Vec<&'static str>,
    report: Option<String>,
}

/// Runs seeds on both sides, so many at once, and compares. `tell` is told how far it is.
pub fn run(
    seeds: impl IntoIterator<Item = u64>,
    jobs: usize,
    against: Against,
    tell: impl Fn(usize) + Sync,
) -> Result<Summary, String> {
    let workspace = Workspace::find().map_err(|error| error.to_string())?;
    let binaries = if against == Against::Steps {
        steps(&workspace)?
    } else {
        BTreeMap::new()
    };
    let seeds = Mutex::new(seeds.into_iter().collect::<Vec<_>>().into_iter());
    let summary = Mutex::new(Summary::default());
    let work = || -> Result<(), String> {
        let mut world = World::start(&workspace, &binaries, against)?;
        loop {
            let next = locked(&seeds).next();
            let Some(seed) = next else { return world.end() };
            let case = draw(seed);
            let compared = match world.compare(&case) {
                Ok(compared) => compared,
                // Whatever is wrong with this world, the next seed gets a new one.
                Err(error) => {
                    let broken = Compared::broken(&case, &error);
                    world = World::start(&workspace, &binaries, against)?;
                    broken
                }
            };
            let mut summary = locked(&summary);
            summary.add(seed, compared);
            tell(summary.operations.values().map(|[all, ..]| all).sum());
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "a worker panicked".to_owned())?)
    })?;
    Ok(summary.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Where the steps' binaries are, built as this program was.
fn steps(workspace: &Workspace) -> Result<BTreeMap<String, PathBuf>, String> {
    let wanted = [Verb::Cp, Verb::Mv, Verb::Sync, Verb::Rm].map(Verb::step);
    let functions: Vec<_> = workspace
        .functions
        .iter()
        .filter(|function| wanted.contains(&function.name.as_str()))
        .cloned()
        .collect();
    let (profile, target_dir) = build::of_this_program()?;
    build::build(&functions, &profile, &target_dir)
}

impl World {
    fn start(
        workspace: &Workspace,
        binaries: &BTreeMap<String, PathBuf>,
        against: Against,
    ) -> Result<Self, String> {
        let dir = new_run_dir(&workspace.local_cloud(), "s3")?;
        let places = ["cli", "our"].map(|name| Place::new(&dir, name));
        for place in &places {
            std::fs::create_dir_all(place.root())
                .map_err(|error| format!("{}: {error}", place.root().display()))?;
        }
        let server = Server::start(workspace, &dir)?;
        let cli = |name: &str| Cli::start(workspace, &dir.join(name), &server.endpoint);
        let other = match against {
            Against::Steps => Other::Steps(Steps::start(binaries, &places[1], &server.endpoint)?),
            Against::Itself => Other::Cli(cli("second")?, false),
            Against::Wrong => Other::Cli(cli("second")?, true),
        };
        let cli = cli("first")?;
        Ok(Self {
            dir,
            places,
            server,
            cli,
            other,
        })
    }

    fn end(self) -> Result<(), String> {
        let dir = self.dir.clone();
        drop(self);
        // Nobody needs its logs when all went well.
        std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))
    }

    fn compare(&mut self, case: &Case) -> Result<Compared, String> {
        let whiches = ["a", "b"];
        fill(&mut self.server, &self.places, case)?;
        for place in &self.places {
            prepare(place, case).map_err(|error| format!("making the files: {error}"))?;
        }
        let before = look(&self.places[0])?;
        let outcomes = [
            self.cli.run(&self.places[0], &case.operation)?,
            match &mut self.other {
                Other::Steps(steps) => steps.run(&self.places[1], &case.operation)?,
                Other::Cli(cli, false) => cli.run(&self.places[1], &case.operation)?,
                Other::Cli(cli, true) => cli.run(
                    &self.places[1],
                    &Wrong::of(case.seed).applied(&case.operation),
                )?,
            },
        ];
        let s3 = self.server.look()?;
        let files = [look(&self.places[0])?, look(&self.places[1])?];
        let effective = files[0] != before
            || !outcomes[0].planned.is_empty()
            || whiches.iter().zip(&case.buckets).any(|(which, before)| {
                let after = s3.buckets.get(&self.places[0].bucket(which));
                // What was written has today's date.
                after.is_none_or(|after| {
                    after.len() != before.len()
                        || after
                            .iter()
                            .any(|(key, object)| !compare::is_as_before(before, key, object))
                })
            });
        let [cli_files, step_files] = files;
        let [place, other] = &self.places;
        let after = [
            After {
                place,
                outcome: &outcomes[0],
                files: cli_files,
            },
            After {
                place: other,
                outcome: &outcomes[1],
                files: step_files,
            },
        ];
        let found = compare::compare(case, &after, &s3);
        let (explained, unexplained): (Vec<_>, Vec<_>) = found
            .iter()
            .map(|difference| (why(case, difference), difference))
            .partition(|(why, _)| why.is_some());
        let mut explained: Vec<_> = explained.into_iter().filter_map(|(why, _)| why).collect();
        explained.sort_unstable();
        explained.dedup();
        let report = (!unexplained.is_empty()).then(|| {
            let unexplained: Vec<_> = unexplained
                .iter()
                .map(|(_, difference)| *difference)
                .collect();
            report(case, &unexplained, &outcomes)
        });
        Ok(Compared {
            kind: case.operation.kind(),
            succeeded: outcomes[0].succeeded,
            effective,
            explained,
            report,
        })
    }
}

impl Compared {
    /// One that could not be compared.
    fn broken(case: &Case, error: &str) -> Self {
        let report = Some(format!("seed {}: {}\n  {error}", case.seed, case.operation));
        Self {
            kind: case.operation.kind(),
            succeeded: false,
            effective: false,
            explained: Vec::new(),
            report,
        }
    }
}

impl Summary {
    fn add(&mut self, seed: u64, compared: Compared) {
        let counts = self.operations.entry(compared.kind).or_default();
        for (count, is_so) in counts
            .iter_mut()
            .zip([true, compared.succeeded, compared.effective])
        {
            *count += usize::from(is_so);
        }
        for reason in compared.explained {
            *self.explained.entry(reason).or_default() += 1;
        }
        match compared.report {
            Some(report) if self.found.len() < SHOWN => self.found.push((seed, report)),
            Some(_) => self.more += 1,
            None => {}
        }
    }

    /// How many seeds there were.
    #[must_use]
    pub fn seeds(&self) -> usize {
        self.operations.values().map(|[all, ..]| all).sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (_, report) in &self.found {
            writeln!(f, "{report}\n")?;
        }
        writeln!(f, "{} seeds", self.seeds())?;
        writeln!(
            f,
            "{:<20} {:>6} {:>10} {:>10}",
            "operation", "runs", "succeeded", "effective"
        )?;
        for (kind, [all, succeeded, effective]) in &self.operations {
            writeln!(f, "{kind:<20} {all:>6} {succeeded:>10} {effective:>10}")?;
        }
        for (reason, count) in &self.explained {
            writeln!(f, "explained in {count} seeds: {reason}")?;
        }
        write!(
            f,
            "{} seeds differ without an explanation",
            self.found.len() + self.more
        )
    }
}

/// Gives both places the buckets of a case.
fn fill(server: &mut Server, places: &[Place; 2], case: &Case) -> Result<(), String> {
    let buckets = places.iter().flat_map(|place| {
        ["a", "b"]
            .iter()
            .zip(&case.buckets)
            .map(|(which, objects)| (place.bucket(which), objects))
    });
    server.fill(buckets.collect::<Vec<_>>().into_iter())
}

fn prepare(place: &Place, case: &Case) -> std::io::Result<()> {
    files::empty(&place.outside())?;
    std::fs::write(place.outside().join("secret.txt"), "secret")?;
    files::empty(&place.root())?;
    files::make(&place.root(), &case.files, |target| place.put(target))
}

fn look(place: &Place) -> Result<BTreeMap<String, files::Seen>, String> {
    let mut all = BTreeMap::new();
    for (name, directory) in [("root", place.root()), ("outside", place.outside())] {
        let found = files::look(&directory, &|text| place.take(text));
        let found = found.map_err(|error| format!("{}: {error}", directory.display()))?;
        all.extend(
            found
                .into_iter()
                .map(|(path, seen)| (format!("{name}/{path}"), seen)),
        );
    }
    // Written by both at times of their own.
    all.remove("outside/secret.txt")
        .map(|secret| all.insert("outside/secret.txt".into(), without_time(secret)));
    Ok(all)
}

fn without_time(seen: files::Seen) -> files::Seen {
    match seen {
        files::Seen::File(size, hash, _) => files::Seen::File(size, hash, 0),
        other => other,
    }
}

fn report(case: &Case, found: &[&Difference], outcomes: &[Outcome; 2]) -> String {
    let mut lines = vec![format!("seed {}: {}", case.seed, case.operation)];
    lines.extend(
        found
            .iter()
            .take(12)
            .map(|difference| format!("  {difference}")),
    );
    if found.len() > 12 {
        lines.push(format!("  … and {} more", found.len() - 12));
    }
    for (side, outcome) in ["CLI", "step"].into_iter().zip(outcomes) {
        let said: String = outcome.said.chars().take(1500).collect();
        lines.push(format!(
            "  {side} said: {}",
            said.trim().replace('\n', "\n    ")
        ));
    }
    lines.join("\n")
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
