//! What the S3 steps do with very many objects: more than memory should hold, or than one call has
//! time for. The binaries that a deployment runs, driven as Lambda drives them, against buckets
//! whose pages are made as they are asked for.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what the tests share fails a test as the tests do"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};
use stepward_testkit::build::{build, of_this_program, steps};
use stepward_testkit::envelope;
use stepward_testkit::runtime_api::{Answer, Function};
use stepward_testkit::stand_in::{Numbers, StandIn};

/// What Lambda gives one call here. The step keeps 2 s of it free, and begins nothing new in the
/// second half of the rest.
const LIMIT: Duration = Duration::from_secs(8);
/// Calls after which a test gives up.
const MOST_CALLS: usize = 200;
/// A resume travels with every call; a state machine carries 256 KiB in all.
const RESUME_LIMIT: usize = 10 * 1024;
const MEMORY_LIMIT: u64 = 128 * 1024 * 1024;

static BINARIES: LazyLock<BTreeMap<String, PathBuf>> = LazyLock::new(|| {
    let (profile, target_dir) = of_this_program().unwrap();
    let mut wanted = steps().unwrap();
    wanted.retain(|step| ["s3-delete", "s3-sync"].contains(&step.name.as_str()));
    build(&wanted, &profile, &target_dir).unwrap()
});

/// What a step has come to, over all its calls.
struct Ended {
    output: Value,
    calls: usize,
    peak_memory: u64,
}

fn aws() -> StandIn {
    let aws = StandIn::default();
    aws.add_customer("acme");
    aws.add_account("acme", "prod", "222222222222");
    aws
}

/// Calls a step until it is done; before every call but the first, `between` gets the number of
/// those that were.
fn run(aws: &StandIn, step: &str, params: &Value, mut between: impl FnMut(usize)) -> Ended {
    let environment = [
        aws.environment(),
        vec![("STEPWARD_LINGER_SECONDS".into(), "0".into())],
    ]
    .concat();
    let mut function = Function::start(Command::new(&BINARIES[step]), &environment);
    let mut event = envelope("acme", "prod", params);
    for calls in 1..=MOST_CALLS {
        let answer = function.invoke_within(LIMIT, event.to_string().as_bytes());
        let Answer::Success(_) = &answer else {
            panic!("call {calls}: {answer:?}\n{}", function.output())
        };
        let mut answer = answer.json();
        if answer["status"] == "done" {
            let peak_memory = function.peak_memory().unwrap();
            let output = answer["output"].take();
            println!(
                "{step}: {calls} calls, {:?}, {} MiB, {output}",
                function.age(),
                peak_memory >> 20
            );
            return Ended {
                output,
                calls,
                peak_memory,
            };
        }
        let resume = answer["resume"].take();
        assert!(resume.to_string().len() < RESUME_LIMIT, "{resume}");
        event["resume"] = resume;
        between(calls);
    }
    panic!("not done after {MOST_CALLS} calls");
}

/// How often each number was listed, at least and at most.
fn listed(pages: &[Range<u64>], numbers: Range<u64>) -> (i32, i32) {
    let mut ends = BTreeMap::from([(numbers.start, 0), (numbers.end, 0)]);
    for page in pages.iter().filter(|page| !page.is_empty()) {
        *ends.entry(page.start).or_insert(0) += 1;
        *ends.entry(page.end).or_insert(0) -= 1;
    }
    let times = ends
        .range(numbers.start..numbers.end)
        .scan(0, |times, (_, more)| {
            *times += more;
            Some(*times)
        });
    times.fold((i32::MAX, 0), |(least, most), times| {
        (least.min(times), most.max(times))
    })
}

/// All of these numbers were done, none of them twice, and no others but those that came and went.
fn assert_once(
    done: &[u64],
    wanted: impl Iterator<Item = u64>,
    came_and_went: impl Fn(u64) -> bool,
) {
    let once: BTreeSet<_> = done.iter().copied().collect();
    assert_eq!(once.len(), done.len(), "something was done twice");
    let wanted: BTreeSet<_> = wanted.collect();
    assert!(
        wanted.is_subset(&once),
        "missed: {:?}",
        wanted.difference(&once).next()
    );
    let more = once
        .difference(&wanted)
        .find(|number| !came_and_went(**number));
    assert!(more.is_none(), "there was no reason for {more:?}");
}

