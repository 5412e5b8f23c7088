//! The step `ec2-terminate`.

use std::collections::{BTreeMap, BTreeSet};

use crate::bring::{Goal, bring};
use crate::error::ec2_error;
use crate::instances::{Changed, LIVE, MAX_INSTANCES, Selection, state};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Instance, InstanceAttributeName, InstanceStateChange, InstanceStateName};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::{StringList, require};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Terminate EC2 instances and finish once all are terminated.
///
/// This cannot be undone. Volumes marked for deletion on termination (the root volume, unless
/// somebody decided otherwise) are deleted with their data; other volumes stay, and go on costing
/// money. An Auto Scaling group replaces what was terminated in it.
///
/// Everything is checked before the first instance is terminated: that there are as many as
/// `expected_count` says, and that none has termination protection or stop protection, which keeps
/// instances from termination too. One that has is a `Conflict`, and then all of them stay.
///
/// Instances that are terminated already are success. EC2 forgets them after about an hour; an ID
/// is `NotFound` from then on. When the job is stopped, instances that are shutting down go on
/// doing so.
///
/// By tags, nothing is terminated while others with these tags are shutting down: they can be those
/// of a call whose answer was lost. This guard does not see replacements once the first instances
/// are `terminated`: a retry then terminates as many others that carry the tags. Give IDs where
/// something launches replacements.
///
/// Proven on the local cloud, where instances are gone at once and none is protected; waiting and
/// protection rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Terminate {
    /// Instances to terminate, 1 to 50 IDs.
    #[serde(default)]
    instance_ids: StringList,
    /// Instead of IDs: the tags (key and exact value) that an instance must carry, all of them.
    /// `expected_count` is then required. More than 500, those terminated in the last hour
    /// included, are a `Conflict` and stay as they are.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// How many instances there must be, 1 to 50: with another number nothing is terminated. By
    /// tags it counts instances that are not terminated yet. By IDs it counts different IDs, and
    /// may be left out.
    expected_count: Option<usize>,
}

impl Terminate {
    fn selection(&self) -> Selection<'_> {
        Selection {
            ids: &self.instance_ids,
            tags: &self.tags,
        }
    }

    /// The IDs of the instances, as many as are expected.
    async fn counted(&self, ec2: &Client) -> Result<Vec<String>, StepError> {
        if self.tags.is_empty() {
            let ids: BTreeSet<_> = self.instance_ids.iter().cloned().collect();
            self.check_count(ids.len())?;
            return Ok(ids.into_iter().collect());
        }
        let found = self.selection().find(ec2, &[]).await?;
        let in_states = |states: &[InstanceStateName]| -> Vec<_> {
            let fits = |one: &&Instance| states.contains(&state(one));
            found
                .iter()
                .filter(fits)
                .filter_map(|one| one.instance_id.clone())
                .collect()
        };
        let live = in_states(&LIVE);
        let going = in_states(&[InstanceStateName::ShuttingDown]);
        let gone = in_states(&[
            InstanceStateName::ShuttingDown,
            InstanceStateName::Terminated,
        ]);
        // A call repeated after a lost answer finds what the first has done, and perhaps
        // replacements that an Auto Scaling group has launched since: those nobody has meant.
        if live.is_empty() && Some(gone.len()) >= self.expected_count {
            return Ok(gone);
        }
        if !live.is_empty() && !going.is_empty() {
            return Err(ErrorName::Conflict.with_message(format!(
                "instances with these tags are shutting down ({}), maybe by this very step: nothing more was \
                 terminated; when they are gone, see whether {} shall go too, and run it again",
                going.join(", "),
                live.join(", ")
            )));
        }
        self.check_count(live.len())?;
        Ok(live)
    }

    fn check_count(&self, count: usize) -> Result<(), StepError> {
        match self.expected_count {
            Some(expected) if expected != count => Err(ErrorName::Conflict.with_message(format!(
                "expected_count is {expected} and {count} instances were chosen: nothing was terminated"
            ))),
            _ => Ok(()),
        }
    }
}

