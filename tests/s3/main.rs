//! The S3 steps have the same results as the AWS CLI. Both run the same operations on random files
//! and buckets, and the tests compare the results. `cargo xtask s3-differential` runs more seeds,
//! and `cargo xtask s3-kill` kills more processes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic, as tests do"
)]

use std::ops::Range;

use stepward_testkit::s3::{Mistake, Opponent, Summary, compare_seeds, kill_repeatedly};

/// Seeds that once differed, each with the reason.
const CASES: &str = include_str!("cases.txt");
/// Seeds without a special meaning.
const FRESH_SEEDS: Range<u64> = 1_000_000..1_000_030;
/// Seeds for the comparison of the AWS CLI with itself.
const CLI_SEEDS: Range<u64> = 0..10;
/// Seeds that reveal each deliberate mistake, two for each mistake.
const MISTAKE_SEEDS: [u64; 10] = [25, 70, 91, 146, 17, 122, 3, 8, 9, 24];

fn recorded_seeds() -> Vec<u64> {
    let lines = CASES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let seed = |line: &str| {
        line.split_whitespace()
            .next()
            .and_then(|seed| seed.parse().ok())
    };
    lines
        .map(|line| {
            seed(line).unwrap_or_else(|| {
                panic!(
                    "this line of cases.txt has no seed: \
             {line}"
                )
            })
        })
        .collect()
}

/// Runs one seed at a time, because the tests of this file run in parallel.
fn compare(seeds: impl IntoIterator<Item = u64>, opponent: Opponent) -> Summary {
    compare_seeds(seeds, 1, opponent, |_| {}).unwrap()
}

#[test]
fn the_steps_have_the_same_results_as_the_cli() {
    let summary = compare(
        recorded_seeds().into_iter().chain(FRESH_SEEDS),
        Opponent::Steps,
    );
    assert!(summary.reports.is_empty(), "{summary}");
    assert_eq!(
        summary.seed_count(),
        recorded_seeds().len() + FRESH_SEEDS.count()
    );
}

#[test]
fn the_cli_does_not_differ_from_itself() {
    let summary = compare(CLI_SEEDS, Opponent::Cli);
    assert!(summary.reports.is_empty(), "{summary}");
}

#[test]
fn every_deliberate_mistake_is_found() {
    let summary = compare(MISTAKE_SEEDS, Opponent::FaultyCli);
    for mistake in Mistake::ALL {
        assert!(
            summary
                .reports
                .iter()
                .any(|(seed, _)| Mistake::from_seed(*seed) == mistake),
            "the mistake {mistake:?} was not found: {summary}"
        );
    }
}

#[test]
fn a_killed_step_continues_with_the_same_result() {
    let summary = kill_repeatedly(1, 1, |_| {}).unwrap();
    assert!(summary.reports.is_empty(), "{}", summary.reports.join("\n"));
    let kills: usize = summary.operations.values().map(|[_, kills]| kills).sum();
    assert!(kills >= 3, "{summary:?}");
}
