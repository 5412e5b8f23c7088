//! Compares the S3 steps with the AWS CLI. A seed generates a random tree of files, random buckets
//! and one operation. Both sides run the operation from the same initial state.

mod case;
mod compare;
mod conditions;
pub mod explained;
mod files;
mod generate;
mod json_program;
mod kill;
mod links;
mod server;
mod sides;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use stepward_cli::workspace::Workspace;

pub use self::case::{Case, Operation, Verb};
pub use self::compare::{Difference, Subject};
pub use self::explained::{EXPLANATIONS, Explanation, explain};
pub use self::generate::generate_case;
pub use self::kill::{KillSummary, kill_repeatedly};

use self::compare::FinalState;
use self::server::Server;
use self::sides::{Cli, Outcome, Sandbox, Steps};
use crate::build;
use crate::run_dir::create_run_dir;

/// The maximum number of reports in a summary. Further differing seeds are only counted.
const REPORT_LIMIT: usize = 50;

/// The opponent of the AWS CLI in a comparison.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opponent {
    /// The steps.
    Steps,
    /// The AWS CLI itself. The results must be equal.
    Cli,
    /// The AWS CLI with a deliberate mistake, which depends on the seed. The comparison must find a
    /// difference.
    FaultyCli,
}

/// A deliberate mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mistake {
    /// The first matching filter decides, not the last one.
    Filters,
    /// Times of modification are ignored.
    Times,
    /// `--delete` is inverted.
    Delete,
    /// `--dryrun` is inverted.
    DryRun,
    /// `--recursive` is inverted.
    Recursive,
}

impl Mistake {
    /// All mistakes.
    pub const ALL: [Self; 5] = [
        Self::Filters,
        Self::Times,
        Self::Delete,
        Self::DryRun,
        Self::Recursive,
    ];

    /// Returns the mistake of a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self::ALL[usize::try_from(seed % Self::ALL.len() as u64).unwrap_or_default()]
    }

    fn apply_to(self, operation: &Operation) -> Operation {
        let mut operation = operation.clone();
        let is_sync = operation.verb == Verb::Sync;
        match self {
            Self::Filters => operation.filters.reverse(),
            // With this option the CLI ignores times.
            Self::Times => operation.size_only = is_sync,
            Self::Delete => operation.delete = is_sync && !operation.delete,
            Self::DryRun => operation.dry_run = !operation.dry_run,
            Self::Recursive => operation.recursive = !is_sync && !operation.recursive,
        }
        operation
    }
}

/// The result of a comparison over many seeds.
#[derive(Debug, Default)]
pub struct Summary {
    /// The number of operations by kind: all operations, those that succeeded with the CLI, and
    /// those that changed or planned a change.
    pub operations: BTreeMap<String, [usize; 3]>,
    /// The number of seeds with an explained difference, by reason.
    pub explained: BTreeMap<&'static str, usize>,
    /// Seeds with unexplained differences, each with a report.
    pub reports: Vec<(u64, String)>,
    /// The number of further seeds with unexplained differences.
    pub omitted_reports: usize,
}

/// The AWS CLI and its opponent, with their server and their sandboxes.
struct Comparison {
    dir: PathBuf,
    sandboxes: [Sandbox; 2],
    server: Server,
    cli: Cli,
    opponent: RunningOpponent,
}

enum RunningOpponent {
    Steps(Steps),
    Cli(Cli),
    FaultyCli(Cli),
}

/// The result of one seed.
struct SeedResult {
    kind: String,
    has_succeeded: bool,
    has_effect: bool,
    explained: Vec<&'static str>,
    report: Option<String>,
}

