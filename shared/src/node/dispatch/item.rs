//! The items of the Map, each of which one child execution runs, and their results.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::objects::Stored;
use crate::model::envelope::Target;

/// The work of one child execution of the Map: a command on many instances at once, or all steps on
/// one node.
#[derive(Debug, Serialize)]
pub struct Item {
    /// The item's name.
    pub id: ItemId,
    /// The account and the Region of the item's nodes.
    pub target: Target,
    /// The functions to call, in order, until a call fails.
    pub calls: Vec<Call>,
}

/// The name of an item: its round, and its index in the list of items, such as `0-00012`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ItemId {
    /// The round's number.
    pub round: usize,
    /// The item's index in the round.
    pub place: usize,
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:05}", self.round, self.place)
    }
}

impl FromStr for ItemId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once('-')
            .and_then(|(round, place)| Some((round.parse().ok()?, place.parse().ok()?)));
        let (round, place) = parts
            .ok_or_else(|| format!("{text:?} is not an item ID; expected an ID such as 0-00012"))?;
        Ok(Self { round, place })
    }
}

impl Serialize for ItemId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ItemId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// One call of a step's function.
#[derive(Debug, Serialize)]
pub struct Call {
    /// The step's ID within the job.
    pub step: String,
    /// The function to call.
    pub function: String,
    /// The parameters of the called step.
    pub params: Params,
    /// What runs the step, which determines how to recognize a failure.
    pub by: ExecutorKind,
}

/// What runs a step on a node. It determines the form of the call's output.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutorKind {
    /// SSM, on many instances at once. The output is
    /// [`CommandResults`](crate::node::CommandResults).
    Ssm,
    /// ECS Exec, in one container. The output is an [`Outcome`](crate::node::Outcome).
    Ecs,
    /// A step of the catalog. The call succeeds if the step is done.
    Step,
}

/// The parameters of a called step.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Params {
    /// The parameters of `ssm-run-command` or `ssm-run-script`.
    Instances(Box<OnInstances>),
    /// The parameters of `ecs-exec`.
    Container(InContainer),
    /// The parameters of another step of the catalog.
    Step(Map<String, Value>),
}

/// The parameters of `ssm-run-command` and `ssm-run-script`. Their tests check that the steps
/// accept all of these.
#[derive(Clone, Debug, Serialize)]
pub struct OnInstances {
    /// The IDs of the instances.
    pub instance_ids: Vec<String>,
    /// The shell of the instances.
    pub shell: Shell,
    /// The number of instances that run the command at once.
    pub concurrency: usize,
    /// Whether instances start in the order of `instance_ids`.
    pub in_order: bool,
    /// The number of failed instances that is allowed. After more failures, no further instances
    /// start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_errors: Option<u32>,
    /// The time limit on an instance, in seconds. The default is the step's own default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// A CloudWatch log group to which the instances write their whole output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloudwatch_log_group: Option<String>,
    /// Whether the step fails if the command fails on an instance. A dispatch reads the result of
    /// each instance instead.
    pub fail_on_error: bool,
    /// The command or script to run.
    #[serde(flatten)]
    pub work: InstanceWork,
}

/// The work on instances: the parameters that only one of the two steps has.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum InstanceWork {
    /// The parameters of `ssm-run-command`.
    Command {
        /// The command line.
        command: String,
    },
    /// The parameters of `ssm-run-script`.
    Script {
        /// The text of the script.
        script: String,
        /// The arguments of the script.
        args: Vec<String>,
        /// The program that runs the script.
        #[serde(skip_serializing_if = "Option::is_none")]
        interpreter: Option<String>,
        /// The bucket for the transfer of the script. The default is Stepward's artifacts bucket.
        #[serde(skip_serializing_if = "Option::is_none")]
        bucket: Option<String>,
    },
}

/// The shell of instances.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shell {
    /// Bash, on Linux and macOS.
    Bash,
    /// PowerShell, on Windows.
    Powershell,
}

/// The parameters of `ecs-exec`. Its tests check that the step accepts all of these.
#[derive(Clone, Debug, Serialize)]
pub struct InContainer {
    /// The name or the ARN of the cluster.
    pub cluster: String,
    /// The ID or the ARN of the task.
    pub task: String,
    /// The name of the container.
    pub container: String,
    /// The command line for the container's shell.
    pub command: String,
    /// Whether the step fails if the command fails. A dispatch reads the outcome instead.
    pub fail_on_error: bool,
}

/// The part of a child execution's input that is read again.
#[derive(Debug, Deserialize)]
pub struct ItemInput {
    /// The item.
    pub item: ItemRef,
}

/// A reference to an item.
#[derive(Debug, Deserialize)]
pub struct ItemRef {
    /// The item's name.
    pub id: ItemId,
}

/// The result of a child execution for its item: its output, or the cause of its failure.
#[derive(Debug, Deserialize, Serialize)]
pub struct ItemEnd {
    /// The item's name.
    pub item: ItemId,
    /// Whether the item was allowed to start.
    pub began: bool,
    /// The output of each finished call.
    #[serde(default)]
    pub calls: Vec<Stored>,
    /// The name of the error of the next call, if that call failed.
    #[serde(default)]
    pub error: Option<String>,
    /// The message of that error.
    #[serde(default)]
    pub message: Option<String>,
    /// Whether the step of the failed call was called before, so it may have started an action. The
    /// previous release writes this field as `begun`, and a dispatch that was running during the
    /// deployment still does.
    #[serde(default, alias = "begun")]
    pub called_before: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_name_of_the_previous_release_is_accepted() {
        let text = r#"{
            "item": "0-00000", "began": true,
            "error": "AccessDenied", "message": "no", "begun": true
        }"#;
        assert!(serde_json::from_str::<ItemEnd>(text).unwrap().called_before);
    }
}
