//! The step `ec2-stop`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bring::{Goal, bring, code, reason};
use crate::error::ec2_error;
use crate::instances::{Changed, Selection};
use aws_sdk_ec2::types::{Instance, InstanceStateName};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::{StringList, require};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Stop EC2 instances and finish once all are stopped.
///
/// Instances that are stopped already are success, and those that are still starting are waited
/// for. A stopped instance keeps its EBS volumes, which go on costing money, and loses what is on
/// instance store volumes and in memory, unless it hibernates; its public IPv4 address changes at
/// the next start unless it is an Elastic IP address.
///
/// When the job is stopped, instances that are stopping go on stopping.
///
/// Proven on the local cloud, where instances stop at once and nothing hibernates; waiting, `force`
/// and `hibernate` rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Instances to stop, 1 to 50 IDs.
    #[serde(default)]
    instance_ids: StringList,
    /// Instead of IDs: the tags (key and exact value) that an instance must carry, all of them.
    /// None found is success, more than 500 are a `Conflict` and stay as they are.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// For instances that do not stop otherwise, those stuck in `stopping` included: EC2 lets the
    /// operating system shut down first, and when it does not, stops the instance by force. Data
    /// that was not written by then is lost: have the file systems checked afterwards.
    #[serde(default)]
    force: bool,
    /// Save memory to the root volume and go on from there at the next start. Only instances
    /// launched with hibernation enabled can; `Conflict` for others. One that fails to hibernate
    /// EC2 just shuts down, and what was in its memory is lost: that is success too, and the log
    /// names those for which EC2 gives another reason than hibernation.
    #[serde(default)]
    hibernate: bool,
}

impl Stop {
    fn selection(&self) -> Selection<'_> {
        Selection {
            ids: &self.instance_ids,
            tags: &self.tags,
        }
    }
}

/// What to say of an instance that EC2 has shut down although it was to hibernate.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hibernating-instances.html>
fn not_hibernated(instance: &Instance) -> Option<String> {
    let id = instance.instance_id().unwrap_or_default();
    let says = || {
        format!(
            "{id} was shut down and did not hibernate, its memory is lost: {}",
            reason(instance)
        )
    };
    (code(instance) != "Client.UserInitiatedHibernate").then(says)
}

