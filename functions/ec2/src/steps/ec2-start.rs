//! The step `ec2-start`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::ec2_error;
use crate::instances::{ChangedInstances, Selection};
use crate::transition::{StateGoal, drive_to_state};
use crate::volume_grant_permissions;
use aws_sdk_ec2::types::InstanceStateName;
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::StringList;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Start EC2 instances and wait until all of them are running.
///
/// Use this step to bring up instances before a maintenance job, or every morning by tag. You
/// choose instances by ID or by tags; instances that are already running count as success.
///
/// The state `running` means that EC2 has started the instance. The operating system and its
/// services can need a few minutes more.
///
/// # Behavior
///
/// 1. The step finds the instances and starts those that are `stopped`.
/// 2. It waits for instances that are still `stopping` and starts them when they have stopped.
/// 3. It succeeds when all instances are `running`.
///
/// A retry checks the instances first and starts none of them twice. When the job is stopped,
/// instances that are starting continue to start.
///
/// # Failures
///
/// An instance fails if EC2 refuses to start it, if it returns to `stopped` (for example for missing
/// capacity, or because somebody stops it), or if it is terminated. The step starts the other
/// instances and waits for them. It then fails and names each failed instance with EC2's reason.
///
/// # Cost
///
/// This step itself has no charge; AWS charges for running instances until they are stopped.
///
/// # Proof
///
/// Proven on the local cloud, where instances start immediately. Unit tests with a fake EC2 show
/// waiting, instances that return to `stopped`, and the grant for encrypted volumes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// IDs of the instances to start, 1 to 50. Required unless you set `tags`; set only one of the
    /// two.
    #[serde(default)]
    instance_ids: StringList,
    /// Tags that select the instances: keys with their exact values. The step selects instances
    /// that carry all of these tags, and succeeds if there is no such instance. If more than 500
    /// instances carry them, the step fails with `Conflict` and starts nothing.
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

impl Start {
    fn selection(&self) -> Selection<'_> {
        Selection {
            ids: &self.instance_ids,
            tags: &self.tags,
        }
    }
}

