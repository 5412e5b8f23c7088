//! The step `ec2-terminate`.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::ec2_error;
use crate::instances::{
    ChangedInstances, LIVE_STATES, MAX_INSTANCE_IDS, Selection, instance_state,
};
use crate::transition::{StateGoal, drive_to_state};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{InstanceAttributeName, InstanceStateChange, InstanceStateName};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::{StringList, require};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Terminate EC2 instances and wait until all of them are terminated.
///
/// Use this step to remove instances that are no longer needed, such as those of a load test. **You
/// cannot undo it.** EC2 deletes the volumes that are marked for deletion on termination, with
/// their data. By default, this is the root volume; EC2 keeps the other volumes.
///
/// You choose instances by ID or by tags. With tags, `expected_count` is required: if the tags
/// select more or fewer instances, for example because of a typing error, the step terminates
/// nothing. If the instances belong to an Auto Scaling group, the group replaces them.
///
/// # Behavior
///
/// 1. The step counts the instances. It terminates nothing if the number is not `expected_count`.
/// 2. It checks that none of them has termination protection or stop protection. Both prevent
///    termination. If one instance is protected, the step terminates none of them.
/// 3. It terminates the instances and succeeds when all of them are `terminated`.
///
/// Instances that are already terminated count as success. EC2 removes a terminated instance after
/// about an hour. After that, the step fails with `NotFound` for its ID. When the job is stopped,
/// instances that are shutting down continue to shut down.
///
/// With tags, the step terminates nothing if instances with these tags are already shutting down
/// when it starts. An earlier call of the same step may have terminated them, and a second
/// selection could terminate their replacements.
///
/// # Failures
///
/// If somebody enables protection of an instance after the step has checked it, EC2 terminates the
/// instances in other Availability Zones. The step then fails with `StepFailed`, not `Conflict`.
///
/// With tags, a retry can terminate more instances than you expect. This happens if the first call
/// terminated its instances, its response was lost, and something launched replacements with the
/// same tags. Once the first instances are `terminated`, the step cannot recognize the replacements
/// and terminates them if their number is `expected_count`. Select instances by ID if something
/// replaces them.
///
/// # Cost
///
/// This step itself has no charge; AWS still charges for volumes that are kept.
///
/// # Proof
///
/// Proven on the local cloud, where instances terminate immediately and cannot be protected. Only
/// unit tests with a fake EC2 cover waiting and protection.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Terminate {
    /// IDs of the instances to terminate, 1 to 50. Required unless you set `tags`; set only one of
    /// the two.
    #[serde(default)]
    instance_ids: StringList,
    /// Tags that select the instances: keys with their exact values. The step selects instances
    /// that carry all of these tags. Requires `expected_count`. If more than 500 instances carry
    /// them, including those that were terminated in the last hour, the step fails with `Conflict`
    /// and terminates none.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// The expected number of instances, 1 to 50. If the number differs, the step terminates
    /// nothing. Required with `tags`, where instances that are already terminated do not count.
    /// Optional with `instance_ids`, where the step counts the different IDs.
    expected_count: Option<usize>,
}

impl Terminate {
    fn selection(&self) -> Selection<'_> {
        Selection {
            ids: &self.instance_ids,
            tags: &self.tags,
        }
    }

    /// The IDs of the instances to terminate. Their number is the expected one.
    async fn counted_ids(&self, ec2: &Client) -> Result<Vec<String>, StepError> {
        if self.tags.is_empty() {
            let ids: BTreeSet<_> = self.instance_ids.iter().cloned().collect();
            self.check_count(ids.len())?;
            return Ok(ids.into_iter().collect());
        }

        let instances = self.selection().find_instances(ec2, &[]).await?;
        let ids_in_states = |states: &[InstanceStateName]| -> Vec<_> {
            instances
                .iter()
                .filter(|instance| states.contains(&instance_state(instance)))
                .filter_map(|instance| instance.instance_id.clone())
                .collect()
        };
        let live = ids_in_states(&LIVE_STATES);
        let shutting_down = ids_in_states(&[InstanceStateName::ShuttingDown]);
        let ended = ids_in_states(&[
            InstanceStateName::ShuttingDown,
            InstanceStateName::Terminated,
        ]);

        // A retry after a lost response finds the instances that the first call terminated, and
        // perhaps replacements that an Auto Scaling group has launched since. The operator did not
        // select those.
        if live.is_empty() && Some(ended.len()) >= self.expected_count {
            return Ok(ended);
        }
        if !live.is_empty() && !shutting_down.is_empty() {
            return Err(ErrorName::Conflict.with_message(format!(
                "instances with these tags are shutting down ({}), perhaps because of an earlier \
                 call of this step; nothing else was terminated; wait until they are terminated, \
                 and run the step again if you also want to terminate {}",
                shutting_down.join(", "),
                live.join(", ")
            )));
        }
        self.check_count(live.len())?;
        Ok(live)
    }

    fn check_count(&self, count: usize) -> Result<(), StepError> {
        match self.expected_count {
            Some(expected) if expected != count => Err(ErrorName::Conflict.with_message(format!(
                "expected_count is {expected}, but {count} instances are selected; nothing was \
                 terminated; correct expected_count or the selection"
            ))),
            _ => Ok(()),
        }
    }
}

