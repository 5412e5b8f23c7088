//! The S3 steps decide as the AWS CLI does: both do the same operations on random trees and buckets, and what is there
//! after is compared. `cargo xtask s3-differential` runs more seeds.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what the tests share fails a test as the tests do")]

use stepward_tests::s3::{Against, Summary, Wrong, run};

/// Seeds that once differed, with what it was.
const CASES: &str = include_str!("cases.txt");
/// Seeds that are as good as any others.
const FRESH: std::ops::Range<u64> = 1_000_000..1_000_030;

fn kept() -> Vec<u64> {
    let lines = CASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            line.split_whitespace().next().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| panic!("{line}"))
        })
        .collect()
}

fn compared(seeds: impl IntoIterator<Item = u64>, against: Against) -> Summary {
    run(seeds, 2, against, |_| {}).unwrap()
}

#[test]
fn the_cli_beside_itself_does_not_differ() {
    let summary = compared(0..40, Against::Itself);
    assert!(summary.found.is_empty(), "{summary}");
}

#[test]
fn a_wrong_decision_is_found() {
    for wrong in [Wrong::Filters, Wrong::Times, Wrong::Delete, Wrong::DryRun, Wrong::Recursive] {
        let summary = compared(0..40, Against::Wrong(wrong));
        assert!(!summary.found.is_empty(), "{wrong:?} is not seen: {summary}");
    }
}

#[test]
fn the_steps_decide_as_the_cli_does() {
    let summary = compared(kept().into_iter().chain(FRESH), Against::Steps);
    assert!(summary.found.is_empty(), "{summary}");
}
