//! Compares the S3 steps with the AWS CLI, for any range of seeds.

use std::ops::Range;

use stepward_testkit::s3::{Opponent, compare_seeds, generate_case, kill_repeatedly};

/// Runs the seeds. Fails if a seed has a difference without an explanation.
pub(crate) fn compare(seeds: Range<u64>, jobs: usize, opponent: Opponent) -> Result<(), String> {
    let total = seeds.end - seeds.start;
    let summary = compare_seeds(seeds, jobs, opponent, |done| {
        if done % 50 == 0 {
            eprintln!("{done} of {total} seeds");
        }
    })?;
    println!("{summary}");

    if summary.reports.is_empty() {
        Ok(())
    } else {
        Err("some seeds have unexplained differences; see the reports above".into())
    }
}

/// Prints the cases of the seeds.
pub(crate) fn print_cases(seeds: Range<u64>) {
    for seed in seeds {
        let case = generate_case(seed);
        println!("seed {seed}: {}", case.operation);
        for (path, node) in &case.files {
            println!("  {path:?}: {node:?}");
        }
        for (bucket, objects) in ["a", "b"].iter().zip(&case.buckets) {
            for (key, object) in objects {
                println!("  {bucket} {key:?}: {object:?}");
            }
        }
    }
}

/// Kills processes of the S3 steps. Fails if a step that was killed and called again has another
/// result than one that was not.
pub(crate) fn kill_steps(times: u64, seed: u64) -> Result<(), String> {
    let summary = kill_repeatedly(times, seed, |line| eprintln!("{line}"))?;
    for (kind, [runs, kills]) in &summary.operations {
        println!("{kind}: killed {kills} times in {runs} runs");
    }
    println!(
        "{} calls returned a pending response",
        summary.pending_calls
    );

    if summary.reports.is_empty() {
        Ok(())
    } else {
        Err(summary.reports.join("\n\n"))
    }
}
