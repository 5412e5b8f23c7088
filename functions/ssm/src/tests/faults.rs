//! Tests of the engine with errors: rejected and lost requests, lists that are behind, and nodes on
//! the wrong platform.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::payload::Payload;
use crate::plan::Shell;
use crate::state::Digest;

fn rejection(code: &str, message: impl Into<String>) -> ErrorMetadata {
    ErrorMetadata::builder().code(code).message(message).build()
}

/// One call that must be pending. Returns its state and how long to wait.
async fn call_until_pending(
    plan: &Plan,
    ctx: &Context,
    resume: Option<&Resume>,
) -> (serde_json::Value, Duration) {
    match call_step(plan, ctx, resume).await.unwrap() {
        Progress::Pending {
            state, retry_after, ..
        } => (state, retry_after),
        Progress::Done(results) => panic!("done: {results:?}"),
    }
}

/// Calls the step from this state until it is done.
async fn run_from(
    mut state: serde_json::Value,
    plan: &Plan,
    ctx: &Context,
) -> Result<CommandResults, StepError> {
    for _ in 0..100 {
        match call_step(plan, ctx, Some(&resume_from(&state))).await? {
            Progress::Done(results) => return Ok(results),
            Progress::Pending { state: next, .. } => state = next,
        }
    }
    panic!("the run does not end")
}

/// A payload that counts how often it is prepared and cleaned up.
#[derive(Default)]
struct CountingPayload {
    prepared: AtomicUsize,
    cleaned_up: AtomicUsize,
    /// Whether cleaning up fails.
    fails_to_clean_up: bool,
    /// How many times it can be prepared; 0 for any number.
    max_prepared: usize,
}

impl Payload for CountingPayload {
    async fn prepare(&self, _: &Context, _: &mut Option<Digest>) -> Result<String, StepError> {
        if self.max_prepared > 0 && self.prepared.fetch_add(1, Relaxed) >= self.max_prepared {
            return Err(ErrorName::NotFound.with_message("the bucket is gone"));
        }
        Ok("uptime".into())
    }

    async fn clean_up(&self, _: &Context) -> Result<(), StepError> {
        self.cleaned_up.fetch_add(1, Relaxed);
        if self.fails_to_clean_up {
            Err(ErrorName::AccessDenied.with_message("removal denied"))
        } else {
            Ok(())
        }
    }
}

/// Calls a step with this payload until it is done.
async fn run_with_payload(
    plan: &Plan,
    payload: &CountingPayload,
    ctx: &Context,
) -> Result<CommandResults, StepError> {
    let mut resume = None;
    for _ in 0..100 {
        match engine::run(plan, payload, ctx, resume.as_ref()).await? {
            Progress::Done(results) => return Ok(results),
            Progress::Pending { state, .. } => resume = Some(resume_from(&state)),
        }
    }
    panic!("the run does not end")
}

#[tokio::test]
async fn a_rejected_batch_stops_sending_and_keeps_earlier_results() {
    for fail_on_error in [false, true] {
        let fake = FakeSsm::default();
        let (ctx, plan) = (
            fake.context(&[]),
            Plan {
                fail_on_error,
                ..plan(200, 100)
            },
        );
        let (state, _) = call_until_pending(&plan, &ctx, None).await;
        fake.lock().stuck_nodes = [node_id(0)].into();
        fake.lock().rejections = vec![rejection("AccessDeniedException", "no"); 9];
        let (state, _) = call_until_pending(&plan, &ctx, Some(&resume_from(&state))).await;
        let sends = fake.call_count("SendCommand");
        let (state, _) = call_until_pending(&plan, &ctx, Some(&resume_from(&state))).await;
        fake.lock().stuck_nodes.clear();
        match run_from(state, &plan, &ctx).await {
            Ok(results) => {
                let result_of = |number| {
                    (
                        results.nodes[&node_id(number)].status,
                        results.nodes[&node_id(number)].message.clone(),
                    )
                };
                assert_eq!(
                    (results.succeeded, results.failed, result_of(0).0),
                    (100, 100, Status::Succeeded)
                );
                let (status, message) = result_of(100);
                assert!(!fail_on_error && status == Status::NotStarted);
                assert!(
                    message.unwrap().contains(
                        "sending stopped because of an error: AWS denied ssm:SendCommand"
                    )
                );
            }
            Err(error) => {
                assert!(
                    fail_on_error && error.name == ErrorName::StepFailed,
                    "{error}"
                );
                assert!(
                    error.message.contains("100 not started")
                        && error.message.contains("AWS denied"),
                    "{error}"
                );
            }
        }
        assert_eq!(fake.call_count("SendCommand"), sends);
    }
}

