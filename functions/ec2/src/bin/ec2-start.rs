//! The step `ec2-start`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use aws_sdk_ec2::types::InstanceStateName;
use schemars::JsonSchema;
use serde::Deserialize;
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
    const TIMEOUT: Duration = Duration::from_secs(15 * 60);
    type Output = Changed;

    fn validate(&self) -> Result<(), StepError> {
        self.selection().validate()
    }

    fn permissions(&self) -> Permissions {
        self.selection().permissions(&["ec2:StartInstances"])
    }

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Changed>, StepError> {
        let goal =
            Goal { reached: InstanceStateName::Running, act_on: InstanceStateName::Stopped, doing: "Starting" };
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
