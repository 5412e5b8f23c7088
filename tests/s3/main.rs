//! The S3 steps decide as the AWS CLI does: both do the same operations on random trees and
//! buckets, and what is there after is compared. `cargo xtask s3-differential` runs more seeds,
//! `cargo xtask s3-kill` more deaths.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what the tests share fails a test as the tests do"
)]

use std::ops::Range;

use stepward_testkit::s3::{Against, Summary, Wrong, kill, run};

/// Seeds that once differed, with what it was.
const CASES: &str = include_str!("cases.txt");
/// Seeds that are as good as any others.
const FRESH: Range<u64> = 1_000_000..1_000_030;
/// Seeds that the AWS CLI does twice.
const TWICE: Range<u64> = 0..10;
/// Seeds that have, among them, what each wrong decision shows by: two for each.
const WRONG: [u64; 10] = [25, 70, 91, 146, 17, 122, 3, 8, 9, 24];

fn kept() -> Vec<u64> {
    let lines = CASES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let seed = |line: &str| {
        line.split_whitespace()
            .next()
            .and_then(|seed| seed.parse().ok())
    };
    lines
        .map(|line| seed(line).unwrap_or_else(|| panic!("no seed: {line}")))
        .collect()
}

/// One seed after the other: the tests here run at once.
fn compared(seeds: impl IntoIterator<Item = u64>, against: Against) -> Summary {
    run(seeds, 1, against, |_| {}).unwrap()
}

#[test]
fn the_steps_decide_as_the_cli_does() {
    let summary = compared(kept().into_iter().chain(FRESH), Against::Steps);
    assert!(summary.found.is_empty(), "{summary}");
    assert_eq!(summary.seeds(), kept().len() + FRESH.count());
}

#[test]
fn the_cli_beside_itself_does_not_differ() {
    let summary = compared(TWICE, Against::Itself);
    assert!(summary.found.is_empty(), "{summary}");
}

#[test]
fn every_wrong_decision_is_found() {
    let summary = compared(WRONG, Against::Wrong);
    for wrong in Wrong::ALL {
        assert!(
            summary
                .found
                .iter()
                .any(|(seed, _)| Wrong::of(*seed) == wrong),
            "{wrong:?} is not seen: {summary}"
        );
    }
}

#[test]
fn a_process_that_is_killed_and_called_again_ends_as_one_that_lived() {
    let killed = kill(1, 1, |_| {}).unwrap();
    assert!(killed.found.is_empty(), "{}", killed.found.join("\n"));
    let deaths: usize = killed.operations.values().map(|[_, deaths]| deaths).sum();
    assert!(deaths >= 3, "{killed:?}");
}
