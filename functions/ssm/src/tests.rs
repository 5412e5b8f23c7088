//! Tests of the engine with a fake of SSM.

mod buckets;
mod dispatch;
mod faults;

use std::time::Duration;

use aws_sdk_ssm::types::PingStatus;
use aws_smithy_types::error::ErrorMetadata;
use serde_json::json;
use stepward::node::{CommandResults, Status};
use stepward::{Context, ErrorName, Progress, Resume, StepError, testing};

use crate::engine;
use crate::payload::InlineCommand;
use crate::plan::Plan;
use crate::testing::FakeSsm;

pub(crate) fn node_id(number: usize) -> String {
    format!("i-{number:017}")
}

pub(crate) fn plan(nodes: usize, concurrency: usize) -> Plan {
    Plan {
        instance_ids: (0..nodes).map(node_id).collect(),
        concurrency,
        timeout: 3600,
        delivery_timeout: 600,
        fail_on_error: false,
        ..Plan::default()
    }
}

/// One call of a step.
async fn call_step(
    plan: &Plan,
    ctx: &Context,
    resume: Option<&Resume>,
) -> Result<Progress<CommandResults>, StepError> {
    engine::run(plan, &InlineCommand("uptime".into()), ctx, resume).await
}

fn resume_from(state: &serde_json::Value) -> Resume {
    stepward::testing::resume_from(state)
}

/// Calls the step until it is done. Returns the results and the largest size of its resume state.
pub(crate) async fn run_to_end(
    plan: &Plan,
    ctx: &Context,
) -> Result<(CommandResults, usize), StepError> {
    let (mut resume, mut largest) = (None, 0);
    for _ in 0..5000 {
        match call_step(plan, ctx, resume.as_ref()).await? {
            Progress::Done(results) => return Ok((results, largest)),
            Progress::Pending { state, .. } => {
                largest = largest.max(state.to_string().len());
                resume = Some(resume_from(&state));
            }
        }
    }
    panic!("the run does not end")
}

#[tokio::test]
async fn ten_thousand_nodes_need_few_requests_and_a_small_state() {
    let fake = FakeSsm::default();
    let (results, largest) = run_to_end(&plan(10_000, 1000), &fake.context(&[]))
        .await
        .unwrap();
    assert_eq!(
        (results.succeeded, results.failed, results.command_ids.len()),
        (10_000, 0, 200)
    );
    assert_eq!(fake.call_count("SendCommand"), 200);
    assert_eq!(fake.call_count("GetCommandInvocation"), 0);
    let requests: usize = fake.lock().call_counts.values().sum();
    assert!(requests < 1500, "{:?}", fake.lock().call_counts);
    assert!(largest < 20_000, "{largest} bytes of state");
    assert!(fake.lock().peak_running <= 1000);
}

#[tokio::test]
async fn every_node_runs_once_and_concurrency_is_never_exceeded() {
    for (nodes, concurrency, finished_per_poll) in [
        (120, 100, 0),
        (300, 50, 7),
        (75, 10, 3),
        (60, 1, 0),
        (230, 70, 11),
    ] {
        let fake = FakeSsm::default();
        fake.lock().finished_per_poll = finished_per_poll;
        let (results, _) = run_to_end(&plan(nodes, concurrency), &fake.context(&[]))
            .await
            .unwrap();
        assert_eq!(results.succeeded, nodes);
        assert!(
            fake.lock().peak_running <= concurrency,
            "{} of {concurrency}",
            fake.lock().peak_running
        );
        let mut order = fake.lock().start_order.clone();
        order.sort();
        assert_eq!(order, (0..nodes).map(node_id).collect::<Vec<_>>());
        assert_eq!(fake.call_count("SendCommand"), nodes.div_ceil(50));
    }
}

#[tokio::test]
async fn concurrency_of_one_hundred_sends_two_batches_at_once() {
    let fake = FakeSsm::default();
    call_step(&plan(200, 100), &fake.context(&[]), None)
        .await
        .unwrap();
    let sent: Vec<_> = fake
        .lock()
        .commands
        .iter()
        .map(|command| (command.instance_ids.len(), command.concurrency))
        .collect();
    assert_eq!(sent, [(50, 50), (50, 50)]);
}