/// Why an instance may not be terminated.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-stop-protection.html> protects from
/// termination too.
async fn protection(ec2: &Client, id: &str) -> Result<Option<&'static str>, StepError> {
    for (attribute, name) in [
        (
            InstanceAttributeName::DisableApiTermination,
            "termination protection",
        ),
        (InstanceAttributeName::DisableApiStop, "stop protection"),
    ] {
        let answer = ec2
            .describe_instance_attribute()
            .instance_id(id)
            .attribute(attribute)
            .send()
            .await
            .map_err(ec2_error)?;
        let values = [answer.disable_api_termination, answer.disable_api_stop];
        if values
            .into_iter()
            .flatten()
            .any(|value| value.value == Some(true))
        {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

async fn terminate(ec2: Client, ids: Vec<String>) -> Result<Vec<InstanceStateChange>, StepError> {
    let mut protected = Vec::new();
    for id in &ids {
        if let Some(protection) = protection(&ec2, id).await? {
            protected.push(format!("{id} has {protection}"));
        }
    }
    if !protected.is_empty() {
        return Err(ErrorName::Conflict.with_message(format!(
            "{}: nothing was terminated; switch the protection off if this is really meant",
            protected.join(", ")
        )));
    }
    let sent = ec2
        .terminate_instances()
        .set_instance_ids(Some(ids))
        .send()
        .await
        .map_err(ec2_error);
    let answer = sent.map_err(|mut error| {
        // Protected since it was checked. EC2 decides this for each Availability Zone by itself.
        if error.has_code("OperationNotPermitted") {
            error.message +=
                "; instances in other Availability Zones may have been terminated all the same";
        }
        error
    })?;
    Ok(answer.terminating_instances.unwrap_or_default())
}

impl Step for Terminate {
    const NAME: &'static str = "ec2-terminate";
    const RUNDECK: &'static [RundeckPlugin] = &[
        RundeckPlugin {
            provider_type: "aws-vm-delete",
            fields: &[],
        },
        RundeckPlugin {
            provider_type: "aws-vm-delete-step",
            fields: &[],
        },
    ];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "instance_ids": ["i-0123456789abcdef0"] }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "tags": { "environment": "load-test" }, "expected_count": 3 }"#,
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
            "Their number is not `expected_count`, more than 500 carry the tags, one is protected, or others with the \
             tags are shutting down; nothing was terminated.",
        ),
    ];
    type Output = Changed;

    fn validate(&self) -> Result<(), StepError> {
        self.selection().validate()?;
        require(
            self.tags.is_empty() || self.expected_count.is_some(),
            || "expected_count is required with tags: how many instances carry them".into(),
        )?;
        require(
            self.expected_count
                .is_none_or(|count| (1..=MAX_INSTANCES).contains(&count)),
            || format!("expected_count must be 1 to {MAX_INSTANCES}"),
        )
    }

    fn permissions(&self) -> Permissions {
        self.selection()
            .permissions(&["ec2:TerminateInstances", "ec2:DescribeInstanceAttribute"])
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Changed>, StepError> {
        let ids = if resume.is_none() {
            self.counted(&ctx.client(Client::new)).await?
        } else {
            Vec::new()
        };
        let goal = Goal {
            reached: InstanceStateName::Terminated,
            act_on: LIVE.into(),
            doing: "Terminating",
            remark: |_| None,
        };
        bring(
            ctx,
            Selection {
                ids: &ids,
                tags: &BTreeMap::new(),
            },
            resume,
            &goal,
            terminate,
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{change, instance, is_not_found, launched, refusal, seen};
    use aws_sdk_ec2::operation::describe_instance_attribute::DescribeInstanceAttributeOutput;
    use aws_sdk_ec2::operation::terminate_instances::{
        TerminateInstancesError, TerminateInstancesOutput,
    };
    use aws_sdk_ec2::types::AttributeBooleanValue;
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use serde_json::json;
    use stepward::testing::{self, done, pending};
    use stepward_testkit::proof::prove;

    use super::*;

    const ID: &str = "i-0123456789abcdef0";
    const OTHER: &str = "i-0123456789abcdef1";

    fn step(params: serde_json::Value) -> Terminate {
        serde_json::from_value(params).unwrap()
    }

    fn by_tags(expected_count: usize) -> Terminate {
        step(json!({ "tags": { "team": "ops" }, "expected_count": expected_count }))
    }

    /// None of the instances is protected.
    fn free() -> Rule {
        mock!(Client::describe_instance_attribute)
            .match_requests(|request| {
                let asked = [
                    InstanceAttributeName::DisableApiTermination,
                    InstanceAttributeName::DisableApiStop,
                ];
                asked
                    .iter()
                    .any(|attribute| request.attribute() == Some(attribute))
            })
            .then_output(|| {
                let no = AttributeBooleanValue::builder().value(false).build();
                DescribeInstanceAttributeOutput::builder()
                    .disable_api_termination(no)
                    .build()
            })
    }

    fn terminates(ids: &'static [&'static str], now: InstanceStateName) -> Rule {
        mock!(Client::terminate_instances)
            .match_requests(move |request| request.instance_ids() == ids)
            .then_output(move || {
                let changes = ids.iter().map(|id| change(id, now.clone())).collect();
                TerminateInstancesOutput::builder()
                    .set_terminating_instances(Some(changes))
                    .build()
            })
    }

    #[tokio::test]
    async fn done_by_tags_as_many_as_expected_are_terminated() {
        let chosen = mock!(Client::describe_instances)
            .match_requests(|request| {
                request
                    .filters()
                    .iter()
                    .any(|filter| filter.name() == Some("tag:team"))
            })
            .then_output(|| {
                let gone = instance("i-00000000", InstanceStateName::Terminated);
                seen([
                    instance(ID, InstanceStateName::Running),
                    instance(OTHER, InstanceStateName::Stopped),
                    gone,
                ])
            });
        let look = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID, OTHER])
            .then_output(|| {
                seen([
                    instance(ID, InstanceStateName::Running),
                    instance(OTHER, InstanceStateName::Stopped),
                ])
            });
        let (free, terminate) = (
            free(),
            terminates(&[ID, OTHER], InstanceStateName::Terminated),
        );
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&chosen, &look, &free, &terminate]
        ));
        let output = done(by_tags(2).run(&ctx, None).await);
        let states = output
            .instances
            .iter()
            .map(|i| (i.previous_state.as_str(), i.state.as_str()));
        assert_eq!(
            states.collect::<Vec<_>>(),
            [("running", "terminated"), ("stopped", "terminated")]
        );
        assert_eq!((free.num_calls(), terminate.num_calls()), (4, 1));
        let says = [
            format!("Terminating {ID}, {OTHER}"),
            "2 of 2 instances terminated".to_owned(),
        ];
        assert_eq!(testing::log(&ctx), says);
    }

    #[tokio::test]
    async fn already_terminated_instances_are_success() {
        let look = mock!(Client::describe_instances)
            .then_output(|| seen([instance(ID, InstanceStateName::Terminated)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        for step in [
            step(json!({ "instance_ids": ID, "expected_count": 1 })),
            by_tags(1),
        ] {
            let output = done(step.run(&ctx, None).await);
            assert_eq!(output.instances[0].previous_state, "terminated");
        }
    }

    #[tokio::test]
    async fn not_found_is_an_unknown_id() {
        is_not_found(&step(json!({ "instance_ids": ID }))).await;
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        by_tags(50).validate().unwrap();
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
    async fn throttled_at_first_it_terminates_all_the_same() {
        let look = mock!(Client::describe_instances)
            .then_output(|| seen([instance(ID, InstanceStateName::Running)]));
        let terminate = mock!(Client::terminate_instances)
            .sequence()
            .error(|| {
                TerminateInstancesError::generic(refusal("RequestLimitExceeded", "slow down"))
            })
            .output(|| {
                let change = change(ID, InstanceStateName::ShuttingDown);
                TerminateInstancesOutput::builder()
                    .terminating_instances(change)
                    .build()
            })
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &free(), &terminate]
        ));
        let (_, _, progress) = pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(
            (progress.as_str(), terminate.num_calls()),
            ("0 of 1 instances terminated", 2)
        );
    }

    #[tokio::test]
    async fn pending_while_they_shut_down_and_terminated_once() {
        let look = mock!(Client::describe_instances)
            .sequence()
            .output(|| seen([instance(ID, InstanceStateName::Running)]))
            .output(|| seen([instance(ID, InstanceStateName::ShuttingDown)]))
            .output(|| seen([instance(ID, InstanceStateName::Terminated)]))
            .build();
        let terminate = terminates(&[ID], InstanceStateName::ShuttingDown);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &free(), &terminate]
        ));
        let step = step(json!({ "instance_ids": [ID, ID], "expected_count": 1 }));
        let (resume, ..) = pending(step.run(&ctx, None).await);
        let (resume, ..) = pending(step.run(&ctx, Some(resume)).await);
        assert_eq!(
            done(step.run(&ctx, Some(resume)).await).instances[0].state,
            "terminated"
        );
        assert_eq!(terminate.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_again_after_a_lost_answer_also_by_tags_that_nothing_carries_any_more() {
        let look = mock!(Client::describe_instances)
            .then_output(|| seen([instance(ID, InstanceStateName::ShuttingDown)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        for step in [step(json!({ "instance_ids": ID })), by_tags(1)] {
            let (_, _, progress) = pending(step.run(&ctx, None).await);
            assert_eq!(progress, "0 of 1 instances terminated");
        }
    }

    #[tokio::test]
    async fn failed_another_number_than_expected_is_a_conflict_and_nothing_is_terminated() {
        let look = mock!(Client::describe_instances).then_output(|| {
            seen([
                instance(ID, InstanceStateName::Running),
                instance(OTHER, InstanceStateName::Terminated),
            ])
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        let by_id = step(json!({ "instance_ids": [ID, OTHER, ID], "expected_count": 3 }));
        for (step, count) in [(by_tags(2), 1), (by_tags(3), 1), (by_id, 2)] {
            let error = step.run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict);
            assert!(
                error.message.contains(&format!(
                    "{count} instances were chosen: nothing was terminated"
                )),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn failed_the_replacement_of_what_a_lost_call_terminates_is_not_terminated_too() {
        let look = mock!(Client::describe_instances).then_output(|| {
            seen([
                instance(ID, InstanceStateName::ShuttingDown),
                instance(OTHER, InstanceStateName::Pending),
            ])
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        let error = by_tags(1).run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains(&format!("shutting down ({ID})")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_a_protected_instance_is_a_conflict_that_names_it_and_nothing_is_terminated() {
        let look = mock!(Client::describe_instances).then_output(|| {
            seen([
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
                let yes = AttributeBooleanValue::builder().value(true).build();
                DescribeInstanceAttributeOutput::builder()
                    .disable_api_stop(yes)
                    .build()
            });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &protected, &free()]
        ));
        let error = step(json!({ "instance_ids": [ID, OTHER] }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.starts_with(&format!(
                "{OTHER} has stop protection: nothing was terminated"
            )),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_protected_since_it_was_checked_is_a_conflict_in_ec2s_words() {
        let look = mock!(Client::describe_instances)
            .then_output(|| seen([instance(ID, InstanceStateName::Running)]));
        let terminate = mock!(Client::terminate_instances).then_error(|| {
            let said = "The instance may not be terminated. Modify its 'disableApiTermination' instance attribute";
            TerminateInstancesError::generic(refusal("OperationNotPermitted", said))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &free(), &terminate]
        ));
        let error = step(json!({ "instance_ids": ID }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains("disableApiTermination")
                && error.message.contains("other Availability Zones")
        );
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Terminate>(
            &[],
            async |scene| json!({ "instance_ids": [launched(scene).await], "expected_count": 1 }),
        );
    }
}
