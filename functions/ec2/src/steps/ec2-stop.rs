//! The step `ec2-stop`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::ec2_error;
use crate::instances::{ChangedInstances, Selection};
use crate::transition::{StateGoal, drive_to_state, state_reason, state_reason_code};
use aws_sdk_ec2::types::{Instance, InstanceStateName};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::{StringList, require};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Stop EC2 instances and wait until all of them are stopped.
///
/// Use this step to save cost at night, or before maintenance that needs stopped instances. You
/// choose instances by ID or by tags; instances that are already stopped count as success.
///
/// A stopped instance keeps its EBS volumes. It loses:
///
/// - the data on instance store volumes
/// - the data in memory, unless it hibernates
/// - its public IPv4 address, unless that is an Elastic IP address
///
/// # Prerequisites
///
/// For `hibernate`, the instances must have been launched with hibernation enabled.
///
/// # Behavior
///
/// 1. The step finds the instances and stops those that are `running`. With `force`, it also stops
///    those that are `stopping`.
/// 2. It waits for instances that are still starting and stops them when they are running.
/// 3. It succeeds when all instances are `stopped`.
///
/// If an instance cannot hibernate at that moment, EC2 shuts it down instead, and the data in its
/// memory is lost. This counts as success. The log lists the instances that EC2 shut down instead.
///
/// A retry checks the instances first and stops none of them twice. When the job is stopped,
/// instances that are stopping continue to stop.
///
/// # Failures
///
/// An instance fails if EC2 refuses to stop it (for example because of stop protection, because it is
/// a one-time Spot Instance, or because you set `hibernate` and it does not support it), or if it is
/// terminated. The step stops the other instances and waits for them. It then fails and names each
/// failed instance with EC2's reason.
///
/// # Cost
///
/// This step itself has no charge; AWS still charges for the EBS volumes of stopped instances.
///
/// # Proof
///
/// Proven on the local cloud, where instances stop immediately and cannot hibernate. Only unit
/// tests with a fake EC2 cover waiting, `force` and `hibernate`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// IDs of the instances to stop, 1 to 50. Required unless you set `tags`; set only one of the
    /// two.
    #[serde(default)]
    instance_ids: StringList,
    /// Tags that select the instances: keys with their exact values. The step selects instances
    /// that carry all of these tags, and succeeds if there is no such instance. If more than 500
    /// instances carry them, the step fails with `Conflict` and stops nothing.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// Whether to stop instances by force, including those that are stuck in `stopping`. EC2 first
    /// lets the operating system shut down. If that does not succeed, data that was not written to
    /// disk is lost; check the file systems afterwards.
    #[serde(default)]
    force: bool,
    /// Whether to save the memory to the root volume, so that the instance continues from there at
    /// its next start. Instances without hibernation fail. Cannot be combined with `force`.
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

/// The log line about an instance that EC2 shut down instead of hibernating it.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hibernating-instances.html>
fn missed_hibernation(instance: &Instance) -> Option<String> {
    if state_reason_code(instance) == "Client.UserInitiatedHibernate" {
        return None;
    }
    Some(format!(
        "Instance {} was shut down instead of hibernated, and its memory is lost: {}",
        instance.instance_id().unwrap_or_default(),
        state_reason(instance)
    ))
}