/// The kind of protection that prevents an instance's termination. Stop protection prevents it too:
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-stop-protection.html>
async fn find_protection(ec2: &Client, id: &str) -> Result<Option<&'static str>, StepError> {
    for (attribute, name) in [
        (
            InstanceAttributeName::DisableApiTermination,
            "termination protection",
        ),
        (InstanceAttributeName::DisableApiStop, "stop protection"),
    ] {
        let response = ec2
            .describe_instance_attribute()
            .instance_id(id)
            .attribute(attribute)
            .send()
            .await
            .map_err(ec2_error)?;
        let values = [response.disable_api_termination, response.disable_api_stop];
        let is_protected = values
            .into_iter()
            .flatten()
            .any(|value| value.value == Some(true));
        if is_protected {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

async fn terminate_unprotected(
    ec2: Client,
    ids: Vec<String>,
) -> Result<Vec<InstanceStateChange>, StepError> {
    let mut protected = Vec::new();
    for id in &ids {
        if let Some(protection) = find_protection(&ec2, id).await? {
            protected.push(format!("instance {id} has {protection}"));
        }
    }
    if !protected.is_empty() {
        return Err(ErrorName::Conflict.with_message(format!(
            "{}; nothing was terminated; remove the protection if you want to terminate the \
             instances",
            protected.join(", ")
        )));
    }

    let has_several = ids.len() > 1;
    let request = ec2.terminate_instances().set_instance_ids(Some(ids));
    let response = request.send().await.map_err(|error| {
        let mut error = ec2_error(error);
        // Somebody enabled protection after the check. EC2 refuses the request separately in each
        // Availability Zone.
        // https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html
        if has_several && error.has_code("OperationNotPermitted") {
            error.name = ErrorName::StepFailed;
            error.message += "; EC2 may have terminated instances in other Availability Zones";
        }
        error
    })?;
    Ok(response.terminating_instances.unwrap_or_default())
}

impl Step for Terminate {
    const NAME: &'static str = "ec2-terminate";
    const RUNDECK: &'static [RundeckPlugin] = &[
        RundeckPlugin {
            provider_type: "aws-vm-delete",
            fields: &[("instanceId", "instance_ids"), ("region", "region")],
        },
        RundeckPlugin {
            provider_type: "aws-vm-delete-step",
            fields: &[("instanceId", "instance_ids"), ("region", "region")],
        },
    ];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Terminate one instance",
            parameters: r#"{ "instance_ids": ["i-0123456789abcdef0"] }"#,
            output: r#"{
                "instances": [
                    {
                        "instance_id": "i-0123456789abcdef0",
                        "name": "web-1",
                        "previous_state": "running",
                        "state": "terminated"
                    }
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#Instances:instanceId=i-0123456789abcdef0"
            }"#,
        },
        Example {
            title: "Terminate the three instances of a load test",
            parameters: r#"{ "tags": { "environment": "load-test" }, "expected_count": 3 }"#,
            output: r#"{
                "instances": [
                    {
                        "instance_id": "i-0123456789abcdef0",
                        "name": "load-1",
                        "previous_state": "running",
                        "state": "terminated"
                    },
                    {
                        "instance_id": "i-0123456789abcdef1",
                        "name": "load-2",
                        "previous_state": "running",
                        "state": "terminated"
                    },
                    {
                        "instance_id": "i-0123456789abcdef2",
                        "name": null,
                        "previous_state": "stopped",
                        "state": "terminated"
                    }
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#Instances:instanceId=i-0123456789abcdef0,i-0123456789abcdef1,i-0123456789abcdef2"
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
            "The step terminated nothing: the number of instances is not `expected_count`, more \
             than 500 carry the tags, an instance is protected, or others with the tags are \
             shutting down. The message says which, and what to do.",
        ),
        (
            ErrorName::StepFailed,
            "Somebody enabled protection while the step ran, and EC2 may have terminated some of \
             the instances. Check them in the EC2 console.",
        ),
        (
            ErrorName::TimedOut,
            "Some instances were not terminated after 30 minutes. The message names each of them \
             with its state.",
        ),
    ];
    type Output = ChangedInstances;

    fn validate(&self) -> Result<(), StepError> {
        self.selection().validate()?;
        require(
            self.tags.is_empty() || self.expected_count.is_some(),
            || {
                "parameter \"expected_count\": required with tags; give the number of instances \
                 that carry them"
                    .into()
            },
        )?;
        let expected_count = self.expected_count.unwrap_or(1);
        require((1..=MAX_INSTANCE_IDS).contains(&expected_count), || {
            format!(
                "parameter \"expected_count\": expected 1 to {MAX_INSTANCE_IDS}, got \
                 \"{expected_count}\""
            )
        })
    }

    fn permissions(&self) -> Permissions {
        self.selection().permissions(&[
            ("ec2:TerminateInstances", "terminate the instances"),
            (
                "ec2:DescribeInstanceAttribute",
                "check termination protection and stop protection",
            ),
        ])
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<ChangedInstances>, StepError> {
        let ids = if resume.is_none() {
            self.counted_ids(&ctx.client(Client::new)).await?
        } else {
            Vec::new()
        };
        let by_id = Selection {
            ids: &ids,
            tags: &BTreeMap::new(),
        };
        let goal = StateGoal {
            final_state: InstanceStateName::Terminated,
            act_on: LIVE_STATES.into(),
            action: "Terminating",
            is_all_or_nothing: true,
            time_limit: Self::TIMEOUT,
            log_line: |_| None,
        };
        drive_to_state(ctx, by_id, resume, &goal, terminate_unprotected).await
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{
        assert_not_found, error_response, instance, instances_output, launch_instance, state_change,
    };
    use aws_sdk_ec2::operation::describe_instance_attribute::DescribeInstanceAttributeOutput;
    use aws_sdk_ec2::operation::describe_instances::DescribeInstancesError;
    use aws_sdk_ec2::operation::terminate_instances::{
        TerminateInstancesError, TerminateInstancesOutput,
    };
    use aws_sdk_ec2::types::AttributeBooleanValue;
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use serde_json::json;
    use stepward::mock_client;
    use stepward::testing::{self, expect_done, expect_pending};
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const ID: &str = "i-0123456789abcdef0";
    const OTHER: &str = "i-0123456789abcdef1";

    fn step(params: serde_json::Value) -> Terminate {
        serde_json::from_value(params).unwrap()
    }

    fn step_by_tags(expected_count: usize) -> Terminate {
        step(json!({ "tags": { "team": "ops" }, "expected_count": expected_count }))
    }

    /// EC2 returns that no instance is protected.
    fn unprotected() -> Rule {
        mock!(Client::describe_instance_attribute)
            .match_requests(|request| {
                let attributes = [
                    InstanceAttributeName::DisableApiTermination,
                    InstanceAttributeName::DisableApiStop,
                ];
                attributes
                    .iter()
                    .any(|attribute| request.attribute() == Some(attribute))
            })
            .then_output(|| {
                let is_protected = AttributeBooleanValue::builder().value(false).build();
                DescribeInstanceAttributeOutput::builder()
                    .disable_api_termination(is_protected)
                    .build()
            })
    }

    fn terminates(ids: &'static [&'static str], new_state: InstanceStateName) -> Rule {
        mock!(Client::terminate_instances)
            .match_requests(move |request| request.instance_ids() == ids)
            .then_output(move || {
                let changes = ids
                    .iter()
                    .map(|id| state_change(id, new_state.clone()))
                    .collect();
                TerminateInstancesOutput::builder()
                    .set_terminating_instances(Some(changes))
                    .build()
            })
    }

    #[tokio::test]
    async fn done_terminates_the_expected_number_by_tags() {
        let describe_by_tags = mock!(Client::describe_instances)
            .match_requests(|request| {
                request
                    .filters()
                    .iter()
                    .any(|filter| filter.name() == Some("tag:team"))
            })
            .then_output(|| {
                let terminated = instance("i-00000000", InstanceStateName::Terminated);
                instances_output([
                    instance(ID, InstanceStateName::Running),
                    instance(OTHER, InstanceStateName::Stopped),
                    terminated,
                ])
            });
        let describe = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID, OTHER])
            .then_output(|| {
                instances_output([
                    instance(ID, InstanceStateName::Running),
                    instance(OTHER, InstanceStateName::Stopped),
                ])
            });
        let (unprotected, terminate) = (
            unprotected(),
            terminates(&[ID, OTHER], InstanceStateName::Terminated),
        );
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe_by_tags, &describe, &unprotected, &terminate]
        ));
        let output = expect_done(step_by_tags(2).run(&ctx, None).await);
        let states = output
            .instances
            .iter()
            .map(|instance| (instance.previous_state.as_str(), instance.state.as_str()));
        assert_eq!(
            states.collect::<Vec<_>>(),
            [("running", "terminated"), ("stopped", "terminated")]
        );
        assert_eq!((unprotected.num_calls(), terminate.num_calls()), (4, 1));
        let expected_log = [
            format!("Terminating {ID}, {OTHER}"),
            "2 of 2 instances terminated".to_owned(),
        ];
        assert_eq!(testing::log_lines(&ctx), expected_log);
    }

    #[tokio::test]
    async fn already_terminated_instances_are_success() {
        let describe = mock!(Client::describe_instances)
            .then_output(|| instances_output([instance(ID, InstanceStateName::Terminated)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]));
        for step in [
            step(json!({ "instance_ids": ID, "expected_count": 1 })),
            step_by_tags(1),
        ] {
            let output = expect_done(step.run(&ctx, None).await);
            assert_eq!(output.instances[0].previous_state, "terminated");
        }
    }

    #[tokio::test]
    async fn not_found_for_an_unknown_instance_id() {
        assert_not_found(&step(json!({ "instance_ids": ID }))).await;
    }

    #[test]
    fn invalid_parameters_are_rejected_before_any_request() {
        step_by_tags(50).validate().unwrap();
        for params in [
            json!({}),
            json!({ "instance_ids": "i-*" }),
            json!({ "instance_ids": ID, "tags": { "team": "ops" }, "expected_count": 1 }),
            json!({ "tags": { "team": "ops" } }),
            json!({ "tags": { "team": "*" }, "expected_count": 1 }),
            json!({ "instance_ids": ID, "expected_count": 0 }),
            json!({ "tags": { "team": "ops" }, "expected_count": 51 }),
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
        let describe = mock!(Client::describe_instances)
            .then_output(|| instances_output([instance(ID, InstanceStateName::Running)]));
        let terminate = mock!(Client::terminate_instances)
            .sequence()
            .error(|| {
                TerminateInstancesError::generic(error_response(
                    "RequestLimitExceeded",
                    "slow down",
                ))
            })
            .output(|| {
                let change = state_change(ID, InstanceStateName::ShuttingDown);
                TerminateInstancesOutput::builder()
                    .terminating_instances(change)
                    .build()
            })
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &unprotected(), &terminate]
        ));
        let (_, _, progress) =
            expect_pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(
            (progress.as_str(), terminate.num_calls()),
            ("0 of 1 instances terminated", 2)
        );
    }

    #[tokio::test]
    async fn pending_while_shutting_down_with_one_request() {
        let describe = mock!(Client::describe_instances)
            .sequence()
            .output(|| instances_output([instance(ID, InstanceStateName::Running)]))
            .output(|| instances_output([instance(ID, InstanceStateName::ShuttingDown)]))
            .output(|| instances_output([instance(ID, InstanceStateName::Terminated)]))
            .build();
        let terminate = terminates(&[ID], InstanceStateName::ShuttingDown);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &unprotected(), &terminate]
        ));
        let step = step(json!({ "instance_ids": [ID, ID], "expected_count": 1 }));
        let (resume, ..) = expect_pending(step.run(&ctx, None).await);
        let (resume, ..) = expect_pending(step.run(&ctx, Some(resume)).await);
        assert_eq!(
            expect_done(step.run(&ctx, Some(resume)).await).instances[0].state,
            "terminated"
        );
        assert_eq!(terminate.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_by_id_and_by_tags() {
        let describe = mock!(Client::describe_instances)
            .then_output(|| instances_output([instance(ID, InstanceStateName::ShuttingDown)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]));
        for step in [step(json!({ "instance_ids": ID })), step_by_tags(1)] {
            let (_, _, progress) = expect_pending(step.run(&ctx, None).await);
            assert_eq!(progress, "0 of 1 instances terminated");
        }
    }

    #[tokio::test]
    async fn failed_with_conflict_for_an_unexpected_number_of_instances() {
        let describe = mock!(Client::describe_instances).then_output(|| {
            instances_output([
                instance(ID, InstanceStateName::Running),
                instance(OTHER, InstanceStateName::Terminated),
            ])
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]));
        let by_id = step(json!({ "instance_ids": [ID, OTHER, ID], "expected_count": 3 }));
        for (step, count) in [(step_by_tags(2), 1), (step_by_tags(3), 1), (by_id, 2)] {
            let error = step.run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict);
            assert!(
                error.message.contains(&format!(
                    "{count} instances are selected; nothing was terminated"
                )),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn failed_with_conflict_when_replacements_exist_after_a_lost_response() {
        let describe = mock!(Client::describe_instances).then_output(|| {
            instances_output([
                instance(ID, InstanceStateName::ShuttingDown),
                instance(OTHER, InstanceStateName::Pending),
            ])
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]));
        let error = step_by_tags(1).run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains(&format!("shutting down ({ID})")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_with_conflict_for_a_protected_instance() {
        let describe = mock!(Client::describe_instances).then_output(|| {
            instances_output([
                instance(ID, InstanceStateName::Running),
                instance(OTHER, InstanceStateName::Running),
            ])
        });
        let protected = mock!(Client::describe_instance_attribute)
            .match_requests(|request| {
                request.instance_id() == Some(OTHER)
                    && request.attribute() == Some(&InstanceAttributeName::DisableApiStop)
            })
            .then_output(|| {
                let is_protected = AttributeBooleanValue::builder().value(true).build();
                DescribeInstanceAttributeOutput::builder()
                    .disable_api_stop(is_protected)
                    .build()
            });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe, &protected, &unprotected()]
        ));
        let error = step(json!({ "instance_ids": [ID, OTHER] }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.starts_with(&format!(
                "instance {OTHER} has stop protection; nothing was terminated"
            )),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_when_protected_after_the_check() {
        let describe = mock!(Client::describe_instances).then_output(|| {
            instances_output([ID, OTHER].map(|id| instance(id, InstanceStateName::Running)))
        });
        let describe_one = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID])
            .then_output(|| instances_output([instance(ID, InstanceStateName::Running)]));
        let terminate = mock!(Client::terminate_instances).then_error(|| {
            let message = "The instance may not be terminated. Modify its \
                           'disableApiTermination' instance attribute";
            TerminateInstancesError::generic(error_response("OperationNotPermitted", message))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describe_one, &describe, &unprotected(), &terminate]
        ));
        for (ids, name, has_terminated_others) in [
            (json!(ID), ErrorName::Conflict, false),
            (json!([ID, OTHER]), ErrorName::StepFailed, true),
        ] {
            let step = step(json!({ "instance_ids": ids }));
            let error = step.run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, name);
            assert!(error.message.contains("disableApiTermination"), "{error}");
            assert_eq!(
                error.message.contains("other Availability Zones"),
                has_terminated_others
            );
        }
    }

    #[tokio::test]
    async fn done_when_ec2_forgets_a_terminated_instance() {
        let describe = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID, OTHER])
            .sequence()
            .output(|| {
                instances_output([ID, OTHER].map(|id| instance(id, InstanceStateName::Running)))
            })
            .error(|| {
                let message = format!("The instance ID '{OTHER}' does not exist");
                let response = error_response("InvalidInstanceID.NotFound", &message);
                DescribeInstancesError::generic(response)
            })
            .build();
        let describe_one = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID])
            .then_output(|| instances_output([instance(ID, InstanceStateName::Terminated)]));
        let terminate = terminates(&[ID, OTHER], InstanceStateName::ShuttingDown);
        let rules = [&describe, &describe_one, &unprotected(), &terminate];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let step = step(json!({ "instance_ids": [ID, OTHER] }));
        let (resume, ..) = expect_pending(step.run(&ctx, None).await);
        let output = expect_done(step.run(&ctx, Some(resume)).await);
        let states = output.instances.iter().map(|instance| &instance.state[..]);
        assert_eq!(states.collect::<Vec<_>>(), ["terminated", "terminated"]);
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_enforces() {
        prove_permissions::<Terminate>(&[], async |scene| {
            let id = launch_instance(scene).await;
            json!({ "instance_ids": [id], "expected_count": 1 })
        });
    }
}