impl Step for Start {
    const NAME: &'static str = "ec2-start";
    const RUNDECK: &'static [RundeckPlugin] = &[
        RundeckPlugin {
            provider_type: "aws-vm-start",
            fields: &[("instanceId", "instance_ids"), ("region", "region")],
        },
        RundeckPlugin {
            provider_type: "aws-vm-start-step",
            fields: &[("instanceId", "instance_ids"), ("region", "region")],
        },
    ];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Start one instance",
            parameters: r#"{ "instance_ids": ["i-0123456789abcdef0"] }"#,
            output: r#"{
                "instances": [
                    {
                        "instance_id": "i-0123456789abcdef0",
                        "name": "web-1",
                        "previous_state": "stopped",
                        "state": "running"
                    }
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#Instances:instanceId=i-0123456789abcdef0"
            }"#,
        },
        Example {
            title: "Start every instance of the test environment",
            parameters: r#"{ "tags": { "environment": "test" } }"#,
            output: r#"{
                "instances": [
                    {
                        "instance_id": "i-0123456789abcdef0",
                        "name": "test-web",
                        "previous_state": "stopped",
                        "state": "running"
                    },
                    {
                        "instance_id": "i-0fedcba9876543210",
                        "name": "test-db",
                        "previous_state": "running",
                        "state": "running"
                    }
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#Instances:instanceId=i-0123456789abcdef0,i-0fedcba9876543210"
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "An instance ID does not exist in the account and Region; correct the ID, or choose \
             another Region.",
        ),
        (
            ErrorName::Conflict,
            "The step started nothing: all selected instances are terminated or in a state that \
             does not allow a start, or more than 500 instances carry the tags. Correct the \
             selection.",
        ),
        (
            ErrorName::StepFailed,
            "EC2 refused to start some instances, or they returned to `stopped` or were terminated. \
             The message names each of them with EC2's reason; the others are running. Remove the \
             causes and run the step again.",
        ),
        (
            ErrorName::TimedOut,
            "Some instances were not running after 15 minutes. The message names each of them with \
             its state, and those that failed with EC2's reason; the others are running.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(15);
    type Output = ChangedInstances;

    fn validate(&self) -> Result<(), StepError> {
        self.selection().validate()
    }

    fn permissions(&self) -> Permissions {
        self.selection()
            .permissions(&[("ec2:StartInstances", "start the instances")])
            .and(volume_grant_permissions())
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<ChangedInstances>, StepError> {
        let goal = StateGoal {
            final_state: InstanceStateName::Running,
            act_on: vec![InstanceStateName::Stopped],
            action: "Starting",
            is_all_or_nothing: false,
            time_limit: Self::TIMEOUT,
            log_line: |_| None,
        };
        drive_to_state(
            ctx,
            self.selection(),
            resume,
            &goal,
            |ec2, ids| async move {
                let request = ec2.start_instances().set_instance_ids(Some(ids));
                let response = request.send().await.map_err(ec2_error)?;
                Ok(response.starting_instances.unwrap_or_default())
            },
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{
        assert_not_found, error_response, instance, instances_output, launch_instance,
        state_change, stopped_instance,
    };
    use aws_sdk_ec2::Client;
    use aws_sdk_ec2::operation::describe_instances::DescribeInstancesError;
    use aws_sdk_ec2::operation::start_instances::{StartInstancesError, StartInstancesOutput};
    use aws_sdk_ec2::types::{Instance, Tag};
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use serde_json::json;
    use stepward::mock_client;
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, expect_done, expect_pending};
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const ID: &str = "i-0123456789abcdef0";
    const OTHER: &str = "i-0123456789abcdef1";

    fn step(params: serde_json::Value) -> Start {
        serde_json::from_value(params).unwrap()
    }

    fn starting_output() -> StartInstancesOutput {
        StartInstancesOutput::builder()
            .starting_instances(state_change(ID, InstanceStateName::Pending))
            .build()
    }

    /// The instance as EC2 returns it, poll by poll.
    fn describes(instances: impl IntoIterator<Item = Instance>) -> Rule {
        let mut instances = instances.into_iter();
        let first = instances.next().unwrap();
        let rule = mock!(Client::describe_instances)
            .sequence()
            .output(move || instances_output([first.clone()]));
        instances
            .fold(rule, |rule, instance| {
                rule.output(move || instances_output([instance.clone()]))
            })
            .build()
    }

    #[tokio::test]
    async fn done_starts_stopped_instances_selected_by_tags() {
        let describe = mock!(Client::describe_instances)
            .match_requests(|request| {
                let filters: Vec<_> = request
                    .filters()
                    .iter()
                    .map(|filter| (filter.name().unwrap(), filter.values()))
                    .collect();
                let live = ["pending", "running", "stopping", "stopped"].map(str::to_owned);
                let tag = ["ops".to_owned()];
                let expected = [("instance-state-name", &live[..]), ("tag:team", &tag[..])];
                request.instance_ids().is_empty() && filters == expected
            })
            .then_output(|| instances_output([instance(ID, InstanceStateName::Stopped)]));
        let start = mock!(Client::start_instances)
            .match_requests(|request| request.instance_ids() == [ID])
            .then_output(|| {
                StartInstancesOutput::builder()
                    .starting_instances(state_change(ID, InstanceStateName::Running))
                    .build()
            });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &start]
        ));
        let output = expect_done(
            step(json!({ "tags": { "team": "ops" } }))
                .run(&ctx, None)
                .await,
        );
        let [started] = &output.instances[..] else {
            panic!("expected one instance: {output:?}")
        };
        assert_eq!(
            (started.previous_state.as_str(), started.state.as_str()),
            ("stopped", "running")
        );
        assert!(
            output
                .console_url
                .ends_with(&format!("#Instances:instanceId={ID}")),
            "{}",
            output.console_url
        );
        assert_eq!(
            testing::log_lines(&ctx),
            [format!("Starting {ID}"), "1 of 1 instances running".into()]
        );
    }

    #[tokio::test]
    async fn already_running_instances_are_not_started() {
        let describe = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID])
            .then_output(|| instances_output([instance(ID, InstanceStateName::Running)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&describe]));
        let output = expect_done(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(output.instances[0].previous_state, "running");
    }

    #[tokio::test]
    async fn already_done_when_no_instance_carries_the_tags() {
        let describe = mock!(Client::describe_instances).then_output(|| instances_output([]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&describe]));
        let output = expect_done(
            step(json!({ "tags": { "team": "ops" } }))
                .run(&ctx, None)
                .await,
        );
        assert!(output.instances.is_empty());
    }

    #[tokio::test]
    async fn not_found_for_an_unknown_instance_id() {
        assert_not_found(&step(json!({ "instance_ids": ID }))).await;
    }

    #[test]
    fn invalid_parameters_are_rejected_before_any_request() {
        let too_many: Vec<_> = (0..51).map(|n| format!("i-{n:017x}")).collect();
        for params in [
            json!({}),
            json!({ "instance_ids": [] }),
            json!({ "instance_ids": [ID], "tags": { "a": "b" } }),
            json!({ "instance_ids": ["*"] }),
            json!({ "instance_ids": ["i-1/../*"] }),
            json!({ "instance_ids": too_many }),
            json!({ "tags": { "team": "*" } }),
        ] {
            let error = step(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_retried() {
        let describe = mock!(Client::describe_instances)
            .sequence()
            .error(|| {
                DescribeInstancesError::generic(error_response("RequestLimitExceeded", "slow down"))
            })
            .output(|| instances_output([instance(ID, InstanceStateName::Stopped)]))
            .build();
        let start = mock!(Client::start_instances)
            .sequence()
            .error(|| {
                StartInstancesError::generic(error_response("RequestLimitExceeded", "slow down"))
            })
            .output(starting_output)
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &start]
        ));
        let (_, _, progress) =
            expect_pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(
            (progress.as_str(), start.num_calls()),
            ("0 of 1 instances running", 2)
        );
    }

    #[tokio::test]
    async fn pending_until_all_run_without_a_second_request() {
        let describe = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID, OTHER])
            .sequence()
            .output(|| {
                instances_output([
                    instance(ID, InstanceStateName::Stopped),
                    instance(OTHER, InstanceStateName::Running),
                ])
            })
            .output(|| {
                instances_output([
                    instance(ID, InstanceStateName::Pending),
                    instance(OTHER, InstanceStateName::Running),
                ])
            })
            .output(|| {
                instances_output([
                    instance(ID, InstanceStateName::Running),
                    instance(OTHER, InstanceStateName::Running),
                ])
            })
            .build();
        let start = mock!(Client::start_instances)
            .match_requests(|request| request.instance_ids() == [ID])
            .then_output(starting_output);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &start]
        ));
        let step = step(json!({ "instance_ids": [ID, OTHER] }));

        let (resume, retry_after, progress) = expect_pending(step.run(&ctx, None).await);
        assert_eq!(
            (retry_after, progress.as_str()),
            (Duration::from_secs(5), "1 of 2 instances running")
        );
        let (resume, ..) = expect_pending(step.run(&ctx, Some(resume)).await);
        let output = expect_done(step.run(&ctx, Some(resume)).await);

        let states = output
            .instances
            .iter()
            .map(|instance| (instance.previous_state.as_str(), instance.state.as_str()));
        assert_eq!(
            states.collect::<Vec<_>>(),
            [("stopped", "running"), ("running", "running")]
        );
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_without_a_second_request() {
        let describe = mock!(Client::describe_instances)
            .then_output(|| instances_output([instance(ID, InstanceStateName::Pending)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]));
        let (_, _, progress) =
            expect_pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(progress, "0 of 1 instances running");
    }

    #[tokio::test]
    async fn pending_state_of_500_instances_stays_below_128_kib() {
        let describe_all = |state: InstanceStateName| {
            mock!(Client::describe_instances).then_output(move || {
                instances_output((0..500).map(|n| {
                    let mut named = instance(&format!("i-{n:017x}"), state.clone());
                    named.tags = Some(vec![
                        Tag::builder().key("Name").value("x".repeat(64)).build(),
                    ]);
                    named
                }))
            })
        };
        let start = mock!(Client::start_instances).then_output(starting_output);
        let step = step(json!({ "tags": { "team": "ops" } }));
        let rules = [&describe_all(InstanceStateName::Stopped), &start];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (resume, ..) = expect_pending(step.run(&ctx, None).await);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            [&describe_all(InstanceStateName::Pending)]
        ));
        let (resume, ..) = expect_pending(step.run(&ctx, Some(resume)).await);
        let length = serde_json::to_string(&resume).unwrap().len();
        assert!(length < 128 * 1024, "{length} bytes");
    }

    #[tokio::test]
    async fn pending_despite_the_reason_of_an_earlier_stop() {
        for code in [
            "Server.InsufficientInstanceCapacity",
            "Client.UserInitiatedShutdown",
        ] {
            let stopped = || stopped_instance(ID, code, "from an earlier stop");
            let started = [InstanceStateName::Pending, InstanceStateName::Running]
                .map(|state| instance(ID, state));
            let describe = describes([stopped(), stopped()].into_iter().chain(started));
            let start = mock!(Client::start_instances).then_output(starting_output);
            let ctx = testing::context(mock_client!(
                aws_sdk_ec2,
                RuleMode::MatchAny,
                [&describe, &start]
            ));
            let step = step(json!({ "instance_ids": ID }));
            let mut state = None;
            for _ in 0..3 {
                state = Some(expect_pending(step.run(&ctx, state).await).0);
            }
            assert_eq!(
                expect_done(step.run(&ctx, state).await).instances[0].state,
                "running"
            );
            assert_eq!(start.num_calls(), 1);
        }
    }

    #[tokio::test]
    async fn failed_start_gives_the_reason_of_ec2() {
        for (code, message, expected) in [
            (
                "Server.InsufficientInstanceCapacity",
                "no capacity",
                "no capacity",
            ),
            (
                "Client.InternalError",
                "Client error on launch",
                "allow kms:CreateGrant",
            ),
        ] {
            let failed = stopped_instance(ID, code, message);
            // If the instance is `pending` only between two polls, no poll shows that state. A
            // second poll then confirms the failure.
            let describe = describes([
                instance(ID, InstanceStateName::Stopped),
                failed.clone(),
                failed,
            ]);
            let start = mock!(Client::start_instances).then_output(starting_output);
            let ctx = testing::context(mock_client!(
                aws_sdk_ec2,
                RuleMode::MatchAny,
                [&describe, &start]
            ));
            let step = step(json!({ "instance_ids": ID }));
            let (resume, ..) = expect_pending(step.run(&ctx, None).await);
            let (resume, ..) = expect_pending(step.run(&ctx, Some(resume)).await);
            let error = step.run(&ctx, Some(resume)).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(error.message.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn failed_when_an_instance_stops_again_for_any_reason() {
        for code in [
            "Server.InternalError",
            "Client.UserInitiatedShutdown",
            "Client.UserInitiatedHibernate",
            "Client.InstanceInitiatedShutdown",
            "",
        ] {
            let before_start = instance(ID, InstanceStateName::Stopped);
            let describe = describes([
                before_start,
                instance(ID, InstanceStateName::Pending),
                stopped_instance(ID, code, "the reason"),
            ]);
            let start = mock!(Client::start_instances).then_output(starting_output);
            let ctx = testing::context(mock_client!(
                aws_sdk_ec2,
                RuleMode::MatchAny,
                [&describe, &start]
            ));
            let step = step(json!({ "instance_ids": ID }));
            let (resume, ..) = expect_pending(step.run(&ctx, None).await);
            let (resume, ..) = expect_pending(step.run(&ctx, Some(resume)).await);
            let error = step.run(&ctx, Some(resume)).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(
                error
                    .message
                    .contains(&format!("{ID}, but it is stopped again: the reason")),
                "{error}"
            );
        }
    }

    /// Describes the instances as EC2 returns them, poll by poll.
    fn describes_all<const N: usize>(polls: impl IntoIterator<Item = [Instance; N]>) -> Rule {
        let mut polls = polls.into_iter();
        let first = polls.next().unwrap();
        let rule = mock!(Client::describe_instances)
            .sequence()
            .output(move || instances_output(first.clone()));
        polls
            .fold(rule, |rule, instances| {
                rule.output(move || instances_output(instances.clone()))
            })
            .build()
    }

    #[tokio::test]
    async fn failed_instances_do_not_keep_others_from_starting() {
        for (code, message) in [
            (
                "InvalidParameterValue",
                "Instance does not have a volume attached at root",
            ),
            ("IncorrectInstanceState", "it cannot be started"),
            ("InsufficientInstanceCapacity", "no capacity"),
            ("InstanceLimitExceeded", "the limit is 5"),
        ] {
            let all = [0, 1, 2, 3].map(|n| format!("i-{n:017x}"));
            let refused = all[2].clone();
            let states = |state: InstanceStateName| {
                [0, 1, 2, 3].map(|n| {
                    let is_running = n != 2 && state == InstanceStateName::Running;
                    let now = if is_running {
                        state.clone()
                    } else {
                        InstanceStateName::Stopped
                    };
                    instance(&format!("i-{n:017x}"), now)
                })
            };
            let describe =
                describes_all([InstanceStateName::Stopped, InstanceStateName::Running].map(states));
            let has_refused = {
                let refused = refused.clone();
                move |ids: &[String]| ids.contains(&refused)
            };
            let refuse = mock!(Client::start_instances)
                .match_requests({
                    let has_refused = has_refused.clone();
                    move |request| has_refused(request.instance_ids())
                })
                .then_error(move || StartInstancesError::generic(error_response(code, message)));
            let start = mock!(Client::start_instances)
                .match_requests(move |request| !has_refused(request.instance_ids()))
                .then_output(|| StartInstancesOutput::builder().build());
            let rules = [&describe, &refuse, &start];
            let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
            let step = step(json!({ "tags": { "env": "test" } }));
            let (resume, _, progress) = expect_pending(step.run(&ctx, None).await);
            assert_eq!(progress, "0 of 4 instances running, 1 failed", "{code}");
            let error = step.run(&ctx, Some(resume)).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed, "{code}");
            let text = format!(
                "1 of 4 instances failed, the others are done: {refused}: {message} ({code})"
            );
            assert!(error.message.starts_with(&text), "{error}");
            let line = format!("EC2 refused {refused}: {message} (ec2:StartInstances: {code})");
            assert!(
                testing::log_lines(&ctx).contains(&line),
                "{:?}",
                testing::log_lines(&ctx)
            );
        }
    }

    #[tokio::test]
    async fn failed_instance_does_not_end_the_wait_for_others() {
        let both = |first: Instance, state: InstanceStateName| [first, instance(OTHER, state)];
        let failed = || stopped_instance(ID, "Server.InsufficientInstanceCapacity", "no capacity");
        let describe = describes_all([
            both(
                instance(ID, InstanceStateName::Stopped),
                InstanceStateName::Stopped,
            ),
            both(
                instance(ID, InstanceStateName::Pending),
                InstanceStateName::Pending,
            ),
            both(failed(), InstanceStateName::Pending),
            both(failed(), InstanceStateName::Running),
        ]);
        let start = mock!(Client::start_instances).then_output(starting_output);
        let rules = [&describe, &start];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let step = step(json!({ "instance_ids": [ID, OTHER] }));
        let mut state = None;
        for _ in 0..3 {
            state = Some(expect_pending(step.run(&ctx, state).await).0);
        }
        let error = step.run(&ctx, state).await.unwrap_err();
        assert_eq!((error.name, start.num_calls()), (ErrorName::StepFailed, 1));
        assert!(
            error.message.contains(&format!(
                "1 of 2 instances failed, the others are done: {ID}: "
            )) && error.message.contains("no capacity"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_instance_that_ec2_forgets_does_not_end_the_wait() {
        let describe = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID, OTHER])
            .sequence()
            .output(|| {
                instances_output([ID, OTHER].map(|id| instance(id, InstanceStateName::Pending)))
            })
            .error(|| {
                DescribeInstancesError::generic(error_response(
                    "InvalidInstanceID.NotFound",
                    &format!("The instance ID '{ID}' does not exist"),
                ))
            })
            .build();
        let describe_other = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [OTHER])
            .sequence()
            .output(|| instances_output([instance(OTHER, InstanceStateName::Pending)]))
            .output(|| instances_output([instance(OTHER, InstanceStateName::Running)]))
            .build();
        let rules = [&describe, &describe_other];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let step = step(json!({ "instance_ids": [ID, OTHER] }));
        let (resume, ..) = expect_pending(step.run(&ctx, None).await);
        let (resume, _, progress) = expect_pending(step.run(&ctx, Some(resume)).await);
        assert_eq!(progress, "0 of 2 instances running, 1 failed");
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .contains(&format!("{ID}: EC2 does not know this instance any more")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_at_the_time_limit_names_every_instance() {
        let states = [InstanceStateName::Stopped, InstanceStateName::Pending];
        let describe = mock!(Client::describe_instances).then_output(move || {
            let [first, second] = states.clone();
            instances_output([instance(ID, first), instance(OTHER, second)])
        });
        let refuse = mock!(Client::start_instances).then_error(|| {
            StartInstancesError::generic(error_response("InstanceLimitExceeded", "the limit is 5"))
        });
        let rules = [&describe, &refuse];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let step = step(json!({ "instance_ids": [ID, OTHER] }));
        let (mut resume, ..) = expect_pending(step.run(&ctx, None).await);

        resume.since -= 15 * 60 - 2;
        let (mut resume, retry_after, _) = expect_pending(step.run(&ctx, Some(resume)).await);
        assert!(retry_after <= Duration::from_secs(2), "{retry_after:?}");

        resume.since -= 15 * 60;
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::TimedOut);
        let expected = format!(
            "0 of 2 instances running, 1 failed after 15 minutes; still waiting for {OTHER} \
             (pending); failed: {ID}: the limit is 5 (InstanceLimitExceeded)"
        );
        assert!(error.message.starts_with(&expected), "{error}");
    }

    #[tokio::test]
    async fn failed_with_conflict_when_over_500_instances_carry_the_tags() {
        let describe = mock!(Client::describe_instances).then_output(|| {
            instances_output(
                (0..501).map(|n| instance(&format!("i-{n:017x}"), InstanceStateName::Stopped)),
            )
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&describe]));
        let error = step(json!({ "tags": { "team": "ops" } }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error
                .message
                .contains("more than 500 instances carry these tags; nothing was changed"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_with_conflict_for_a_terminated_instance() {
        let describe = mock!(Client::describe_instances)
            .then_output(|| instances_output([instance(ID, InstanceStateName::Terminated)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&describe]));
        assert_eq!(
            step(json!({ "instance_ids": ID }))
                .run(&ctx, None)
                .await
                .unwrap_err()
                .name,
            ErrorName::Conflict
        );
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_enforces() {
        let unused = [(
            "kms:CreateGrant",
            "The local cloud does not encrypt volumes.",
        )];
        prove_permissions::<Start>(&unused, async |scene| {
            let ec2 = scene.client(Client::new);
            let id = launch_instance(scene).await;
            ec2.stop_instances().instance_ids(&id).send().await.unwrap();
            json!({ "instance_ids": [id] })
        });
    }

    #[test]
    fn permissions_of_the_session_are_limited_to_the_selection() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let by_id = step(json!({ "instance_ids": ID }))
            .permissions()
            .session_policy(&scope)
            .unwrap();
        assert!(by_id.contains(&format!("arn:aws:ec2:eu-west-1:222222222222:instance/{ID}")));
        let by_tag = step(json!({ "tags": { "team": "ops" } }))
            .permissions()
            .session_policy(&scope)
            .unwrap();
        let every_instance = "arn:aws:ec2:eu-west-1:222222222222:instance/*";
        assert!(by_tag.contains(&format!(
            r#""Action":["ec2:StartInstances"],"Resource":["{every_instance}"]"#
        )));
    }
}
