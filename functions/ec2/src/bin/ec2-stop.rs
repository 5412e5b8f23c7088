//! The step `ec2-stop`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use aws_sdk_ec2::types::InstanceStateName;
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::input::{List, require};
use stepward::{Context, Permissions, Progress, Resume, Step, StepError};
use stepward_ec2::{Changed, Goal, Selection, bring};

/// Stop EC2 instances and finish once all are stopped.
///
/// Instances that are stopped already are success, and those that are still starting are waited for. A stopped instance
/// keeps its EBS volumes, which go on costing money, and loses what is on instance store volumes and in memory, unless it
/// hibernates; its public IPv4 address changes at the next start unless it is an Elastic IP address.
///
/// When the job is stopped, instances that are stopping go on stopping.
///
/// Proven on the local cloud, where instances stop at once and nothing hibernates; waiting, `force` and `hibernate` rest on
/// unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Stop {
    /// Instances to stop, 1 to 50 IDs.
    #[serde(default)]
    instance_ids: List,
    /// Instead of IDs: the tags (key and exact value) that an instance must carry, all of them. None found is success.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// Stop without giving the operating system time to flush caches and file systems. Data can be lost: for instances
    /// that do not stop otherwise.
    #[serde(default)]
    force: bool,
    /// Save memory to the root volume and go on from there at the next start. Only instances launched with hibernation
    /// enabled can; `Conflict` for others.
    #[serde(default)]
    hibernate: bool,
}

impl Stop {
    fn selection(&self) -> Selection<'_> {
        Selection { ids: &self.instance_ids, tags: &self.tags }
    }
}

impl Step for Stop {
    const NAME: &'static str = "ec2-stop";
    const RUNDECK: &'static [&'static str] = &["aws-vm-stop", "aws-vm-stop-step"];
    const EXAMPLE: &'static str = r#"{ "tags": { "environment": "test" } }"#;
    type Output = Changed;
    // Windows instances can take this long to shut down.
    const TIMEOUT: Duration = Duration::from_mins(30);

    fn validate(&self) -> Result<(), StepError> {
        self.selection().validate()?;
        require(!(self.force && self.hibernate), || "give force or hibernate, not both".into())
    }

    fn permissions(&self) -> Permissions {
        self.selection().permissions(&["ec2:StopInstances"])
    }

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Changed>, StepError> {
        let goal = Goal { reached: InstanceStateName::Stopped, act_on: InstanceStateName::Running, doing: "Stopping" };
        let (force, hibernate) = (self.force, self.hibernate);
        bring(ctx, self.selection(), resume, &goal, |ec2, ids| async move {
            let request = ec2.stop_instances().set_instance_ids(Some(ids)).force(force).hibernate(hibernate);
            Ok(request.send().await?.stopping_instances.unwrap_or_default())
        })
        .await
    }
}

fn main() -> ExitCode {
    stepward::serve::<Stop>()
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::Client;
    use aws_sdk_ec2::operation::describe_instances::DescribeInstancesOutput;
    use aws_sdk_ec2::operation::stop_instances::{StopInstancesError, StopInstancesOutput};
    use aws_sdk_ec2::types::{Instance, InstanceState, InstanceStateChange, Reservation};
    use aws_smithy_mocks::{RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::{ErrorName, testing};

    use super::*;

    const ID: &str = "i-0123456789abcdef0";

    fn step(params: serde_json::Value) -> Stop {
        serde_json::from_value(params).unwrap()
    }

    fn seen(state: InstanceStateName) -> DescribeInstancesOutput {
        let state = InstanceState::builder().name(state).build();
        let instance = Instance::builder().instance_id(ID).state(state).build();
        DescribeInstancesOutput::builder().reservations(Reservation::builder().instances(instance).build()).build()
    }

    fn stopping() -> StopInstancesOutput {
        let state = InstanceState::builder().name(InstanceStateName::Stopping).build();
        let change = InstanceStateChange::builder().instance_id(ID).current_state(state).build();
        StopInstancesOutput::builder().stopping_instances(change).build()
    }

    fn resumed(answer: Progress<Changed>) -> Resume {
        let Progress::Pending { state, .. } = answer else { panic!("not pending: {answer:?}") };
        serde_json::from_value(json!({ "since": 0, "state": state })).unwrap()
    }

    #[tokio::test]
    async fn waits_for_a_starting_instance_then_stops_it_once() {
        let look = mock!(Client::describe_instances)
            .sequence()
            .output(|| seen(InstanceStateName::Pending))
            .output(|| seen(InstanceStateName::Running))
            .output(|| seen(InstanceStateName::Stopping))
            .output(|| seen(InstanceStateName::Stopped))
            .build();
        let stop = mock!(Client::stop_instances)
            .match_requests(|request| request.instance_ids() == [ID] && request.force() == Some(true))
            .then_output(stopping);
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look, &stop]));
        let forced = step(json!({ "instance_ids": ID, "force": true }));
        let mut resume = None;
        for _ in 0..3 {
            resume = Some(resumed(forced.run(&ctx, resume).await.unwrap()));
        }
        let Progress::Done(output) = forced.run(&ctx, resume).await.unwrap() else { panic!("not done") };
        assert_eq!(output.instances[0].state, "stopped");
        assert_eq!(stop.num_calls(), 1);
    }

    #[tokio::test]
    async fn an_instance_that_cannot_hibernate_is_a_conflict() {
        let look = mock!(Client::describe_instances).then_output(|| seen(InstanceStateName::Running));
        let stop = mock!(Client::stop_instances)
            .match_requests(|request| request.hibernate() == Some(true))
            .then_error(|| {
                StopInstancesError::generic(ErrorMetadata::builder().code("UnsupportedOperation").message("no").build())
            });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look, &stop]));
        let error = step(json!({ "instance_ids": ID, "hibernate": true })).run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
    }

    #[test]
    fn force_and_hibernate_exclude_each_other() {
        let error = step(json!({ "instance_ids": ID, "force": true, "hibernate": true })).validate().unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
    }
}
