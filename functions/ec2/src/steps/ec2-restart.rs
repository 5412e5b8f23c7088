//! The step `ec2-restart`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::batch::{Failures, refused, request_in_parts};
use crate::error::ec2_error;
use crate::instances::{
    ChangedInstance, ChangedInstances, LIVE_STATES, Selection, unknown_ids, with_console_url,
};
use crate::{InstanceHealth, instance_health};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::InstanceStateName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::{StringList, require};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
    settings,
};

/// The shortest time between two polls of the status checks, which EC2 runs every minute.
const POLL_INTERVAL: Duration = Duration::from_secs(15);

/// Restart EC2 instances and wait until their status checks pass again.
///
/// Use this step to reboot the operating system, for example after an update. An instance keeps its
/// addresses and its volumes, including instance store volumes. It is unreachable for a few
/// minutes.
///
/// You choose instances by ID or by tags. All instances that you choose by ID must be running.
///
/// # Behavior
///
/// 1. The step checks that the instances are `running`. With IDs, it restarts none of them if one
///    is not. With tags, it skips instances that are not running, and names them in the log.
/// 2. It asks EC2 to reboot them. EC2 forces the reboot if the operating system does not shut down
///    within a few minutes; data that was not written to disk can then be lost.
/// 3. It waits for `settle_seconds`, while the operating system shuts down.
/// 4. It succeeds when both status checks pass on all instances.
///
/// EC2 does not report when a reboot happens: the state stays `running`, and the launch time does
/// not change. The step therefore cannot recognize a reboot that starts after `settle_seconds`. Use
/// a longer time for operating systems that shut down slowly.
///
/// EC2 also has no client token for a reboot. If the step is interrupted after it sent the
/// request and before it received the response, a retry reboots the instances a second time. After
/// the response, no retry does. When the job is stopped, the reboot continues.
///
/// # Failures
///
/// If EC2 refuses to reboot an instance, or an instance stops or is terminated after the reboot,
/// the step completes the reboot of the others. It then fails and names each instance that failed,
/// with the reason.
///
/// # Cost
///
/// This step itself has no charge; a reboot does not start a new billing period.
///
/// # Proof
///
/// Proven on the local cloud, where nothing reboots and all status checks pass immediately. Only
/// unit tests with a fake EC2 cover waiting and failing status checks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// IDs of the instances to restart, 1 to 50. Required unless you set `tags`; set only one of
    /// the two.
    #[serde(default)]
    instance_ids: StringList,
    /// Tags that select the running instances: keys with their exact values. The step selects
    /// running instances that carry all of these tags, and succeeds if there is no such instance.
    /// If more than 500 instances carry them, including those that are not running, the step fails
    /// with `Conflict` and restarts nothing.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// Seconds between the request and the first poll of the status checks, 0 to 900. Set more
    /// seconds than the operating system needs to shut down. The checks of an operating system that
    /// has not shut down yet still pass, and the step would succeed before the reboot.
    #[serde(default = "default_settle_seconds")]
    settle_seconds: u64,
}

fn default_settle_seconds() -> u64 {
    90
}

/// The resume state.
#[derive(Debug, Default, Deserialize, Serialize)]
struct RestartState {
    instances: Vec<ChangedInstance>,
    /// The instances whose reboot the next call must request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left: Vec<String>,
    /// The instances that EC2 refused to reboot, or that stopped after the reboot.
    #[serde(default, skip_serializing_if = "Failures::is_empty")]
    failures: Failures,
}

impl RestartState {
    /// The state and the status checks of the rebooted instances that have not failed. Instances
    /// that EC2 no longer knows have failed: they were terminated.
    async fn health(
        &mut self,
        ctx: &Context,
        ec2: &Client,
    ) -> Result<Vec<InstanceHealth>, StepError> {
        loop {
            let rebooted = self.instances.iter().map(|instance| &instance.instance_id);
            let ids: Vec<_> = rebooted
                .filter(|id| !self.failures.contains(id))
                .cloned()
                .collect();
            let error = match instance_health(ec2, &ids).await {
                Ok(health) => return Ok(health),
                Err(error) => error,
            };
            let unknown = unknown_ids(&error, &ids);
            if unknown.is_empty() {
                return Err(error);
            }
            for id in unknown {
                self.failures.add_terminated(ctx, &id);
            }
        }
    }
}