impl Step for Stop {
    const NAME: &'static str = "ec2-stop";
    const RUNDECK: &'static [RundeckPlugin] = &[
        RundeckPlugin {
            provider_type: "aws-vm-stop",
            fields: &[],
        },
        RundeckPlugin {
            provider_type: "aws-vm-stop-step",
            fields: &[],
        },
    ];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "tags": { "environment": "test" } }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "instance_ids": ["i-0123456789abcdef0"], "force": true }"#,
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
            "An instance is terminated, has stop protection, or cannot hibernate; or more than 500 carry the tags.",
        ),
    ];
    type Output = Changed;
    // Windows instances can take this long to shut down.
    const TIMEOUT: Duration = Duration::from_mins(30);

    fn validate(&self) -> Result<(), StepError> {
        self.selection().validate()?;
        require(!(self.force && self.hibernate), || {
            "give force or hibernate, not both".into()
        })
    }

    fn permissions(&self) -> Permissions {
        self.selection().permissions(&["ec2:StopInstances"])
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Changed>, StepError> {
        let (force, hibernate) = (self.force, self.hibernate);
        let mut act_on = vec![InstanceStateName::Running];
        if force {
            act_on.push(InstanceStateName::Stopping);
        }
        let remark: fn(&Instance) -> Option<String> =
            if hibernate { not_hibernated } else { |_| None };
        let goal = Goal {
            reached: InstanceStateName::Stopped,
            act_on,
            doing: "Stopping",
            remark,
        };
        bring(
            ctx,
            self.selection(),
            resume,
            &goal,
            |ec2, ids| async move {
                let request = ec2
                    .stop_instances()
                    .set_instance_ids(Some(ids))
                    .force(force)
                    .hibernate(hibernate);
                Ok(request
                    .send()
                    .await
                    .map_err(ec2_error)?
                    .stopping_instances
                    .unwrap_or_default())
            },
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{change, instance, is_not_found, launched, refusal, seen, stopped};
    use aws_sdk_ec2::Client;
    use aws_sdk_ec2::operation::describe_instances::{
        DescribeInstancesError, DescribeInstancesOutput,
    };
    use aws_sdk_ec2::operation::stop_instances::{StopInstancesError, StopInstancesOutput};
    use aws_smithy_mocks::{RuleMode, mock, mock_client};
    use serde_json::json;
    use stepward::testing::{self, done, pending};
    use stepward_testkit::proof::prove;

    use super::*;

    const ID: &str = "i-0123456789abcdef0";

    fn step(params: serde_json::Value) -> Stop {
        serde_json::from_value(params).unwrap()
    }

    fn one(state: InstanceStateName) -> DescribeInstancesOutput {
        seen([instance(ID, state)])
    }

    fn stopping() -> StopInstancesOutput {
        StopInstancesOutput::builder()
            .stopping_instances(change(ID, InstanceStateName::Stopping))
            .build()
    }

    #[tokio::test]
    async fn done_instances_stop_as_asked() {
        for (more, force, hibernate) in [
            (json!({}), Some(false), Some(false)),
            (json!({ "force": true }), Some(true), Some(false)),
            (json!({ "hibernate": true }), Some(false), Some(true)),
        ] {
            let look =
                mock!(Client::describe_instances).then_output(|| one(InstanceStateName::Running));
            let stop = mock!(Client::stop_instances)
                .match_requests(move |request| {
                    request.instance_ids() == [ID]
                        && (request.force(), request.hibernate()) == (force, hibernate)
                })
                .then_output(|| {
                    StopInstancesOutput::builder()
                        .stopping_instances(change(ID, InstanceStateName::Stopped))
                        .build()
                });
            let ctx = testing::context(mock_client!(
                aws_sdk_ec2,
                RuleMode::MatchAny,
                [&look, &stop]
            ));
            let mut params = more;
            params["instance_ids"] = json!(ID);
            let output = done(step(params).run(&ctx, None).await);
            assert_eq!(
                (output.instances[0].state.as_str(), stop.num_calls()),
                ("stopped", 1)
            );
        }
    }

    #[tokio::test]
    async fn done_by_force_what_is_stuck_in_stopping_is_stopped_too() {
        let look = mock!(Client::describe_instances)
            .sequence()
            .output(|| one(InstanceStateName::Stopping))
            .output(|| one(InstanceStateName::Stopping))
            .output(|| one(InstanceStateName::Stopped))
            .build();
        let stop = mock!(Client::stop_instances)
            .match_requests(|request| {
                request.instance_ids() == [ID] && request.force() == Some(true)
            })
            .then_output(stopping);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &stop]
        ));
        let wanted = step(json!({ "instance_ids": ID, "force": true }));
        let (resume, ..) = pending(wanted.run(&ctx, None).await);
        let (resume, ..) = pending(wanted.run(&ctx, Some(resume)).await);
        assert_eq!(
            done(wanted.run(&ctx, Some(resume)).await).instances[0].state,
            "stopped"
        );
        assert_eq!(stop.num_calls(), 1);
    }

    #[tokio::test]
    async fn done_the_log_names_what_was_shut_down_instead_of_hibernating() {
        for (code, hibernate, says) in [
            ("Client.UserInitiatedHibernate", true, false),
            ("Client.UserInitiatedShutdown", true, true),
            ("Client.UserInitiatedShutdown", false, false),
        ] {
            let look = mock!(Client::describe_instances)
                .sequence()
                .output(|| one(InstanceStateName::Running))
                .output(move || seen([stopped(ID, code, "as it went")]))
                .build();
            let stop = mock!(Client::stop_instances).then_output(stopping);
            let ctx = testing::context(mock_client!(
                aws_sdk_ec2,
                RuleMode::MatchAny,
                [&look, &stop]
            ));
            let wanted = step(json!({ "instance_ids": ID, "hibernate": hibernate }));
            let (resume, ..) = pending(wanted.run(&ctx, None).await);
            let _ = done(wanted.run(&ctx, Some(resume)).await);
            let line =
                format!("{ID} was shut down and did not hibernate, its memory is lost: as it went");
            assert_eq!(testing::log(&ctx).contains(&line), says, "{code}");
        }
    }

    #[tokio::test]
    async fn already_stopped_instances_are_left_alone() {
        let look =
            mock!(Client::describe_instances).then_output(|| one(InstanceStateName::Stopped));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        for step in [
            step(json!({ "instance_ids": ID })),
            step(json!({ "instance_ids": ID, "hibernate": true })),
        ] {
            let output = done(step.run(&ctx, None).await);
            assert_eq!(output.instances[0].previous_state, "stopped");
        }
        assert_eq!(testing::log(&ctx), ["1 of 1 instances stopped"; 2]);
    }

    #[tokio::test]
    async fn not_found_is_an_unknown_id() {
        is_not_found(&step(json!({ "instance_ids": ID }))).await;
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        for params in [
            json!({}),
            json!({ "instance_ids": "vol-0123456789abcdef0" }),
            json!({ "instance_ids": ID, "tags": { "team": "ops" } }),
            json!({ "tags": { "team": "o?s" } }),
            json!({ "instance_ids": ID, "force": true, "hibernate": true }),
        ] {
            let error = step(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_at_first_it_stops_the_instance_all_the_same() {
        let look = mock!(Client::describe_instances)
            .sequence()
            .error(|| DescribeInstancesError::generic(refusal("RequestLimitExceeded", "slow down")))
            .output(|| one(InstanceStateName::Running))
            .build();
        let stop = mock!(Client::stop_instances)
            .sequence()
            .error(|| StopInstancesError::generic(refusal("RequestLimitExceeded", "slow down")))
            .output(stopping)
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &stop]
        ));
        let (_, _, progress) = pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(
            (progress.as_str(), stop.num_calls()),
            ("0 of 1 instances stopped", 2)
        );
    }

    #[tokio::test]
    async fn pending_while_it_starts_and_stops_and_it_is_stopped_once() {
        let look = mock!(Client::describe_instances)
            .sequence()
            .output(|| one(InstanceStateName::Pending))
            .output(|| one(InstanceStateName::Running))
            .output(|| one(InstanceStateName::Stopping))
            .output(|| one(InstanceStateName::Stopped))
            .build();
        let stop = mock!(Client::stop_instances).then_output(stopping);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &stop]
        ));
        let wanted = step(json!({ "instance_ids": ID }));
        let mut state = None;
        for _ in 0..3 {
            state = Some(pending(wanted.run(&ctx, state).await).0);
        }
        let output = done(wanted.run(&ctx, state).await);
        assert_eq!(output.instances[0].state, "stopped");
        assert_eq!(stop.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_again_after_a_lost_answer_and_nothing_is_stopped_twice() {
        let look =
            mock!(Client::describe_instances).then_output(|| one(InstanceStateName::Stopping));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
        let (_, _, progress) = pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(progress, "0 of 1 instances stopped");
    }

    #[tokio::test]
    async fn failed_an_instance_that_cannot_hibernate_is_a_conflict() {
        let look =
            mock!(Client::describe_instances).then_output(|| one(InstanceStateName::Running));
        let stop = mock!(Client::stop_instances).then_error(|| {
            StopInstancesError::generic(refusal(
                "UnsupportedHibernationConfiguration",
                "not enabled for hibernation",
            ))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &stop]
        ));
        let error = step(json!({ "instance_ids": ID, "hibernate": true }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("hibernation"), "{error}");
    }

    #[tokio::test]
    async fn failed_an_instance_with_stop_protection_is_a_conflict() {
        let look =
            mock!(Client::describe_instances).then_output(|| one(InstanceStateName::Running));
        let stop = mock!(Client::stop_instances).then_error(|| {
            let said =
                "The instance may not be stopped. Modify its 'disableApiStop' instance attribute";
            StopInstancesError::generic(refusal("OperationNotPermitted", said))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &stop]
        ));
        let error = step(json!({ "instance_ids": ID }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("disableApiStop"), "{error}");
    }

    #[tokio::test]
    async fn failed_an_instance_that_somebody_terminates_meanwhile_is_named() {
        let look = mock!(Client::describe_instances)
            .sequence()
            .output(|| one(InstanceStateName::Running))
            .output(|| one(InstanceStateName::Terminated))
            .build();
        let stop = mock!(Client::stop_instances).then_output(stopping);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &stop]
        ));
        let wanted = step(json!({ "instance_ids": ID }));
        let (resume, ..) = pending(wanted.run(&ctx, None).await);
        let error = wanted.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(error.message.contains(ID), "{error}");
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Stop>(
            &[],
            async |scene| json!({ "instance_ids": [launched(scene).await] }),
        );
    }
}