#[tokio::test]
async fn a_rejection_before_the_first_command_fails_the_step() {
    for denied in ["ListCommands", "ListCommandInvocations"] {
        let fake = FakeSsm::default();
        fake.lock().denied_calls = [denied].into();
        let error = call_step(&plan(2, 2), &fake.context(&[]), None)
            .await
            .unwrap_err();
        assert_eq!(
            (error.name, fake.call_count("SendCommand")),
            (ErrorName::AccessDenied, 0),
            "{denied}"
        );
    }
}

#[tokio::test]
async fn a_rejection_does_not_hide_a_lost_request() {
    let fake = FakeSsm::default();
    // The last rejection comes first.
    fake.lock().rejections = vec![
        rejection("AccessDeniedException", "no"),
        rejection("RequestTimeout", "no"),
    ];
    let (ctx, plan) = (fake.context(&[]), plan(100, 100));
    let (state, _) = call_until_pending(&plan, &ctx, None).await;
    assert_eq!(run_from(state, &plan, &ctx).await.unwrap().succeeded, 100);
}

#[tokio::test]
async fn errors_after_sending_are_internal() {
    let fake = FakeSsm::default();
    let (ctx, plan) = (fake.context(&[]), plan(2, 2));
    let (state, _) = call_until_pending(&plan, &ctx, None).await;
    fake.lock().denied_calls = ["ListCommands"].into();
    let error = call_step(&plan, &ctx, Some(&resume_from(&state)))
        .await
        .unwrap_err();
    assert_eq!(error.name, ErrorName::Internal);
    assert!(
        error.message.contains("commands were sent") && error.message.contains("AWS denied"),
        "{error}"
    );
}

#[tokio::test]
async fn a_payload_that_fails_later_keeps_earlier_results() {
    let (fake, payload) = (
        FakeSsm::default(),
        CountingPayload {
            max_prepared: 1,
            ..CountingPayload::default()
        },
    );
    let results = run_with_payload(&plan(100, 50), &payload, &fake.context(&[]))
        .await
        .unwrap();
    assert_eq!(
        (results.succeeded, results.nodes[&node_id(50)].status),
        (50, Status::NotStarted)
    );
    assert!(
        results.nodes[&node_id(50)]
            .message
            .as_ref()
            .unwrap()
            .contains("the bucket is gone")
    );
}

#[tokio::test]
async fn a_failed_cleanup_is_logged_and_keeps_the_results() {
    let (fake, payload) = (
        FakeSsm::default(),
        CountingPayload {
            fails_to_clean_up: true,
            ..CountingPayload::default()
        },
    );
    let ctx = fake.context(&[]);
    assert_eq!(
        run_with_payload(&plan(2, 2), &payload, &ctx)
            .await
            .unwrap()
            .succeeded,
        2
    );
    assert!(
        testing::log_lines(&ctx)
            .join("")
            .contains("delete it: removal denied")
    );
}

#[tokio::test]
async fn the_payload_is_cleaned_up_only_when_the_step_ends() {
    let (fake, payload) = (FakeSsm::default(), CountingPayload::default());
    fake.lock().rejections = vec![rejection("RequestTimeout", "no"); 5];
    let error = run_with_payload(&plan(1, 1), &payload, &fake.context(&[]))
        .await
        .unwrap_err();
    assert_eq!(
        (error.name, payload.cleaned_up.load(Relaxed)),
        (ErrorName::TimedOut, 0)
    );
    fake.lock().rejections = vec![rejection("AccessDeniedException", "no")];
    run_with_payload(&plan(1, 1), &payload, &fake.context(&[]))
        .await
        .unwrap_err();
    assert_eq!(payload.cleaned_up.load(Relaxed), 1);
    run_with_payload(&plan(1, 1), &payload, &fake.context(&[]))
        .await
        .unwrap();
    assert_eq!(payload.cleaned_up.load(Relaxed), 2);
}

#[tokio::test]
async fn a_command_that_is_not_listed_yet_is_polled_again() {
    let fake = FakeSsm::default();
    let (ctx, plan) = (fake.context(&[]), plan(2, 2));
    let (state, _) = call_until_pending(&plan, &ctx, None).await;
    fake.lock().missing_commands = 1;
    let (state, _) = call_until_pending(&plan, &ctx, Some(&resume_from(&state))).await;
    assert_eq!(run_from(state, &plan, &ctx).await.unwrap().succeeded, 2);
}