#[tokio::test]
async fn a_hanging_node_does_not_block_other_batches() {
    let fake = FakeSsm::default();
    fake.lock().stuck_nodes.insert(node_id(0));
    let (ctx, plan) = (fake.context(&[]), plan(200, 50));
    let mut resume = None;
    for _ in 0..60 {
        let Progress::Pending { state, .. } =
            call_step(&plan, &ctx, resume.as_ref()).await.unwrap()
        else {
            panic!("done")
        };
        resume = Some(resume_from(&state));
    }
    let ended: usize = fake
        .lock()
        .commands
        .iter()
        .map(|command| command.ended.len())
        .sum();
    assert_eq!(ended, 199);
    assert!(fake.lock().peak_running <= 50);
}

#[tokio::test]
async fn in_order_a_window_starts_after_the_previous_one_finished() {
    let fake = FakeSsm::default();
    fake.lock().finished_per_poll = 1;
    let plan = Plan {
        in_order: true,
        ..plan(130, 60)
    };
    let (ctx, mut resume) = (fake.context(&[]), None);
    loop {
        match call_step(&plan, &ctx, resume.as_ref()).await.unwrap() {
            Progress::Done(_) => break,
            Progress::Pending { state, .. } => resume = Some(resume_from(&state)),
        }
        let ssm = fake.lock();
        let running_position = ssm
            .commands
            .iter()
            .position(|command| command.count_running() > 0)
            .unwrap_or(ssm.commands.len());
        // Each window of 60 nodes is two commands: 50 and 10 nodes.
        assert!(
            ssm.commands.len() <= running_position / 2 * 2 + 2,
            "{running_position} of {}",
            ssm.commands.len()
        );
    }
    assert_eq!(fake.lock().start_order, plan.instance_ids);
    let sizes: Vec<_> = fake
        .lock()
        .commands
        .iter()
        .map(|command| command.instance_ids.len())
        .collect();
    assert_eq!(sizes, [50, 10, 50, 10, 10]);
}

#[tokio::test]
async fn max_errors_counts_over_all_batches() {
    let fake = FakeSsm::default();
    fake.lock().finished_per_poll = 5;
    fake.lock().failing_nodes = [0, 1, 51, 52, 53].map(node_id).into();
    let plan = Plan {
        max_errors: Some(2),
        ..plan(150, 20)
    };
    let (results, _) = run_to_end(&plan, &fake.context(&[])).await.unwrap();
    let count = |status| {
        results
            .nodes
            .values()
            .filter(|outcome| outcome.status == status)
            .count()
    };
    assert!(
        (3..=5).contains(&count(Status::Failed)),
        "{}",
        count(Status::Failed)
    );
    assert!(count(Status::NotStarted) > 0);
    assert_eq!(
        count(Status::Failed) + count(Status::NotStarted) + count(Status::Succeeded),
        150
    );
    // The limit of the second batch is what remains of `max_errors` after the failures in the
    // first batch.
    let error_limits: Vec<_> = fake
        .lock()
        .commands
        .iter()
        .map(|command| command.max_errors)
        .collect();
    assert_eq!(error_limits[0], 2);
    assert!(
        error_limits[1..].iter().all(|limit| *limit < 2),
        "{error_limits:?}"
    );
}

#[tokio::test]
async fn waiting_nodes_are_cancelled_after_too_many_errors() {
    let fake = FakeSsm::default();
    fake.lock().finished_per_poll = 1;
    fake.lock().failing_nodes = [0, 1].map(node_id).into();
    let plan = Plan {
        max_errors: Some(1),
        ..plan(100, 100)
    };
    let ctx = fake.context(&[]);
    let (results, _) = run_to_end(&plan, &ctx).await.unwrap();
    let cancelled = fake.lock().cancelled.clone();
    let [(command, ids)] = &cancelled[..] else {
        panic!("{cancelled:?}")
    };
    assert!(
        command.starts_with("00000001") && ids.contains(&node_id(99)),
        "{cancelled:?}"
    );
    assert_eq!(results.nodes[&node_id(99)].status, Status::NotStarted);
    assert!(
        results.nodes[&node_id(99)]
            .message
            .as_ref()
            .unwrap()
            .contains("the command failed on more than 1 other node (`max_errors`)")
    );
}