impl Restart {
    fn selection(&self) -> Selection<'_> {
        Selection {
            ids: &self.instance_ids,
            tags: &self.tags,
        }
    }

    /// The time until the first poll. It is at least as long as a step waits in its own process, so
    /// the state machine records the request before that poll, and no retry reboots again.
    fn first_poll_delay(&self, inline_wait: Duration) -> Duration {
        Duration::from_secs(self.settle_seconds)
            .max(POLL_INTERVAL)
            .max(inline_wait)
    }

    /// Returns the running instances. With tags, there can be none.
    async fn find_running(
        &self,
        ctx: &Context,
        ec2: &Client,
    ) -> Result<Vec<ChangedInstance>, StepError> {
        let described = self.selection().find_instances(ec2, &LIVE_STATES).await?;
        let (running, not_running): (Vec<_>, Vec<_>) = described
            .iter()
            .map(ChangedInstance::from)
            .partition(|instance| instance.state == InstanceStateName::Running.as_str());

        if !not_running.is_empty() {
            let states: Vec<_> = not_running
                .iter()
                .map(|instance| format!("{} is {}", instance.instance_id, instance.state))
                .collect();
            let states = states.join(", ");
            if self.tags.is_empty() {
                return Err(ErrorName::Conflict.with_message(format!(
                    "some instances are not running: {states}; nothing was rebooted; start them \
                     with ec2-start, or remove them from instance_ids"
                )));
            }
            ctx.log(format_args!("Skipped: {states}"));
        }
        Ok(running)
    }

    /// Requests the reboot of the instances in `left`.
    async fn request_reboots(
        &self,
        ctx: &Context,
        ec2: &Client,
        mut state: RestartState,
    ) -> Result<Progress<ChangedInstances>, StepError> {
        let is_first = state.left.len() == state.instances.len();
        let ids = std::mem::take(&mut state.left);
        ctx.log(format_args!("Restarting {}", ids.join(", ")));
        let request = |ids| {
            let request = ec2.reboot_instances().set_instance_ids(Some(ids));
            async { request.send().await.map(drop).map_err(ec2_error) }
        };
        if state.instances.len() == 1 {
            request(ids).await.map_err(refused)?;
        } else {
            let failures = &mut state.failures;
            let requested = request_in_parts(ctx, ids, is_first, failures, request).await?;
            state.left = requested.left;
        }

        if state.failures.len() == state.instances.len() {
            return Err(state.failures.into_error(state.instances.len()));
        }
        let progress = format!("0 of {} instances are back", state.instances.len());
        let inline_wait = settings::inline_wait();
        let delay = if state.left.is_empty() {
            self.first_poll_delay(inline_wait)
        } else {
            // The next call requests the others. The operating systems need no time for that.
            POLL_INTERVAL.max(inline_wait)
        };
        Progress::pending(&state, delay, progress)
    }
}

