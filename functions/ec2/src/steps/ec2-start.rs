//! The step `ec2-start`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bring::{Goal, bring};
use crate::error::ec2_error;
use crate::instances::{Changed, Selection};
use crate::unlocked_volumes;
use aws_sdk_ec2::types::InstanceStateName;
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::StringList;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Start EC2 instances and finish once all are running.
///
/// Instances that run already are success, and those that are still stopping are waited for.
/// Running instances cost money until they are stopped. `running` means that EC2 has started them;
/// whether the operating system and its services are up, EC2's status checks tell later.
///
/// An instance that falls back to `stopped` fails the step with EC2's reason (no capacity of its
/// type, say), also when somebody stopped it meanwhile; a terminated one is a `Conflict`. When the
/// job is stopped, instances that are starting go on starting.
///
/// Proven on the local cloud, where instances start at once; waiting, falling back and the grant
/// for encrypted volumes rest on a stand-in for EC2 and on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Instances to start, 1 to 50 IDs.
    #[serde(default)]
    instance_ids: StringList,
    /// Instead of IDs: the tags (key and exact value) that an instance must carry, all of them.
    /// None found is success, more than 500 are a `Conflict` and stay as they are.
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
            fields: &[],
        },
        RundeckPlugin {
            provider_type: "aws-vm-start-step",
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
            parameters: r#"{ "tags": { "environment": "test" } }"#,
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
            "An instance is terminated or its state forbids to start it, or more than 500 carry the tags.",
        ),
        (
            ErrorName::StepFailed,
            "An instance fell back to `stopped`; the message has EC2's reason.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(15);
    type Output = Changed;

    fn validate(&self) -> Result<(), StepError> {
        self.selection().validate()
    }

    fn permissions(&self) -> Permissions {
        self.selection()
            .permissions(&["ec2:StartInstances"])
            .and(unlocked_volumes())
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Changed>, StepError> {
        let goal = Goal {
            reached: InstanceStateName::Running,
            act_on: vec![InstanceStateName::Stopped],
            doing: "Starting",
            remark: |_| None,
        };
        bring(
            ctx,
            self.selection(),
            resume,
            &goal,
            |ec2, ids| async move {
                let answer = ec2
                    .start_instances()
                    .set_instance_ids(Some(ids))
                    .send()
                    .await
                    .map_err(ec2_error)?;
                Ok(answer.starting_instances.unwrap_or_default())
            },
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{change, instance, is_not_found, launched, refusal, seen, stopped};
    use aws_sdk_ec2::Client;
    use aws_sdk_ec2::operation::describe_instances::DescribeInstancesError;
    use aws_sdk_ec2::operation::start_instances::{StartInstancesError, StartInstancesOutput};
    use aws_sdk_ec2::types::{Instance, Tag};
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use serde_json::json;
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, done, pending};
    use stepward_testkit::proof::prove;

    use super::*;

    const ID: &str = "i-0123456789abcdef0";
    const OTHER: &str = "i-0123456789abcdef1";

    fn step(params: serde_json::Value) -> Start {
        serde_json::from_value(params).unwrap()
    }

    fn starting() -> StartInstancesOutput {
        StartInstancesOutput::builder()
            .starting_instances(change(ID, InstanceStateName::Pending))
            .build()
    }

    /// What is seen at one look after the other.
    fn looks(instances: impl IntoIterator<Item = Instance>) -> Rule {
        let mut instances = instances.into_iter();
        let first = instances.next().unwrap();
        let rule = mock!(Client::describe_instances)
            .sequence()
            .output(move || seen([first.clone()]));
        instances
            .fold(rule, |rule, instance| {
                rule.output(move || seen([instance.clone()]))
            })
            .build()
    }

    #[tokio::test]
    async fn done_chosen_by_tags_what_is_stopped_is_started() {
        let look = mock!(Client::describe_instances)
            .match_requests(|request| {
                let filters: Vec<_> = request
                    .filters()
                    .iter()
                    .map(|f| (f.name().unwrap(), f.values()))
                    .collect();
                let live = ["pending", "running", "stopping", "stopped"].map(str::to_owned);
                let tag = ["ops".to_owned()];
                let expected = [("instance-state-name", &live[..]), ("tag:team", &tag[..])];
                request.instance_ids().is_empty() && filters == expected
            })
            .then_output(|| seen([instance(ID, InstanceStateName::Stopped)]));
        let start = mock!(Client::start_instances)
            .match_requests(|request| request.instance_ids() == [ID])
            .then_output(|| {
                StartInstancesOutput::builder()
                    .starting_instances(change(ID, InstanceStateName::Running))
                    .build()
            });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &start]
        ));
        let output = done(
            step(json!({ "tags": { "team": "ops" } }))
                .run(&ctx, None)
                .await,
        );
        let [one] = &output.instances[..] else {
            panic!("one instance")
        };
        assert_eq!(
            (one.previous_state.as_str(), one.state.as_str()),
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
            testing::log(&ctx),
            [format!("Starting {ID}"), "1 of 1 instances running".into()]
        );
    }

    #[tokio::test]
    async fn already_running_instances_are_left_alone() {
        let look = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID])
            .then_output(|| seen([instance(ID, InstanceStateName::Running)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
        let output = done(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(output.instances[0].previous_state, "running");
    }

    #[tokio::test]
    async fn already_none_with_these_tags_is_success() {
        let look = mock!(Client::describe_instances).then_output(|| seen([]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
        let output = done(
            step(json!({ "tags": { "team": "ops" } }))
                .run(&ctx, None)
                .await,
        );
        assert!(output.instances.is_empty());
    }

    #[tokio::test]
    async fn not_found_is_an_unknown_id() {
        is_not_found(&step(json!({ "instance_ids": ID }))).await;
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
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
    async fn throttled_at_first_it_starts_the_instance_all_the_same() {
        let look = mock!(Client::describe_instances)
            .sequence()
            .error(|| DescribeInstancesError::generic(refusal("RequestLimitExceeded", "slow down")))
            .output(|| seen([instance(ID, InstanceStateName::Stopped)]))
            .build();
        let start = mock!(Client::start_instances)
            .sequence()
            .error(|| StartInstancesError::generic(refusal("RequestLimitExceeded", "slow down")))
            .output(starting)
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &start]
        ));
        let (_, _, progress) = pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(
            (progress.as_str(), start.num_calls()),
            ("0 of 1 instances running", 2)
        );
    }

    #[tokio::test]
    async fn pending_until_all_run_and_nothing_is_started_twice() {
        let look = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID, OTHER])
            .sequence()
            .output(|| {
                seen([
                    instance(ID, InstanceStateName::Stopped),
                    instance(OTHER, InstanceStateName::Running),
                ])
            })
            .output(|| {
                seen([
                    instance(ID, InstanceStateName::Pending),
                    instance(OTHER, InstanceStateName::Running),
                ])
            })
            .output(|| {
                seen([
                    instance(ID, InstanceStateName::Running),
                    instance(OTHER, InstanceStateName::Running),
                ])
            })
            .build();
        let start = mock!(Client::start_instances)
            .match_requests(|request| request.instance_ids() == [ID])
            .then_output(starting);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&look, &start]
        ));
        let step = step(json!({ "instance_ids": [ID, OTHER] }));

        let (resume, after, progress) = pending(step.run(&ctx, None).await);
        assert_eq!(
            (after, progress.as_str()),
            (Duration::from_secs(5), "1 of 2 instances running")
        );
        let (resume, ..) = pending(step.run(&ctx, Some(resume)).await);
        let output = done(step.run(&ctx, Some(resume)).await);

        let states = output
            .instances
            .iter()
            .map(|i| (i.previous_state.as_str(), i.state.as_str()));
        assert_eq!(
            states.collect::<Vec<_>>(),
            [("stopped", "running"), ("running", "running")]
        );
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_again_after_a_lost_answer_and_nothing_is_started_twice() {
        let look = mock!(Client::describe_instances)
            .then_output(|| seen([instance(ID, InstanceStateName::Pending)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        let (_, _, progress) = pending(step(json!({ "instance_ids": ID })).run(&ctx, None).await);
        assert_eq!(progress, "0 of 1 instances running");
    }

    #[tokio::test]
    async fn pending_with_five_hundred_by_tags_what_is_kept_is_far_below_what_a_state_machine_passes_on()
     {
        let all = |state: InstanceStateName| {
            mock!(Client::describe_instances).then_output(move || {
                seen((0..500).map(|n| {
                    let mut one = instance(&format!("i-{n:017x}"), state.clone());
                    one.tags = Some(vec![
                        Tag::builder().key("Name").value("x".repeat(64)).build(),
                    ]);
                    one
                }))
            })
        };
        let start = mock!(Client::start_instances).then_output(starting);
        let step = step(json!({ "tags": { "team": "ops" } }));
        let rules = [&all(InstanceStateName::Stopped), &start];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (resume, ..) = pending(step.run(&ctx, None).await);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            [&all(InstanceStateName::Pending)]
        ));
        let (resume, ..) = pending(step.run(&ctx, Some(resume)).await);
        let length = serde_json::to_string(&resume).unwrap().len();
        assert!(length < 128 * 1024, "{length} bytes");
    }

    #[tokio::test]
    async fn pending_with_the_reason_of_an_earlier_failure_that_ec2_still_shows_and_it_is_started_all_the_same()
     {
        for code in [
            "Server.InsufficientInstanceCapacity",
            "Client.UserInitiatedShutdown",
        ] {
            let before = || stopped(ID, code, "of an earlier time");
            let after = [InstanceStateName::Pending, InstanceStateName::Running]
                .map(|state| instance(ID, state));
            let look = looks([before(), before()].into_iter().chain(after));
            let start = mock!(Client::start_instances).then_output(starting);
            let ctx = testing::context(mock_client!(
                aws_sdk_ec2,
                RuleMode::MatchAny,
                [&look, &start]
            ));
            let step = step(json!({ "instance_ids": ID }));
            let mut state = None;
            for _ in 0..3 {
                state = Some(pending(step.run(&ctx, state).await).0);
            }
            assert_eq!(
                done(step.run(&ctx, state).await).instances[0].state,
                "running"
            );
            assert_eq!(start.num_calls(), 1);
        }
    }

    #[tokio::test]
    async fn failed_an_instance_that_falls_back_gives_ec2s_reason() {
        for (code, message, tells) in [
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
            let fallen_back = stopped(ID, code, message);
            // EC2 can go through `pending` between two looks; then a second look makes sure.
            let look = looks([
                instance(ID, InstanceStateName::Stopped),
                fallen_back.clone(),
                fallen_back,
            ]);
            let start = mock!(Client::start_instances).then_output(starting);
            let ctx = testing::context(mock_client!(
                aws_sdk_ec2,
                RuleMode::MatchAny,
                [&look, &start]
            ));
            let step = step(json!({ "instance_ids": ID }));
            let (resume, ..) = pending(step.run(&ctx, None).await);
            let (resume, ..) = pending(step.run(&ctx, Some(resume)).await);
            let error = step.run(&ctx, Some(resume)).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(error.message.contains(tells), "{error}");
        }
    }

    #[tokio::test]
    async fn failed_an_instance_that_stops_after_it_has_moved_whatever_the_reason() {
        for code in [
            "Server.InternalError",
            "Client.UserInitiatedShutdown",
            "Client.UserInitiatedHibernate",
            "Client.InstanceInitiatedShutdown",
            "",
        ] {
            let before = instance(ID, InstanceStateName::Stopped);
            let look = looks([
                before,
                instance(ID, InstanceStateName::Pending),
                stopped(ID, code, "so it is"),
            ]);
            let start = mock!(Client::start_instances).then_output(starting);
            let ctx = testing::context(mock_client!(
                aws_sdk_ec2,
                RuleMode::MatchAny,
                [&look, &start]
            ));
            let step = step(json!({ "instance_ids": ID }));
            let (resume, ..) = pending(step.run(&ctx, None).await);
            let (resume, ..) = pending(step.run(&ctx, Some(resume)).await);
            let error = step.run(&ctx, Some(resume)).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(
                error
                    .message
                    .contains(&format!("{ID} is stopped again: so it is")),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn failed_more_than_five_hundred_by_tags_are_a_conflict_and_none_is_started() {
        let look = mock!(Client::describe_instances).then_output(|| {
            seen((0..501).map(|n| instance(&format!("i-{n:017x}"), InstanceStateName::Stopped)))
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
        let error = step(json!({ "tags": { "team": "ops" } }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error
                .message
                .contains("more than 500 instances carry these tags: nothing was done"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_a_terminated_instance_is_a_conflict() {
        let look = mock!(Client::describe_instances)
            .then_output(|| seen([instance(ID, InstanceStateName::Terminated)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
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
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let idle = [("kms:CreateGrant", "The local cloud encrypts no volumes.")];
        prove::<Start>(&idle, async |scene| {
            let ec2 = scene.client(Client::new);
            let id = launched(scene).await;
            ec2.stop_instances().instance_ids(&id).send().await.unwrap();
            json!({ "instance_ids": [id] })
        });
    }

    #[test]
    fn permissions_of_the_session_are_to_start_instances_only_and_by_id_only_those() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let by_id = step(json!({ "instance_ids": ID }))
            .permissions()
            .session_policy(&place)
            .unwrap();
        assert!(by_id.contains(&format!("arn:aws:ec2:eu-west-1:222222222222:instance/{ID}")));
        let by_tag = step(json!({ "tags": { "team": "ops" } }))
            .permissions()
            .session_policy(&place)
            .unwrap();
        assert!(by_tag.contains(
            r#""Action":["ec2:StartInstances"],"Resource":["arn:aws:ec2:eu-west-1:222222222222:instance/*"]"#
        ));
    }
}
