//! The engine where SSM refuses, comes behind, or has nodes that cannot take what is sent.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::payload::Payload;
use crate::plan::Shell;
use crate::state::Digest;

fn refusal(code: &str, said: impl Into<String>) -> ErrorMetadata {
    ErrorMetadata::builder().code(code).message(said).build()
}

/// One call that is not the last: what it hands to the next, and how long to wait.
async fn look(
    plan: &Plan,
    ctx: &Context,
    resume: Option<&Resume>,
) -> (serde_json::Value, Duration) {
    match call(plan, ctx, resume).await.unwrap() {
        Progress::Pending {
            state, retry_after, ..
        } => (state, retry_after),
        Progress::Done(ran) => panic!("done: {ran:?}"),
    }
}

/// Calls from a position until it is done.
async fn from(
    mut state: serde_json::Value,
    plan: &Plan,
    ctx: &Context,
) -> Result<CommandResults, StepError> {
    for _ in 0..100 {
        match call(plan, ctx, Some(&resumed(&state))).await? {
            Progress::Done(ran) => return Ok(ran),
            Progress::Pending { state: next, .. } => state = next,
        }
    }
    panic!("it does not come to an end")
}

/// A file in place of a command: it counts how often it is removed.
#[derive(Default)]
struct Kept {
    texts: AtomicUsize,
    removed: AtomicUsize,
    /// Whether it cannot be removed.
    stays: bool,
    /// How often it can be written; 0 for always.
    lasts: usize,
}

impl Payload for Kept {
    async fn text(&self, _: &Context, _: &mut Option<Digest>) -> Result<String, StepError> {
        if self.lasts > 0 && self.texts.fetch_add(1, Relaxed) >= self.lasts {
            return Err(ErrorName::NotFound.with_message("the bucket is gone"));
        }
        Ok("uptime".into())
    }

    async fn clean(&self, _: &Context) -> Result<(), StepError> {
        self.removed.fetch_add(1, Relaxed);
        if self.stays {
            Err(ErrorName::AccessDenied.with_message("it stays"))
        } else {
            Ok(())
        }
    }
}

/// Calls until it is done, with a file.
async fn with_file(plan: &Plan, file: &Kept, ctx: &Context) -> Result<CommandResults, StepError> {
    let mut resume = None;
    for _ in 0..100 {
        match engine::run(plan, file, ctx, resume.as_ref()).await? {
            Progress::Done(ran) => return Ok(ran),
            Progress::Pending { state, .. } => resume = Some(resumed(&state)),
        }
    }
    panic!("it does not come to an end")
}