#[tokio::test]
async fn without_max_errors_all_nodes_run() {
    let fake = FakeSsm::default();
    fake.lock().failing_nodes = (0..60).map(node_id).collect();
    let (results, _) = run_to_end(&plan(120, 10), &fake.context(&[]))
        .await
        .unwrap();
    assert_eq!((results.succeeded, results.failed), (60, 60));
}

#[tokio::test]
async fn ineligible_nodes_are_skipped_and_reported() {
    let fake = FakeSsm::default();
    fake.lock().unavailable_nodes = [
        (node_id(0), None),
        (node_id(1), Some(PingStatus::ConnectionLost)),
        (node_id(2), None),
    ]
    .into();
    let ctx = fake.context(&["i-00000000000000002"]);
    let (results, _) = run_to_end(&plan(5, 50), &ctx).await.unwrap();
    let status_of = |number| results.nodes[&node_id(number)].status;
    assert_eq!(
        [status_of(0), status_of(1), status_of(2), status_of(3)],
        [
            Status::Unmanaged,
            Status::Offline,
            Status::Offline,
            Status::Succeeded
        ]
    );
    assert_eq!((results.succeeded, results.failed), (2, 3));
    assert_eq!(
        fake.lock().commands[0].instance_ids,
        [node_id(3), node_id(4)]
    );
    let log = testing::log_lines(&ctx).join("\n");
    assert!(
        log.contains(&format!("{} is not managed by SSM: ", node_id(0))),
        "{log}"
    );
    assert!(
        log.contains(&format!("{} succeeded (exit 0)", node_id(3))),
        "{log}"
    );
}

#[tokio::test]
async fn without_eligible_nodes_no_command_is_sent() {
    let fake = FakeSsm::default();
    fake.lock().unavailable_nodes = (0..2).map(|number| (node_id(number), None)).collect();
    let (results, _) = run_to_end(&plan(2, 50), &fake.context(&[])).await.unwrap();
    assert_eq!(
        (
            results.failed,
            results.command_ids.len(),
            fake.call_count("SendCommand")
        ),
        (2, 0, 0)
    );
}

#[tokio::test]
async fn a_node_that_disconnects_during_sending_is_skipped() {
    let fake = FakeSsm::default();
    let rejection = format!(
        "Instances [[{}]] not in a valid state for account 222222222222",
        node_id(1)
    );
    fake.lock().rejections = vec![
        ErrorMetadata::builder()
            .code("InvalidInstanceId")
            .message(rejection)
            .build(),
    ];
    let (results, _) = run_to_end(&plan(3, 50), &fake.context(&[])).await.unwrap();
    assert_eq!(
        (results.nodes[&node_id(1)].status, results.succeeded),
        (Status::Offline, 2)
    );
    assert_eq!(
        fake.lock().commands[0].instance_ids,
        [node_id(0), node_id(2)]
    );
}

#[tokio::test]
async fn after_a_lost_call_no_batch_is_sent_twice() {
    // The response of this call is lost, so the next call starts without its state.
    let fake = FakeSsm::default();
    let (ctx, plan) = (fake.context(&[]), plan(120, 100));
    call_step(&plan, &ctx, None).await.unwrap();
    assert_eq!(fake.call_count("SendCommand"), 2);
    let (results, _) = run_to_end(&plan, &ctx).await.unwrap();
    assert_eq!(
        (results.succeeded, fake.call_count("SendCommand")),
        (120, 3)
    );
}

#[tokio::test]
async fn a_send_without_response_is_searched_for_before_the_retry() {
    let fake = FakeSsm::default();
    fake.lock().lost_responses = 1;
    let (ctx, plan) = (fake.context(&[]), plan(50, 50));
    let Progress::Pending {
        state, retry_after, ..
    } = call_step(&plan, &ctx, None).await.unwrap()
    else {
        panic!("done")
    };
    assert_eq!(retry_after, Duration::from_secs(5));
    let progress = call_step(&plan, &ctx, Some(&resume_from(&state)))
        .await
        .unwrap();
    assert!(matches!(progress, Progress::Pending { .. }));
    let (results, _) = run_to_end(&plan, &ctx).await.unwrap();
    assert_eq!(
        (
            results.succeeded,
            fake.call_count("SendCommand"),
            fake.lock().commands.len()
        ),
        (50, 1, 1)
    );
}