impl Step for Stop {
    const NAME: &'static str = "ec2-stop";
    const RUNDECK: &'static [RundeckPlugin] = &[
        RundeckPlugin {
            provider_type: "aws-vm-stop",
            fields: &[("instanceId", "instance_ids"), ("region", "region")],
        },
        RundeckPlugin {
            provider_type: "aws-vm-stop-step",
            fields: &[("instanceId", "instance_ids"), ("region", "region")],
        },
    ];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Stop every instance of the test environment",
            parameters: r#"{ "tags": { "environment": "test" } }"#,
            output: r#"{
                "instances": [
                    {
                        "instance_id": "i-0123456789abcdef0",
                        "name": "test-web",
                        "previous_state": "running",
                        "state": "stopped"
                    },
                    {
                        "instance_id": "i-0fedcba9876543210",
                        "name": "test-db",
                        "previous_state": "stopped",
                        "state": "stopped"
                    }
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#Instances:instanceId=i-0123456789abcdef0,i-0fedcba9876543210"
            }"#,
        },
        Example {
            title: "Stop an instance that does not shut down",
            parameters: r#"{ "instance_ids": ["i-0123456789abcdef0"], "force": true }"#,
            output: r#"{
                "instances": [
                    {
                        "instance_id": "i-0123456789abcdef0",
                        "name": "web-1",
                        "previous_state": "stopping",
                        "state": "stopped"
                    }
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#Instances:instanceId=i-0123456789abcdef0"
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
            "The step stopped nothing: all selected instances are terminated, have stop protection \
             or cannot hibernate, or more than 500 instances carry the tags. Remove the cause, which \
             the message names, and run the step again.",
        ),
        (
            ErrorName::StepFailed,
            "EC2 refused to stop some instances, or they were terminated. The message names each of \
             them with EC2's reason; the others are stopped. Remove the causes and run the step \
             again.",
        ),
        (
            ErrorName::TimedOut,
            "Some instances were not stopped after 30 minutes. The message names each of them with \
             its state, and those that failed with EC2's reason; the others are stopped. Set \
             `force` for an instance that stays in `stopping`.",
        ),
    ];
    type Output = ChangedInstances;
    // Windows instances can take this long to shut down.
    const TIMEOUT: Duration = Duration::from_mins(30);

    fn validate(&self) -> Result<(), StepError> {
        self.selection().validate()?;
        require(!(self.force && self.hibernate), || {
            "parameters \"force\" and \"hibernate\": expected at most one of them, got both; \
             remove one"
                .into()
        })
    }

    fn permissions(&self) -> Permissions {
        self.selection()
            .permissions(&[("ec2:StopInstances", "stop or hibernate the instances")])
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<ChangedInstances>, StepError> {
        let (force, hibernate) = (self.force, self.hibernate);
        let mut act_on = vec![InstanceStateName::Running];
        if force {
            act_on.push(InstanceStateName::Stopping);
        }
        let log_line: fn(&Instance) -> Option<String> = if hibernate {
            missed_hibernation
        } else {
            |_| None
        };
        let goal = StateGoal {
            final_state: InstanceStateName::Stopped,
            act_on,
            action: "Stopping",
            is_all_or_nothing: false,
            time_limit: Self::TIMEOUT,
            log_line,
        };
        drive_to_state(
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
                let response = request.send().await.map_err(ec2_error)?;
                Ok(response.stopping_instances.unwrap_or_default())
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
    use aws_sdk_ec2::operation::describe_instances::{
        DescribeInstancesError, DescribeInstancesOutput,
    };
    use aws_sdk_ec2::operation::stop_instances::{StopInstancesError, StopInstancesOutput};
    use aws_smithy_mocks::{RuleMode, mock};
    use serde_json::json;
    use stepward::mock_client;
    use stepward::testing::{self, expect_done, expect_pending};
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const ID: &str = "i-0123456789abcdef0";

    fn step(params: serde_json::Value) -> Stop {
        serde_json::from_value(params).unwrap()
    }

    fn one_instance(state: InstanceStateName) -> DescribeInstancesOutput {
        instances_output([instance(ID, state)])
    }

    fn stopping_output() -> StopInstancesOutput {
        StopInstancesOutput::builder()
            .stopping_instances(state_change(ID, InstanceStateName::Stopping))
            .build()
    }

    #[tokio::test]
    async fn done_sends_force_and_hibernate() {
        for (params, force, hibernate) in [
            (json!({}), Some(false), Some(false)),
            (json!({ "force": true }), Some(true), Some(false)),
            (json!({ "hibernate": true }), Some(false), Some(true)),
        ] {
            let describe = mock!(Client::describe_instances)
                .then_output(|| one_instance(InstanceStateName::Running));
            let stop_request = mock!(Client::stop_instances)
                .match_requests(move |request| {
                    request.instance_ids() == [ID]
                        && (request.force(), request.hibernate()) == (force, hibernate)
                })
                .then_output(|| {
                    StopInstancesOutput::builder()
                        .stopping_instances(state_change(ID, InstanceStateName::Stopped))
                        .build()
                });
            let ctx = testing::context(mock_client!(
                aws_sdk_ec2,
                RuleMode::MatchAny,
                [&describe, &stop_request]
            ));
            let mut params = params;
            params["instance_ids"] = json!(ID);
            let output = expect_done(step(params).run(&ctx, None).await);
            assert_eq!(
                (output.instances[0].state.as_str(), stop_request.num_calls()),
                ("stopped", 1)
            );
        }
    }

    #[tokio::test]
    async fn done_stops_instances_stuck_in_stopping_by_force() {
        let describe = mock!(Client::describe_instances)
            .sequence()
            .output(|| one_instance(InstanceStateName::Stopping))
            .output(|| one_instance(InstanceStateName::Stopping))
            .output(|| one_instance(InstanceStateName::Stopped))
            .build();
        let stop_request = mock!(Client::stop_instances)
            .match_requests(|request| {
                request.instance_ids() == [ID] && request.force() == Some(true)
            })
            .then_output(stopping_output);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &stop_request]
        ));
        let step = step(json!({ "instance_ids": ID, "force": true }));
        let (resume, ..) = expect_pending(step.run(&ctx, None).await);
        let (resume, ..) = expect_pending(step.run(&ctx, Some(resume)).await);
        assert_eq!(
            expect_done(step.run(&ctx, Some(resume)).await).instances[0].state,
            "stopped"
        );
        assert_eq!(stop_request.num_calls(), 1);
    }

    #[tokio::test]
    async fn done_log_names_instances_that_did_not_hibernate() {
        for (code, hibernate, is_logged) in [
            ("Client.UserInitiatedHibernate", true, false),
            ("Client.UserInitiatedShutdown", true, true),
            ("Client.UserInitiatedShutdown", false, false),
        ] {
            let describe = mock!(Client::describe_instances)
                .sequence()
                .output(|| one_instance(InstanceStateName::Running))
                .output(move || instances_output([stopped_instance(ID, code, "the reason")]))
                .build();
            let stop_request = mock!(Client::stop_instances).then_output(stopping_output);
            let ctx = testing::context(mock_client!(
                aws_sdk_ec2,
                RuleMode::MatchAny,
                [&describe, &stop_request]
            ));
            let step = step(json!({ "instance_ids": ID, "hibernate": hibernate }));
            let (resume, ..) = expect_pending(step.run(&ctx, None).await);
            let _ = expect_done(step.run(&ctx, Some(resume)).await);
            let line = format!(
                "Instance {ID} was shut down instead of hibernated, and its memory is lost: \
                 the reason"
            );
            assert_eq!(
                testing::log_lines(&ctx).contains(&line),
                is_logged,
                "{code}"
            );
        }
    }

    #[tokio::test]
    async fn already_stopped_instances_are_not_stopped_again() {
        let describe = mock!(Client::describe_instances)
            .then_output(|| one_instance(InstanceStateName::Stopped));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]));
        for step in [
            step(json!({ "instance_ids": ID })),
            step(json!({ "instance_ids": ID, "hibernate": true })),
        ] {
            let output = expect_done(step.run(&ctx, None).await);
            assert_eq!(output.instances[0].previous_state, "stopped");
        }
        assert_eq!(testing::log_lines(&ctx), ["1 of 1 instances stopped"; 2]);
    }

    #[tokio::test]
    async fn not_found_for_an_unknown_instance_id() {
        assert_not_found(&step(json!({ "instance_ids": ID }))).await;
    }

    #[test]
    fn invalid_parameters_are_rejected_before_any_request() {
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
    async fn throttled_requests_are_retried() {
        let describe = mock!(Client::describe_instances)
            .sequence()
            .error(|| {
                DescribeInstancesError::generic(error_response("RequestLimitExceeded", "slow down"))
            })
            .output(|| one_instance(InstanceStateName::Running))
            .build();
        let stop_request = mock!(Client::stop_instances)
            .sequence()
            .error(|| {
                StopInstancesError::generic(error_response("RequestLimitExceeded", "slow down"))
            })
            .output(stopping_output)
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &stop_request]
        ));
        let (_, _, progress) =
            expect_pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(
            (progress.as_str(), stop_request.num_calls()),
            ("0 of 1 instances stopped", 2)
        );
    }

    #[tokio::test]
    async fn pending_while_it_starts_and_stops_with_one_request() {
        let describe = mock!(Client::describe_instances)
            .sequence()
            .output(|| one_instance(InstanceStateName::Pending))
            .output(|| one_instance(InstanceStateName::Running))
            .output(|| one_instance(InstanceStateName::Stopping))
            .output(|| one_instance(InstanceStateName::Stopped))
            .build();
        let stop_request = mock!(Client::stop_instances).then_output(stopping_output);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &stop_request]
        ));
        let step = step(json!({ "instance_ids": ID }));
        let mut state = None;
        for _ in 0..3 {
            state = Some(expect_pending(step.run(&ctx, state).await).0);
        }
        let output = expect_done(step.run(&ctx, state).await);
        assert_eq!(output.instances[0].state, "stopped");
        assert_eq!(stop_request.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_without_a_second_request() {
        let describe = mock!(Client::describe_instances)
            .then_output(|| one_instance(InstanceStateName::Stopping));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&describe]));
        let (_, _, progress) =
            expect_pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(progress, "0 of 1 instances stopped");
    }

    #[tokio::test]
    async fn failed_with_conflict_when_an_instance_cannot_hibernate() {
        let describe = mock!(Client::describe_instances)
            .then_output(|| one_instance(InstanceStateName::Running));
        let stop_request = mock!(Client::stop_instances).then_error(|| {
            StopInstancesError::generic(error_response(
                "UnsupportedHibernationConfiguration",
                "not enabled for hibernation",
            ))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &stop_request]
        ));
        let error = step(json!({ "instance_ids": ID, "hibernate": true }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("hibernation"), "{error}");
    }

    #[tokio::test]
    async fn failed_with_conflict_for_stop_protection() {
        let describe = mock!(Client::describe_instances)
            .then_output(|| one_instance(InstanceStateName::Running));
        let stop_request = mock!(Client::stop_instances).then_error(|| {
            let message =
                "The instance may not be stopped. Modify its 'disableApiStop' instance attribute";
            StopInstancesError::generic(error_response("OperationNotPermitted", message))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &stop_request]
        ));
        let error = step(json!({ "instance_ids": ID }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("disableApiStop"), "{error}");
    }

    #[tokio::test]
    async fn failed_instances_do_not_keep_others_from_stopping() {
        const OTHER: &str = "i-0123456789abcdef1";
        for (params, code, message) in [
            (
                json!({}),
                "UnsupportedOperation",
                "one-time Spot instances cannot be stopped",
            ),
            (
                json!({ "hibernate": true }),
                "UnsupportedHibernationConfiguration",
                "not enabled for hibernation",
            ),
        ] {
            let both = |other: InstanceStateName| {
                move || {
                    instances_output([
                        instance(ID, InstanceStateName::Running),
                        instance(OTHER, other.clone()),
                    ])
                }
            };
            let describe = mock!(Client::describe_instances)
                .sequence()
                .output(both(InstanceStateName::Running))
                .output(both(InstanceStateName::Stopped))
                .build();
            let refuse = mock!(Client::stop_instances)
                .match_requests(|request| request.instance_ids().iter().any(|id| id == ID))
                .then_error(move || StopInstancesError::generic(error_response(code, message)));
            let stop_request = mock!(Client::stop_instances)
                .match_requests(|request| request.instance_ids() == [OTHER])
                .then_output(|| StopInstancesOutput::builder().build());
            let rules = [&describe, &refuse, &stop_request];
            let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
            let mut params = params;
            params["instance_ids"] = json!([ID, OTHER]);
            let step = step(params);
            let (resume, ..) = expect_pending(step.run(&ctx, None).await);
            let error = step.run(&ctx, Some(resume)).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(
                error.message.contains(&format!("{ID}: {message} ({code})")),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn failed_when_an_instance_is_terminated_meanwhile() {
        let describe = mock!(Client::describe_instances)
            .sequence()
            .output(|| one_instance(InstanceStateName::Running))
            .output(|| one_instance(InstanceStateName::Terminated))
            .build();
        let stop_request = mock!(Client::stop_instances).then_output(stopping_output);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &stop_request]
        ));
        let step = step(json!({ "instance_ids": ID }));
        let (resume, ..) = expect_pending(step.run(&ctx, None).await);
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(error.message.contains(ID), "{error}");
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_enforces() {
        prove_permissions::<Stop>(
            &[],
            async |scene| json!({ "instance_ids": [launch_instance(scene).await] }),
        );
    }
}
