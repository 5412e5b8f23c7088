//! The S3 steps with very many objects: more than fit in memory, and more than one call can handle.
//! The tests run the deployed binaries as Lambda does, against buckets whose listings are computed.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic, as tests do"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};
use stepward_testkit::build::{build_binaries, current_build, list_steps};
use stepward_testkit::envelope;
use stepward_testkit::fake_aws::{FakeAws, NumberedBucket};
use stepward_testkit::runtime_api::{Function, Response};

/// The timeout of one call. The step reserves 2 s of it, and starts no new work in the second half
/// of the rest.
const LIMIT: Duration = Duration::from_secs(8);
/// Calls after which a test gives up.
const MOST_CALLS: usize = 200;
/// Every call carries the resume state, and the data of a state machine is limited to 256 KiB.
const RESUME_LIMIT: usize = 10 * 1024;
const MEMORY_LIMIT: u64 = 128 * 1024 * 1024;

static BINARIES: LazyLock<BTreeMap<String, PathBuf>> = LazyLock::new(|| {
    let (profile, target_dir) = current_build().unwrap();
    let mut steps = list_steps().unwrap();
    steps.retain(|step| ["s3-delete", "s3-sync"].contains(&step.name.as_str()));
    build_binaries(&steps, &profile, &target_dir).unwrap()
});

/// The result of a step after all its calls.
struct StepResult {
    output: Value,
    calls: usize,
    peak_memory: u64,
}

fn aws() -> FakeAws {
    let aws = FakeAws::default();
    aws.add_customer("acme");
    aws.add_account("acme", "prod", "222222222222");
    aws
}

/// Calls a step until it is done. Between two calls, `between` receives the number of calls so far.
fn run(aws: &FakeAws, step: &str, params: &Value, mut between: impl FnMut(usize)) -> StepResult {
    let environment = [
        aws.environment(),
        vec![("STEPWARD_LINGER_SECONDS".into(), "0".into())],
    ]
    .concat();
    let mut function = Function::start(Command::new(&BINARIES[step]), &environment);
    let mut event = envelope("acme", "prod", params);
    for calls in 1..=MOST_CALLS {
        let response = function.invoke_within(LIMIT, event.to_string().as_bytes());
        let Response::Success(_) = &response else {
            panic!("call {calls}: {response:?}\n{}", function.output())
        };
        let mut response = response.json();
        if response["status"] == "done" {
            let peak_memory = function.peak_memory().unwrap();
            let output = response["output"].take();
            println!(
                "{step}: {calls} calls, {:?}, {} MiB, {output}",
                function.age(),
                peak_memory >> 20
            );
            return StepResult {
                output,
                calls,
                peak_memory,
            };
        }
        let resume = response["resume"].take();
        assert!(resume.to_string().len() < RESUME_LIMIT, "{resume}");
        event["resume"] = resume;
        between(calls);
    }
    panic!("not done after {MOST_CALLS} calls");
}

/// Returns how often each number was listed, at least and at most.
fn listing_counts(pages: &[Range<u64>], numbers: Range<u64>) -> (i32, i32) {
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

/// Checks that all expected numbers were handled exactly once, and otherwise only numbers that
/// existed temporarily.
fn assert_handled_once(
    handled: &[u64],
    expected: impl Iterator<Item = u64>,
    is_temporary: impl Fn(u64) -> bool,
) {
    let unique: BTreeSet<_> = handled.iter().copied().collect();
    assert_eq!(unique.len(), handled.len(), "an object was handled twice");
    let expected: BTreeSet<_> = expected.collect();
    assert!(
        expected.is_subset(&unique),
        "an object was not handled: {:?}",
        expected.difference(&unique).next()
    );
    let unexpected = unique
        .difference(&expected)
        .find(|number| !is_temporary(**number));
    assert!(
        unexpected.is_none(),
        "an object was handled unexpectedly: {unexpected:?}"
    );
}

#[test]
fn a_sync_of_a_million_objects_needs_little_memory() {
    const OBJECTS: u64 = 1_000_000;
    let aws = aws();
    aws.add_numbered_bucket("source", NumberedBucket::new(0..OBJECTS, 1, |_| true));
    aws.add_numbered_bucket("destination", NumberedBucket::new(0..OBJECTS, 2, |_| true));
    let params =
        json!({ "source": "s3://source", "destination": "s3://destination", "delete": true });
    let ended = run(&aws, "s3-sync", &params, |_| {});
    let expected = json!({
        "transferred": 0,
        "bytes": 0,
        "deleted": 0,
        "unchanged": OBJECTS,
        "dry_run": false,
    });
    assert_eq!(ended.output, expected);
    assert!(ended.calls >= 3, "only {} calls", ended.calls);
    assert!(
        ended.peak_memory < MEMORY_LIMIT,
        "{} bytes",
        ended.peak_memory
    );
    for bucket in ["source", "destination"] {
        let pages = aws.bucket_activity(bucket).pages;
        // Each later call lists the pages again that the previous call had read in advance.
        assert!(
            pages.len() <= 1_000 + 3 * ended.calls,
            "{} pages, {} calls",
            pages.len(),
            ended.calls
        );
        let (least, most) = listing_counts(&pages, 0..OBJECTS);
        assert!(least >= 1 && most <= 2, "{bucket}: {least} to {most} times");
    }
}

#[test]
fn a_sync_handles_objects_that_change_between_calls() {
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
    aws.add_numbered_bucket("source", NumberedBucket::new(0..OBJECTS, 1, source(0)));
    aws.add_numbered_bucket(
        "destination",
        NumberedBucket::new(0..OBJECTS, 2, destination(0)),
    );
    // With 120 pages the sync needs several calls, even on a fast machine.
    aws.delay_calls("s3:ListObjectsV2", Duration::from_millis(80));
    let params =
        json!({ "source": "s3://source", "destination": "s3://destination", "delete": true });
    let ended = run(&aws, "s3-sync", &params, |calls| {
        aws.set_existing_objects("source", source(calls));
        aws.set_existing_objects("destination", destination(calls));
    });
    assert!(ended.calls >= 3, "only {} calls", ended.calls);
    let seen = aws.bucket_activity("destination");
    let only = |rest: u64| (0..OBJECTS).filter(move |number| number % 100 == rest);
    assert_eq!(ended.output["transferred"], seen.written.len());
    assert_eq!(ended.output["deleted"], seen.deleted.len());
    assert_eq!(ended.output["unchanged"], OBJECTS / 100 * 96);
    assert_handled_once(&seen.written, only(96), |number| number % 100 == 98);
    assert_handled_once(&seen.deleted, only(97), |number| number % 100 == 99);
    assert!(
        aws.bucket_activity("source").deleted.is_empty()
            && aws.bucket_activity("source").written.is_empty()
    );
}

#[test]
fn each_of_many_objects_is_deleted_once() {
    const OBJECTS: u64 = 100_000;
    let aws = aws();
    aws.add_numbered_bucket("old", NumberedBucket::new(0..OBJECTS, 1, |_| true));
    aws.delay_calls("s3:ListObjectsV2", Duration::from_millis(60));
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
    let seen = aws.bucket_activity("old");
    assert_handled_once(&seen.deleted, 0..OBJECTS, |_| false);
    // Each request deletes 1,000 objects, except the last one of a call.
    let requests = aws.calls("s3:DeleteObjects").len();
    assert!(requests <= 100 + ended.calls, "{requests} requests");
}
