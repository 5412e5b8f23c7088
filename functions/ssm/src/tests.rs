//! The engine against an SSM in memory.

mod dispatch;
mod faults;

use std::time::Duration;

use aws_sdk_ssm::types::PingStatus;
use aws_smithy_types::error::ErrorMetadata;
use serde_json::json;
use stepward::node::Status;
use stepward::{Context, ErrorName, Progress, Resume, StepError, testing};

use crate::engine;
use crate::payload::Command;
use crate::plan::Plan;
use crate::testing::Fake;
use stepward::node::CommandResults;

pub(crate) fn id(number: usize) -> String {
    format!("i-{number:017}")
}

pub(crate) fn plan(nodes: usize, concurrency: usize) -> Plan {
    Plan {
        ids: (0..nodes).map(id).collect(),
        concurrency,
        timeout: 3600,
        delivery_timeout: 600,
        fail_on_error: false,
        ..Plan::default()
    }
}

/// One call.
async fn call(
    plan: &Plan,
    ctx: &Context,
    resume: Option<&Resume>,
) -> Result<Progress<CommandResults>, StepError> {
    engine::run(plan, &Command("uptime".into()), ctx, resume).await
}

fn resumed(state: &serde_json::Value) -> Resume {
    stepward::testing::resume(state)
}

/// Calls until it is done, and gives back the largest state on the way.
pub(crate) async fn all(plan: &Plan, ctx: &Context) -> Result<(CommandResults, usize), StepError> {
    let (mut resume, mut largest) = (None, 0);
    for _ in 0..5000 {
        match call(plan, ctx, resume.as_ref()).await? {
            Progress::Done(ran) => return Ok((ran, largest)),
            Progress::Pending { state, .. } => {
                largest = largest.max(state.to_string().len());
                resume = Some(resumed(&state));
            }
        }
    }
    panic!("it does not come to an end")
}

#[tokio::test]
async fn ten_thousand_nodes_take_two_hundred_commands_and_no_call_for_each_node() {
    let fake = Fake::default();
    let (ran, largest) = all(&plan(10_000, 1000), &fake.context(&[])).await.unwrap();
    assert_eq!(
        (ran.succeeded, ran.failed, ran.command_ids.len()),
        (10_000, 0, 200)
    );
    assert_eq!(fake.calls("SendCommand"), 200);
    assert_eq!(fake.calls("GetCommandInvocation"), 0);
    let all: usize = fake.lock().calls.values().sum();
    assert!(all < 1500, "{:?}", fake.lock().calls);
    assert!(largest < 20_000, "{largest} bytes of state");
    assert!(fake.lock().peak <= 1000);
}

#[tokio::test]
async fn never_more_run_at_once_than_may_and_every_node_runs_once() {
    for (nodes, concurrency, pace) in [
        (120, 100, 0),
        (300, 50, 7),
        (75, 10, 3),
        (60, 1, 0),
        (230, 70, 11),
    ] {
        let fake = Fake::default();
        fake.lock().pace = pace;
        let (ran, _) = all(&plan(nodes, concurrency), &fake.context(&[]))
            .await
            .unwrap();
        assert_eq!(ran.succeeded, nodes);
        assert!(
            fake.lock().peak <= concurrency,
            "{} of {concurrency}",
            fake.lock().peak
        );
        let mut order = fake.lock().order.clone();
        order.sort();
        assert_eq!(order, (0..nodes).map(id).collect::<Vec<_>>());
        assert_eq!(fake.calls("SendCommand"), nodes.div_ceil(50));
    }
}

#[tokio::test]
async fn a_hundred_at_once_are_two_batches_at_a_time() {
    let fake = Fake::default();
    call(&plan(200, 100), &fake.context(&[]), None)
        .await
        .unwrap();
    let sent: Vec<_> = fake
        .lock()
        .commands
        .iter()
        .map(|command| (command.ids.len(), command.concurrency))
        .collect();
    assert_eq!(sent, [(50, 50), (50, 50)]);
}

#[tokio::test]
async fn a_node_that_hangs_does_not_keep_other_batches_from_running() {
    let fake = Fake::default();
    fake.lock().stuck.insert(id(0));
    let (ctx, plan) = (fake.context(&[]), plan(200, 50));
    let mut resume = None;
    for _ in 0..60 {
        let Progress::Pending { state, .. } = call(&plan, &ctx, resume.as_ref()).await.unwrap()
        else {
            panic!("done")
        };
        resume = Some(resumed(&state));
    }
    let ended: usize = fake
        .lock()
        .commands
        .iter()
        .map(|command| command.ended.len())
        .sum();
    assert_eq!(ended, 199);
    assert!(fake.lock().peak <= 50);
}