#[tokio::test]
async fn a_command_that_ssm_lost_keeps_the_other_results() {
    let fake = FakeSsm::default();
    fake.lock().stuck_nodes = [node_id(0)].into();
    let (ctx, plan) = (fake.context(&[]), plan(60, 60));
    let (mut state, _) = call_until_pending(&plan, &ctx, None).await;
    // The command was sent more than a minute ago.
    let sent = state["batches"][0][2].as_i64().unwrap();
    state["batches"][0][2] = json!(sent - 61);
    fake.lock().missing_commands = 1;
    let results = run_from(state, &plan, &ctx).await.unwrap();
    assert_eq!(
        (
            results.succeeded,
            results.failed,
            results.nodes[&node_id(0)].status
        ),
        (59, 1, Status::Unknown)
    );
    assert!(
        testing::log_lines(&ctx)
            .join("")
            .contains("SSM no longer lists command")
    );
}

#[tokio::test]
async fn incomplete_results_are_read_again_before_a_node_is_unknown() {
    let fake = FakeSsm::default();
    let (ctx, plan) = (fake.context(&[]), plan(2, 2));
    let (mut state, _) = call_until_pending(&plan, &ctx, None).await;
    assert_eq!(run_to_end(&plan, &ctx).await.unwrap().0.succeeded, 2);
    // The state of a finished batch.
    state["batches"][0][5] = json!(1);
    fake.lock().missing_nodes = 1;
    let (next, wait) = call_until_pending(&plan, &ctx, Some(&resume_from(&state))).await;
    assert_eq!(wait, Duration::from_secs(5));
    assert_eq!(run_from(next, &plan, &ctx).await.unwrap().succeeded, 2);
    fake.lock().missing_nodes = usize::MAX;
    let before = fake.call_count("ListCommandInvocations");
    let results = run_from(state, &plan, &ctx).await.unwrap();
    assert_eq!(
        (
            results.nodes[&node_id(1)].status,
            fake.call_count("ListCommandInvocations") - before
        ),
        (Status::Unknown, 3)
    );
}

#[tokio::test]
async fn the_delivery_timeout_includes_the_turns_of_waiting_nodes() {
    let fake = FakeSsm::default();
    run_to_end(
        &Plan {
            timeout: 120,
            ..plan(50, 10)
        },
        &fake.context(&[]),
    )
    .await
    .unwrap();
    assert_eq!(fake.lock().commands[0].delivery_timeout, 600 + 4 * 120);
}

#[tokio::test]
async fn a_node_on_the_wrong_platform_is_skipped() {
    let fake = FakeSsm::default();
    fake.lock().windows_nodes = [node_id(0)].into();
    let (results, _) = run_to_end(&plan(3, 50), &fake.context(&[])).await.unwrap();
    assert_eq!(
        (results.nodes[&node_id(0)].status, results.succeeded),
        (Status::Unmanaged, 2)
    );
    assert!(
        results.nodes[&node_id(0)]
            .message
            .as_ref()
            .unwrap()
            .contains("pass the other `shell`")
    );
    assert_eq!(
        fake.lock().commands[0].instance_ids,
        [node_id(1), node_id(2)]
    );
    let plan = Plan {
        shell: Shell::Powershell,
        ..plan(3, 50)
    };
    assert_eq!(
        run_to_end(&plan, &FakeSsm::default().context(&[]))
            .await
            .unwrap()
            .0
            .succeeded,
        3
    );
}

#[tokio::test]
async fn a_node_whose_platform_ssm_rejects_is_skipped() {
    let fake = FakeSsm::default();
    let message = format!(
        "Cannot perform operation for instance id {} of platform type Windows",
        node_id(1)
    );
    fake.lock().rejections = vec![rejection("UnsupportedPlatformType", message)];
    let (results, _) = run_to_end(&plan(3, 50), &fake.context(&[])).await.unwrap();
    assert_eq!(
        (results.nodes[&node_id(1)].status, results.succeeded),
        (Status::Unmanaged, 2)
    );
}

#[tokio::test]
async fn commands_of_a_lost_call_count_for_max_errors() {
    let fake = FakeSsm::default();
    fake.lock().stuck_nodes = [node_id(0)].into();
    let (ctx, plan) = (
        fake.context(&[]),
        Plan {
            max_errors: Some(0),
            ..plan(100, 50)
        },
    );
    let (state, _) = call_until_pending(&plan, &ctx, None).await;
    // This call sends the second batch, and its response is lost.
    call_until_pending(&plan, &ctx, Some(&resume_from(&state))).await;
    assert_eq!(fake.lock().commands.len(), 2);
    {
        let mut ssm = fake.lock();
        ssm.stuck_nodes.clear();
        ssm.failing_nodes = [node_id(0)].into();
        ssm.finished_per_poll = 1;
    }
    let results = run_from(state, &plan, &ctx).await.unwrap();
    let status_of = |number| results.nodes[&node_id(number)].status;
    assert_eq!(
        [status_of(0), status_of(50), status_of(99)],
        [Status::Failed, Status::Succeeded, Status::NotStarted]
    );
    assert_eq!(
        (results.command_ids.len(), fake.lock().cancelled.len()),
        (2, 1)
    );
}
