//! The step `ec2-restart`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::ec2_error;
use crate::health;
use crate::instances::{Changed, ChangedInstance, LIVE, Selection, changed, first_seen};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::InstanceStateName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::{StringList, require};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
    settings,
};

/// Between two looks at the status checks, which EC2 makes every minute.
const POLL: Duration = Duration::from_secs(15);

/// Restart EC2 instances and finish once their status checks pass again.
///
/// This is a reboot of the operating system: the instance keeps its addresses, its volumes and what
/// is on instance store volumes, and is unreachable for a few minutes. An operating system that
/// does not shut down within a few minutes is rebooted hard, and can lose data.
///
/// All instances must be running. One that is not is a `Conflict`, and then none is rebooted:
/// `ec2-start` starts it. By tags, those that do not run are left alone, and named in the log.
///
/// EC2 takes a reboot as a request and never says when it happened: the state stays `running`, the
/// launch time stays the same. So the step waits `settle_seconds`, in which the operating system
/// goes down, and then until both status checks pass. It cannot see a reboot that EC2 has not begun
/// by then: an operating system that is slow to shut down needs more.
///
/// EC2 has no token for a reboot, and leaves nothing to look at: when the function is killed
/// between asking and answering, the retry reboots once more. Later retries go on where the step
/// was and do not. When the job is stopped, the reboot goes on.
///
/// Proven on the local cloud, where nothing reboots and every check passes at once; waiting and
/// failing checks rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// Instances to restart, 1 to 50 IDs.
    #[serde(default)]
    instance_ids: StringList,
    /// Instead of IDs: the tags (key and exact value) that a running instance must carry, all of
    /// them. None found is success. More than 500, those that do not run included, are a `Conflict`
    /// and stay as they are.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// Seconds between the request and the first look at the status checks, 0 to 900, by default
    /// 90. Before, they tell of the time before the reboot.
    #[serde(default = "ninety")]
    settle_seconds: u64,
}

fn ninety() -> u64 {
    90
}

#[derive(Debug, Deserialize, Serialize)]
struct Rebooted {
    instances: Vec<ChangedInstance>,
}

impl Restart {
    fn selection(&self) -> Selection<'_> {
        Selection {
            ids: &self.instance_ids,
            tags: &self.tags,
        }
    }

    /// Until the first look. Longer than a step waits in its own process, so that the state machine
    /// has the answer at once: with it no retry reboots again.
    fn settle(&self, linger: Duration) -> Duration {
        Duration::from_secs(self.settle_seconds)
            .max(POLL)
            .max(linger)
    }

    /// Asks for the reboot. By tags that can be of none.
    async fn reboot(&self, ctx: &Context, ec2: &Client) -> Result<Vec<ChangedInstance>, StepError> {
        let found = self.selection().find(ec2, &LIVE).await?;
        let running = InstanceStateName::Running;
        let (instances, others): (Vec<_>, Vec<_>) = found
            .iter()
            .map(first_seen)
            .partition(|instance| instance.state == running.as_str());
        let others: Vec<_> = others
            .iter()
            .map(|i| format!("{} is {}", i.instance_id, i.state))
            .collect();
        if !others.is_empty() && self.tags.is_empty() {
            return Err(ErrorName::Conflict.with_message(format!(
                "{}: nothing was rebooted; start stopped instances with ec2-start, or take them out of instance_ids",
                others.join(", ")
            )));
        }
        if !others.is_empty() {
            ctx.log(format_args!("Left alone: {}", others.join(", ")));
        }
        let ids: Vec<_> = instances
            .iter()
            .map(|instance| instance.instance_id.clone())
            .collect();
        if !ids.is_empty() {
            ctx.log(format_args!("Restarting {}", ids.join(", ")));
            ec2.reboot_instances()
                .set_instance_ids(Some(ids))
                .send()
                .await
                .map_err(ec2_error)?;
        }
        Ok(instances)
    }
}