#[tokio::test]
async fn in_order_a_window_begins_when_the_one_before_is_over() {
    let fake = Fake::default();
    fake.lock().pace = 1;
    let plan = Plan {
        in_order: true,
        ..plan(130, 60)
    };
    let (ctx, mut resume) = (fake.context(&[]), None);
    loop {
        match call(&plan, &ctx, resume.as_ref()).await.unwrap() {
            Progress::Done(_) => break,
            Progress::Pending { state, .. } => resume = Some(resumed(&state)),
        }
        let ssm = fake.lock();
        let going_on = ssm
            .commands
            .iter()
            .position(|command| command.running() > 0)
            .unwrap_or(ssm.commands.len());
        // Windows of 60 are commands of 50 and 10.
        assert!(
            ssm.commands.len() <= going_on / 2 * 2 + 2,
            "{going_on} of {}",
            ssm.commands.len()
        );
    }
    assert_eq!(fake.lock().order, plan.ids);
    let sizes: Vec<_> = fake
        .lock()
        .commands
        .iter()
        .map(|command| command.ids.len())
        .collect();
    assert_eq!(sizes, [50, 10, 50, 10, 10]);
}

#[tokio::test]
async fn errors_count_over_all_batches() {
    let fake = Fake::default();
    fake.lock().pace = 5;
    fake.lock().failing = [0, 1, 51, 52, 53].map(id).into();
    let plan = Plan {
        max_errors: Some(2),
        ..plan(150, 20)
    };
    let (ran, _) = all(&plan, &fake.context(&[])).await.unwrap();
    let of = |status| {
        ran.nodes
            .values()
            .filter(|outcome| outcome.status == status)
            .count()
    };
    assert!(
        (3..=5).contains(&of(Status::Failed)),
        "{}",
        of(Status::Failed)
    );
    assert!(of(Status::NotStarted) > 0);
    assert_eq!(
        of(Status::Failed) + of(Status::NotStarted) + of(Status::Succeeded),
        150
    );
    // Of the budget, the second batch was given what the first had left.
    let budgets: Vec<_> = fake
        .lock()
        .commands
        .iter()
        .map(|command| command.max_errors)
        .collect();
    assert_eq!(budgets[0], 2);
    assert!(budgets[1..].iter().all(|left| *left < 2), "{budgets:?}");
}

#[tokio::test]
async fn those_that_wait_in_other_batches_are_not_begun_when_too_many_failed() {
    let fake = Fake::default();
    fake.lock().pace = 1;
    fake.lock().failing = [0, 1].map(id).into();
    let plan = Plan {
        max_errors: Some(1),
        ..plan(100, 100)
    };
    let ctx = fake.context(&[]);
    let (ran, _) = all(&plan, &ctx).await.unwrap();
    let cancelled = fake.lock().cancelled.clone();
    let [(command, ids)] = &cancelled[..] else {
        panic!("{cancelled:?}")
    };
    assert!(
        command.starts_with("00000001") && ids.contains(&id(99)),
        "{cancelled:?}"
    );
    assert_eq!(ran.nodes[&id(99)].status, Status::NotStarted);
    assert!(
        ran.nodes[&id(99)]
            .message
            .as_ref()
            .unwrap()
            .contains("more than 1 others")
    );
}

#[tokio::test]
async fn without_a_limit_no_error_stops_others() {
    let fake = Fake::default();
    fake.lock().failing = (0..60).map(id).collect();
    let (ran, _) = all(&plan(120, 10), &fake.context(&[])).await.unwrap();
    assert_eq!((ran.succeeded, ran.failed), (60, 60));
}

#[tokio::test]
async fn who_cannot_take_it_is_told_apart_and_not_sent_to() {
    let fake = Fake::default();
    fake.lock().away = [
        (id(0), None),
        (id(1), Some(PingStatus::ConnectionLost)),
        (id(2), None),
    ]
    .into();
    let ctx = fake.context(&["i-00000000000000002"]);
    let (ran, _) = all(&plan(5, 50), &ctx).await.unwrap();
    let of = |number| ran.nodes[&id(number)].status;
    assert_eq!(
        [of(0), of(1), of(2), of(3)],
        [
            Status::Unmanaged,
            Status::Offline,
            Status::Offline,
            Status::Succeeded
        ]
    );
    assert_eq!((ran.succeeded, ran.failed), (2, 3));
    assert_eq!(fake.lock().commands[0].ids, [id(3), id(4)]);
    let log = testing::log(&ctx).join("\n");
    assert!(
        log.contains(&format!("{} is not managed by SSM: ", id(0))),
        "{log}"
    );
    assert!(
        log.contains(&format!("{} succeeded (exit 0)", id(3))),
        "{log}"
    );
}

#[tokio::test]
async fn nobody_who_can_take_it_is_a_result_and_no_command() {
    let fake = Fake::default();
    fake.lock().away = (0..2).map(|number| (id(number), None)).collect();
    let (ran, _) = all(&plan(2, 50), &fake.context(&[])).await.unwrap();
    assert_eq!(
        (ran.failed, ran.command_ids.len(), fake.calls("SendCommand")),
        (2, 0, 0)
    );
}