/// Runs the seeds on both sides, `jobs` at the same time, and compares the results. After each
/// seed, calls `on_progress` with the number of finished seeds.
///
/// # Errors
/// If a side cannot be started.
pub fn compare_seeds(
    seeds: impl IntoIterator<Item = u64>,
    jobs: usize,
    opponent: Opponent,
    on_progress: impl Fn(usize) + Sync,
) -> Result<Summary, String> {
    let workspace = Workspace::find().map_err(|error| error.to_string())?;
    let binaries = if opponent == Opponent::Steps {
        build_steps(&workspace)?
    } else {
        BTreeMap::new()
    };
    let seeds = Mutex::new(seeds.into_iter().collect::<Vec<_>>().into_iter());
    let summary = Mutex::new(Summary::default());
    let work = || -> Result<(), String> {
        let mut comparison = Comparison::start(&workspace, &binaries, opponent)?;
        loop {
            let next = lock(&seeds).next();
            let Some(seed) = next else {
                return comparison.remove_files();
            };
            let case = generate_case(seed);
            let result = match comparison.compare(&case) {
                Ok(result) => result,
                // The processes may be in an unknown state, so the next seed gets new ones.
                Err(error) => {
                    let failed = SeedResult::from_error(&case, &error);
                    comparison = Comparison::start(&workspace, &binaries, opponent)?;
                    failed
                }
            };
            let mut summary = lock(&summary);
            summary.add_result(seed, result);
            on_progress(summary.operations.values().map(|[all, ..]| all).sum());
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

/// Builds the binaries of the steps with the profile of this program, and returns their paths.
fn build_steps(workspace: &Workspace) -> Result<BTreeMap<String, PathBuf>, String> {
    let names = [Verb::Cp, Verb::Mv, Verb::Sync, Verb::Rm].map(Verb::step_name);
    let functions: Vec<_> = workspace
        .functions
        .iter()
        .filter(|function| names.contains(&function.name.as_str()))
        .cloned()
        .collect();
    let (profile, target_dir) = build::current_build()?;
    build::build_binaries(&functions, &profile, &target_dir)
}

impl Comparison {
    fn start(
        workspace: &Workspace,
        binaries: &BTreeMap<String, PathBuf>,
        opponent: Opponent,
    ) -> Result<Self, String> {
        let dir = create_run_dir(&workspace.local_cloud(), "s3")?;
        let sandboxes = ["one", "two"].map(|name| Sandbox::new(&dir, name));
        for sandbox in &sandboxes {
            std::fs::create_dir_all(sandbox.root())
                .map_err(|error| format!("{}: {error}", sandbox.root().display()))?;
        }
        let server = Server::start(workspace, &dir)?;
        let start_cli = |name: &str| Cli::start(workspace, &dir.join(name), &server.endpoint);
        let opponent = match opponent {
            Opponent::Steps => {
                RunningOpponent::Steps(Steps::start(binaries, &sandboxes[1], &server.endpoint)?)
            }
            Opponent::Cli => RunningOpponent::Cli(start_cli("second")?),
            Opponent::FaultyCli => RunningOpponent::FaultyCli(start_cli("second")?),
        };
        let cli = start_cli("first")?;
        Ok(Self {
            dir,
            sandboxes,
            server,
            cli,
            opponent,
        })
    }

    /// Stops all processes and removes their files. After an error the logs stay.
    fn remove_files(self) -> Result<(), String> {
        let dir = self.dir.clone();
        drop(self);
        std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))
    }

    fn compare(&mut self, case: &Case) -> Result<SeedResult, String> {
        fill_buckets(&mut self.server, &self.sandboxes, case)?;
        for sandbox in &self.sandboxes {
            create_files(sandbox, case)
                .map_err(|error| format!("creating the files failed: {error}"))?;
        }

        let files_before = read_files(&self.sandboxes[0])?;
        let outcomes = [
            self.cli.run(&self.sandboxes[0], &case.operation)?,
            match &mut self.opponent {
                RunningOpponent::Steps(steps) => steps.run(&self.sandboxes[1], &case.operation)?,
                RunningOpponent::Cli(cli) => cli.run(&self.sandboxes[1], &case.operation)?,
                RunningOpponent::FaultyCli(cli) => cli.run(
                    &self.sandboxes[1],
                    &Mistake::from_seed(case.seed).apply_to(&case.operation),
                )?,
            },
        ];
        let s3 = self.server.read_contents()?;
        let files = [
            read_files(&self.sandboxes[0])?,
            read_files(&self.sandboxes[1])?,
        ];

        let has_effect = files[0] != files_before
            || !outcomes[0].planned.is_empty()
            || ["a", "b"]
                .iter()
                .zip(&case.buckets)
                .any(|(bucket, objects_before)| {
                    let objects = s3.buckets.get(&self.sandboxes[0].bucket(bucket));
                    // A written object has today's date.
                    objects.is_none_or(|objects| {
                        objects.len() != objects_before.len()
                            || objects.iter().any(|(key, object)| {
                                !compare::is_unchanged(objects_before, key, object)
                            })
                    })
                });

        let [cli_files, opponent_files] = files;
        let [cli_sandbox, opponent_sandbox] = &self.sandboxes;
        let states = [
            FinalState {
                sandbox: cli_sandbox,
                outcome: &outcomes[0],
                files: cli_files,
            },
            FinalState {
                sandbox: opponent_sandbox,
                outcome: &outcomes[1],
                files: opponent_files,
            },
        ];
        let differences = compare::find_differences(case, &states, &s3);
        let (explained, unexplained): (Vec<_>, Vec<_>) = differences
            .iter()
            .map(|difference| (explain(case, difference), difference))
            .partition(|(reason, _)| reason.is_some());
        let mut explained: Vec<_> = explained
            .into_iter()
            .filter_map(|(reason, _)| reason)
            .collect();
        explained.sort_unstable();
        explained.dedup();
        let report = (!unexplained.is_empty()).then(|| {
            let unexplained: Vec<_> = unexplained
                .iter()
                .map(|(_, difference)| *difference)
                .collect();
            format_report(case, &unexplained, &outcomes)
        });

        Ok(SeedResult {
            kind: case.operation.kind(),
            has_succeeded: outcomes[0].has_succeeded,
            has_effect,
            explained,
            report,
        })
    }
}

impl SeedResult {
    /// The result of a seed that could not be compared.
    fn from_error(case: &Case, error: &str) -> Self {
        let report = Some(format!("seed {}: {}\n  {error}", case.seed, case.operation));
        Self {
            kind: case.operation.kind(),
            has_succeeded: false,
            has_effect: false,
            explained: Vec::new(),
            report,
        }
    }
}

impl Summary {
    fn add_result(&mut self, seed: u64, result: SeedResult) {
        let counts = self.operations.entry(result.kind).or_default();
        for (count, is_counted) in
            counts
                .iter_mut()
                .zip([true, result.has_succeeded, result.has_effect])
        {
            *count += usize::from(is_counted);
        }
        for reason in result.explained {
            *self.explained.entry(reason).or_default() += 1;
        }
        match result.report {
            Some(report) if self.reports.len() < REPORT_LIMIT => self.reports.push((seed, report)),
            Some(_) => self.omitted_reports += 1,
            None => {}
        }
    }

    /// Returns the number of seeds.
    #[must_use]
    pub fn seed_count(&self) -> usize {
        self.operations.values().map(|[all, ..]| all).sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (_, report) in &self.reports {
            writeln!(f, "{report}\n")?;
        }
        writeln!(f, "{} seeds", self.seed_count())?;
        writeln!(
            f,
            "{:<20} {:>6} {:>10} {:>10}",
            "operation", "runs", "succeeded", "effective"
        )?;
        for (kind, [all, succeeded, effective]) in &self.operations {
            writeln!(f, "{kind:<20} {all:>6} {succeeded:>10} {effective:>10}")?;
        }
        for (reason, count) in &self.explained {
            writeln!(f, "{count} seeds differ for a known reason: {reason}")?;
        }
        write!(
            f,
            "{} seeds differ without an explanation",
            self.reports.len() + self.omitted_reports
        )
    }
}

/// Creates the buckets of a case in both sandboxes.
fn fill_buckets(server: &mut Server, sandboxes: &[Sandbox; 2], case: &Case) -> Result<(), String> {
    let buckets = sandboxes.iter().flat_map(|sandbox| {
        ["a", "b"]
            .iter()
            .zip(&case.buckets)
            .map(|(name, objects)| (sandbox.bucket(name), objects))
    });
    server.fill_buckets(buckets.collect::<Vec<_>>().into_iter())
}

/// Creates the files of a case in a sandbox.
fn create_files(sandbox: &Sandbox, case: &Case) -> std::io::Result<()> {
    files::clear_directory(&sandbox.outside())?;
    std::fs::write(sandbox.outside().join("secret.txt"), "secret")?;
    files::clear_directory(&sandbox.root())?;
    files::create_nodes(&sandbox.root(), &case.files, |target| {
        sandbox.with_names(target)
    })
}

/// Returns all files of a sandbox, by path.
fn read_files(sandbox: &Sandbox) -> Result<BTreeMap<String, files::Entry>, String> {
    let mut all_files = BTreeMap::new();
    for (name, directory) in [("root", sandbox.root()), ("outside", sandbox.outside())] {
        let entries = files::read_tree(&directory, &|text| sandbox.with_placeholders(text))
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        all_files.extend(
            entries
                .into_iter()
                .map(|(path, entry)| (format!("{name}/{path}"), entry)),
        );
    }
    // The two sandboxes were created at different times.
    if let Some(secret) = all_files.remove("outside/secret.txt") {
        all_files.insert("outside/secret.txt".into(), without_time(secret));
    }
    Ok(all_files)
}

fn without_time(entry: files::Entry) -> files::Entry {
    match entry {
        files::Entry::File(size, hash, _) => files::Entry::File(size, hash, 0),
        other => other,
    }
}

fn format_report(case: &Case, differences: &[&Difference], outcomes: &[Outcome; 2]) -> String {
    const LIMIT: usize = 12;
    let mut lines = vec![format!("seed {}: {}", case.seed, case.operation)];
    lines.extend(
        differences
            .iter()
            .take(LIMIT)
            .map(|difference| format!("  {difference}")),
    );
    if differences.len() > LIMIT {
        lines.push(format!("  … and {} more", differences.len() - LIMIT));
    }
    for (side, outcome) in ["CLI", "step"].into_iter().zip(outcomes) {
        let messages: String = outcome.messages.chars().take(1500).collect();
        lines.push(format!(
            "  output of the {side}: {}",
            messages.trim().replace('\n', "\n    ")
        ));
    }
    lines.join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