#[tokio::test]
async fn sending_stops_after_five_retries_or_one_rejection() {
    let fake = FakeSsm::default();
    let rejection = |code: &str| ErrorMetadata::builder().code(code).message("no").build();
    fake.lock().rejections = vec![rejection("RequestTimeout"); 9];
    let error = run_to_end(&plan(1, 1), &fake.context(&[]))
        .await
        .unwrap_err();
    assert_eq!(
        (error.name, fake.call_count("SendCommand")),
        (ErrorName::TimedOut, 5)
    );
    fake.lock().rejections = vec![rejection("AccessDeniedException")];
    assert_eq!(
        run_to_end(&plan(1, 1), &fake.context(&[]))
            .await
            .unwrap_err()
            .name,
        ErrorName::AccessDenied
    );
}

#[tokio::test]
async fn each_finished_node_is_logged_once_and_immediately() {
    let fake = FakeSsm::default();
    fake.lock().finished_per_poll = 1;
    let (ctx, plan) = (fake.context(&[]), plan(3, 3));
    let mut resume = None;
    let mut polls = Vec::new();
    while let Progress::Pending {
        state, progress, ..
    } = call_step(&plan, &ctx, resume.as_ref()).await.unwrap()
    {
        let lines = testing::log_lines(&ctx);
        polls.push((
            lines
                .iter()
                .filter(|line| line.contains("succeeded (exit 0)"))
                .count(),
            progress,
        ));
        resume = Some(resume_from(&state));
    }
    let counts: Vec<_> = polls.iter().map(|(count, _)| *count).collect();
    assert_eq!(counts, [0, 1, 1]);
    assert_eq!(polls[2].1, "2 of 3 nodes finished, 0 failed");
}

#[tokio::test]
async fn texts_about_one_node_use_the_singular() {
    let fake = FakeSsm::default();
    fake.lock().failing_nodes = [node_id(0)].into();
    let plan = Plan {
        fail_on_error: true,
        max_errors: Some(0),
        ..plan(1, 1)
    };
    let ctx = fake.context(&[]);
    let Progress::Pending {
        state, progress, ..
    } = call_step(&plan, &ctx, None).await.unwrap()
    else {
        panic!("done")
    };
    assert_eq!(progress, "0 of 1 node finished, 0 failed");
    let error = call_step(&plan, &ctx, Some(&resume_from(&state)))
        .await
        .unwrap_err();
    assert!(
        error
            .message
            .starts_with("1 of 1 node did not succeed (1 failed): "),
        "{error}"
    );
    let log = testing::log_lines(&ctx).join("\n");
    for part in [
        " to 1 node\n",
        "1 node failed, more than",
        "0 of 1 node succeeded",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

#[tokio::test]
async fn cancel_stops_running_commands_and_those_of_a_lost_call() {
    let fake = FakeSsm::default();
    let (ctx, plan) = (fake.context(&[]), plan(200, 100));
    let Progress::Pending { state, .. } = call_step(&plan, &ctx, None).await.unwrap() else {
        panic!("done")
    };
    engine::cancel(
        &plan,
        &InlineCommand(String::new()),
        &ctx,
        Some(&resume_from(&state)),
    )
    .await
    .unwrap();
    assert_eq!(fake.lock().cancelled.len(), 2);
    fake.lock().cancelled.clear();
    engine::cancel(&plan, &InlineCommand(String::new()), &ctx, None)
        .await
        .unwrap();
    assert_eq!(fake.lock().cancelled.len(), 2);
}

#[tokio::test]
async fn the_error_has_counts_and_names_of_failed_nodes() {
    let fake = FakeSsm::default();
    fake.lock().failing_nodes = [node_id(1)].into();
    fake.lock().unavailable_nodes = [(node_id(0), None)].into();
    let plan = Plan {
        fail_on_error: true,
        ..plan(4, 50)
    };
    let error = run_to_end(&plan, &fake.context(&[])).await.unwrap_err();
    assert_eq!(error.name, ErrorName::StepFailed);
    for part in [
        "2 of 4 nodes did not succeed (1 failed, 1 unmanaged)",
        &format!("{} failed (exit 3)", node_id(1)),
    ] {
        assert!(error.message.contains(part), "{error}");
    }
}