#[tokio::test]
async fn one_that_goes_away_while_it_is_sent_leaves_the_others() {
    let fake = Fake::default();
    let said = format!(
        "Instances [[{}]] not in a valid state for account 222222222222",
        id(1)
    );
    fake.lock().refuse = vec![
        ErrorMetadata::builder()
            .code("InvalidInstanceId")
            .message(said)
            .build(),
    ];
    let (ran, _) = all(&plan(3, 50), &fake.context(&[])).await.unwrap();
    assert_eq!(
        (ran.nodes[&id(1)].status, ran.succeeded),
        (Status::Offline, 2)
    );
    assert_eq!(fake.lock().commands[0].ids, [id(0), id(2)]);
}

#[tokio::test]
async fn a_lost_answer_sends_nothing_twice() {
    // The whole call was lost: the next comes without what it has answered.
    let fake = Fake::default();
    let (ctx, plan) = (fake.context(&[]), plan(120, 100));
    call(&plan, &ctx, None).await.unwrap();
    assert_eq!(fake.calls("SendCommand"), 2);
    let (ran, _) = all(&plan, &ctx).await.unwrap();
    assert_eq!((ran.succeeded, fake.calls("SendCommand")), (120, 3));
}

#[tokio::test]
async fn a_request_without_an_answer_is_looked_for_before_it_is_made_again() {
    let fake = Fake::default();
    fake.lock().lose = 1;
    let (ctx, plan) = (fake.context(&[]), plan(50, 50));
    let Progress::Pending {
        state, retry_after, ..
    } = call(&plan, &ctx, None).await.unwrap()
    else {
        panic!("done")
    };
    assert_eq!(retry_after, Duration::from_secs(5));
    let answer = call(&plan, &ctx, Some(&resumed(&state))).await.unwrap();
    assert!(matches!(answer, Progress::Pending { .. }));
    let (ran, _) = all(&plan, &ctx).await.unwrap();
    assert_eq!(
        (
            ran.succeeded,
            fake.calls("SendCommand"),
            fake.lock().commands.len()
        ),
        (50, 1, 1)
    );
}

#[tokio::test]
async fn sending_is_given_up_after_some_tries_and_refusals_at_once() {
    let fake = Fake::default();
    let refused = |code: &str| ErrorMetadata::builder().code(code).message("no").build();
    fake.lock().refuse = vec![refused("RequestTimeout"); 9];
    let error = all(&plan(1, 1), &fake.context(&[])).await.unwrap_err();
    assert_eq!(
        (error.name, fake.calls("SendCommand")),
        (ErrorName::TimedOut, 5)
    );
    fake.lock().refuse = vec![refused("AccessDeniedException")];
    assert_eq!(
        all(&plan(1, 1), &fake.context(&[])).await.unwrap_err().name,
        ErrorName::AccessDenied
    );
}

#[tokio::test]
async fn each_node_is_told_of_once_as_soon_as_it_is_seen() {
    let fake = Fake::default();
    fake.lock().pace = 1;
    let (ctx, plan) = (fake.context(&[]), plan(3, 3));
    let mut resume = None;
    let mut told = Vec::new();
    while let Progress::Pending {
        state, progress, ..
    } = call(&plan, &ctx, resume.as_ref()).await.unwrap()
    {
        let lines = testing::log(&ctx);
        told.push((
            lines
                .iter()
                .filter(|line| line.contains("succeeded (exit 0)"))
                .count(),
            progress,
        ));
        resume = Some(resumed(&state));
    }
    let counts: Vec<_> = told.iter().map(|(count, _)| *count).collect();
    assert_eq!(counts, [0, 1, 1]);
    assert_eq!(told[2].1, "2 of 3 nodes are over, 0 failed");
}

#[tokio::test]
async fn stopping_cancels_what_is_under_way_and_what_a_lost_call_has_sent() {
    let fake = Fake::default();
    let (ctx, plan) = (fake.context(&[]), plan(200, 100));
    let Progress::Pending { state, .. } = call(&plan, &ctx, None).await.unwrap() else {
        panic!("done")
    };
    engine::cancel(&plan, &Command(String::new()), &ctx, Some(&resumed(&state)))
        .await
        .unwrap();
    assert_eq!(fake.lock().cancelled.len(), 2);
    fake.lock().cancelled.clear();
    engine::cancel(&plan, &Command(String::new()), &ctx, None)
        .await
        .unwrap();
    assert_eq!(fake.lock().cancelled.len(), 2);
}

#[tokio::test]
async fn a_failure_says_how_many_and_who() {
    let fake = Fake::default();
    fake.lock().failing = [id(1)].into();
    fake.lock().away = [(id(0), None)].into();
    let plan = Plan {
        fail_on_error: true,
        ..plan(4, 50)
    };
    let error = all(&plan, &fake.context(&[])).await.unwrap_err();
    assert_eq!(error.name, ErrorName::StepFailed);
    for part in [
        "2 of 4 nodes did not succeed (1 failed, 1 unmanaged)",
        &format!("{} failed (exit 3)", id(1)),
    ] {
        assert!(error.message.contains(part), "{error}");
    }
}