impl Step for Restart {
    const NAME: &'static str = "ec2-restart";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-vm-restart-step",
        fields: &[("region", "region")],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Restart one instance",
            parameters: r#"{ "instance_ids": ["i-0123456789abcdef0"] }"#,
            output: r#"{
                "instances": [
                    {
                        "instance_id": "i-0123456789abcdef0",
                        "name": "web-1",
                        "previous_state": "running",
                        "state": "running"
                    }
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#Instances:instanceId=i-0123456789abcdef0"
            }"#,
        },
        Example {
            title: "Restart all web servers, which need 5 minutes to shut down",
            parameters: r#"{ "tags": { "role": "web" }, "settle_seconds": 300 }"#,
            output: r#"{
                "instances": [
                    {
                        "instance_id": "i-0123456789abcdef0",
                        "name": "web-1",
                        "previous_state": "running",
                        "state": "running"
                    },
                    {
                        "instance_id": "i-0fedcba9876543210",
                        "name": "web-2",
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
            "An instance is not running, or more than 500 instances carry the tags. The step \
             rebooted nothing; start the instance with `ec2-start`, or set more `tags` to select \
             fewer instances.",
        ),
        (
            ErrorName::StepFailed,
            "EC2 refused to reboot some instances, or they stopped or were terminated after the \
             reboot. The message names each of them with the reason; the others are back.",
        ),
        (
            ErrorName::TimedOut,
            "Status checks did not pass within 30 minutes. The message names each of these \
             instances with its checks, and each instance that failed; read their system logs.",
        ),
    ];
    type Output = ChangedInstances;

    fn validate(&self) -> Result<(), StepError> {
        self.selection().validate()?;
        require(self.settle_seconds <= 900, || {
            format!(
                "parameter \"settle_seconds\": expected 0 to 900, got \"{}\"",
                self.settle_seconds
            )
        })
    }

    fn permissions(&self) -> Permissions {
        self.selection()
            .permissions(&[("ec2:RebootInstances", "reboot the instances")])
            .allow(
                "poll the status checks",
                &["ec2:DescribeInstanceStatus"],
                ["*"],
            )
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<ChangedInstances>, StepError> {
        let ec2 = ctx.client(Client::new);
        let Some(resume) = resume else {
            let instances = self.find_running(ctx, &ec2).await?;
            if instances.is_empty() {
                ctx.log("No running instance carries these tags; nothing to do");
                return Ok(Progress::Done(with_console_url(ctx, instances)));
            }
            let state = RestartState {
                left: instances
                    .iter()
                    .map(|instance| instance.instance_id.clone())
                    .collect(),
                instances,
                failures: Failures::default(),
            };
            return self.request_reboots(ctx, &ec2, state).await;
        };

        let time_left = Self::TIMEOUT.saturating_sub(resume.elapsed());
        let retry_after = Resume::poll_interval(Some(&resume), POLL_INTERVAL).min(time_left);
        let mut state: RestartState = resume.state()?;
        if !state.left.is_empty() {
            if time_left.is_zero() {
                let progress = format!("{} reboots were not requested", state.left.len());
                return Err(state
                    .failures
                    .into_timeout(&progress, Self::TIMEOUT, &state.left));
            }
            return self.request_reboots(ctx, &ec2, state).await;
        }
        let (mut back, mut not_ok) = (0, Vec::new());
        for instance in state.health(ctx, &ec2).await? {
            let id = &instance.instance_id;
            if instance.state != InstanceStateName::Running {
                let error = ErrorName::StepFailed.with_message(format!(
                    "instance {id} is {} after the reboot: somebody changed its state, or its \
                     operating system shut down; check its system log",
                    instance.state
                ));
                state.failures.add_and_log(ctx, id, &error);
            } else if instance.is_ok {
                back += 1;
            } else {
                not_ok.push(format!("{id}: {}", instance.checks));
            }
        }

        let (total, failed) = (state.instances.len(), state.failures.len());
        let mut progress = format!("{back} of {total} instances are back");
        if failed > 0 {
            progress = format!("{progress}, {failed} failed");
        }
        if back + failed < total {
            if time_left.is_zero() {
                let failures = state.failures;
                return Err(failures.into_timeout(&progress, Self::TIMEOUT, &not_ok));
            }
            let progress = format!("{progress} ({})", not_ok.join("; "));
            return Progress::pending(&state, retry_after, progress);
        }
        ctx.log(progress);
        if failed > 0 {
            return Err(state.failures.into_error(total));
        }
        Ok(Progress::Done(with_console_url(ctx, state.instances)))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{
        assert_not_found, error_response, instance, instances_output, launch_instance,
        status_output,
    };
    use aws_sdk_ec2::operation::describe_instance_status::DescribeInstanceStatusError;
    use aws_sdk_ec2::operation::reboot_instances::{RebootInstancesError, RebootInstancesOutput};
    use aws_sdk_ec2::types::SummaryStatus;
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use serde_json::json;
    use stepward::mock_client;
    use stepward::testing::{self, expect_done, expect_pending};
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const ID: &str = "i-0123456789abcdef0";
    const OTHER: &str = "i-0123456789abcdef1";
    const THIRD: &str = "i-0123456789abcdef2";

    fn step(params: serde_json::Value) -> Restart {
        serde_json::from_value(params).unwrap()
    }

    fn reboots() -> Rule {
        mock!(Client::reboot_instances)
            .match_requests(|request| request.instance_ids() == [ID])
            .then_output(|| RebootInstancesOutput::builder().build())
    }

    fn running() -> Rule {
        mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID])
            .then_output(|| instances_output([instance(ID, InstanceStateName::Running)]))
    }

    // no proof of already: a restart is for running instances; no state shows that it was already
    // done.

    #[tokio::test]
    async fn done_restarts_running_instances_by_tags_and_skips_others() {
        let describe = mock!(Client::describe_instances)
            .match_requests(|request| {
                let filters: Vec<_> = request
                    .filters()
                    .iter()
                    .map(|filter| (filter.name().unwrap(), filter.values()))
                    .collect();
                let live = ["pending", "running", "stopping", "stopped"].map(str::to_owned);
                let tag = ["web".to_owned()];
                filters == [("instance-state-name", &live[..]), ("tag:role", &tag[..])]
            })
            .then_output(|| {
                instances_output([
                    instance(ID, InstanceStateName::Running),
                    instance(OTHER, InstanceStateName::Stopped),
                ])
            });
        let checks = mock!(Client::describe_instance_status)
            .match_requests(|request| {
                request.instance_ids() == [ID] && request.include_all_instances() == Some(true)
            })
            .then_output(|| status_output(ID, InstanceStateName::Running, SummaryStatus::Ok));
        let reboot = reboots();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &reboot, &checks]
        ));
        let step = step(json!({ "tags": { "role": "web" } }));
        let (resume, retry_after, _) = expect_pending(step.run(&ctx, None).await);
        assert_eq!(retry_after, Duration::from_secs(90));
        let output = expect_done(step.run(&ctx, Some(resume)).await);
        let [restarted] = &output.instances[..] else {
            panic!("expected one instance: {output:?}")
        };
        assert_eq!(
            (restarted.instance_id.as_str(), restarted.state.as_str()),
            (ID, "running")
        );
        let expected_log = [
            format!("Skipped: {OTHER} is stopped"),
            format!("Restarting {ID}"),
            "1 of 1 instances are back".to_owned(),
        ];
        assert_eq!(testing::log_lines(&ctx), expected_log);
    }

    #[tokio::test]
    async fn done_when_no_instance_carries_the_tags() {
        let describe = mock!(Client::describe_instances).then_output(|| instances_output([]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&describe]));
        assert!(
            expect_done(
                step(json!({ "tags": { "role": "web" } }))
                    .run(&ctx, None)
                    .await
            )
            .instances
            .is_empty()
        );
    }

    #[tokio::test]
    async fn not_found_for_an_unknown_instance_id() {
        assert_not_found(&step(json!({ "instance_ids": ID }))).await;
    }

    #[test]
    fn invalid_parameters_are_rejected_before_any_request() {
        step(json!({ "instance_ids": ID, "settle_seconds": 900 }))
            .validate()
            .unwrap();
        for params in [
            json!({}),
            json!({ "instance_ids": "i-1" }),
            json!({ "instance_ids": ID, "tags": { "team": "ops" } }),
            json!({ "tags": { "team": "*" } }),
            json!({ "instance_ids": ID, "settle_seconds": 901 }),
        ] {
            assert_eq!(
                step(params.clone()).validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{params}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_retried() {
        let reboot = mock!(Client::reboot_instances)
            .sequence()
            .error(|| {
                RebootInstancesError::generic(error_response("RequestLimitExceeded", "slow down"))
            })
            .output(|| RebootInstancesOutput::builder().build())
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&running(), &reboot]
        ));
        let (_, _, progress) =
            expect_pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(
            (progress.as_str(), reboot.num_calls()),
            ("0 of 1 instances are back", 2)
        );
    }

    #[tokio::test]
    async fn pending_until_the_checks_pass_with_one_reboot() {
        let checks = mock!(Client::describe_instance_status)
            .sequence()
            .output(|| status_output(ID, InstanceStateName::Running, SummaryStatus::Impaired))
            .output(|| status_output(ID, InstanceStateName::Running, SummaryStatus::Ok))
            .build();
        let (describe, reboot) = (running(), reboots());
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &reboot, &checks]
        ));
        let step = step(json!({ "instance_ids": ID, "settle_seconds": 0 }));
        let (resume, retry_after, _) = expect_pending(step.run(&ctx, None).await);
        assert_eq!(retry_after, POLL_INTERVAL.max(settings::inline_wait()));
        let (resume, retry_after, progress) = expect_pending(step.run(&ctx, Some(resume)).await);
        assert_eq!(
            progress,
            format!("0 of 1 instances are back ({ID}: system ok, instance impaired)")
        );
        assert_eq!(retry_after, POLL_INTERVAL);
        assert_eq!(
            expect_done(step.run(&ctx, Some(resume)).await)
                .instances
                .len(),
            1
        );
        assert_eq!(reboot.num_calls(), 1);
    }

    #[test]
    fn pending_after_the_reboot_is_longer_than_the_inline_wait() {
        let delay_seconds = |seconds: u64, inline_wait| {
            let step = step(json!({ "instance_ids": ID, "settle_seconds": seconds }));
            step.first_poll_delay(Duration::from_secs(inline_wait))
                .as_secs()
        };
        assert_eq!(
            (
                delay_seconds(90, 10),
                delay_seconds(0, 10),
                delay_seconds(90, 120)
            ),
            (90, 15, 120)
        );
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_with_a_second_reboot() {
        let (describe, reboot) = (running(), reboots());
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &reboot]
        ));
        for _ in 0..2 {
            let _ = expect_pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        }
        assert_eq!(reboot.num_calls(), 2);
    }

    #[tokio::test]
    async fn failed_when_an_instance_stops_after_the_reboot() {
        let checks = mock!(Client::describe_instance_status).then_output(|| {
            status_output(
                ID,
                InstanceStateName::Stopping,
                SummaryStatus::NotApplicable,
            )
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&running(), &reboots(), &checks]
        ));
        let step = step(json!({ "instance_ids": ID }));
        let (resume, ..) = expect_pending(step.run(&ctx, None).await);
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.contains(&format!("{ID} is stopping")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_with_conflict_for_a_stopped_instance() {
        let describe = mock!(Client::describe_instances).then_output(|| {
            instances_output([
                instance(ID, InstanceStateName::Running),
                instance(OTHER, InstanceStateName::Stopped),
            ])
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&describe]));
        let error = step(json!({ "instance_ids": [ID, OTHER] }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains(&format!("{OTHER} is stopped"))
                && error.message.contains("ec2-start"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_with_conflict_when_over_500_instances_carry_the_tags() {
        let describe = mock!(Client::describe_instances).then_output(|| {
            instances_output(
                (0..501).map(|n| instance(&format!("i-{n:017x}"), InstanceStateName::Running)),
            )
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&describe]));
        let error = step(json!({ "tags": { "role": "web" } }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_at_the_limit_names_reboots_not_requested() {
        let known: Vec<_> = (0..200).map(|n| format!("i-{n:017x}")).collect();
        let describe = mock!(Client::describe_instances).then_output(move || {
            instances_output(
                known
                    .iter()
                    .map(|id| instance(id, InstanceStateName::Running)),
            )
        });
        let refuse = mock!(Client::reboot_instances).then_error(|| {
            RebootInstancesError::generic(error_response("IncorrectState", "cannot reboot"))
        });
        let rules = [&describe, &refuse];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let step = step(json!({ "tags": { "role": "web" } }));
        let (mut resume, retry_after, _) = expect_pending(step.run(&ctx, None).await);
        assert_eq!(retry_after, POLL_INTERVAL.max(settings::inline_wait()));

        resume.since -= 30 * 60;
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::TimedOut);
        assert!(
            error.message.contains("reboots were not requested"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_instances_do_not_stop_the_reboot_of_others() {
        let all = [ID, OTHER, THIRD];
        let describe = mock!(Client::describe_instances).then_output(move || {
            instances_output(all.map(|id| instance(id, InstanceStateName::Running)))
        });
        let refuse = mock!(Client::reboot_instances)
            .match_requests(|request| request.instance_ids().iter().any(|id| id == ID))
            .then_error(|| {
                RebootInstancesError::generic(error_response("IncorrectState", "cannot reboot"))
            });
        let reboot = mock!(Client::reboot_instances)
            .match_requests(|request| request.instance_ids() == [OTHER, THIRD])
            .then_output(|| RebootInstancesOutput::builder().build());
        // Of the two rebooted instances, one stops and the other passes its checks later.
        let health = |last: SummaryStatus| {
            move || {
                let mut output =
                    status_output(OTHER, InstanceStateName::Stopped, SummaryStatus::Ok);
                let third = status_output(THIRD, InstanceStateName::Running, last.clone());
                let statuses = output.instance_statuses.get_or_insert_default();
                statuses.extend(third.instance_statuses.unwrap());
                output
            }
        };
        let status = mock!(Client::describe_instance_status)
            .match_requests(|request| request.instance_ids() == [OTHER, THIRD])
            .then_output(health(SummaryStatus::Initializing));
        let later = mock!(Client::describe_instance_status)
            .match_requests(|request| request.instance_ids() == [THIRD])
            .then_output(|| status_output(THIRD, InstanceStateName::Running, SummaryStatus::Ok));
        let rules = [&describe, &refuse, &reboot, &status, &later];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let step = step(json!({ "instance_ids": all }));
        let (resume, ..) = expect_pending(step.run(&ctx, None).await);
        let (resume, _, progress) = expect_pending(step.run(&ctx, Some(resume)).await);
        assert!(
            progress.starts_with("0 of 3 instances are back, 2 failed"),
            "{progress}"
        );
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.contains(&format!("{ID}: cannot reboot"))
                && error
                    .message
                    .contains(&format!("instance {OTHER} is stopped after the reboot"))
                && !error.message.contains(THIRD),
            "{error}"
        );
        assert_eq!(reboot.num_calls(), 1);
    }

    #[tokio::test]
    async fn failed_instance_that_ec2_forgets_does_not_end_the_wait() {
        let all = [ID, OTHER];
        let describe = mock!(Client::describe_instances).then_output(move || {
            instances_output(all.map(|id| instance(id, InstanceStateName::Running)))
        });
        let reboot = mock!(Client::reboot_instances)
            .then_output(|| RebootInstancesOutput::builder().build());
        let forgotten = mock!(Client::describe_instance_status)
            .match_requests(|request| request.instance_ids() == [ID, OTHER])
            .then_error(|| {
                DescribeInstanceStatusError::generic(error_response(
                    "InvalidInstanceID.NotFound",
                    &format!("The instance ID '{ID}' does not exist"),
                ))
            });
        let status = mock!(Client::describe_instance_status)
            .match_requests(|request| request.instance_ids() == [OTHER])
            .then_output(|| {
                status_output(
                    OTHER,
                    InstanceStateName::Running,
                    SummaryStatus::Initializing,
                )
            });
        let rules = [&describe, &reboot, &forgotten, &status];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let step = step(json!({ "instance_ids": all }));
        let (resume, ..) = expect_pending(step.run(&ctx, None).await);
        let (mut resume, _, progress) = expect_pending(step.run(&ctx, Some(resume)).await);
        assert!(
            progress.starts_with("0 of 2 instances are back, 1 failed"),
            "{progress}"
        );

        resume.since -= 30 * 60;
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::TimedOut);
        assert!(
            error
                .message
                .contains(&format!("still waiting for {OTHER}: "))
                && error
                    .message
                    .contains(&format!("{ID}: EC2 does not know this instance any more")),
            "{error}"
        );
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_enforces() {
        prove_permissions::<Restart>(
            &[],
            async |scene| json!({ "instance_ids": [launch_instance(scene).await] }),
        );
    }
}
