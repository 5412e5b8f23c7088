//! The S3 steps beside the AWS CLI, over any range of seeds.

use std::ops::Range;

use stepward_testkit::s3::{Against, draw, run};

/// Runs seeds; fails when one differs without an explanation.
pub(crate) fn compare(seeds: Range<u64>, jobs: usize, against: Against) -> Result<(), String> {
    let all = seeds.end - seeds.start;
    let summary = run(seeds, jobs, against, |done| {
        if done % 50 == 0 {
            eprintln!("{done} of {all} seeds");
        }
    })?;
    println!("{summary}");
    if summary.found.is_empty() {
        Ok(())
    } else {
        Err("both sides differ".into())
    }
}

/// Prints what seeds are.
pub(crate) fn show(seeds: Range<u64>) {
    for seed in seeds {
        let case = draw(seed);
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

/// Kills processes; fails when one that is called again ends otherwise than one that lived.
pub(crate) fn kill(times: u64, seed: u64) -> Result<(), String> {
    let killed = stepward_testkit::s3::kill(times, seed, |line| eprintln!("{line}"))?;
    for (kind, [runs, deaths]) in &killed.operations {
        println!("{kind}: {deaths} deaths in {runs} runs");
    }
    println!("{} calls answered before they were through", killed.pending);
    if killed.found.is_empty() {
        Ok(())
    } else {
        Err(killed.found.join("\n\n"))
    }
}