impl Step for Restart {
    const NAME: &'static str = "ec2-restart";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-vm-restart-step",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "instance_ids": ["i-0123456789abcdef0"] }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "tags": { "role": "web" }, "settle_seconds": 300 }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "One of the instance IDs does not exist in the account and Region.",
        ),
        (
            ErrorName::Conflict,
            "An instance is not running, or more than 500 carry the tags; none was rebooted.",
        ),
        (
            ErrorName::StepFailed,
            "An instance stopped or was terminated instead of coming back.",
        ),
        (
            ErrorName::TimedOut,
            "The status checks did not pass again within 30 minutes; the reboot was asked for.",
        ),
    ];
    type Output = Changed;

    fn validate(&self) -> Result<(), StepError> {
        self.selection().validate()?;
        require(self.settle_seconds <= 900, || {
            format!(
                "settle_seconds is {} and at most 900 (15 minutes)",
                self.settle_seconds
            )
        })
    }

    fn permissions(&self) -> Permissions {
        self.selection()
            .permissions(&["ec2:RebootInstances"])
            .allow("TODO", &["ec2:DescribeInstanceStatus"], ["*"])
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Changed>, StepError> {
        let ec2 = ctx.client(Client::new);
        let Some(resume) = resume else {
            let instances = self.reboot(ctx, &ec2).await?;
            if instances.is_empty() {
                ctx.log("No running instance carries these tags; there is nothing to do");
                return Ok(Progress::Done(changed(ctx, instances)));
            }
            let progress = format!("0 of {} instances back", instances.len());
            return Progress::pending(
                &Rebooted { instances },
                self.settle(settings::inline_wait()),
                progress,
            );
        };
        let patience = Resume::poll_interval(Some(&resume), POLL);
        let Rebooted { instances } = resume.state()?;
        let ids: Vec<_> = instances
            .iter()
            .map(|instance| instance.instance_id.clone())
            .collect();
        let found = health(&ec2, &ids).await?;
        if let Some(lost) = found
            .iter()
            .find(|one| one.state != InstanceStateName::Running)
        {
            return Err(ErrorName::StepFailed.with_message(format!(
                "{} is {} instead of coming back: somebody changed it meanwhile, or its operating system shut down",
                lost.instance_id, lost.state
            )));
        }
        let (all, back) = (instances.len(), found.iter().filter(|one| one.ok).count());
        if back == all {
            ctx.log(format_args!("{back} of {all} instances back"));
            return Ok(Progress::Done(changed(ctx, instances)));
        }
        let missing: Vec<_> = found
            .iter()
            .filter(|one| !one.ok)
            .map(|one| format!("{}: {}", one.instance_id, one.checks))
            .collect();
        let progress = format!("{back} of {all} instances back ({})", missing.join("; "));
        Progress::pending(&Rebooted { instances }, patience, progress)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{instance, is_not_found, launched, refusal, seen, status};
    use aws_sdk_ec2::operation::reboot_instances::{RebootInstancesError, RebootInstancesOutput};
    use aws_sdk_ec2::types::SummaryStatus;
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use serde_json::json;
    use stepward::testing::{self, done, pending};
    use stepward_testkit::proof::prove;

    use super::*;

    const ID: &str = "i-0123456789abcdef0";
    const OTHER: &str = "i-0123456789abcdef1";

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
            .then_output(|| seen([instance(ID, InstanceStateName::Running)]))
    }

    // no proof of already: an instance that runs is what a restart is for; there is no state in
    // which it has been done.

    #[tokio::test]
    async fn done_by_tags_what_runs_is_rebooted_and_the_rest_left_alone() {
        let look = mock!(Client::describe_instances)
            .match_requests(|request| {
                let filters: Vec<_> = request
                    .filters()
                    .iter()
                    .map(|f| (f.name().unwrap(), f.values()))
                    .collect();
                let live = ["pending", "running", "stopping", "stopped"].map(str::to_owned);
                let tag = ["web".to_owned()];
                filters == [("instance-state-name", &live[..]), ("tag:role", &tag[..])]
            })
            .then_output(|| {
                seen([
                    instance(ID, InstanceStateName::Running),
                    instance(OTHER, InstanceStateName::Stopped),
                ])
            });
        let checks = mock!(Client::describe_instance_status)
            .match_requests(|request| {
                request.instance_ids() == [ID] && request.include_all_instances() == Some(true)
            })
            .then_output(|| status(ID, InstanceStateName::Running, SummaryStatus::Ok));
        let reboot = reboots();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &reboot, &checks]
        ));
        let step = step(json!({ "tags": { "role": "web" } }));
        let (resume, after, _) = pending(step.run(&ctx, None).await);
        assert_eq!(after, Duration::from_secs(90));
        let output = done(step.run(&ctx, Some(resume)).await);
        let [one] = &output.instances[..] else {
            panic!("one instance")
        };
        assert_eq!(
            (one.instance_id.as_str(), one.state.as_str()),
            (ID, "running")
        );
        let says = [
            format!("Left alone: {OTHER} is stopped"),
            format!("Restarting {ID}"),
            "1 of 1 instances back".to_owned(),
        ];
        assert_eq!(testing::log(&ctx), says);
    }

    #[tokio::test]
    async fn done_with_no_instance_that_carries_the_tags() {
        let look = mock!(Client::describe_instances).then_output(|| seen([]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
        assert!(
            done(
                step(json!({ "tags": { "role": "web" } }))
                    .run(&ctx, None)
                    .await
            )
            .instances
            .is_empty()
        );
    }

    #[tokio::test]
    async fn not_found_is_an_unknown_id() {
        is_not_found(&step(json!({ "instance_ids": ID }))).await;
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
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
    async fn throttled_at_first_it_reboots_all_the_same() {
        let reboot = mock!(Client::reboot_instances)
            .sequence()
            .error(|| RebootInstancesError::generic(refusal("RequestLimitExceeded", "slow down")))
            .output(|| RebootInstancesOutput::builder().build())
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&running(), &reboot]
        ));
        let (_, _, progress) = pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(
            (progress.as_str(), reboot.num_calls()),
            ("0 of 1 instances back", 2)
        );
    }

    #[tokio::test]
    async fn pending_until_the_checks_pass_and_it_is_rebooted_once() {
        let checks = mock!(Client::describe_instance_status)
            .sequence()
            .output(|| status(ID, InstanceStateName::Running, SummaryStatus::Impaired))
            .output(|| status(ID, InstanceStateName::Running, SummaryStatus::Ok))
            .build();
        let (look, reboot) = (running(), reboots());
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &reboot, &checks]
        ));
        let step = step(json!({ "instance_ids": ID, "settle_seconds": 0 }));
        let (resume, after, _) = pending(step.run(&ctx, None).await);
        assert_eq!(after, POLL.max(settings::inline_wait()));
        let (resume, after, progress) = pending(step.run(&ctx, Some(resume)).await);
        assert_eq!(
            progress,
            format!("0 of 1 instances back ({ID}: system ok, instance impaired)")
        );
        assert_eq!(after, POLL);
        assert_eq!(done(step.run(&ctx, Some(resume)).await).instances.len(), 1);
        assert_eq!(reboot.num_calls(), 1);
    }

    #[test]
    fn pending_after_the_reboot_goes_to_the_state_machine_however_long_a_step_waits_in_its_own_process()
     {
        let settle = |seconds: u64, linger| {
            let step = step(json!({ "instance_ids": ID, "settle_seconds": seconds }));
            step.settle(Duration::from_secs(linger)).as_secs()
        };
        assert_eq!(
            (settle(90, 10), settle(0, 10), settle(90, 120)),
            (90, 15, 120)
        );
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_it_reboots_again_as_its_page_says() {
        let (look, reboot) = (running(), reboots());
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &reboot]
        ));
        for _ in 0..2 {
            let _ = pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        }
        assert_eq!(reboot.num_calls(), 2);
    }

    #[tokio::test]
    async fn failed_an_instance_that_does_not_come_back_is_named() {
        let checks = mock!(Client::describe_instance_status).then_output(|| {
            status(
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
        let (resume, ..) = pending(step.run(&ctx, None).await);
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.contains(&format!("{ID} is stopping")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_a_stopped_instance_is_a_conflict_and_none_is_rebooted() {
        let look = mock!(Client::describe_instances).then_output(|| {
            seen([
                instance(ID, InstanceStateName::Running),
                instance(OTHER, InstanceStateName::Stopped),
            ])
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
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
    async fn failed_more_than_five_hundred_by_tags_are_a_conflict_and_none_is_rebooted() {
        let look = mock!(Client::describe_instances).then_output(|| {
            seen((0..501).map(|n| instance(&format!("i-{n:017x}"), InstanceStateName::Running)))
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
        let error = step(json!({ "tags": { "role": "web" } }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Restart>(
            &[],
            async |scene| json!({ "instance_ids": [launched(scene).await] }),
        );
    }
}