#[test]
fn a_million_objects_on_both_sides_are_compared_within_little_memory_over_several_calls() {
    const OBJECTS: u64 = 1_000_000;
    let aws = aws();
    aws.add_numbers("source", Numbers::new(0..OBJECTS, 1, |_| true));
    aws.add_numbers("destination", Numbers::new(0..OBJECTS, 2, |_| true));
    let params =
        json!({ "source": "s3://source", "destination": "s3://destination", "delete": true });
    let ended = run(&aws, "s3-sync", &params, |_| {});
    let nothing_but = json!({ "transferred": 0, "bytes": 0, "deleted": 0, "unchanged": OBJECTS, "dry_run": false });
    assert_eq!(ended.output, nothing_but);
    assert!(ended.calls >= 3, "only {} calls", ended.calls);
    assert!(
        ended.peak_memory < MEMORY_LIMIT,
        "{} bytes",
        ended.peak_memory
    );
    for bucket in ["source", "destination"] {
        let pages = aws.seen(bucket).pages;
        // Every call but the first lists again what the one before had read ahead.
        assert!(
            pages.len() <= 1_000 + 3 * ended.calls,
            "{} pages, {} calls",
            pages.len(),
            ended.calls
        );
        let (least, most) = listed(&pages, 0..OBJECTS);
        assert!(least >= 1 && most <= 2, "{bucket}: {least} to {most} times");
    }
}

#[test]
fn what_comes_and_goes_between_calls_makes_a_sync_neither_miss_nor_repeat_what_stays() {
    const OBJECTS: u64 = 60_000;
    let source = |call: usize| {
        move |number| match number % 100 {
            97 | 99 => false,
            98 => call.is_multiple_of(2),
            _ => true,
        }
    };
    let destination = |call: usize| {
        move |number| match number % 100 {
            96 | 98 => false,
            99 => call.is_multiple_of(2),
            _ => true,
        }
    };
    let aws = aws();
    aws.add_numbers("source", Numbers::new(0..OBJECTS, 1, source(0)));
    aws.add_numbers("destination", Numbers::new(0..OBJECTS, 2, destination(0)));
    // 120 pages: several calls however fast the machine is.
    aws.slow("s3:ListObjectsV2", Duration::from_millis(80));
    let params =
        json!({ "source": "s3://source", "destination": "s3://destination", "delete": true });
    let ended = run(&aws, "s3-sync", &params, |calls| {
        aws.set_numbers("source", source(calls));
        aws.set_numbers("destination", destination(calls));
    });
    assert!(ended.calls >= 3, "only {} calls", ended.calls);
    let seen = aws.seen("destination");
    let only = |rest: u64| (0..OBJECTS).filter(move |number| number % 100 == rest);
    assert_eq!(ended.output["transferred"], seen.written.len());
    assert_eq!(ended.output["deleted"], seen.deleted.len());
    assert_eq!(ended.output["unchanged"], OBJECTS / 100 * 96);
    assert_once(&seen.written, only(96), |number| number % 100 == 98);
    assert_once(&seen.deleted, only(97), |number| number % 100 == 99);
    assert!(aws.seen("source").deleted.is_empty() && aws.seen("source").written.is_empty());
}

#[test]
fn a_hundred_thousand_objects_are_deleted_once_each_over_several_calls() {
    const OBJECTS: u64 = 100_000;
    let aws = aws();
    aws.add_numbers("old", Numbers::new(0..OBJECTS, 1, |_| true));
    aws.slow("s3:ListObjectsV2", Duration::from_millis(60));
    let params = json!({ "uri": "s3://old/data", "recursive": true });
    let ended = run(&aws, "s3-delete", &params, |_| {});
    assert_eq!(
        (&ended.output["deleted"], &ended.output["unchanged"]),
        (&json!(OBJECTS), &json!(0))
    );
    assert!(ended.calls >= 2, "only {} calls", ended.calls);
    assert!(
        ended.peak_memory < MEMORY_LIMIT,
        "{} bytes",
        ended.peak_memory
    );
    let seen = aws.seen("old");
    assert_once(&seen.deleted, 0..OBJECTS, |_| false);
    // A thousand at a time, and less only where a call ends.
    let requests = aws.calls("s3:DeleteObjects").len();
    assert!(requests <= 100 + ended.calls, "{requests} requests");
}