#[tokio::test]
async fn a_refusal_after_others_were_sent_begins_no_more_and_waits_for_those() {
    for fail_on_error in [false, true] {
        let fake = Fake::default();
        let (ctx, plan) = (
            fake.context(&[]),
            Plan {
                fail_on_error,
                ..plan(200, 100)
            },
        );
        let (state, _) = look(&plan, &ctx, None).await;
        fake.lock().stuck = [id(0)].into();
        fake.lock().refuse = vec![refusal("AccessDeniedException", "no"); 9];
        let (state, _) = look(&plan, &ctx, Some(&resumed(&state))).await;
        let sends = fake.calls("SendCommand");
        let (state, _) = look(&plan, &ctx, Some(&resumed(&state))).await;
        fake.lock().stuck.clear();
        match from(state, &plan, &ctx).await {
            Ok(ran) => {
                let of = |number| {
                    (
                        ran.nodes[&id(number)].status,
                        ran.nodes[&id(number)].message.clone(),
                    )
                };
                assert_eq!(
                    (ran.succeeded, ran.failed, of(0).0),
                    (100, 100, Status::Succeeded)
                );
                let (status, message) = of(100);
                assert!(!fail_on_error && status == Status::NotStarted);
                assert!(
                    message
                        .unwrap()
                        .contains("no more could be sent: AWS denied ssm:SendCommand")
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
        assert_eq!(fake.calls("SendCommand"), sends);
    }
}

#[tokio::test]
async fn a_refusal_before_anything_was_sent_is_the_steps() {
    for denied in ["ListCommands", "ListCommandInvocations"] {
        let fake = Fake::default();
        fake.lock().denied = [denied].into();
        let error = call(&plan(2, 2), &fake.context(&[]), None)
            .await
            .unwrap_err();
        assert_eq!(
            (error.name, fake.calls("SendCommand")),
            (ErrorName::AccessDenied, 0),
            "{denied}"
        );
    }
}

#[tokio::test]
async fn a_refusal_does_not_hide_a_request_without_an_answer() {
    let fake = Fake::default();
    // The last is the first to come.
    fake.lock().refuse = vec![
        refusal("AccessDeniedException", "no"),
        refusal("RequestTimeout", "no"),
    ];
    let (ctx, plan) = (fake.context(&[]), plan(100, 100));
    let (state, _) = look(&plan, &ctx, None).await;
    assert_eq!(from(state, &plan, &ctx).await.unwrap().succeeded, 100);
}

#[tokio::test]
async fn no_error_after_something_was_sent_says_that_nothing_was_begun() {
    let fake = Fake::default();
    let (ctx, plan) = (fake.context(&[]), plan(2, 2));
    let (state, _) = look(&plan, &ctx, None).await;
    fake.lock().denied = ["ListCommands"].into();
    let error = call(&plan, &ctx, Some(&resumed(&state))).await.unwrap_err();
    assert_eq!(error.name, ErrorName::Internal);
    assert!(
        error.message.contains("commands were sent") && error.message.contains("AWS denied"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_made_again_leaves_what_was_sent_before() {
    let (fake, file) = (
        Fake::default(),
        Kept {
            lasts: 1,
            ..Kept::default()
        },
    );
    let ran = with_file(&plan(100, 50), &file, &fake.context(&[]))
        .await
        .unwrap();
    assert_eq!(
        (ran.succeeded, ran.nodes[&id(50)].status),
        (50, Status::NotStarted)
    );
    assert!(
        ran.nodes[&id(50)]
            .message
            .as_ref()
            .unwrap()
            .contains("the bucket is gone")
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_removed_takes_nothing_from_the_results() {
    let (fake, file) = (
        Fake::default(),
        Kept {
            stays: true,
            ..Kept::default()
        },
    );
    let ctx = fake.context(&[]);
    assert_eq!(
        with_file(&plan(2, 2), &file, &ctx).await.unwrap().succeeded,
        2
    );
    assert!(
        testing::log(&ctx)
            .join("")
            .contains("remove it by hand: it stays")
    );
}

#[tokio::test]
async fn a_file_stays_while_an_error_may_pass_and_goes_when_the_step_is_over() {
    let (fake, file) = (Fake::default(), Kept::default());
    fake.lock().refuse = vec![refusal("RequestTimeout", "no"); 5];
    let error = with_file(&plan(1, 1), &file, &fake.context(&[]))
        .await
        .unwrap_err();
    assert_eq!(
        (error.name, file.removed.load(Relaxed)),
        (ErrorName::TimedOut, 0)
    );
    fake.lock().refuse = vec![refusal("AccessDeniedException", "no")];
    with_file(&plan(1, 1), &file, &fake.context(&[]))
        .await
        .unwrap_err();
    assert_eq!(file.removed.load(Relaxed), 1);
    with_file(&plan(1, 1), &file, &fake.context(&[]))
        .await
        .unwrap();
    assert_eq!(file.removed.load(Relaxed), 2);
}

#[tokio::test]
async fn a_command_that_the_list_does_not_have_yet_is_waited_for() {
    let fake = Fake::default();
    let (ctx, plan) = (fake.context(&[]), plan(2, 2));
    let (state, _) = look(&plan, &ctx, None).await;
    fake.lock().behind = 1;
    let (state, _) = look(&plan, &ctx, Some(&resumed(&state))).await;
    assert_eq!(from(state, &plan, &ctx).await.unwrap().succeeded, 2);
}

#[tokio::test]
async fn a_command_that_ssm_has_lost_leaves_the_others_results() {
    let fake = Fake::default();
    fake.lock().stuck = [id(0)].into();
    let (ctx, plan) = (fake.context(&[]), plan(60, 60));
    let (mut state, _) = look(&plan, &ctx, None).await;
    // It was sent a minute ago and more.
    let sent = state["batches"][0][2].as_i64().unwrap();
    state["batches"][0][2] = json!(sent - 61);
    fake.lock().behind = 1;
    let ran = from(state, &plan, &ctx).await.unwrap();
    assert_eq!(
        (ran.succeeded, ran.failed, ran.nodes[&id(0)].status),
        (59, 1, Status::Unknown)
    );
    assert!(
        testing::log(&ctx)
            .join("")
            .contains("SSM knows nothing of command")
    );
}

#[tokio::test]
async fn results_that_are_not_all_there_are_read_again_before_a_node_is_lost() {
    let fake = Fake::default();
    let (ctx, plan) = (fake.context(&[]), plan(2, 2));
    let (mut state, _) = look(&plan, &ctx, None).await;
    assert_eq!(all(&plan, &ctx).await.unwrap().0.succeeded, 2);
    // As it is written when it is over.
    state["batches"][0][5] = json!(1);
    fake.lock().nodes_behind = 1;
    let (next, wait) = look(&plan, &ctx, Some(&resumed(&state))).await;
    assert_eq!(wait, Duration::from_secs(5));
    assert_eq!(from(next, &plan, &ctx).await.unwrap().succeeded, 2);
    fake.lock().nodes_behind = usize::MAX;
    let before = fake.calls("ListCommandInvocations");
    let ran = from(state, &plan, &ctx).await.unwrap();
    assert_eq!(
        (
            ran.nodes[&id(1)].status,
            fake.calls("ListCommandInvocations") - before
        ),
        (Status::Unknown, 3)
    );
}

#[tokio::test]
async fn nodes_that_wait_for_their_turn_do_not_expire_meanwhile() {
    let fake = Fake::default();
    all(
        &Plan {
            timeout: 120,
            ..plan(50, 10)
        },
        &fake.context(&[]),
    )
    .await
    .unwrap();
    assert_eq!(fake.lock().commands[0].delivery, 600 + 4 * 120);
}

#[tokio::test]
async fn a_node_of_another_platform_leaves_the_others() {
    let fake = Fake::default();
    fake.lock().windows = [id(0)].into();
    let (ran, _) = all(&plan(3, 50), &fake.context(&[])).await.unwrap();
    assert_eq!(
        (ran.nodes[&id(0)].status, ran.succeeded),
        (Status::Unmanaged, 2)
    );
    assert!(
        ran.nodes[&id(0)]
            .message
            .as_ref()
            .unwrap()
            .contains("give the other `shell`")
    );
    assert_eq!(fake.lock().commands[0].ids, [id(1), id(2)]);
    let plan = Plan {
        shell: Shell::Powershell,
        ..plan(3, 50)
    };
    assert_eq!(
        all(&plan, &Fake::default().context(&[]))
            .await
            .unwrap()
            .0
            .succeeded,
        3
    );
}

#[tokio::test]
async fn a_node_whose_platform_ssm_refuses_leaves_the_others() {
    let fake = Fake::default();
    let said = format!(
        "Cannot perform operation for instance id {} of platform type Windows",
        id(1)
    );
    fake.lock().refuse = vec![refusal("UnsupportedPlatformType", said)];
    let (ran, _) = all(&plan(3, 50), &fake.context(&[])).await.unwrap();
    assert_eq!(
        (ran.nodes[&id(1)].status, ran.succeeded),
        (Status::Unmanaged, 2)
    );
}

#[tokio::test]
async fn what_a_lost_call_has_begun_is_stopped_and_told_of_when_too_many_failed() {
    let fake = Fake::default();
    fake.lock().stuck = [id(0)].into();
    let (ctx, plan) = (
        fake.context(&[]),
        Plan {
            max_errors: Some(0),
            ..plan(100, 50)
        },
    );
    let (state, _) = look(&plan, &ctx, None).await;
    // The answer of this call, which sends the second batch, is lost.
    look(&plan, &ctx, Some(&resumed(&state))).await;
    assert_eq!(fake.lock().commands.len(), 2);
    {
        let mut ssm = fake.lock();
        ssm.stuck.clear();
        ssm.failing = [id(0)].into();
        ssm.pace = 1;
    }
    let ran = from(state, &plan, &ctx).await.unwrap();
    let of = |number| ran.nodes[&id(number)].status;
    assert_eq!(
        [of(0), of(50), of(99)],
        [Status::Failed, Status::Succeeded, Status::NotStarted]
    );
    assert_eq!((ran.command_ids.len(), fake.lock().cancelled.len()), (2, 1));
}
