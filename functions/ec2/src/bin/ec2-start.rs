//! The step `ec2-start`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use aws_sdk_ec2::types::InstanceStateName;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use stepward::input::List;
use stepward::{Context, Permissions, Progress, Resume, Step, StepError};
use stepward_ec2::{Changed, Goal, Selection, bring};

/// Start EC2 instances and finish once all are running.
///
/// Instances that run already are success, and those that are still stopping are waited for. Running instances cost money
/// until they are stopped. `running` means that EC2 has started them; whether the operating system and its services are
/// up, EC2's status checks tell later.
///
/// An instance that falls back to `stopped` fails the step with EC2's reason (no capacity of its type, say); a terminated
/// one is a `Conflict`. When the job is stopped, instances that are starting go on starting.
///
/// Proven on the local cloud, where instances start at once; waiting, falling back and the grant for encrypted volumes rest
/// on a stand-in for EC2 and on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Start {
    /// Instances to start, 1 to 50 IDs.
    #[serde(default)]
    instance_ids: List,
    /// Instead of IDs: the tags (key and exact value) that an instance must carry, all of them. None found is success.
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

impl Start {
    fn selection(&self) -> Selection<'_> {
        Selection { ids: &self.instance_ids, tags: &self.tags }
    }
}

impl Step for Start {
    const NAME: &'static str = "ec2-start";
    const RUNDECK: &'static [&'static str] = &["aws-vm-start", "aws-vm-start-step"];
    const EXAMPLE: &'static str = r#"{ "instance_ids": ["i-0123456789abcdef0"] }"#;
    const TIMEOUT: Duration = Duration::from_mins(15);
    type Output = Changed;

    fn validate(&self) -> Result<(), StepError> {
        self.selection().validate()
    }

    fn permissions(&self) -> Permissions {
        // EC2 unlocks volumes with a customer managed key in the caller's name.
        // https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption-requirements.html
        let for_aws = json!({ "Bool": { "kms:GrantIsForAWSResource": "true" } });
        self.selection().permissions(&["ec2:StartInstances"]).allow_if(for_aws, &["kms:CreateGrant"], ["*"])
    }

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Changed>, StepError> {
        let goal = Goal { reached: InstanceStateName::Running, act_on: InstanceStateName::Stopped, doing: "Starting" };
        bring(ctx, self.selection(), resume, &goal, |ec2, ids| async move {
            let answer = ec2.start_instances().set_instance_ids(Some(ids)).send().await?;
            Ok(answer.starting_instances.unwrap_or_default())
        })
        .await
    }
}

fn main() -> ExitCode {
    stepward::serve::<Start>()
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::Client;
    use aws_sdk_ec2::operation::describe_instances::{DescribeInstancesError, DescribeInstancesOutput};
    use aws_sdk_ec2::operation::start_instances::StartInstancesOutput;
    use aws_sdk_ec2::types::{Instance, InstanceState, InstanceStateChange, Reservation, StateReason};
    use aws_smithy_mocks::{RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::permissions::Place;
    use stepward::{ErrorName, testing};

    use super::*;

    const ID: &str = "i-0123456789abcdef0";
    const OTHER: &str = "i-0123456789abcdef1";

    fn step(params: serde_json::Value) -> Start {
        serde_json::from_value(params).unwrap()
    }

    fn instance(id: &str, state: InstanceStateName) -> Instance {
        Instance::builder().instance_id(id).state(InstanceState::builder().name(state).build()).build()
    }

    fn seen(instances: impl IntoIterator<Item = Instance>) -> DescribeInstancesOutput {
        let reservation = Reservation::builder().set_instances(Some(instances.into_iter().collect())).build();
        DescribeInstancesOutput::builder().reservations(reservation).build()
    }

    fn starting(id: &str) -> StartInstancesOutput {
        let pending = InstanceState::builder().name(InstanceStateName::Pending).build();
        let change = InstanceStateChange::builder().instance_id(id).current_state(pending).build();
        StartInstancesOutput::builder().starting_instances(change).build()
    }

    fn refused(code: &'static str) -> DescribeInstancesError {
        DescribeInstancesError::generic(ErrorMetadata::builder().code(code).message("no").build())
    }

    /// What the state machine does with a pending answer: wait, then call again with it.
    fn resumed(answer: Progress<Changed>) -> Resume {
        let Progress::Pending { state, retry_after, progress } = answer else { panic!("not pending: {answer:?}") };
        assert_eq!((retry_after, progress.as_str()), (Duration::from_secs(5), "1 of 2 instances running"));
        serde_json::from_value(json!({ "since": 0, "state": state })).unwrap()
    }

    #[tokio::test]
    async fn starts_what_is_stopped_and_is_pending_until_all_run() {
        let look = mock!(Client::describe_instances)
            .match_requests(|request| request.instance_ids() == [ID, OTHER])
            .sequence()
            .output(|| seen([instance(ID, InstanceStateName::Stopped), instance(OTHER, InstanceStateName::Running)]))
            .output(|| seen([instance(ID, InstanceStateName::Pending), instance(OTHER, InstanceStateName::Running)]))
            .output(|| seen([instance(ID, InstanceStateName::Running), instance(OTHER, InstanceStateName::Running)]))
            .build();
        let start = mock!(Client::start_instances)
            .match_requests(|request| request.instance_ids() == [ID])
            .then_output(|| starting(ID));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look, &start]));
        let step = step(json!({ "instance_ids": [ID, OTHER] }));

        let resume = resumed(step.run(&ctx, None).await.unwrap());
        let resume = resumed(step.run(&ctx, Some(resume)).await.unwrap());
        let Progress::Done(output) = step.run(&ctx, Some(resume)).await.unwrap() else { panic!("not done") };

        let states = output.instances.iter().map(|i| (i.previous_state.as_str(), i.state.as_str()));
        assert_eq!(states.collect::<Vec<_>>(), [("stopped", "running"), ("running", "running")]);
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn a_call_repeated_after_a_lost_answer_starts_nothing_again() {
        let look = mock!(Client::describe_instances).then_output(|| seen([instance(ID, InstanceStateName::Pending)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        let answer = step(json!({ "instance_ids": ID })).run(&ctx, None).await.unwrap();
        assert!(matches!(answer, Progress::Pending { .. }));
    }

    #[tokio::test]
    async fn chooses_by_tags_and_is_content_with_none() {
        let look = mock!(Client::describe_instances)
            .match_requests(|request| {
                let filters: Vec<_> = request.filters().iter().map(|f| (f.name().unwrap(), f.values())).collect();
                filters[0].0 == "instance-state-name" && filters[1] == ("tag:team", &["ops".to_owned()][..])
            })
            .then_output(|| seen([]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
        let answer = step(json!({ "tags": { "team": "ops" } })).run(&ctx, None).await.unwrap();
        assert!(matches!(answer, Progress::Done(output) if output.instances.is_empty()));
    }

    #[tokio::test]
    async fn an_instance_that_falls_back_fails_with_ec2s_reason() {
        let back = || {
            let reason =
                StateReason::builder().code("Server.InsufficientInstanceCapacity").message("no capacity").build();
            let state = InstanceState::builder().name(InstanceStateName::Stopped).build();
            Instance::builder().instance_id(ID).state(state).state_reason(reason).build()
        };
        let look = mock!(Client::describe_instances)
            .sequence()
            .output(|| seen([instance(ID, InstanceStateName::Stopped), instance(OTHER, InstanceStateName::Running)]))
            .output(move || seen([back()]))
            .build();
        let start = mock!(Client::start_instances).then_output(|| starting(ID));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look, &start]));
        let step = step(json!({ "instance_ids": [ID, OTHER] }));
        let resume = resumed(step.run(&ctx, None).await.unwrap());
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(error.message.contains("no capacity"), "{error}");
    }

    #[tokio::test]
    async fn what_ec2_refuses_has_a_name() {
        for (code, name) in [
            ("InvalidInstanceID.NotFound", ErrorName::NotFound),
            ("UnauthorizedOperation", ErrorName::AccessDenied),
            ("RequestLimitExceeded", ErrorName::Throttled),
        ] {
            let look = mock!(Client::describe_instances).then_error(move || refused(code));
            let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
            assert_eq!(step(json!({ "instance_ids": ID })).run(&ctx, None).await.unwrap_err().name, name);
        }
        let look =
            mock!(Client::describe_instances).then_output(|| seen([instance(ID, InstanceStateName::Terminated)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
        assert_eq!(step(json!({ "instance_ids": ID })).run(&ctx, None).await.unwrap_err().name, ErrorName::Conflict);
    }

    #[test]
    fn bad_parameters_are_refused_before_any_call() {
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

    #[test]
    fn the_session_can_start_instances_only_and_by_id_only_those() {
        let place = Place { partition: "aws".into(), region: "eu-west-1".into(), account_id: "222222222222".into() };
        let by_id = step(json!({ "instance_ids": ID })).permissions().session_policy(&place).unwrap();
        assert!(by_id.contains(&format!("arn:aws:ec2:eu-west-1:222222222222:instance/{ID}")));
        let by_tag = step(json!({ "tags": { "team": "ops" } })).permissions().session_policy(&place).unwrap();
        assert!(by_tag.contains(
            r#""Action":["ec2:StartInstances"],"Resource":["arn:aws:ec2:eu-west-1:222222222222:instance/*"]"#
        ));
    }
}
